//! What can be said on the command line.

use super::dump::{self, Dump};
use super::serve::{self, Serve};
use super::sim::{self, Sim};
use super::trouble::Trouble;
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The command line, described.
pub fn describe() -> Command {
    Command::new("drave")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A replicated log and key-value server")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Dump::augment_args(
            Command::new("dump").about("Shows a node's journal in words, also beside a running node"),
        ))
        .subcommand(Serve::augment_args(Command::new("serve").about("Runs one node")))
        .subcommand(Sim::augment_args(Command::new("sim").about("Runs the real node in a simulated world")))
}

/// Does what was said.
pub fn run(matches: &ArgMatches) -> Result<(), Trouble> {
    match matches.subcommand() {
        Some(("dump", matches)) => dump::print(Dump::from_arg_matches(matches)?),
        Some(("serve", matches)) => serve::run(Serve::from_arg_matches(matches)?, matches),
        Some(("sim", matches)) => sim::run(Sim::from_arg_matches(matches)?),
        _ => unreachable!("a verb is required, and only those described are taken"),
    }
}
