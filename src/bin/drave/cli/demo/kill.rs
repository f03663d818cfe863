//! `drave kill`: sends SIGKILL to a node of a demo, and to no other process.

use super::registry::DemoRegistry;
use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, Output};
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
    #[arg(value_name = "WHO")]
    target: String,
    /// The demo's first port
    #[arg(long, default_value_t = 7401)]
    base_port: u16,
}

/// `drave kill`: fails with exit code 3 if there is no such node.
pub fn run(args: &Kill) -> Result<(), CliError> {
    let registry = DemoRegistry::read(args.base_port)?;
    let cluster = ClusterArgs {
        endpoints: registry.endpoints.clone(),
        timeout: Duration::from_secs(3),
        output: Output::Text,
        tls: Tls::default(),
    };
    let client = cluster.client();
    let statuses = registry.endpoints.iter().filter_map(|endpoint| client.status(endpoint).ok());
    let leader = statuses.filter(|s| s.role == RoleName::Leader).max_by_key(|s| s.term);
    let id = match args.target.as_str() {
        "leader" => match &leader {
            Some(leader) => leader.node,
            None => {
                return Err(CliError {
                    message: "there is no leader to kill now\n  try again in a moment, or name one: drave kill 1 · a demo at other ports: --base-port"
                        .to_owned(),
                    code: 3,
                });
            }
        },
        node => match node.trim_start_matches('n').parse() {
            Ok(id) => id,
            Err(_) => {
                return Err(CliError {
                    message: format!(
                        "{node:?} is neither leader nor a node's id\n  such as: drave kill leader · drave kill 2"
                    ),
                    code: 2,
                });
            }
        },
    };
    let no_such_node_error = || CliError {
        message: format!(
            "no demo node {id} runs at port {}\n  see: drave status · a demo at other ports: --base-port",
            args.base_port
        ),
        code: 3,
    };
    let pid = registry.pids.get(&id).copied().ok_or_else(no_such_node_error)?;
    // The process id may have been reused since: only a `drave serve` process is killed.
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| no_such_node_error())?;
    let arguments: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    if arguments.get(1) != Some(&&b"serve"[..]) {
        return Err(no_such_node_error());
    }
    let pid = Pid::from_raw(pid).ok_or_else(no_such_node_error)?;
    kill_process(pid, Signal::KILL).map_err(|error| CliError { message: format!("n{id}: {error}"), code: 74 })?;
    match leader.filter(|leader| leader.node == id) {
        Some(leader) => outln!("killed n{id} (was leader of term {})", leader.term),
        None => outln!("killed n{id}"),
    }
    Ok(())
}
