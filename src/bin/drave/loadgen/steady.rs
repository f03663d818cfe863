//! A steady open loop of writes in the background, which records when each write was acknowledged.

use super::verify::Ledger;
use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::client::{Client, Completion, Fleet, MuxOptions, Result as Outcome};
use drave::machine::KIND;
use drave::machine::commands::Command;
use slab::Slab;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The number of counters that the writes go to.
const KEYS: u64 = 100;
/// How long to wait for writes in flight after the load is stopped.
const LAST: Duration = Duration::from_secs(10);

/// The parameters of the load.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Writes a second.
    pub rate: u64,
    /// Number of connections.
    pub clients: usize,
    /// Requests outstanding on each connection.
    pub inflight: usize,
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// When the acknowledgment arrived.
    pub at: Instant,
    /// Latency from the scheduled send.
    pub response: Duration,
}

/// Totals of the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes with an unknown outcome.
    pub unknown: u64,
    /// Writes rejected with a final refusal.
    pub refused: u64,
    /// Retries of requests.
    pub retries: u64,
}

/// A running load.
pub struct Steady {
    stop: Arc<AtomicBool>,
    acks: Arc<Mutex<Vec<Ack>>>,
    thread: JoinHandle<std::io::Result<(Ledger, Sum)>>,
}

struct Flight {
    intended: Instant,
    key: u64,
}

fn name(key: u64) -> Bytes {
    Bytes::from(format!("failover/{key:03}"))
}

impl Steady {
    /// Starts the load. The writes are increments, so that it can be verified that each took effect exactly once.
    pub fn start(endpoints: &[String], pace: Pace) -> std::io::Result<Steady> {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut fleet =
            Fleet::new(endpoints, pace.clients, MuxOptions { machine: KIND, ..MuxOptions::new(pace.inflight) })?;
        let (told, noted) = (stop.clone(), acks.clone());
        let thread = std::thread::spawn(move || drive(&mut fleet, pace, &told, &noted));
        Ok(Steady { stop, acks, thread })
    }

    /// The writes acknowledged since the last call, in order.
    pub fn acks(&self) -> Vec<Ack> {
        std::mem::take(&mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops the load and verifies that each counter holds the acknowledged increments.
    pub fn finish(self, endpoints: &[String]) -> Result<Sum, CliError> {
        self.stop.store(true, Ordering::Relaxed);
        let died = |_| CliError { what: "the load's thread panicked".to_owned(), code: 70 };
        let (ledger, sum) = self
            .thread
            .join()
            .map_err(died)?
            .map_err(|error| CliError { what: format!("sockets: {error}"), code: 74 })?;
        let mut client = Client::connect(endpoints.to_vec());
        ledger.judge_counters(&mut client, &(0..KEYS).collect::<Vec<_>>(), name)?;
        Ok(sum)
    }
}

/// Sends requests on schedule and records the acknowledgments until `stop` is set.
fn drive(fleet: &mut Fleet, pace: Pace, stop: &AtomicBool, acks: &Mutex<Vec<Ack>>) -> std::io::Result<(Ledger, Sum)> {
    let gap = Duration::from_nanos(1_000_000_000 / pace.rate.max(1));
    let (mut flights, mut sum) = (Slab::<Flight>::new(), Sum::default());
    let mut ledger = Ledger::Counters(BTreeMap::new());
    let (mut due, mut turn, mut count, mut stopped) = (Instant::now(), 0, 0u64, None);
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) {
            let since = *stopped.get_or_insert(now);
            if flights.is_empty() || now - since > LAST {
                break;
            }
        }
        while stopped.is_none() && due <= now {
            let free = (0..fleet.len()).map(|n| (turn + n) % pace.clients).find(|n| fleet[*n].has_room());
            let Some(n) = free else { break };
            let key = count % KEYS;
            let tag = flights.insert(Flight { intended: due, key }) as u64;
            fleet[n].execute(Command::Incr { key: &name(key), by: 1 }.encode(), tag);
            (turn, count, due) = (n + 1, count + 1, due + gap);
        }
        let wait =
            due.saturating_duration_since(Instant::now()).clamp(Duration::from_micros(50), Duration::from_millis(5));
        let mut done = Vec::new();
        fleet.turn(wait, |_, _, completion| done.push(completion))?;
        for Completion { tag, retries, result } in done {
            let Some(flight) = flights.try_remove(tag as usize) else { continue };
            sum.retries += u64::from(retries);
            match result {
                Outcome::Executed { answer, .. } | Outcome::Answered { answer, .. } => {
                    let at = Instant::now();
                    sum.acknowledged += 1;
                    let _counters_take_all = ledger.answered(tag, flight.key, answer);
                    let ack = Ack { at, response: at - flight.intended };
                    acks.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
                }
                Outcome::Refused(_) => sum.refused += 1,
                Outcome::Unknown | Outcome::AnswerTooLong { .. } => {
                    sum.unknown += 1;
                    ledger.unknown(flight.key);
                }
            }
        }
    }
    for (_, flight) in &flights {
        sum.unknown += 1;
        ledger.unknown(flight.key);
    }
    Ok((ledger, sum))
}
