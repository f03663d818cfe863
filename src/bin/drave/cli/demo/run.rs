//! `drave demo`: a real cluster on this machine, one process per node, as a live view or as log lines.

use super::nodes::{DOWN, Death, LogTarget, Nodes, print_line};
use super::register::io;
use crate::remote::cluster::{Cluster, Output};
use crate::remote::failure::CliError;
use crate::remote::interrupt;
use crate::remote::tls::Tls;
use crate::tui::app::{Subject, View};
use crate::tui::event_log::Severity;
use crate::tui::keys::{KeyAction, Reach};
use crate::tui::terminal;
use clap::Args;
use rustix::process::Signal;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the nodes are checked without a live view.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a real cluster on this machine, one process a node.
#[derive(Args, Debug)]
pub struct Demo {
    /// The number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// The directory for the nodes' data; default: a new temporary directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints lines instead of a live view; the default without a terminal
    #[arg(long)]
    plain: bool,
    /// The first node's port; the other nodes use the ports after it
    #[arg(long, default_value_t = 7401)]
    base_port: u16,
}

/// `drave demo`: runs until a signal or the user stops it.
pub fn run(args: &Demo) -> Result<(), CliError> {
    if args.base_port.checked_add(args.nodes - 1).is_none() {
        let what = format!("{} nodes from port {} on need ports above 65535", args.nodes, args.base_port);
        return Err(CliError { what: format!("{what}\n  use a lower port: --base-port 7401"), code: 2 });
    }
    let live = !args.plain && terminal::is_there();
    let stop = interrupt::stop_flag(if live { interrupt::LIVE } else { interrupt::IN_LINES })?;
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("drave-demo-{}", std::process::id())),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| io(&dir, &error))?;
    let words = if live { LogTarget::Kept } else { LogTarget::Passed };
    let mut nodes = Nodes::new(args.nodes, args.base_port, dir.clone(), words);
    let outcome = nodes.start_all().and_then(|()| match live {
        true => show(&mut nodes, &dir.display().to_string(), &stop),
        false => {
            welcome(&nodes, args, &dir.display().to_string());
            print_deaths(&mut nodes, &stop)
        }
    });
    nodes.stop();
    outcome
}

fn welcome(nodes: &Nodes, args: &Demo, dir: &str) {
    let endpoints = nodes.endpoints();
    print_line(&format!("{} nodes at {} · data in {dir} · Ctrl-C stops them", endpoints.len(), endpoints.join(", ")));
    let named = match (args.base_port, args.nodes) {
        (7401, 3) => String::new(),
        _ => format!(" --endpoints {}", endpoints.join(",")),
    };
    print_line(&format!("try in another terminal: drave put lunch noodles{named} · drave status{named}"));
}

/// Prints the deaths of nodes until stopped, beside their log lines.
fn print_deaths(nodes: &mut Nodes, stop: &AtomicBool) -> Result<(), CliError> {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        for Death { node, status } in nodes.supervise()? {
            print_line(&format!("n{node} died ({status}); it starts again in {} s", DOWN.as_secs()));
        }
    }
    Ok(())
}

fn show(nodes: &mut Nodes, dir: &str, stop: &AtomicBool) -> Result<(), CliError> {
    let cluster = Cluster {
        endpoints: nodes.endpoints().to_vec(),
        timeout: Duration::from_secs(5),
        output: Output::Text,
        tls: Tls::default(),
    };
    let subject =
        Subject { title: "drave demo", place: dir.to_owned(), cluster, numbered: true, reach: Reach::Processes };
    let mut view = View::open(subject)?;
    let shown = turns(nodes, &mut view, stop);
    // The terminal is restored first, so that later messages are readable.
    view.close();
    shown
}

fn turns(nodes: &mut Nodes, view: &mut View, stop: &AtomicBool) -> Result<(), CliError> {
    while !stop.load(Ordering::Relaxed) {
        // Kills are the purpose of the demo; any other exit is worth an event.
        let deaths = nodes.supervise()?.into_iter();
        for Death { node, status } in deaths.filter(|death| death.status.signal() != Some(Signal::KILL.as_raw())) {
            view.append_event(Severity::Plain, format!("n{node} ended: {status}"));
        }
        nodes.processes().into_iter().for_each(|(node, process)| view.process(node, process));
        for wish in view.turn()? {
            match wish {
                KeyAction::Quit => return Ok(()),
                KeyAction::KillLeader => kill_leader(nodes, view),
                KeyAction::KillOrStart(id) => kill_or_start(nodes, view, id)?,
                KeyAction::FreezeOrThaw => freeze_or_thaw(nodes, view),
                // The view performs these itself.
                KeyAction::Transfer | KeyAction::Load | KeyAction::Snapshot => {}
            }
        }
    }
    Ok(())
}

/// The id of the leader, and its description.
fn leader(view: &View) -> Option<(u64, String)> {
    view.model().leader().map(|leader| (leader.node, format!("n{}, leader of term {}", leader.node, leader.term)))
}

fn kill_leader(nodes: &Nodes, view: &mut View) {
    match leader(view) {
        Some((id, words)) if nodes.signal(id, Signal::KILL) => {
            view.append_event(Severity::Plain, format!("kill -9 of {words}"))
        }
        _ => view.append_event(Severity::Plain, "there is no leader to kill now"),
    }
}

fn kill_or_start(nodes: &mut Nodes, view: &mut View, id: u64) -> Result<(), CliError> {
    match nodes.kill_or_start(id)? {
        Some(true) => view.append_event(Severity::Plain, format!("kill -9 of n{id}")),
        // The view shows the start.
        Some(false) => {}
        None => view.append_event(Severity::Plain, format!("there is no n{id}")),
    }
    Ok(())
}

/// Continues a frozen node; without one, freezes the leader.
fn freeze_or_thaw(nodes: &Nodes, view: &mut View) {
    if let Some(id) = nodes.frozen() {
        nodes.signal(id, Signal::CONT);
        return;
    }
    match leader(view) {
        Some((id, words)) if nodes.signal(id, Signal::STOP) => {
            view.append_event(Severity::Plain, format!("SIGSTOP of {words}"))
        }
        _ => view.append_event(Severity::Plain, "there is no leader to freeze now"),
    }
}
