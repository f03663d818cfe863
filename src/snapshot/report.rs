//! What can be wrong with a snapshot.

use super::format::Flaw;
use crate::disk::is_out_of_files;
use std::io;

/// Why there is no snapshot, or none was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not what was written. It is never taken for an empty state.
    #[error("{file}: byte {offset}: {what}. {advice}")]
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The disk failed. What reached it is unknown, and asking again would not tell.
    #[error("{action} {file}: {source}; what reached the disk is unknown, so this node must not go on")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// No room. Nothing that was published before is touched: give the snapshot up, and the node goes on.
    #[error("no space left for {file}; the snapshots before it are untouched")]
    Full {
        /// The file that did not fit.
        file: String,
    },
}

/// What touching snapshots comes to.
pub type Result<T> = std::result::Result<T, Fault>;

/// What the operator is told of a damaged snapshot of its own.
pub const ADVICE: &str = "This disk has lost what it had confirmed. Where an older snapshot and the log behind it are \
whole the node starts from those by itself. Else leave it down: the others go on while they are a majority. Bring back \
a copy made since it last ran; or give its place to an empty directory: drave member remove ID, then drave member add \
ID=HOST:PORT, then drave serve --join with an empty --data. Never start an empty or older directory without that, since \
it would vote anew and acknowledged writes could be lost. Nothing was changed";

/// What is said of a damaged snapshot that another node sent.
pub const ADVICE_INCOMING: &str = "What was received was removed, and will be asked for again";

/// What is said of a snapshot that was damaged when it was read back.
pub const ADVICE_WRITTEN: &str = "It is not used, the log is kept, and another is taken later";

/// What is said of a damaged snapshot that was saved outside of any data directory.
pub const ADVICE_SAVED: &str = "It is of no use: take an older one, or save another";

impl Fault {
    /// The exit code for it: 5 damaged data, 74 I/O.
    pub fn exit_code(&self) -> i32 {
        match self {
            Fault::Damaged { .. } => 5,
            Fault::Io { .. } | Fault::Full { .. } => 74,
        }
    }
}

/// What an error of the disk comes to.
pub(super) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Fault {
    let file = file.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Full { file },
        // Nothing is wrong with the disk, and it passes like a want of room.
        _ if is_out_of_files(&source) => Fault::Full { file: format!("{file} ({source})") },
        _ => Fault::Io { action, file, source },
    }
}

/// What a flaw in that file comes to.
pub(super) fn damaged(file: &str, advice: &'static str) -> impl Fn(Flaw) -> Fault + Send + use<> {
    let file = file.to_owned();
    move |flaw| Fault::Damaged { file: file.clone(), offset: flaw.at, what: flaw.to_string(), advice }
}
