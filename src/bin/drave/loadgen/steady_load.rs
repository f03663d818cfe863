//! A steady open loop of writes in the background, which records when each write was acknowledged.

use super::verify::Ledger;
use crate::remote::failure::CliError;
use bytes::Bytes;
use drave::client::{Client, Completion, Fleet, MuxOptions, RequestResult as Outcome};
use drave::machine::KIND;
use drave::machine::commands::Command;
use slab::Slab;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The number of counters that the writes increment.
const COUNTER_COUNT: u64 = 100;
/// How long to wait for writes in flight after the load is stopped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The rate and the concurrency of the load.
#[derive(Clone, Copy, Debug)]
pub struct LoadParams {
    /// The number of writes that are due per second.
    pub writes_per_s: u64,
    /// Number of connections.
    pub clients: usize,
    /// The maximum number of requests in flight on each connection.
    pub inflight: usize,
}

/// When one write was acknowledged, and its latency.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// When the acknowledgment arrived.
    pub at: Instant,
    /// The latency since the time at which the write was scheduled.
    pub latency: Duration,
}

/// The number of writes by outcome, over the whole load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadTotals {
    /// Writes that were acknowledged: each has taken effect.
    pub acknowledged: u64,
    /// Writes with an unknown outcome: they may have taken effect, or may yet.
    pub unknown: u64,
    /// Writes that were refused: they did not take effect, and never will.
    pub refused: u64,
    /// The number of times that writes were sent again.
    pub retries: u64,
}

/// A running load, on a thread of its own.
pub struct SteadyLoad {
    stop: Arc<AtomicBool>,
    acks: Arc<Mutex<Vec<Ack>>>,
    thread: JoinHandle<std::io::Result<(Ledger, LoadTotals)>>,
}

struct InFlightWrite {
    scheduled_at: Instant,
    counter_number: u64,
}

fn counter_name(counter_number: u64) -> Bytes {
    Bytes::from(format!("failover/{counter_number:03}"))
}

impl SteadyLoad {
    /// Starts the load. The writes are increments, so that it can be verified that each took effect exactly once.
    pub fn start(endpoints: &[String], params: LoadParams) -> std::io::Result<SteadyLoad> {
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut fleet = Fleet::new(
            endpoints,
            params.clients,
            MuxOptions { machine_kind: KIND, ..MuxOptions::new(params.inflight) },
        )?;
        let (thread_stop, thread_acks) = (stop.clone(), acks.clone());
        let thread = std::thread::spawn(move || run_writes(&mut fleet, params, &thread_stop, &thread_acks));
        Ok(SteadyLoad { stop, acks, thread })
    }

    /// Returns the writes acknowledged since the last call, in the order of their acknowledgments.
    pub fn take_acks(&self) -> Vec<Ack> {
        std::mem::take(&mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops the load and verifies that each counter holds the acknowledged increments.
    pub fn finish(self, endpoints: &[String]) -> Result<LoadTotals, CliError> {
        self.stop.store(true, Ordering::Relaxed);
        let panic_error = |_| CliError { message: "the load's thread panicked".to_owned(), code: 70 };
        let (ledger, totals) = self
            .thread
            .join()
            .map_err(panic_error)?
            .map_err(|error| CliError { message: format!("sockets: {error}"), code: 74 })?;
        let mut client = Client::connect(endpoints.to_vec());
        ledger.verify_counters(&mut client, &(0..COUNTER_COUNT).collect::<Vec<_>>(), counter_name)?;
        Ok(totals)
    }
}

/// Sends writes on schedule and records the acknowledgments until `stop` is set, then waits for the writes in flight.
fn run_writes(
    fleet: &mut Fleet,
    params: LoadParams,
    stop: &AtomicBool,
    acks: &Mutex<Vec<Ack>>,
) -> std::io::Result<(Ledger, LoadTotals)> {
    let write_interval = Duration::from_nanos(1_000_000_000 / params.writes_per_s.max(1));
    let (mut in_flight, mut totals) = (Slab::<InFlightWrite>::new(), LoadTotals::default());
    let mut ledger = Ledger::Counters(BTreeMap::new());
    let (mut next_due, mut next_connection, mut sent_count, mut stopped_at) = (Instant::now(), 0, 0u64, None);
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) {
            let since = *stopped_at.get_or_insert(now);
            if in_flight.is_empty() || now - since > DRAIN_TIMEOUT {
                break;
            }
        }
        while stopped_at.is_none() && next_due <= now {
            let free_connection =
                (0..fleet.len()).map(|n| (next_connection + n) % params.clients).find(|n| fleet[*n].has_room());
            let Some(n) = free_connection else { break };
            let counter_number = sent_count % COUNTER_COUNT;
            let tag = in_flight.insert(InFlightWrite { scheduled_at: next_due, counter_number }) as u64;
            fleet[n].execute(Command::Incr { key: &counter_name(counter_number), by: 1 }.encode(), tag);
            (next_connection, sent_count, next_due) = (n + 1, sent_count + 1, next_due + write_interval);
        }
        let wait = next_due
            .saturating_duration_since(Instant::now())
            .clamp(Duration::from_micros(50), Duration::from_millis(5));
        let mut completions = Vec::new();
        fleet.poll(wait, |_, _, completion| completions.push(completion))?;
        for Completion { tag, retries, result } in completions {
            let Some(write) = in_flight.try_remove(tag as usize) else { continue };
            totals.retries += u64::from(retries);
            match result {
                Outcome::Executed { answer, .. } | Outcome::Answered { answer, .. } => {
                    let acknowledged_at = Instant::now();
                    totals.acknowledged += 1;
                    let _never_fails_for_counters = ledger.record_answer(tag, write.counter_number, answer);
                    let ack = Ack { at: acknowledged_at, latency: acknowledged_at - write.scheduled_at };
                    acks.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
                }
                Outcome::Refused(_) => totals.refused += 1,
                Outcome::Unknown | Outcome::AnswerTooLong { .. } => {
                    totals.unknown += 1;
                    ledger.record_unknown(write.counter_number);
                }
            }
        }
    }
    for (_, write) in &in_flight {
        totals.unknown += 1;
        ledger.record_unknown(write.counter_number);
    }
    Ok((ledger, totals))
}
