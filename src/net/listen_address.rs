//! Checks whether a node listens at the address under which the membership lists it.

use crate::types::{Membership, NodeId};

/// Compares the default listen address of a node with the membership. The default is the address of the node's entry in
/// `--peers`, or that of its last run. The membership may have changed while the node was stopped.
#[derive(Debug, Default)]
pub struct ListenAddressCheck {
    /// The default address; `None` if the listen address was configured. A configured address may differ from the
    /// membership on purpose, as behind a proxy.
    default_address: Option<String>,
    /// The address of the membership that the last advice named; empty before the first advice.
    last_advised_address: String,
}

impl ListenAddressCheck {
    /// Creates the check for a node that listens at a default address.
    pub fn of_default_address(default_address: String) -> ListenAddressCheck {
        ListenAddressCheck { default_address: Some(default_address), last_advised_address: String::new() }
    }

    /// Returns advice if the membership lists the node at another address than the default; once for each such address.
    pub fn advise(&mut self, me: NodeId, members: &Membership) -> Option<String> {
        let default_address = self.default_address.as_deref()?;
        let address = members.address(me).filter(|address| !address.is_empty() && *address != default_address)?;
        if self.last_advised_address == address {
            return None;
        }
        address.clone_into(&mut self.last_advised_address);
        let id = me.get();
        Some(format!(
            "the membership lists {me} at {address}, but it listens at {default_address}: start it with \
             --listen {address}, or change the membership: drave member update {id}={default_address}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_once_for_each_member_address() {
        let me = NodeId::new(2).unwrap();
        let membership_at = |address: &str| Membership::founding([(me, address.to_owned())]);
        let mut address_check = ListenAddressCheck::of_default_address("a:1".to_owned());
        assert_eq!(address_check.advise(me, &membership_at("a:1")), None);
        assert_eq!(address_check.advise(me, &Membership::default()), None, "the node is not a member");
        let advice = address_check.advise(me, &membership_at("b:1")).unwrap();
        assert!(advice.contains("--listen b:1") && advice.ends_with("drave member update 2=a:1"), "{advice}");
        assert_eq!(address_check.advise(me, &membership_at("b:1")), None, "the advice is given once for each address");
        assert!(address_check.advise(me, &membership_at("c:1")).is_some(), "the membership lists another new address");
        assert_eq!(
            ListenAddressCheck::default().advise(me, &membership_at("b:1")),
            None,
            "the listen address was configured"
        );
    }
}
