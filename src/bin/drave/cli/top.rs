//! `drave top`: a live view of a cluster.

use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use crate::remote::interrupt;
use crate::tui::app::{View, ViewConfig};
use crate::tui::keys::{KeyAction, NodeControl};
use crate::tui::terminal;
use clap::Args;
use std::sync::atomic::Ordering;

/// Shows a cluster live, until q is pressed: its nodes, its commits and its events. Other keys transfer leadership,
/// generate a moderate load and take snapshots, if they are pressed twice.
#[derive(Args, Debug)]
pub struct Top {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `drave top`: exits with 2 if there is no terminal.
pub fn run(args: &Top) -> Result<(), CliError> {
    if args.cluster.prints_json() || !terminal::is_interactive() {
        let message = "a live view needs a terminal\n  without one: drave status --watch [-o json]".to_owned();
        return Err(CliError { message, code: 2 });
    }
    let stop = interrupt::stop_flag(interrupt::LIVE_VIEW_SIGNALS)?;
    let config = ViewConfig {
        title: "drave top",
        location: args.cluster.endpoints.join(","),
        cluster: args.cluster.clone(),
        are_endpoints_numbered: false,
        control: NodeControl::ClientOnly,
    };
    let mut view = View::open(config)?;
    let mut outcome = Ok(());
    while outcome.is_ok() && !stop.load(Ordering::Relaxed) {
        match view.update_and_draw() {
            Ok(actions) if actions.contains(&KeyAction::Quit) => break,
            Ok(_) => {}
            Err(error) => outcome = Err(error),
        }
    }
    view.close();
    outcome
}
