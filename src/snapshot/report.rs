//! The faults that keep a snapshot from being read, written or received, and the advice for each.

use super::format::{FORMAT_VERSION, Flaw, FlawKind};
use crate::disk::is_too_many_open_files;
use std::io;

/// A fault that keeps a snapshot from being read, written or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file does not hold the bytes that were written. A damaged snapshot is never taken for an empty state.
    #[error("{file}: byte {offset}: {description}. {advice}")]
    Damaged {
        /// The name of the damaged file.
        file: String,
        /// The offset of the first flaw in the file.
        offset: u64,
        /// The flaw at that offset, as text for the operator.
        description: String,
        /// What the operator should do, or what this node does by itself.
        advice: &'static str,
    },
    /// The snapshot is intact, and a later version of this program has written it; the text says which.
    #[error("{0}")]
    Newer(String),
    /// The disk failed. It is unknown which bytes reached it, and a retry would not show it.
    #[error("{action} {file}: {source}; it is unknown which bytes reached the disk, so this node must stop")]
    Io {
        /// The failed action, as a verb: for example "sync".
        action: &'static str,
        /// The file or directory of the failed action.
        file: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The disk has no space for the file, or the process has too many open files. No published snapshot is affected:
    /// the caller aborts this snapshot, and the node continues.
    #[error("no space left for {file}; earlier snapshots are unaffected")]
    Full {
        /// The file that did not fit.
        file: String,
    },
}

/// The result of a snapshot operation, which may fail with a [`Fault`].
pub type Result<T> = std::result::Result<T, Fault>;

/// The advice for a damaged snapshot that this node had published.
pub const ADVICE_PUBLISHED: &str = "This disk has lost data that it had acknowledged. If an older snapshot and the log \
after it are intact, the node starts from those by itself. If not, leave it down: the other nodes continue while they \
are a majority. Restore a copy made since this node last ran; or replace it by an empty directory: drave member remove \
ID, then drave member add ID=HOST:PORT, then drave serve --join with an empty --data. Never start an empty or older \
directory without these steps: it could vote twice in a term, and acknowledged writes could be lost. Nothing was \
changed";

/// The advice for a damaged snapshot that another node sent.
pub const ADVICE_INCOMING: &str = "The received part was removed, and is requested again";

/// The advice for a snapshot that was damaged when it was read back.
pub const ADVICE_WRITTEN: &str = "This snapshot is not used, the log is kept, and another snapshot is taken later";

/// The advice for a damaged snapshot that was saved outside of any data directory.
pub const ADVICE_SAVED: &str = "This snapshot is unusable: use an older one, or save another";

impl Fault {
    /// The fault of a snapshot in a format that this program does not know; `subject` names it, with its version.
    pub(super) fn unknown_format(subject: &str, known: u32) -> Fault {
        Fault::Newer(format!(
            "{subject}, and this program knows up to {known}: a newer drave wrote it. Start the newer program; nothing \
             was changed."
        ))
    }

    /// The exit code: 5 for damaged data, 74 for I/O, 78 for a later version.
    pub fn exit_code(&self) -> i32 {
        match self {
            Fault::Damaged { .. } => 5,
            Fault::Io { .. } | Fault::Full { .. } => 74,
            Fault::Newer(_) => 78,
        }
    }
}

/// Converts a disk error to a fault: [`Fault::Full`] if a retry may succeed, otherwise [`Fault::Io`].
pub(super) fn to_fault(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Fault {
    let file = file.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Full { file },
        // The process has too many open files. The condition is temporary like a full disk.
        _ if is_too_many_open_files(&source) => Fault::Full { file: format!("{file} ({source})") },
        _ => Fault::Io { action, file, source },
    }
}

/// Returns a conversion of flaws of `file` to [`Fault::Damaged`] with `advice`; a later version is [`Fault::Newer`].
pub(super) fn to_damage_fault(file: &str, advice: &'static str) -> impl Fn(Flaw) -> Fault + Send + use<> {
    let file = file.to_owned();
    move |flaw| match flaw.kind {
        FlawKind::UnknownVersion(version) if version > FORMAT_VERSION => {
            Fault::unknown_format(&format!("{file} has format {version}"), FORMAT_VERSION)
        }
        _ => Fault::Damaged { file: file.clone(), offset: flaw.at, description: flaw.to_string(), advice },
    }
}
