//! Checks whether a node listens at the address where its members expect it.

use crate::types::{Membership, NodeId};

/// The default listen address of a node: that of its entry among the peers, or that of its last run. The node may have
/// been given another address while it was stopped.
#[derive(Debug, Default)]
pub struct Listening {
    /// The default address; `None` if the address was configured, as a node may be reached at another address than it
    /// listens on.
    listens: Option<String>,
    /// The address in the last advice.
    advised: String,
}

impl Listening {
    /// A node that listens at a default address.
    pub fn unasked(listens: String) -> Listening {
        Listening { listens: Some(listens), advised: String::new() }
    }

    /// Returns advice if the members expect the node at another address; once for each address.
    pub fn advice(&mut self, me: NodeId, members: &Membership) -> Option<String> {
        let listens = self.listens.as_deref()?;
        let address = members.address(me).filter(|address| !address.is_empty() && *address != listens)?;
        if self.advised == address {
            return None;
        }
        address.clone_into(&mut self.advised);
        let id = me.get();
        Some(format!(
            "the membership lists {me} at {address}, but it listens at {listens}: start it with --listen {address}, \
             or change the membership: drave member update {id}={listens}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_once_for_each_member_address() {
        let me = NodeId::new(2).unwrap();
        let at = |address: &str| Membership::founding([(me, address.to_owned())]);
        let mut listening = Listening::unasked("a:1".to_owned());
        assert_eq!(listening.advice(me, &at("a:1")), None);
        assert_eq!(listening.advice(me, &Membership::default()), None, "the node is not a member");
        let advice = listening.advice(me, &at("b:1")).unwrap();
        assert!(advice.contains("--listen b:1") && advice.ends_with("drave member update 2=a:1"), "{advice}");
        assert_eq!(listening.advice(me, &at("b:1")), None, "the advice is given once for each address");
        assert!(listening.advice(me, &at("c:1")).is_some(), "the node was moved again");
        assert_eq!(Listening::default().advice(me, &at("b:1")), None, "the listen address was configured");
    }
}
