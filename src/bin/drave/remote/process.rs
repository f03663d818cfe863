//! Starts nodes as child processes, for commands that run a cluster on this machine.

use super::failure::CliError;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The only `DRAVE_` variable that a node started here inherits: it changes the log level and nothing else.
const INHERITED_VARIABLE: &str = "DRAVE_LOG_LEVEL";

/// The command that runs a node: this program, in a process group of its own. The node ends when the thread that
/// started its process ends. The output of the node is discarded unless the caller redirects it.
pub fn serve_command(id: u64, peers: &str, data: &Path) -> Result<Command, CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError { message: format!("cannot find the path of this program: {error}"), code: 74 })?;
    let mut command = Command::new(program);
    command.arg("serve").args(["--id", &id.to_string(), "--peers", peers, "--data"]).arg(data);
    // Variables that were set for another node or a client, such as keys or a listen address, would apply to this node.
    let is_removed = |name: &OsString| name.as_encoded_bytes().starts_with(b"DRAVE_") && name != INHERITED_VARIABLE;
    std::env::vars_os().map(|(name, _)| name).filter(is_removed).for_each(|name| _ = command.env_remove(name));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // With a process group of its own the node receives no Ctrl-C: the parent process does, and stops its nodes in
    // order.
    command.process_group(0);
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| {
            // If the parent process is killed, its nodes must not continue to run unnoticed.
            set_parent_process_death_signal(Some(Signal::TERM)).map_err(Into::into)
        });
    }
    Ok(command)
}
