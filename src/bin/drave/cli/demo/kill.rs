//! `drave kill`: SIGKILL for a node of a demo, and for no other process.

use super::register::Register;
use crate::output::outln;
use crate::remote::cluster::{Cluster, Output};
use crate::remote::failure::CliError;
use crate::remote::tls::Tls;
use clap::Args;
use drave::api::RoleName;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// Kills a node of a demo, as `kill -9` does.
#[derive(Args, Debug)]
pub struct Kill {
    /// The node to kill: leader, or a node's id
    who: String,
    /// The demo's first port
    #[arg(long, default_value_t = 7401)]
    base_port: u16,
}

/// `drave kill`: fails with exit code 3 if there is no such node.
pub fn run(args: &Kill) -> Result<(), CliError> {
    let register = Register::read(args.base_port)?;
    let cluster = Cluster {
        endpoints: register.endpoints.clone(),
        timeout: Duration::from_secs(3),
        output: Output::Text,
        tls: Tls::default(),
    };
    let client = cluster.client();
    let statuses = register.endpoints.iter().filter_map(|endpoint| client.status(endpoint).ok());
    let leader = statuses.filter(|s| s.role == RoleName::Leader).max_by_key(|s| s.term);
    let id = match args.who.as_str() {
        "leader" => match &leader {
            Some(leader) => leader.node,
            None => {
                return Err(CliError {
                    what: "there is no leader to kill now\n  try again in a moment, or name one: drave kill 1 · a demo at other ports: --base-port"
                        .to_owned(),
                    code: 3,
                });
            }
        },
        who => match who.trim_start_matches('n').parse() {
            Ok(id) => id,
            Err(_) => {
                return Err(CliError {
                    what: format!(
                        "{who:?} is neither leader nor a node's id\n  such as: drave kill leader · drave kill 2"
                    ),
                    code: 2,
                });
            }
        },
    };
    let gone = || CliError {
        what: format!(
            "no demo node {id} runs at port {}\n  see: drave status · a demo at other ports: --base-port",
            args.base_port
        ),
        code: 3,
    };
    let pid = register.pids.get(&id).copied().ok_or_else(gone)?;
    // The process id may have been reused since: only a `drave serve` process is killed.
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| gone())?;
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    if words.get(1) != Some(&&b"serve"[..]) {
        return Err(gone());
    }
    let pid = Pid::from_raw(pid).ok_or_else(gone)?;
    kill_process(pid, Signal::KILL).map_err(|error| CliError { what: format!("n{id}: {error}"), code: 74 })?;
    match leader.filter(|leader| leader.node == id) {
        Some(leader) => outln!("killed n{id} (was leader of term {})", leader.term),
        None => outln!("killed n{id}"),
    }
    Ok(())
}
