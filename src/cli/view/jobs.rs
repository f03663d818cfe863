//! What takes a while and must not hold up the view: handing over, snapshots. Each on a thread of its own, one of
//! a kind at a time.

use super::model::Observation;
use super::poll::Sink;
use super::story::{StoryLine, Tone};
use crate::cli::cluster::Cluster;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a hand-over may take.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How long one node may take to write its state down.
const SNAPSHOT: Duration = Duration::from_secs(600);

/// Who was sent for what. Nobody waits for them: what they came to is told, and the end of the program ends them.
pub struct Errands {
    cluster: Cluster,
    sink: Sink,
    transfer: Option<JoinHandle<()>>,
    snapshot: Option<JoinHandle<()>>,
}

impl Errands {
    /// None yet, for that cluster.
    pub fn new(cluster: &Cluster, sink: Sink) -> Errands {
        Errands { cluster: cluster.clone(), sink, transfer: None, snapshot: None }
    }

    /// Lets another node lead; what to say of it now.
    pub fn transfer(&mut self) -> StoryLine {
        if is_under_way(&self.transfer) {
            return StoryLine::new(Tone::Plain, "the leader is still handing over");
        }
        let mut client = Cluster { timeout: HAND_OVER, ..self.cluster.clone() }.client();
        let sink = self.sink.clone();
        self.transfer = Some(std::thread::spawn(move || {
            // That it came to pass is seen: another leads.
            if let Err(error) = client.transfer(None) {
                tell(&sink, StoryLine::new(Tone::Bad, format!("nobody took over: {error}")));
            }
        }));
        StoryLine::new(Tone::Plain, "the leader is to hand over")
    }

    /// Lets the nodes at those endpoints take a snapshot, one after the other; what to say of it now.
    pub fn snapshot(&mut self, nodes: Vec<(String, String)>) -> StoryLine {
        if is_under_way(&self.snapshot) {
            return StoryLine::new(Tone::Plain, "snapshots are still being taken");
        }
        let client = Cluster { timeout: SNAPSHOT, ..self.cluster.clone() }.client();
        let sink = self.sink.clone();
        let count = nodes.len();
        self.snapshot = Some(std::thread::spawn(move || {
            for (name, endpoint) in nodes {
                // That there is a new one is seen; not that there was nothing new to write down.
                match client.snapshot(&endpoint) {
                    Ok((position, _)) => {
                        tell(&sink, StoryLine::new(Tone::Plain, format!("{name} is done, at {position}")))
                    }
                    Err(error) => tell(&sink, StoryLine::new(Tone::Bad, format!("{name} took no snapshot: {error}"))),
                }
            }
        }));
        StoryLine::new(Tone::Plain, format!("snapshots are taken, on {count} nodes one after the other"))
    }
}

fn is_under_way(errand: &Option<JoinHandle<()>>) -> bool {
    errand.as_ref().is_some_and(|thread| !thread.is_finished())
}

fn tell(sink: &Sink, told: StoryLine) {
    let _nobody_may_look_any_more = sink.send((Instant::now(), Observation::Told(told)));
}
