//! A moderate load on the cluster that the view shows: increments of a few counters, whose latency is measured.

use super::event_log::{EventText, Severity};
use super::model::{LoadSample, LoadState, Observation};
use super::poll::ObservationSender;
use crate::remote::cluster::ClusterArgs;
use bytes::Bytes;
use drave::client::{Completion, Fleet, MuxOptions, RequestResult as Outcome};
use drave::machine::KIND;
use drave::machine::commands::Command;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The maximum number of writes in flight.
const IN_FLIGHT_MAX: usize = 8;
/// The number of counters that the writes increment, in turn.
const COUNTER_COUNT: u64 = 16;
/// Interval between writes, if the connection has room for another write.
const WRITE_INTERVAL: Duration = Duration::from_millis(2);
/// The interval at which the load sends its write rate and latencies to the view.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// The period over which the write rate and the latency percentiles are computed.
const LATENCY_WINDOW: Duration = Duration::from_secs(5);
/// The maximum number of latencies in the window; the oldest are dropped.
const LATENCIES_MAX: usize = 4096;
/// The maximum wait for the writes in flight after the load is stopped, and then for the removal of the counters.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A running load, on a thread of its own. The keys of its counters begin with `demo/` and a random prefix. The
/// counters are removed at the end, if the cluster commits that within [`STOP_TIMEOUT`].
pub struct LoadWriter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl LoadWriter {
    /// Starts the load. `sender` receives its measurements and failures.
    pub fn start(cluster: &ClusterArgs, sender: ObservationSender) -> LoadWriter {
        let stop = Arc::new(AtomicBool::new(false));
        let (cluster, thread_stop) = (cluster.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let prefix = format!("demo/{:08x}", rand::random::<u32>());
            if let Err(error) = LoadRun::new(&sender, &prefix).run_until_stopped(&cluster, &thread_stop) {
                send_or_drop(
                    &sender,
                    Observation::Event(EventText::new(Severity::Bad, format!("the load failed: {error}"))),
                );
            }
            if remove_counters(&cluster, &prefix).is_none() {
                let message = format!("the load's counters were not removed: they remain under {prefix}/");
                send_or_drop(&sender, Observation::Event(EventText::new(Severity::Plain, message)));
            }
        });
        LoadWriter { stop, thread }
    }

    /// Requests the end of the load without waiting for it; see [`LoadWriter::has_ended`].
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether [`LoadWriter::request_stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the load has ended and the removal of its counters was attempted.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Sends an observation, or drops it if the channel is full: the load must not wait for the view.
fn send_or_drop(sender: &ObservationSender, observation: Observation) {
    let _dropped_if_full = sender.try_send((Instant::now(), observation));
}

fn counter_key(prefix: &str, n: u64) -> Bytes {
    Bytes::from(format!("{prefix}/{n:02}"))
}

/// Deletes the counters; `None` if the cluster does not commit that in time.
fn remove_counters(cluster: &ClusterArgs, prefix: &str) -> Option<()> {
    let names: Vec<Bytes> = (0..COUNTER_COUNT).map(|n| counter_key(prefix, n)).collect();
    let delete_commands = names.iter().map(|key| Command::Del { key }).collect();
    let mut client = ClusterArgs { timeout: STOP_TIMEOUT, ..cluster.clone() }.kv_client();
    client.execute(&Command::Batch(delete_commands).encode()).ok().map(|_removed| ())
}

/// The latencies within [`LATENCY_WINDOW`], in microseconds, each with the time of the answer.
#[derive(Default)]
struct RecentLatencies(VecDeque<(Instant, u64)>);

impl RecentLatencies {
    fn record(&mut self, now: Instant, latency: Duration) {
        if self.0.len() == LATENCIES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, latency.as_micros() as u64));
    }

    /// Drops old latencies; returns the writes per second, and median and 99th percentile of latency in microseconds.
    fn summarize(&mut self, now: Instant, load_began: Instant) -> (u64, Option<(u64, u64)>) {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > LATENCY_WINDOW) {
            self.0.pop_front();
        }
        let mut sorted: Vec<u64> = self.0.iter().map(|(_, us)| *us).collect();
        sorted.sort_unstable();
        let seconds = now
            .saturating_duration_since(load_began)
            .min(LATENCY_WINDOW)
            .as_secs_f64()
            .max(SAMPLE_INTERVAL.as_secs_f64());
        // The smallest latency that at least `percent` percent of the latencies do not exceed.
        let percentile = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        ((sorted.len() as f64 / seconds).round() as u64, percentile(50).zip(percentile(99)))
    }
}

/// The state of a running load, on the load's thread.
struct LoadRun<'a> {
    sender: &'a ObservationSender,
    prefix: &'a str,
    /// The time at which each write in flight was sent, by tag.
    in_flight: Slab<Instant>,
    recent_latencies: RecentLatencies,
    failed_writes: u64,
    sent_count: u64,
}

impl<'a> LoadRun<'a> {
    fn new(sender: &'a ObservationSender, prefix: &'a str) -> LoadRun<'a> {
        LoadRun {
            sender,
            prefix,
            in_flight: Slab::new(),
            recent_latencies: RecentLatencies::default(),
            failed_writes: 0,
            sent_count: 0,
        }
    }

    fn run_until_stopped(mut self, cluster: &ClusterArgs, stop: &AtomicBool) -> io::Result<()> {
        let options =
            MuxOptions { keys: cluster.tls.keys.clone(), machine_kind: KIND, ..MuxOptions::new(IN_FLIGHT_MAX) };
        let mut fleet = Fleet::new(&cluster.endpoints, 1, options)?;
        let began = Instant::now();
        let (mut next_write_at, mut next_sample_at) = (began, began);
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while next_write_at <= now && fleet[0].has_room() {
                self.send_write(&mut fleet, now);
                next_write_at += WRITE_INTERVAL;
            }
            // Writes that could not be sent on time are skipped: the load must stay moderate.
            next_write_at = next_write_at.max(now);
            self.record_completions(
                &mut fleet,
                next_write_at.saturating_duration_since(now).max(Duration::from_millis(1)),
            )?;
            if next_sample_at <= now {
                next_sample_at = now + SAMPLE_INTERVAL;
                self.send_sample(now, began);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while fleet[0].in_flight_count() > 0 && Instant::now() < deadline {
            self.record_completions(&mut fleet, WRITE_INTERVAL)?;
        }
        Ok(())
    }

    fn send_write(&mut self, fleet: &mut Fleet, now: Instant) {
        let tag = self.in_flight.insert(now) as u64;
        self.sent_count += 1;
        let key = counter_key(self.prefix, self.sent_count % COUNTER_COUNT);
        fleet[0].execute(Command::Incr { key: &key, by: 1 }.encode(), tag);
    }

    fn record_completions(&mut self, fleet: &mut Fleet, wait: Duration) -> io::Result<()> {
        fleet.poll(wait, |_, _, Completion { tag, result, .. }| {
            let Some(sent_at) = self.in_flight.try_remove(tag as usize) else { return };
            match result {
                Outcome::Executed { .. } | Outcome::Answered { .. } => {
                    let now = Instant::now();
                    self.recent_latencies.record(now, now - sent_at);
                }
                Outcome::Refused(_) | Outcome::Unknown | Outcome::AnswerTooLong { .. } => self.failed_writes += 1,
            }
        })
    }

    fn send_sample(&mut self, now: Instant, began: Instant) {
        let (writes_per_second, latency_us) = self.recent_latencies.summarize(now, began);
        let sample = LoadSample {
            writes_per_second,
            latency_us,
            in_flight: self.in_flight.len(),
            failed_writes: self.failed_writes,
        };
        send_or_drop(self.sender, Observation::LoadChanged(LoadState::On(sample)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_cover_only_recent_window() {
        let began = Instant::now();
        let mut recent_latencies = RecentLatencies::default();
        assert_eq!(recent_latencies.summarize(began, began), (0, None));
        recent_latencies.record(began, Duration::from_secs(9));
        let ten_seconds_later = began + Duration::from_secs(10);
        for ms in 1..=100 {
            recent_latencies.record(ten_seconds_later, Duration::from_millis(ms));
        }
        assert_eq!(
            recent_latencies.summarize(ten_seconds_later, began),
            (20, Some((50_000, 99_000))),
            "the old latency is dropped"
        );
        recent_latencies = RecentLatencies::default();
        recent_latencies.record(ten_seconds_later, Duration::from_millis(7));
        assert_eq!(recent_latencies.summarize(ten_seconds_later, began).1, Some((7000, 7000)));
    }

    #[test]
    fn latency_window_is_bounded() {
        let (now, mut recent_latencies) = (Instant::now(), RecentLatencies::default());
        (0..3 * LATENCIES_MAX).for_each(|_| recent_latencies.record(now, Duration::ZERO));
        assert_eq!(recent_latencies.0.len(), LATENCIES_MAX);
    }
}
