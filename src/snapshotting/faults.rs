//! Converts the faults of snapshots to faults of the node.

use crate::codec::Malformed;
use crate::snapshot;
use crate::wal;

/// Converts a snapshot's fault to a fault of the node.
pub fn fault(fault: snapshot::Fault) -> wal::Fault {
    match fault {
        snapshot::Fault::Damaged { file, offset, what, .. } => damaged(&file, offset, &what),
        snapshot::Fault::Io { action, file, source } => wal::Fault::Io { action, file, source },
        snapshot::Fault::Full { file } => wal::Fault::Full { file },
    }
}

/// The fault of a file whose state differs from what was written.
pub(super) fn damaged(file: &str, offset: u64, what: &str) -> wal::Fault {
    let lost = "those that only the snapshot holds".to_owned();
    wal::Fault::Corrupt { file: file.to_owned(), offset, what: what.to_owned(), lost, advice: wal::report::ADVICE }
}

/// The fault of an intact file that holds no valid state of this state machine.
pub(super) fn strange(file: &str, malformed: &Malformed) -> wal::Fault {
    damaged(file, 0, &format!("the file is intact, but holds no state of this state machine: {malformed}"))
}

/// Converts a fault of the reserve to a snapshot's fault, since the reserve may be lent to a snapshot.
pub(super) fn of_reserve(fault: wal::Fault) -> snapshot::Fault {
    match fault {
        wal::Fault::Io { action, file, source } => snapshot::Fault::Io { action, file, source },
        wal::Fault::Full { file } => snapshot::Fault::Full { file },
        other => snapshot::Fault::Io {
            action: "lend",
            file: wal::ballast::NAME.to_owned(),
            source: std::io::Error::other(other.to_string()),
        },
    }
}
