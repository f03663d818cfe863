//! Asks each node how it is, again and again, each on a thread of its own: one that is silent holds up nobody.

use super::model::{Observation, PollResult};
use crate::client::{Client, ClientError, Options};
use crate::secure::Keys;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// How long after an answer the same node is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// A node that has said nothing for so long is silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// An observation, and when it was made.
pub type TimedObservation = (Instant, Observation);

/// Where observations go. It takes a bounded number that nobody has looked at: whoever asks nodes waits then, and
/// whoever measures leaves one out.
pub type Sink = SyncSender<TimedObservation>;

/// Those who ask. They end with this, or when nobody takes what they see.
pub struct Poll {
    sink: Sink,
    /// With these, if what is said is encrypted.
    keys: Option<Keys>,
    /// Who asks where; told to stop by this.
    asking: BTreeMap<String, Arc<AtomicBool>>,
}

impl Poll {
    /// Nobody is asked yet.
    pub fn new(sink: Sink, keys: Option<Keys>) -> Poll {
        Poll { sink, keys, asking: BTreeMap::new() }
    }

    /// Asks at those endpoints, and at no others any more.
    pub fn follow(&mut self, endpoints: &[String]) {
        self.asking.retain(|endpoint, stop| {
            let stays = endpoints.contains(endpoint);
            stop.store(!stays, Ordering::Relaxed);
            stays
        });
        for endpoint in endpoints {
            if !self.asking.contains_key(endpoint) {
                let stop = Arc::new(AtomicBool::new(false));
                self.asking.insert(endpoint.clone(), stop.clone());
                let (endpoint, sink, keys) = (endpoint.clone(), self.sink.clone(), self.keys.clone());
                std::thread::spawn(move || ask(&endpoint, keys, &sink, &stop));
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.asking.values().for_each(|stop| stop.store(true, Ordering::Relaxed));
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
