//! What is wrong with a snapshot is what is wrong with the node.

use crate::codec::Malformed;
use crate::snapshot;
use crate::wal;

/// A snapshot's fault, as one of the node.
pub fn fault(fault: snapshot::Fault) -> wal::Fault {
    match fault {
        snapshot::Fault::Damaged { file, offset, what, .. } => damaged(&file, offset, &what),
        snapshot::Fault::Io { action, file, source } => wal::Fault::Io { action, file, source },
        snapshot::Fault::Full { file } => wal::Fault::Full { file },
    }
}

/// The state in that file is not what was written.
pub(super) fn damaged(file: &str, offset: u64, what: &str) -> wal::Fault {
    let lost = "the state that the log no longer tells".to_owned();
    wal::Fault::Corrupt { file: file.to_owned(), offset, what: what.to_owned(), lost, advice: wal::report::ADVICE }
}

/// Every byte was whole, and yet it is no state of this machine's.
pub(super) fn strange(file: &str, malformed: &Malformed) -> wal::Fault {
    damaged(file, 0, &format!("it is whole, and no state of this machine: {malformed}"))
}

/// What is wrong with the reserve, as a snapshot's fault: it may be lent to one.
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
