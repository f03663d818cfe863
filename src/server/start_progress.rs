//! Reports once a second the progress of a start, and at its end the duration.

use crate::disk::Meter;
use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The interval of progress reports.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The progress reports of a start.
pub struct StartProgress {
    begun: Instant,
    stage: Arc<Mutex<StartStage>>,
    /// The finished stages, in words.
    done: Vec<String>,
    /// The reporting thread runs as long as this is held.
    lasts: Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// A stage of a start: its progress, and when it began.
#[derive(Clone, Debug)]
struct StartStage {
    what: &'static str,
    meter: Arc<Meter>,
    begun: Instant,
}

impl StartProgress {
    /// Starts to report the current stage and its progress at that interval.
    pub fn begin(every: Duration, say: impl Fn(&str) + Send + 'static) -> io::Result<StartProgress> {
        let begun = Instant::now();
        let stage = Arc::new(Mutex::new(StartStage { what: "begun", meter: Arc::default(), begun }));
        let (lasts, over) = channel::<Infallible>();
        let told = Arc::clone(&stage);
        let tell = move || {
            while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(every) {
                // Cloned first, so that the lock is not held while `say` runs.
                let stage = lock(&told).clone();
                if let Some(line) = stage.progress_line(stage.begun.elapsed()) {
                    say(&line);
                }
            }
        };
        let thread = std::thread::Builder::new().name("progress".into()).spawn(tell)?;
        Ok(StartProgress { begun, stage, done: Vec::new(), lasts, thread })
    }

    /// Starts the next stage; `what` is its name in reports. The caller counts its progress in the returned meter.
    pub fn stage(&mut self, what: &'static str) -> Arc<Meter> {
        let next = StartStage { what, meter: Arc::default(), begun: Instant::now() };
        let meter = Arc::clone(&next.meter);
        let before = std::mem::replace(&mut *lock(&self.stage), next);
        self.done.extend(before.summary_line(before.begun.elapsed()));
        meter
    }

    /// Ends the last stage: returns the durations in words, or `None` if nothing was read.
    pub fn end(mut self) -> Option<String> {
        let _nothing_counts_there = self.stage("ended");
        drop(self.lasts);
        // The thread ends with its channel.
        let _ended = self.thread.join();
        let took = self.begun.elapsed().as_secs_f64();
        (!self.done.is_empty()).then(|| format!("recovered in {took:.2} s: {}", self.done.join("; ")))
    }
}

impl StartStage {
    /// The progress in words; `None` if there is nothing to read.
    fn progress_line(&self, took: Duration) -> Option<String> {
        let (done, of) = (self.meter.done(), self.meter.of());
        let line = || format!("recovering: {}: {} of {} MB, {:.2} GB/s", self.what, mb(done), mb(of), rate(done, took));
        (of > 0).then(line)
    }

    fn summary_line(&self, took: Duration) -> Option<String> {
        let done = self.meter.done();
        let what = self.what;
        (done > 0)
            .then(|| format!("{what}: {} MB in {:.2} s, {:.2} GB/s", mb(done), took.as_secs_f64(), rate(done, took)))
    }
}

/// Bytes in millions.
fn mb(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// Gigabytes per second.
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e9 / took.as_secs_f64().max(1e-9)
}

/// No panic can happen while it is locked.
fn lock(stage: &Mutex<StartStage>) -> MutexGuard<'_, StartStage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_reports_progress_until_it_ends() {
        let (said, hears) = channel();
        let say = move |line: &str| {
            // The receiver may stop reading early.
            let _heard_or_not = said.send(line.to_owned());
        };
        let mut telling = StartProgress::begin(Duration::from_millis(1), say).unwrap();
        let meter = telling.stage("log read");
        meter.expect(3_000_000);
        meter.advance(2_000_000);
        let line = hears.iter().find(|line| line.contains("2 of 3 MB")).unwrap();
        assert!(line.starts_with("recovering: log read: 2 of 3 MB, ") && line.ends_with(" GB/s"), "{line}");
        let meter = telling.stage("snapshot checked");
        meter.expect(1);
        let line = hears.iter().find(|line| line.contains("snapshot")).unwrap();
        assert!(line.starts_with("recovering: snapshot checked: 0 of 1 MB, "), "{line}");
        let told = telling.end().unwrap();
        assert!(told.starts_with("recovered in ") && told.contains(" s: log read: 2 MB in "), "{told}");
        assert!(!told.contains("snapshot"), "no snapshot was read: {told}");
        // The reporting thread has ended, and so the channel is closed.
        assert!(hears.iter().all(|line| line.starts_with("recovering: ")));
    }

    #[test]
    fn start_with_nothing_to_read_reports_nothing() {
        let mut telling = StartProgress::begin(REPORT_INTERVAL, |_| ()).unwrap();
        let _meter = telling.stage("log read");
        assert_eq!(telling.end(), None);
    }

    #[test]
    fn rate_is_bytes_per_time() {
        let stage = StartStage { what: "log read", meter: Arc::default(), begun: Instant::now() };
        stage.meter.expect(4_000_000_000);
        stage.meter.advance(1_000_000_000);
        let two = Duration::from_secs(2);
        let nothing = StartStage { meter: Arc::default(), ..stage.clone() };
        assert_eq!(nothing.progress_line(two), None, "a new directory is not recovered");
        assert_eq!(stage.progress_line(two).unwrap(), "recovering: log read: 1000 of 4000 MB, 0.50 GB/s");
        assert_eq!(stage.summary_line(two).unwrap(), "log read: 1000 MB in 2.00 s, 0.50 GB/s");
    }
}
