//! The error of a command: its text and its exit code.

use clap::error::ErrorKind;
use drave::config::ConfigError;
use drave::inspect::files::UnreadableFile;
use drave::server::ServerError;
use drave::wal::Fault;

/// The error of a command: text for people, an exit code for scripts.
#[derive(Debug)]
pub struct CliError {
    /// The error on the first line; advice on the lines after it, if any.
    pub message: String,
    /// The exit code: 1 no, 2 usage, 3 unavailable, 4 outcome unknown, 5 damaged, 70 a bug, 74 I/O, 75 temporary
    /// failure, 78 configuration.
    pub code: i32,
}

impl From<anyhow::Error> for CliError {
    /// An error of the files that a command reads. A file that the disk cannot read is damaged (5), not merely an I/O
    /// error (74).
    fn from(error: anyhow::Error) -> CliError {
        let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        let is_unreadable = io_errors.filter_map(std::io::Error::get_ref).any(|inner| inner.is::<UnreadableFile>());
        CliError { message: format!("{error:#}"), code: if is_unreadable { 5 } else { 74 } }
    }
}

impl From<clap::Error> for CliError {
    /// Invalid arguments are a usage error (2); a key file that cannot be used is a configuration error (78).
    fn from(error: clap::Error) -> CliError {
        let code = if error.kind() == ErrorKind::Io { 78 } else { 2 };
        let text = error.to_string();
        // The caller that prints the error adds the prefix.
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
        CliError { message, code }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> CliError {
        CliError { message: error.to_string(), code: 78 }
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> CliError {
        let (message, advice) = match &error {
            ServerError::Fault(Fault::Corrupt { file, offset, description: what, lost, advice }) => {
                (format!("{file}: byte {offset}: {what}; affected entries: {lost}"), *advice)
            }
            ServerError::Fault(Fault::Io { action, file, source }) if is_unwritable_directory(source.kind()) => {
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
            ServerError::Fault(Fault::Foreign(text)) => {
                return CliError { message: text.clone(), code: error.exit_code() };
            }
            ServerError::Listen { option, .. } => {
                let advice = format!(
                    "nothing was changed · find which process listens there: ss -ltnp · or listen elsewhere: {option}"
                );
                return CliError { message: format!("{error}\n  {advice}"), code: error.exit_code() };
            }
            ServerError::Config(_) => (error.to_string(), "nothing was started · see: drave serve --help"),
            _ => (
                error.to_string(),
                "acknowledged writes are safe · start the node again, and report this error if it recurs",
            ),
        };
        CliError { message: format!("{message}\n  {advice}"), code: error.exit_code() }
    }
}

/// Whether an I/O error means that the directory is not writable, rather than that a disk failed.
fn is_unwritable_directory(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, NotADirectory | PermissionDenied | ReadOnlyFilesystem)
}
