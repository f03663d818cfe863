//! Long operations that must not block the view: leader transfer and snapshots. Each runs on its own thread, at most
//! one of a kind at a time.

use super::event_log::{EventText, Severity};
use super::model::Observation;
use super::poll::ObservationSender;
use crate::remote::cluster::ClusterArgs;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the client retries a leader transfer before the view shows its failure.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of the snapshot of one node: writing takes time in proportion to the state.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// The threads of running operations. They report failures and finished snapshots as events. They are never joined, and
/// end with the program.
pub struct BackgroundJobs {
    cluster: ClusterArgs,
    sender: ObservationSender,
    transfer_thread: Option<JoinHandle<()>>,
    snapshot_thread: Option<JoinHandle<()>>,
}

impl BackgroundJobs {
    /// Creates the jobs without starting any. `sender` receives their events.
    pub fn new(cluster: &ClusterArgs, sender: ObservationSender) -> BackgroundJobs {
        BackgroundJobs { cluster: cluster.clone(), sender, transfer_thread: None, snapshot_thread: None }
    }

    /// Starts a leader transfer, unless one is running; returns the event to show.
    pub fn start_transfer(&mut self) -> EventText {
        if is_running(&self.transfer_thread) {
            return EventText::new(Severity::Plain, "a leader transfer is already in progress");
        }
        let mut client = ClusterArgs { timeout: TRANSFER_TIMEOUT, ..self.cluster.clone() }.client();
        let sender = self.sender.clone();
        self.transfer_thread = Some(std::thread::spawn(move || {
            // Success needs no event: the new leader appears in the view.
            if let Err(error) = client.transfer_leadership(None) {
                send_event(&sender, EventText::new(Severity::Bad, format!("the leader transfer failed: {error}")));
            }
        }));
        EventText::new(Severity::Plain, "leader transfer requested")
    }

    /// Requests a snapshot of each of these nodes (name, endpoint), one after the other; returns the event to show.
    pub fn start_snapshots(&mut self, nodes: Vec<(String, String)>) -> EventText {
        if is_running(&self.snapshot_thread) {
            return EventText::new(Severity::Plain, "snapshots are still being taken");
        }
        let client = ClusterArgs { timeout: SNAPSHOT_TIMEOUT, ..self.cluster.clone() }.client();
        let sender = self.sender.clone();
        let node_count = nodes.len();
        self.snapshot_thread = Some(std::thread::spawn(move || {
            for (name, endpoint) in nodes {
                // Each answer is an event: a node that keeps a current snapshot shows no change in its status.
                match client.snapshot(&endpoint) {
                    Ok((position, _)) => {
                        send_event(&sender, EventText::new(Severity::Plain, format!("{name}: snapshot at {position}")))
                    }
                    Err(error) => {
                        send_event(&sender, EventText::new(Severity::Bad, format!("{name} took no snapshot: {error}")))
                    }
                }
            }
        }));
        EventText::new(Severity::Plain, format!("{node_count} nodes take snapshots, one after the other"))
    }
}

fn is_running(job: &Option<JoinHandle<()>>) -> bool {
    job.as_ref().is_some_and(|thread| !thread.is_finished())
}

fn send_event(sender: &ObservationSender, event: EventText) {
    let _view_may_be_closed = sender.send((Instant::now(), Observation::Event(event)));
}
