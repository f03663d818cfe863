//! `drave top`: a live view of a cluster.

use crate::remote::cluster::Cluster;
use crate::remote::failure::CliError;
use crate::remote::interrupt;
use crate::tui::app::{Subject, View};
use crate::tui::keys::{KeyAction, Reach};
use crate::tui::terminal;
use clap::Args;
use std::sync::atomic::Ordering;

/// Shows a cluster live, until q is pressed: its nodes, its commits and its events. Other keys transfer leadership,
/// generate a moderate load and take snapshots, if they are pressed twice.
#[derive(Args, Debug)]
pub struct Top {
    #[command(flatten)]
    cluster: Cluster,
}

/// `drave top`: exits with 2 if there is no terminal.
pub fn run(args: &Top) -> Result<(), CliError> {
    if args.cluster.json() || !terminal::is_there() {
        let what = "a live view needs a terminal\n  without one: drave status --watch [-o json]".to_owned();
        return Err(CliError { what, code: 2 });
    }
    let stop = interrupt::stop_flag(interrupt::LIVE)?;
    let subject = Subject {
        title: "drave top",
        place: args.cluster.endpoints.join(","),
        cluster: args.cluster.clone(),
        numbered: false,
        reach: Reach::Client,
    };
    let mut view = View::open(subject)?;
    let mut outcome = Ok(());
    while outcome.is_ok() && !stop.load(Ordering::Relaxed) {
        match view.turn() {
            Ok(wishes) if wishes.contains(&KeyAction::Quit) => break,
            Ok(_) => {}
            Err(trouble) => outcome = Err(trouble),
        }
    }
    view.close();
    outcome
}
