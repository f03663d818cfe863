//! The error of a command, in one line, and its exit code.

use clap::error::ErrorKind;
use drave::config::ConfigError;
use drave::inspect::files::UnreadableFile;
use drave::server::ServerError;
use drave::wal::Fault;

/// The error of a command: text for people, an exit code for scripts.
#[derive(Debug)]
pub struct CliError {
    /// The error, its place, and advice.
    pub what: String,
    /// 1 no, 2 usage, 3 unavailable, 4 unknown, 5 damaged, 70 a bug, 74 I/O, 75 a temporary failure, 78 configuration.
    pub code: i32,
}

impl From<anyhow::Error> for CliError {
    /// An error of the files that a command reads. A file that the disk cannot read is damaged (5), not merely an I/O
    /// error (74).
    fn from(error: anyhow::Error) -> CliError {
        let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        let unreadable = io.filter_map(std::io::Error::get_ref).any(|inner| inner.is::<UnreadableFile>());
        CliError { what: format!("{error:#}"), code: if unreadable { 5 } else { 74 } }
    }
}

impl From<clap::Error> for CliError {
    /// Invalid arguments are a usage error (2); a named file that is of no use is a configuration error (78).
    fn from(error: clap::Error) -> CliError {
        let code = if error.kind() == ErrorKind::Io { 78 } else { 2 };
        let said = error.to_string();
        // The caller that prints the error adds the prefix.
        let what = said.strip_prefix("error: ").unwrap_or(&said).trim_end().to_owned();
        CliError { what, code }
    }
}

impl From<ConfigError> for CliError {
    fn from(wrong: ConfigError) -> CliError {
        CliError { what: wrong.to_string(), code: 78 }
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> CliError {
        let (what, advice) = match &error {
            ServerError::Fault(Fault::Corrupt { file, offset, what, lost, advice }) => {
                (format!("{file}: byte {offset}: {what}; affected entries: {lost}"), *advice)
            }
            ServerError::Fault(Fault::Io { action, file, source }) if is_about_the_place(source.kind()) => {
                (format!("{action} {file}: {source}"), "name a directory that this user can write to: --data")
            }
            ServerError::Fault(Fault::Io { action, file, source }) => (
                format!("{action} {file}: {source}"),
                "it is unknown what reached the disk, so this node stops · check the disk, then start the node again",
            ),
            ServerError::Fault(Fault::Full { file }) => (
                format!("no space left for {file}"),
                "nothing acknowledged is lost · free disk space, then start the node again",
            ),
            // The text contains the cause and the advice already.
            ServerError::Fault(Fault::Foreign(what)) => {
                return CliError { what: what.clone(), code: error.exit_code() };
            }
            ServerError::Listen { option, .. } => {
                let advice = format!(
                    "nothing was changed · find which process listens there: ss -ltnp · or listen elsewhere: {option}"
                );
                return CliError { what: format!("{error}\n  {advice}"), code: error.exit_code() };
            }
            ServerError::Config(_) => (error.to_string(), "nothing was started · see: drave serve --help"),
            _ => (
                error.to_string(),
                "acknowledged writes are safe · start the node again, and report this error if it recurs",
            ),
        };
        CliError { what: format!("{what}\n  {advice}"), code: error.exit_code() }
    }
}

/// Whether an error means that the directory is not writable, and not that a disk failed.
fn is_about_the_place(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, NotADirectory | PermissionDenied | ReadOnlyFilesystem)
}
