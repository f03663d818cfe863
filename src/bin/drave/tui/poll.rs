//! Polls the status of each node on a thread of its own, so that a silent node delays no other.

use super::model::Observation;
use super::node::PollResult;
use drave::client::{Client, ClientError, Options};
use drave::secure::Keys;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Pause between two status requests to the same node.
const PAUSE: Duration = Duration::from_millis(250);
/// Timeout of a status request; a node that does not answer within it is silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// An observation and its time.
pub type TimedObservation = (Instant, Observation);

/// The bounded channel for observations. When it is full, a polling thread blocks, and the load drops its sample.
pub type Sink = SyncSender<TimedObservation>;

/// The polling threads, one per endpoint. They end when this is dropped, or when the channel is closed.
pub struct Poll {
    sink: Sink,
    /// TLS keys, if the connections are encrypted.
    keys: Option<Keys>,
    /// The stop flag of the polling thread of each endpoint.
    stop_flags: BTreeMap<String, Arc<AtomicBool>>,
}

impl Poll {
    /// A poll without any endpoint.
    pub fn new(sink: Sink, keys: Option<Keys>) -> Poll {
        Poll { sink, keys, stop_flags: BTreeMap::new() }
    }

    /// Polls exactly these endpoints: starts threads for new ones and stops those of the others.
    pub fn follow(&mut self, endpoints: &[String]) {
        self.stop_flags.retain(|endpoint, stop| {
            let stays = endpoints.contains(endpoint);
            stop.store(!stays, Ordering::Relaxed);
            stays
        });
        for endpoint in endpoints {
            if !self.stop_flags.contains_key(endpoint) {
                let stop = Arc::new(AtomicBool::new(false));
                self.stop_flags.insert(endpoint.clone(), stop.clone());
                let (endpoint, sink, keys) = (endpoint.clone(), self.sink.clone(), self.keys.clone());
                std::thread::spawn(move || ask(&endpoint, keys, &sink, &stop));
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.stop_flags.values().for_each(|stop| stop.store(true, Ordering::Relaxed));
    }
}

fn ask(endpoint: &str, keys: Option<Keys>, sink: &Sink, stop: &AtomicBool) {
    let options = Options { timeout: PATIENCE, patience: PATIENCE, keys, ..Options::default() };
    let client = Client::with([endpoint], options);
    while !stop.load(Ordering::Relaxed) {
        let found = match client.status(endpoint) {
            Ok(status) => PollResult::Answer(Box::new(status)),
            Err(ClientError::Refused(tried)) if tried.took < PATIENCE => PollResult::Nobody,
            Err(_) => PollResult::Silence,
        };
        if sink.send((Instant::now(), Observation::Looked { endpoint: endpoint.to_owned(), found })).is_err() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
