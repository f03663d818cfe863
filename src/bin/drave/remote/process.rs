//! Starts nodes as child processes, for commands that run a cluster on this machine.

use super::failure::CliError;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The only `DRAVE_` variable that a node started here inherits: it changes the log level, and nothing else.
const HEEDED: &str = "DRAVE_LOG_LEVEL";

/// The command that runs a node: this program, in a process group of its own, which ends when the thread that starts it
/// does. Its output is discarded unless the caller redirects it.
pub fn serve(id: u64, peers: &str, data: &Path) -> Result<Command, CliError> {
    let exe = std::env::current_exe()
        .map_err(|error| CliError { what: format!("cannot find the path of this program: {error}"), code: 74 })?;
    let mut command = Command::new(exe);
    command.arg("serve").args(["--id", &id.to_string(), "--peers", peers, "--data"]).arg(data);
    // Variables set for another node or for a client would configure this node wrongly: its keys, its listen address.
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"DRAVE_") && name != HEEDED;
    std::env::vars_os().map(|(name, _)| name).filter(ours).for_each(|name| _ = command.env_remove(name));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own, so that Ctrl-C reaches only the starter, which stops its nodes in order.
    command.process_group(0);
    // SAFETY: between fork and exec only one async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| {
            // If the starter is killed, its nodes must not run on unseen.
            set_parent_process_death_signal(Some(Signal::TERM)).map_err(Into::into)
        });
    }
    Ok(command)
}
