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
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The timeout of a status request. A node that does not answer in time is shown as silent.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// An observation, and the time at which it was made.
pub type TimedObservation = (Instant, Observation);

/// The bounded channel for observations. When it is full, a polling thread blocks, and the load drops its sample.
pub type ObservationSender = SyncSender<TimedObservation>;

/// The polling threads, one per endpoint. They end when the poller is dropped, or when the channel is closed.
pub struct StatusPoller {
    sender: ObservationSender,
    /// The TLS keys, if the connections are encrypted.
    tls_keys: Option<Keys>,
    /// The stop flag of the polling thread of each endpoint.
    stop_flags: BTreeMap<String, Arc<AtomicBool>>,
}

impl StatusPoller {
    /// A poller without endpoints. `sender` receives the results.
    pub fn new(sender: ObservationSender, tls_keys: Option<Keys>) -> StatusPoller {
        StatusPoller { sender, tls_keys, stop_flags: BTreeMap::new() }
    }

    /// Polls exactly these endpoints: starts a thread for each new endpoint, and stops the threads of all others.
    pub fn set_endpoints(&mut self, endpoints: &[String]) {
        self.stop_flags.retain(|endpoint, stop| {
            let is_kept = endpoints.contains(endpoint);
            stop.store(!is_kept, Ordering::Relaxed);
            is_kept
        });
        for endpoint in endpoints {
            if !self.stop_flags.contains_key(endpoint) {
                let stop = Arc::new(AtomicBool::new(false));
                self.stop_flags.insert(endpoint.clone(), stop.clone());
                let (endpoint, sender, tls_keys) = (endpoint.clone(), self.sender.clone(), self.tls_keys.clone());
                std::thread::spawn(move || poll_endpoint(&endpoint, tls_keys, &sender, &stop));
            }
        }
    }
}

impl Drop for StatusPoller {
    fn drop(&mut self) {
        self.stop_flags.values().for_each(|stop| stop.store(true, Ordering::Relaxed));
    }
}

fn poll_endpoint(endpoint: &str, tls_keys: Option<Keys>, sender: &ObservationSender, stop: &AtomicBool) {
    let options =
        Options { timeout: STATUS_TIMEOUT, node_timeout: STATUS_TIMEOUT, keys: tls_keys, ..Options::default() };
    let client = Client::with_options([endpoint], options);
    while !stop.load(Ordering::Relaxed) {
        let poll_result = match client.status(endpoint) {
            Ok(status) => PollResult::Answer(Box::new(status)),
            Err(ClientError::Refused(tried)) if tried.duration < STATUS_TIMEOUT => PollResult::NotListening,
            Err(_) => PollResult::NoAnswer,
        };
        if sender
            .send((Instant::now(), Observation::StatusPolled { endpoint: endpoint.to_owned(), poll_result }))
            .is_err()
        {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
