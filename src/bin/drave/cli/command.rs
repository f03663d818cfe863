//! The command line: its description, and the dispatch to each command.

use super::check::{self, Check};
use super::demo::kill::{self, Kill};
use super::demo::run::{self as demo, Demo};
use super::diff::{self, Diff};
use super::doctor::{self, Doctor};
use super::dump;
use super::dump_args::Dump;
use super::kv::{self, Cas, Del, Get, Incr, Put, Scan, Ttl};
use super::log_level::{self, SetLevel};
use super::manual::{self, Completions, Man};
use super::member::{self, Member, Transfer};
use super::recover::{self, Recover};
use super::restore::{self, Restore};
use super::scrub::{self, Scrub};
use super::serve::{self, Serve};
use super::sim::{self, Sim};
use super::snapshot::{self, ListSnapshots, TakeSnapshot};
use super::snapshot_inspect::{self, InspectSnapshot};
use super::snapshot_save::{self, SaveSnapshot};
use super::status::{self, ShowStatus};
use super::top::{self, Top};
use super::upgrade::{self, Upgrade};
use crate::loadgen::args::Bench;
use crate::loadgen::bench;
use crate::remote::failure::CliError;
use clap::builder::Resettable;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use signal_hook::consts::SIGPIPE;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Builds the command line: all commands, with their arguments and help texts.
pub fn build_command() -> Command {
    Command::new("drave")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A replicated log and key-value server")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Demo::augment_args(Command::new("demo").about("Runs a real cluster on this machine, to play with")))
        .subcommand(Kill::augment_args(Command::new("kill").about("Kills a node of the demo, as kill -9 does")))
        .subcommand(Put::augment_args(Command::new("put").about("Sets a key")))
        .subcommand(Get::augment_args(Command::new("get").about("Prints the value of a key")))
        .subcommand(Ttl::augment_args(Command::new("ttl").about("Prints the remaining time to live of a key")))
        .subcommand(Del::augment_args(Command::new("del").about("Removes a key")))
        .subcommand(Cas::augment_args(Command::new("cas").about("Sets a key if it has the expected value")))
        .subcommand(Incr::augment_args(Command::new("incr").about("Adds to the number in a key")))
        .subcommand(Scan::augment_args(Command::new("scan").about("Prints keys and their values, in order")))
        .subcommand(ShowStatus::augment_args(Command::new("status").about("Shows the status of every node")))
        .subcommand(Top::augment_args(Command::new("top").about("Shows a cluster live, until q is pressed")))
        .subcommand(Doctor::augment_args(
            Command::new("doctor").about("Checks a cluster for problems before they cause a failure"),
        ))
        .subcommand(Bench::augment_args(Command::new("bench").about("Measures latency and throughput")))
        .subcommand(Dump::augment_args(
            Command::new("dump").about("Shows a node's journal as text, also while the node runs"),
        ))
        .subcommand(Member::augment_args(
            Command::new("member").about("Lists the members of the cluster, and changes them"),
        ))
        .subcommand(Transfer::augment_args(Command::new("transfer").about("Transfers leadership to another node")))
        .subcommand(Upgrade::augment_args(
            Command::new("upgrade").about("Finishes an upgrade: enables the features of the newer program"),
        ))
        .subcommand(SetLevel::augment_args(
            Command::new("log-level").about("Prints or changes the log level of running nodes"),
        ))
        .subcommand(Diff::augment_args(Command::new("diff").about("Compares the logs of data directories")))
        .subcommand(Check::augment_args(
            Command::new("check").about("Checks that data directories keep Raft's guarantees"),
        ))
        .subcommand(Recover::augment_args(
            Command::new("recover").about("Makes a new cluster of one node when a majority is lost for good"),
        ))
        .subcommand(Scrub::augment_args(
            Command::new("scrub").about("Makes running nodes check all their files for damage now"),
        ))
        .subcommand(snapshot_command())
        .subcommand(Restore::augment_args(Command::new("restore").about("Founds a new cluster from a saved snapshot")))
        .subcommand(Serve::augment_args(Command::new("serve").about("Runs one node")))
        .subcommand(Sim::augment_args(Command::new("sim")))
        .subcommand(Completions::augment_args(Command::new("completions").about("Prints a shell's completion script")))
        .subcommand(Man::augment_args(Command::new("man").about("Writes the manual pages into a directory")))
}

/// Makes all commands ignore environment variables that are set but empty: scripts and container files omit a setting
/// in this way.
pub fn ignore_empty_variables(command: Command) -> Command {
    let has_empty_variable = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if has_empty_variable(&arg) { arg.env(Resettable::Reset) } else { arg });
    command.mut_subcommands(ignore_empty_variables)
}

/// Runs the command that `matches` names. The caller prints the error.
pub fn run(matches: &ArgMatches) -> Result<(), CliError> {
    if !matches!(matches.subcommand_name(), Some("serve" | "demo")) {
        exit_silently_on_broken_pipe()?;
    }
    match matches.subcommand() {
        Some(("demo", matches)) => demo::run(&Demo::from_arg_matches(matches)?),
        Some(("kill", matches)) => kill::run(&Kill::from_arg_matches(matches)?),
        Some(("put", matches)) => kv::put(&Put::from_arg_matches(matches)?),
        Some(("get", matches)) => kv::get(&Get::from_arg_matches(matches)?),
        Some(("ttl", matches)) => kv::ttl(&Ttl::from_arg_matches(matches)?),
        Some(("del", matches)) => kv::del(&Del::from_arg_matches(matches)?),
        Some(("cas", matches)) => kv::cas(&Cas::from_arg_matches(matches)?),
        Some(("incr", matches)) => kv::incr(&Incr::from_arg_matches(matches)?),
        Some(("scan", matches)) => kv::scan(&Scan::from_arg_matches(matches)?),
        Some(("status", matches)) => status::show(&ShowStatus::from_arg_matches(matches)?),
        Some(("top", matches)) => top::run(&Top::from_arg_matches(matches)?),
        Some(("doctor", matches)) => doctor::run(&Doctor::from_arg_matches(matches)?),
        Some(("completions", matches)) => {
            manual::print_completions(&Completions::from_arg_matches(matches)?, &mut build_command());
            Ok(())
        }
        Some(("man", matches)) => manual::write_man_pages(&Man::from_arg_matches(matches)?, build_command()),
        Some(("bench", matches)) => bench::run(&Bench::from_arg_matches(matches)?),
        Some(("dump", matches)) => dump::run(Dump::from_arg_matches(matches)?),
        Some(("member", matches)) => member::run(&Member::from_arg_matches(matches)?),
        Some(("upgrade", matches)) => upgrade::run(&Upgrade::from_arg_matches(matches)?),
        Some(("transfer", matches)) => member::transfer(&Transfer::from_arg_matches(matches)?),
        Some(("log-level", matches)) => log_level::run(&SetLevel::from_arg_matches(matches)?),
        Some(("diff", matches)) => diff::run(&Diff::from_arg_matches(matches)?),
        Some(("check", matches)) => check::run(&Check::from_arg_matches(matches)?),
        Some(("recover", matches)) => recover::run(&Recover::from_arg_matches(matches)?),
        Some(("scrub", matches)) => scrub::run(&Scrub::from_arg_matches(matches)?),
        Some(("snapshot", matches)) => run_snapshot_command(matches),
        Some(("restore", matches)) => restore::run(&Restore::from_arg_matches(matches)?),
        Some(("serve", matches)) => serve::run(Serve::from_arg_matches(matches)?, matches),
        Some(("sim", matches)) => sim::run(Sim::from_arg_matches(matches)?),
        _ => unreachable!("clap requires a subcommand and rejects unknown ones"),
    }
}

fn snapshot_command() -> Command {
    let take_command = TakeSnapshot::augment_args(Command::new("take").about("Makes nodes take a snapshot now"));
    let save_command = SaveSnapshot::augment_args(
        Command::new("save").about("Saves the whole state of the cluster into a file: a backup"),
    );
    Command::new("snapshot")
        .about("Takes snapshots, saves and inspects backups")
        .subcommand_required(true)
        .arg_required_else_help(true)
        // Writing a snapshot takes time in proportion to the size of the state: hence the long default timeout.
        .subcommand(take_command.mut_arg("timeout", |timeout| timeout.default_value("10m")))
        .subcommand(save_command.mut_arg("timeout", |timeout| timeout.default_value("10m")))
        .subcommand(InspectSnapshot::augment_args(
            Command::new("inspect").about("Describes a saved snapshot and verifies it"),
        ))
        .subcommand(ListSnapshots::augment_args(
            Command::new("list").about("Lists a node's snapshots, and which are intact"),
        ))
}

fn run_snapshot_command(matches: &ArgMatches) -> Result<(), CliError> {
    match matches.subcommand() {
        Some(("take", matches)) => snapshot::take(&TakeSnapshot::from_arg_matches(matches)?),
        Some(("save", matches)) => snapshot_save::run(&SaveSnapshot::from_arg_matches(matches)?),
        Some(("inspect", matches)) => snapshot_inspect::run(&InspectSnapshot::from_arg_matches(matches)?),
        Some(("list", matches)) => snapshot::list(&ListSnapshots::from_arg_matches(matches)?),
        _ => unreachable!("clap requires a subcommand and rejects unknown ones"),
    }
}

/// Makes the process exit with code 141 on SIGPIPE, without a message: `drave scan | head` then ends like any program
/// whose reader closes the pipe. Only standard output is affected: writes to sockets do not raise the signal.
fn exit_silently_on_broken_pipe() -> Result<(), CliError> {
    let exit_is_enabled = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(SIGPIPE, 128 + SIGPIPE, exit_is_enabled)
        .map(|_signal_id| ())
        .map_err(|error| CliError { message: format!("cannot register a signal handler: {error}"), code: 74 })
}
