//! Long operations that must not block the view: leader transfer and snapshots. Each runs on a thread of its own, one
//! of a kind at a time.

use super::event_log::{EventText, Severity};
use super::model::Observation;
use super::poll::Sink;
use crate::remote::cluster::Cluster;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Timeout of a leader transfer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the snapshot of one node.
const SNAPSHOT: Duration = Duration::from_secs(600);

/// The running operations. They are never joined: they report failures and finished snapshots as events, and end with
/// the program.
pub struct BackgroundJobs {
    cluster: Cluster,
    sink: Sink,
    transfer: Option<JoinHandle<()>>,
    snapshot: Option<JoinHandle<()>>,
}

impl BackgroundJobs {
    /// No operations yet, for this cluster.
    pub fn new(cluster: &Cluster, sink: Sink) -> BackgroundJobs {
        BackgroundJobs { cluster: cluster.clone(), sink, transfer: None, snapshot: None }
    }

    /// Starts a leader transfer; returns the event to show.
    pub fn transfer(&mut self) -> EventText {
        if is_under_way(&self.transfer) {
            return EventText::new(Severity::Plain, "a leader transfer is already in progress");
        }
        let mut client = Cluster { timeout: TRANSFER_TIMEOUT, ..self.cluster.clone() }.client();
        let sink = self.sink.clone();
        self.transfer = Some(std::thread::spawn(move || {
            // Success needs no event: the new leader shows it.
            if let Err(error) = client.transfer(None) {
                send_event(&sink, EventText::new(Severity::Bad, format!("the leader transfer failed: {error}")));
            }
        }));
        EventText::new(Severity::Plain, "leader transfer requested")
    }

    /// Requests a snapshot of each of these nodes (name, endpoint), one after the other; returns the event to show.
    pub fn snapshot(&mut self, nodes: Vec<(String, String)>) -> EventText {
        if is_under_way(&self.snapshot) {
            return EventText::new(Severity::Plain, "snapshots are still being taken");
        }
        let client = Cluster { timeout: SNAPSHOT, ..self.cluster.clone() }.client();
        let sink = self.sink.clone();
        let count = nodes.len();
        self.snapshot = Some(std::thread::spawn(move || {
            for (name, endpoint) in nodes {
                // The status shows a new snapshot, but not that there was nothing new to snapshot.
                match client.snapshot(&endpoint) {
                    Ok((position, _)) => {
                        send_event(&sink, EventText::new(Severity::Plain, format!("{name}: snapshot at {position}")))
                    }
                    Err(error) => {
                        send_event(&sink, EventText::new(Severity::Bad, format!("{name} took no snapshot: {error}")))
                    }
                }
            }
        }));
        EventText::new(Severity::Plain, format!("{count} nodes take snapshots, one after the other"))
    }
}

fn is_under_way(errand: &Option<JoinHandle<()>>) -> bool {
    errand.as_ref().is_some_and(|thread| !thread.is_finished())
}

fn send_event(sink: &Sink, told: EventText) {
    let _nobody_may_look_any_more = sink.send((Instant::now(), Observation::Told(told)));
}
