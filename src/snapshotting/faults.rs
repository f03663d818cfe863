//! Converts the faults of snapshots to faults of the node.

use crate::codec::Malformed;
use crate::snapshot;
use crate::wal;

/// Converts a snapshot's fault to a fault of the node, which stops the node.
pub fn to_node_fault(fault: snapshot::Fault) -> wal::Fault {
    match fault {
        snapshot::Fault::Damaged { file, offset, description, .. } => damage_fault(&file, offset, &description),
        snapshot::Fault::Newer(description) => wal::Fault::Foreign(description),
        snapshot::Fault::Io { action, file, source } => wal::Fault::Io { action, file, source },
        snapshot::Fault::Full { file } => wal::Fault::Full { file },
    }
}

/// The fault of a damaged or missing snapshot file.
pub(super) fn damage_fault(file: &str, offset: u64, description: &str) -> wal::Fault {
    let lost = "those that only the snapshot holds".to_owned();
    wal::Fault::Corrupt {
        file: file.to_owned(),
        offset,
        description: description.to_owned(),
        lost,
        advice: wal::report::DAMAGE_ADVICE,
    }
}

/// The fault of an intact snapshot that holds no valid state of this state machine.
pub(super) fn invalid_state_fault(file: &str, malformed: &Malformed) -> wal::Fault {
    damage_fault(file, 0, &format!("the file is intact, but holds no state of this state machine: {malformed}"))
}

/// Converts a fault of the reserve to a fault of the snapshot that borrows the reserve.
pub(super) fn reserve_fault(fault: wal::Fault) -> snapshot::Fault {
    match fault {
        wal::Fault::Io { action, file, source } => snapshot::Fault::Io { action, file, source },
        wal::Fault::Full { file } => snapshot::Fault::Full { file },
        other => snapshot::Fault::Io {
            action: "lend",
            file: wal::ballast::FILE_NAME.to_owned(),
            source: std::io::Error::other(other.to_string()),
        },
    }
}
