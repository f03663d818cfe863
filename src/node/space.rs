//! The node's behavior on a full disk: it accepts only commands that free space, and transfers leadership.
//!
//! A full disk, unlike any other disk failure, does not stop the node. The driver reports it while there is still space
//! for terms, votes and the segment in use, so the node can remain a working member: it only must not accept writes
//! that its journal could not store. A node that stopped instead would stop the cluster when the disks of a majority
//! fill up at the same time, as disks of equal size do.

use crate::api::Op;
use bytes::Bytes;

/// The state of this node's disk, as last reported by the driver.
#[derive(Clone, Debug, Default)]
pub struct DiskSpace {
    low: bool,
}

impl DiskSpace {
    /// Records whether the disk has too little free space.
    pub fn set_low(&mut self, low: bool) {
        self.low = low;
    }

    /// Whether the disk has too little free space.
    pub fn is_low(&self) -> bool {
        self.low
    }
}

/// Whether an operation may be appended while the disk is full: one that closes a session, a command that frees space
/// (`frees_room` decides that), and one that opens a session, without which no command can be sent.
///
/// The machine decides by the command's bytes alone, not by what it would change: the leader may not have applied the
/// entries before it yet. An operation that cannot be decoded is rejected, since it would take space and have no
/// effect.
pub fn op_frees_room(op: &Bytes, frees_room: fn(&[u8]) -> bool) -> bool {
    match Op::read(op) {
        Ok(Op::Open { .. } | Op::Close { .. } | Op::Tick) => true,
        Ok(Op::Execute { command, .. }) => frees_room(command),
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

    fn is_accepted(command: &Command<'_>) -> bool {
        let op = Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command: command.encode() };
        op_frees_room(&op.encode(), Kv::frees_space)
    }

    #[test]
    fn full_disk_accepts_only_commands_that_free_space() {
        let put = Command::Put { key: b"k", value: b"v" };
        let del = || Command::Del { key: b"k" };
        assert!(!is_accepted(&put));
        assert!(!is_accepted(&Command::Incr { key: b"k", by: 1 }));
        assert!(is_accepted(&del()));
        assert!(is_accepted(&Command::Batch(vec![del(), del()])));
        assert!(!is_accepted(&Command::Batch(vec![del(), put])));
        assert!(op_frees_room(&Op::Open { window: 1, ordered: false }.encode(), Kv::frees_space));
        assert!(op_frees_room(&Op::Close { session: SessionId(1) }.encode(), Kv::frees_space));
        assert!(!op_frees_room(&Bytes::from_static(b"?"), Kv::frees_space));
    }
}
