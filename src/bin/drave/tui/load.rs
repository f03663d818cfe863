//! A moderate load: increments of a few counters, with their latency.

use super::event_log::{EventText, Severity};
use super::model::{Load, Observation, Sample};
use super::poll::Sink;
use crate::remote::cluster::Cluster;
use bytes::Bytes;
use drave::client::{Completion, Fleet, MuxOptions, Result as Outcome};
use drave::machine::KIND;
use drave::machine::commands::Command;
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Maximum number of writes in flight.
const UNDER_WAY: usize = 8;
const COUNTERS: u64 = 16;
/// Interval between writes, as long as the connection has room for one.
const GAP: Duration = Duration::from_millis(2);
/// Interval between samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// The time window of the latencies.
const RECENT: Duration = Duration::from_secs(5);
/// Maximum number of latencies kept.
const RECENT_MAX: usize = 4096;
/// At the end, the time allowed for the writes in flight, and again for the removal of the counters.
const END: Duration = Duration::from_secs(1);

/// A running load, on a thread of its own. Its counters are under `demo/`, in a folder of their own. They are removed
/// at the end if the cluster can commit that at once.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub fn start(cluster: &Cluster, sink: Sink) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (cluster, stopped) = (cluster.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let folder = format!("demo/{:08x}", rand::random::<u32>());
            if let Err(error) = Run::new(&sink, &folder).go(&cluster, &stopped) {
                try_send(&sink, Observation::Told(EventText::new(Severity::Bad, format!("the load failed: {error}"))));
            }
            if remove(&cluster, &folder).is_none() {
                let left = format!("the load's counters were not removed: they remain under {folder}/");
                try_send(&sink, Observation::Told(EventText::new(Severity::Plain, left)));
            }
        });
        Writer { stop, thread }
    }

    /// Requests the end of the load.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether [`Writer::end`] was called.
    pub fn is_ending(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the load has ended and the removal of its counters was attempted.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Sends an observation, or drops it if the channel is full: the load must not wait for the view.
fn try_send(sink: &Sink, observation: Observation) {
    let _left_out = sink.try_send((Instant::now(), observation));
}

fn counter(folder: &str, n: u64) -> Bytes {
    Bytes::from(format!("{folder}/{n:02}"))
}

/// Deletes the counters; `None` if the cluster does not commit that in time.
fn remove(cluster: &Cluster, folder: &str) -> Option<()> {
    let names: Vec<Bytes> = (0..COUNTERS).map(|n| counter(folder, n)).collect();
    let dels = names.iter().map(|key| Command::Del { key }).collect();
    let mut client = Cluster { timeout: END, ..cluster.clone() }.kv_client();
    client.execute(&Command::Batch(dels).encode()).ok().map(|_removed| ())
}

/// The latencies within [`RECENT`], in microseconds, each with its time.
#[derive(Default)]
struct Recent(VecDeque<(Instant, u64)>);

impl Recent {
    fn record(&mut self, now: Instant, took: Duration) {
        if self.0.len() == RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, took.as_micros() as u64));
    }

    /// Drops old latencies; returns the writes per second, and median and 99th percentile of latency in microseconds.
    fn summarize(&mut self, now: Instant, since: Instant) -> (u64, Option<(u64, u64)>) {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > RECENT) {
            self.0.pop_front();
        }
        let mut sorted: Vec<u64> = self.0.iter().map(|(_, us)| *us).collect();
        sorted.sort_unstable();
        let seconds = now.saturating_duration_since(since).min(RECENT).as_secs_f64().max(SAMPLE_INTERVAL.as_secs_f64());
        // The smallest latency that at least `percent` percent of them do not exceed.
        let within = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        ((sorted.len() as f64 / seconds).round() as u64, within(50).zip(within(99)))
    }
}

struct Run<'a> {
    sink: &'a Sink,
    folder: &'a str,
    /// The start time of each write in flight.
    flights: Slab<Instant>,
    recent: Recent,
    failed: u64,
    asked: u64,
}

impl<'a> Run<'a> {
    fn new(sink: &'a Sink, folder: &'a str) -> Run<'a> {
        Run { sink, folder, flights: Slab::new(), recent: Recent::default(), failed: 0, asked: 0 }
    }

    fn go(mut self, cluster: &Cluster, stop: &AtomicBool) -> io::Result<()> {
        let options = MuxOptions { keys: cluster.tls.keys.clone(), machine: KIND, ..MuxOptions::new(UNDER_WAY) };
        let mut fleet = Fleet::new(&cluster.endpoints, 1, options)?;
        let began = Instant::now();
        let (mut due, mut telling) = (began, began);
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while due <= now && fleet[0].has_room() {
                self.ask(&mut fleet, now);
                due += GAP;
            }
            // A delayed load does not catch up: it is a moderate load.
            due = due.max(now);
            self.turn(&mut fleet, due.saturating_duration_since(now).max(Duration::from_millis(1)))?;
            if telling <= now {
                telling = now + SAMPLE_INTERVAL;
                self.send_sample(now, began);
            }
        }
        let until = Instant::now() + END;
        while fleet[0].under_way() > 0 && Instant::now() < until {
            self.turn(&mut fleet, GAP)?;
        }
        Ok(())
    }

    fn ask(&mut self, fleet: &mut Fleet, now: Instant) {
        let tag = self.flights.insert(now) as u64;
        self.asked += 1;
        let key = counter(self.folder, self.asked % COUNTERS);
        fleet[0].execute(Command::Incr { key: &key, by: 1 }.encode(), tag);
    }

    fn turn(&mut self, fleet: &mut Fleet, wait: Duration) -> io::Result<()> {
        fleet.turn(wait, |_, _, Completion { tag, result, .. }| {
            let Some(asked) = self.flights.try_remove(tag as usize) else { return };
            match result {
                Outcome::Executed { .. } | Outcome::Answered { .. } => {
                    let now = Instant::now();
                    self.recent.record(now, now - asked);
                }
                Outcome::Refused(_) | Outcome::Unknown | Outcome::AnswerTooLong { .. } => self.failed += 1,
            }
        })
    }

    fn send_sample(&mut self, now: Instant, began: Instant) {
        let (per_second, latency) = self.recent.summarize(now, began);
        let sample = Sample { per_second, latency, under_way: self.flights.len(), failed: self.failed };
        try_send(self.sink, Observation::Load(Load::On(sample)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_cover_only_recent_window() {
        let began = Instant::now();
        let mut recent = Recent::default();
        assert_eq!(recent.summarize(began, began), (0, None));
        recent.record(began, Duration::from_secs(9));
        let later = began + Duration::from_secs(10);
        for ms in 1..=100 {
            recent.record(later, Duration::from_millis(ms));
        }
        assert_eq!(recent.summarize(later, began), (20, Some((50_000, 99_000))), "the old latency is dropped");
        recent = Recent::default();
        recent.record(later, Duration::from_millis(7));
        assert_eq!(recent.summarize(later, began).1, Some((7000, 7000)));
    }

    #[test]
    fn latency_window_is_bounded() {
        let (now, mut recent) = (Instant::now(), Recent::default());
        (0..3 * RECENT_MAX).for_each(|_| recent.record(now, Duration::ZERO));
        assert_eq!(recent.0.len(), RECENT_MAX);
    }
}
