//! The log thread, its helper, the snapshot thread, and the thread that watches the free disk space: four short loops.
//!
//! Batching needs no timer: the writes that arrive during a sync are the next batch. An error is final: the thread ends
//! with it, and its end stops the reactor, so that no heartbeats are sent for a node that cannot write.

use crate::disk::Disk;
use crate::driver::busy_poll::BusyPoll;
use crate::driver::deferred_drop::lower_priority;
use crate::driver::inbox::{InboxSender, LoopMessage};
use crate::snapshotting::{Job, SnapshotWorker};
use crate::types::{Entry, Payload, Position, Write};
use crate::wal::{Fault, Journal, Result, SpaceMonitor, Spare, SpareOrder, Task};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The maximum size of a batch of writes, in bytes: a larger one gains little bandwidth and more than doubles latency.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// After this long without work the log thread writes a sync marker: all batches before it are synced.
const IDLE_BEFORE_SYNC_MARKER: Duration = Duration::from_millis(10);
/// The pause before another attempt to prepare a spare segment, after a failed one.
const SPARE_SEGMENT_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The minimum pause after each part of a spare segment that is prepared. The pause lasts at least as long as preparing
/// that part took, to leave the disk to the log.
const SPARE_SEGMENT_PAUSE_MIN: Duration = Duration::from_millis(5);

/// The pause before a log thread without disk space tries again to write.
const NO_SPACE_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The interval between two checks of the free disk space: once there is space again, writes are accepted within five
/// seconds.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The journal and its queues, owned by the log thread.
struct LogThread<D: Disk> {
    journal: Journal<D>,
    tasks: Receiver<Task>,
    /// Writes that arrived while the log waited for space.
    waiting_tasks: VecDeque<Task>,
    inbox: InboxSender,
    busy_poll: BusyPoll,
    /// The queue of orders to the thread that prepares spare segments, and the queue of prepared segments.
    spare_orders: Sender<SpareOrder>,
    prepared_spares: Receiver<Result<Spare<D::File>>>,
    /// When the next spare segment may be ordered; `None` while one is being prepared.
    next_spare_order_at: Option<Instant>,
}

/// Reports on its drop that a thread has ended, for whatever reason. If the reactor has ended first, the report is
/// lost, which is harmless.
struct ThreadEndReporter {
    inbox: InboxSender,
    thread: &'static str,
}

impl Drop for ThreadEndReporter {
    fn drop(&mut self) {
        self.inbox.send(LoopMessage::ThreadEnded(self.thread));
    }
}

/// Starts the log thread and the thread that prepares spare segments. The log thread ends when all senders of writes
/// are dropped and everything sent is synced, or with the error of a failed operation.
pub fn spawn_log_thread<D: Disk>(
    journal: Journal<D>,
    disk: D,
    inbox: InboxSender,
    busy_poll: Duration,
) -> io::Result<(Sender<Task>, JoinHandle<Result<()>>)> {
    let (sender, tasks) = channel();
    let (spare_orders, ordered) = channel();
    let (prepared, prepared_spares) = channel();
    std::thread::Builder::new().name("spare".into()).spawn(move || prepare_spares(&disk, &ordered, &prepared))?;
    let busy_poll = BusyPoll::new(busy_poll);
    let mut log = LogThread {
        journal,
        tasks,
        waiting_tasks: VecDeque::new(),
        inbox,
        busy_poll,
        spare_orders,
        prepared_spares,
        next_spare_order_at: Some(Instant::now()),
    };
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
        let _end_reporter = ThreadEndReporter { inbox: log.inbox.clone(), thread: "log" };
        log.run()
    })?;
    Ok((sender, thread))
}

impl<D: Disk> LogThread<D> {
    fn run(&mut self) -> Result<()> {
        while let Some(task) = self.next_task()? {
            self.order_spares();
            let mut release = None;
            let mut batch_bytes = self.add_to_batch(task, &mut release)?;
            while batch_bytes < BATCH_BYTES_MAX
                && let Ok(task) = self.try_next_task()
            {
                batch_bytes += self.add_to_batch(task, &mut release)?;
            }
            self.sync()?;
            if let Some((upto, reuses_files)) = release {
                self.await_room(&Task::Release { upto, reuses_files })?;
                self.journal.release_and_reuse(upto, reuses_files)?;
            }
        }
        self.journal.confirm_sync()
    }

    /// Syncs the journal and reports to the reactor. Returns whether the reactor still runs.
    fn sync(&mut self) -> Result<bool> {
        let started_at = Instant::now();
        let mut report = self.journal.sync()?;
        report.sync_duration = started_at.elapsed();
        Ok(self.inbox.send(LoopMessage::Journal(report)))
    }

    /// Waits until there is space for `task`. To the node this is a stalled disk: earlier writes are synced, later ones
    /// wait, and the node neither leads nor votes. If the reactor is gone, the thread ends with the error.
    fn await_room(&mut self, task: &Task) -> Result<()> {
        let mut is_waiting = false;
        while let Err(fault) = self.journal.reserve_room(task) {
            let Fault::Full { file } = &fault else { return Err(fault) };
            if !is_waiting {
                log::warn!("no space left for {file}: writing waits for free disk space");
                is_waiting = true;
            }
            if !self.sync()? {
                return Err(fault);
            }
            std::thread::sleep(NO_SPACE_RETRY_INTERVAL);
            self.order_spares();
            self.drain_releases()?;
        }
        if is_waiting {
            log::info!("disk space is available again: writing resumes");
        }
        Ok(())
    }

    /// Handles queued releases of old segments before the writes that wait for the segments' space.
    fn drain_releases(&mut self) -> Result<()> {
        while let Ok(task) = self.tasks.try_recv() {
            match task {
                // Releasing old segments needs some disk space itself. If there is none, this release is skipped: the
                // next one covers its segments too. A release of damaged files waits instead: the next one may be far off.
                Task::Release { upto, reuses_files } if self.journal.reserve_room(&task).is_ok() => {
                    self.journal.release_and_reuse(upto, reuses_files)?;
                }
                Task::Release { reuses_files: true, .. } => {}
                Task::Release { .. } | Task::Write(_) => self.waiting_tasks.push_back(task),
            }
        }
        Ok(())
    }

    /// Appends a write to the batch, or records a release, which waits until the batch is synced. Returns the size of
    /// the write.
    fn add_to_batch(&mut self, task: Task, release: &mut Option<(Position, bool)>) -> Result<usize> {
        if let Task::Release { upto, reuses_files } = task {
            // The files of an earlier release are released together with these.
            *release = Some((upto, reuses_files && release.is_none_or(|(_, reuses_files)| reuses_files)));
            return Ok(0);
        }
        self.await_room(&task)?;
        let Task::Write(write) = task else { return Ok(0) };
        self.journal.append(&write).map(|()| write_size(&write))
    }

    /// Waits for the next task; `None` when all senders are dropped.
    fn next_task(&mut self) -> Result<Option<Task>> {
        let mut should_poll = self.busy_poll.begin();
        while should_poll {
            match self.try_next_task() {
                Ok(task) => {
                    self.busy_poll.record_work();
                    return Ok(Some(task));
                }
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => should_poll = self.busy_poll.should_continue(),
            }
        }
        if let Some(task) = self.waiting_tasks.pop_front() {
            return Ok(Some(task));
        }
        let mut timeout = IDLE_BEFORE_SYNC_MARKER;
        loop {
            match self.tasks.recv_timeout(timeout) {
                Ok(task) => return Ok(Some(task)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if timeout == IDLE_BEFORE_SYNC_MARKER => self.journal.confirm_sync()?,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(report) = self.journal.check_space()? {
                        self.inbox.send(LoopMessage::Journal(report));
                    }
                }
            }
            timeout = SPACE_CHECK_INTERVAL;
        }
    }

    /// The next task, if one has arrived already.
    fn try_next_task(&mut self) -> std::result::Result<Task, TryRecvError> {
        self.waiting_tasks.pop_front().map_or_else(|| self.tasks.try_recv(), Ok)
    }

    fn order_spares(&mut self) {
        match self.prepared_spares.try_recv() {
            Ok(Ok(spare)) => {
                self.next_spare_order_at = Some(Instant::now());
                self.journal.add_spare(spare);
            }
            // The node need not stop: without a spare segment the journal creates the next segment itself.
            Ok(Err(fault)) => {
                self.next_spare_order_at = Some(Instant::now() + SPARE_SEGMENT_RETRY_INTERVAL);
                match fault {
                    Fault::Full { file } => log::warn!("no space left for {file}, the next segment: retrying"),
                    fault => log::warn!("cannot prepare the next segment: {fault}"),
                }
            }
            Err(_) => {}
        }
        if self.next_spare_order_at.is_some_and(|at| at <= Instant::now())
            && let Some(order) = self.journal.next_spare_order()
        {
            self.next_spare_order_at = None;
            if self.spare_orders.send(order).is_err() {
                log::warn!(
                    "the thread that prepares segments has ended: the log thread creates the next segment itself"
                );
            }
        }
    }
}

/// Starts the thread for snapshot files. It ends when all senders of jobs are dropped, or with the error of a failed
/// job.
pub fn spawn_snapshot_thread<D: Disk>(mut worker: SnapshotWorker<D>, inbox: InboxSender) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    std::thread::Builder::new().name("snapshot".into()).spawn(move || {
        let _end_reporter = ThreadEndReporter { inbox: inbox.clone(), thread: "snapshot" };
        lower_priority();
        for job in jobs {
            let is_background_step = matches!(job, Job::WritePiece(_) | Job::VerifySnapshot);
            let started_at = Instant::now();
            let result = worker.run(job);
            if is_background_step {
                // Writing and verifying a snapshot are not urgent: after each step this thread sleeps for as long as
                // the step took, to leave disk and processor to the log.
                std::thread::sleep(started_at.elapsed());
            }
            let has_failed = result.is_err();
            if !inbox.send(LoopMessage::Snapshot(result)) || has_failed {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Starts the thread that watches the free disk space. It ends when the returned sender is dropped.
pub fn spawn_space_watch<D: Disk>(
    mut monitor: SpaceMonitor<D>,
    inbox: InboxSender,
) -> io::Result<(Sender<Infallible>, JoinHandle<()>)> {
    let (stop_sender, stop_receiver) = channel::<Infallible>();
    let thread = std::thread::Builder::new().name("space".into()).spawn(move || {
        loop {
            match monitor.check_space() {
                Ok(Some(low)) => {
                    // If the reactor is gone, the sender will soon be dropped too.
                    inbox.send(LoopMessage::DiskSpace { low });
                }
                Ok(None) => {}
                // If the disk has failed, the log thread will fail too, and stop the node.
                Err(fault) => log::warn!("cannot read the free disk space: {fault}"),
            }
            if stop_receiver.recv_timeout(SPACE_CHECK_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    })?;
    Ok((stop_sender, thread))
}

fn prepare_spares<D: Disk>(
    disk: &D,
    orders: &Receiver<SpareOrder>,
    prepared: &Sender<std::result::Result<Spare<D::File>, Fault>>,
) {
    for order in orders {
        let mut started_at = Instant::now();
        let spare = order.prepare(disk, || {
            std::thread::sleep(started_at.elapsed().max(SPARE_SEGMENT_PAUSE_MIN));
            started_at = Instant::now();
        });
        if prepared.send(spare).is_err() {
            return;
        }
    }
}

/// An estimate of the bytes that a write adds to the log.
fn write_size(write: &Write) -> usize {
    let payload_size = |entry: &Entry| match &entry.payload {
        Payload::Opaque(bytes) => bytes.len(),
        Payload::Noop | Payload::Membership(_) => 0,
    };
    64 + write.entries.iter().map(|entry| 32 + payload_size(entry)).sum::<usize>()
}

#[cfg(test)]
mod tests;
