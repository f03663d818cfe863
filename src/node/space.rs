//! The node's behavior on a full disk: it accepts only commands that free room, and transfers leadership.
//!
//! A full disk is the one failure of a disk that is foreseen rather than fatal. The driver reports it while there is
//! still room for terms, votes and the segment in use, so the node can go on as a member: what it must not do is to
//! accept writes that its journal could not take. A node that stopped instead would stop the cluster when the disks of
//! a majority fill up at the same time, as disks of equal size do.

use crate::api::Op;
use bytes::Bytes;

/// Whether the disk has too little room.
#[derive(Clone, Debug, Default)]
pub struct Space {
    low: bool,
}

impl Space {
    /// Records whether the disk has too little room.
    pub fn is(&mut self, low: bool) {
        self.low = low;
    }

    /// Whether the disk has too little room.
    pub fn is_low(&self) -> bool {
        self.low
    }
}

/// Whether an operation may be appended while the disk is full: one that closes a session, one that frees room (`frees`
/// decides this for a command), and one that opens a session, without which no command can be sent.
///
/// The machine decides by the command's bytes alone, not by what it would change: the leader may not have applied what
/// comes before it. An operation that cannot be read is rejected, since it would take room and do nothing.
pub fn frees(op: &Bytes, frees: fn(&[u8]) -> bool) -> bool {
    match Op::read(op) {
        Ok(Op::Open { .. } | Op::Close { .. } | Op::Tick) => true,
        Ok(Op::Execute { command, .. }) => frees(command),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Kv;
    use crate::machine::commands::Command;
    use crate::machine::state_machine::StateMachine;
    use crate::types::SessionId;

    fn passes(command: &Command<'_>) -> bool {
        let op = Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command: command.encode() };
        frees(&op.encode(), Kv::frees)
    }

    #[test]
    fn without_disk_space_only_commands_that_free_it_pass() {
        let put = Command::Put { key: b"k", value: b"v" };
        let del = || Command::Del { key: b"k" };
        assert!(!passes(&put));
        assert!(!passes(&Command::Incr { key: b"k", by: 1 }));
        assert!(passes(&del()));
        assert!(passes(&Command::Batch(vec![del(), del()])));
        assert!(!passes(&Command::Batch(vec![del(), put])));
        assert!(frees(&Op::Open { window: 1, ordered: false }.encode(), Kv::frees));
        assert!(frees(&Op::Close { session: SessionId(1) }.encode(), Kv::frees));
        assert!(!frees(&Bytes::from_static(b"?"), Kv::frees));
    }
}
