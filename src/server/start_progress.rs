//! Reports the progress of a server's start once a second, and at the end its duration.

use crate::disk::Meter;
use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The interval of progress reports.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports the progress of a server's start, stage by stage.
pub struct StartProgress {
    started_at: Instant,
    current_stage: Arc<Mutex<StartStage>>,
    /// A summary of each finished stage.
    summaries: Vec<String>,
    /// The sender whose drop ends the reporting thread.
    stop_sender: Sender<Infallible>,
    thread: JoinHandle<()>,
}

/// A stage of a server's start: the bytes read so far, and when the stage began.
#[derive(Clone, Debug)]
struct StartStage {
    name: &'static str,
    meter: Arc<Meter>,
    started_at: Instant,
}

impl StartProgress {
    /// Starts a thread that passes a line about the current stage to `emit`, once per `interval`.
    pub fn begin(interval: Duration, emit: impl Fn(&str) + Send + 'static) -> io::Result<StartProgress> {
        let started_at = Instant::now();
        let current_stage = Arc::new(Mutex::new(StartStage { name: "starting", meter: Arc::default(), started_at }));
        let (stop_sender, stop_receiver) = channel::<Infallible>();
        let shared_stage = Arc::clone(&current_stage);
        let report = move || {
            while let Err(RecvTimeoutError::Timeout) = stop_receiver.recv_timeout(interval) {
                // Cloned first, so that the lock is not held while `emit` runs.
                let stage = lock(&shared_stage).clone();
                if let Some(line) = stage.progress_line(stage.started_at.elapsed()) {
                    emit(&line);
                }
            }
        };
        let thread = std::thread::Builder::new().name("progress".into()).spawn(report)?;
        Ok(StartProgress { started_at, current_stage, summaries: Vec::new(), stop_sender, thread })
    }

    /// Starts the next stage; `name` is its name in reports. The caller counts its progress in the returned meter.
    pub fn begin_stage(&mut self, name: &'static str) -> Arc<Meter> {
        let next_stage = StartStage { name, meter: Arc::default(), started_at: Instant::now() };
        let meter = Arc::clone(&next_stage.meter);
        let finished_stage = std::mem::replace(&mut *lock(&self.current_stage), next_stage);
        self.summaries.extend(finished_stage.summary_line(finished_stage.started_at.elapsed()));
        meter
    }

    /// Ends the last stage. Returns the duration of the start and the summaries of its stages, or `None` if nothing was
    /// read.
    pub fn end(mut self) -> Option<String> {
        let _unused_meter = self.begin_stage("ended");
        drop(self.stop_sender);
        // The thread ends when its channel is closed.
        let _thread_result = self.thread.join();
        let took = self.started_at.elapsed().as_secs_f64();
        (!self.summaries.is_empty()).then(|| format!("recovered in {took:.2} s: {}", self.summaries.join("; ")))
    }
}

impl StartStage {
    /// The progress in words; `None` if there is nothing to read.
    fn progress_line(&self, took: Duration) -> Option<String> {
        let (read_bytes, total) = (self.meter.read_bytes(), self.meter.total_bytes());
        let line = || {
            format!(
                "recovering: {}: {} of {} MB, {:.2} GB/s",
                self.name,
                megabytes(read_bytes),
                megabytes(total),
                gigabytes_per_second(read_bytes, took)
            )
        };
        (total > 0).then(line)
    }

    fn summary_line(&self, took: Duration) -> Option<String> {
        let read_bytes = self.meter.read_bytes();
        let name = self.name;
        (read_bytes > 0).then(|| {
            format!(
                "{name}: {} MB in {:.2} s, {:.2} GB/s",
                megabytes(read_bytes),
                took.as_secs_f64(),
                gigabytes_per_second(read_bytes, took)
            )
        })
    }
}

/// Bytes in megabytes (millions of bytes), rounded up.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// The mean rate of reading `bytes` bytes in the time `took`, in gigabytes (billions of bytes) per second.
fn gigabytes_per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e9 / took.as_secs_f64().max(1e-9)
}

/// Locks the stage. Poisoning is ignored: no panic can happen while the stage is locked.
fn lock(stage: &Mutex<StartStage>) -> MutexGuard<'_, StartStage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_reports_progress_until_it_ends() {
        let (sender, lines) = channel();
        let emit = move |line: &str| {
            let _receiver_may_be_gone = sender.send(line.to_owned());
        };
        let mut progress = StartProgress::begin(Duration::from_millis(1), emit).unwrap();
        let meter = progress.begin_stage("log read");
        meter.add_total(3_000_000);
        meter.add_read(2_000_000);
        let line = lines.iter().find(|line| line.contains("2 of 3 MB")).unwrap();
        assert!(line.starts_with("recovering: log read: 2 of 3 MB, ") && line.ends_with(" GB/s"), "{line}");
        let meter = progress.begin_stage("snapshot checked");
        meter.add_total(1);
        let line = lines.iter().find(|line| line.contains("snapshot")).unwrap();
        assert!(line.starts_with("recovering: snapshot checked: 0 of 1 MB, "), "{line}");
        let summary = progress.end().unwrap();
        assert!(summary.starts_with("recovered in ") && summary.contains(" s: log read: 2 MB in "), "{summary}");
        assert!(!summary.contains("snapshot"), "no snapshot was read: {summary}");
        // The reporting thread has ended, and so the channel is closed.
        assert!(lines.iter().all(|line| line.starts_with("recovering: ")));
    }

    #[test]
    fn start_with_nothing_to_read_reports_nothing() {
        let mut progress = StartProgress::begin(REPORT_INTERVAL, |_| ()).unwrap();
        let _meter = progress.begin_stage("log read");
        assert_eq!(progress.end(), None);
    }

    #[test]
    fn reported_rate_is_bytes_read_per_elapsed_time() {
        let stage = StartStage { name: "log read", meter: Arc::default(), started_at: Instant::now() };
        stage.meter.add_total(4_000_000_000);
        stage.meter.add_read(1_000_000_000);
        let two_seconds = Duration::from_secs(2);
        let empty_stage = StartStage { meter: Arc::default(), ..stage.clone() };
        assert_eq!(empty_stage.progress_line(two_seconds), None, "a new directory is not recovered");
        assert_eq!(stage.progress_line(two_seconds).unwrap(), "recovering: log read: 1000 of 4000 MB, 0.50 GB/s");
        assert_eq!(stage.summary_line(two_seconds).unwrap(), "log read: 1000 MB in 2.00 s, 0.50 GB/s");
    }
}
