//! The log thread, its helper, the snapshot thread, and the thread that watches the free disk space: four short loops.
//!
//! Batching needs no timer: while the disk syncs, the next batch gathers. An error is final: the thread ends with it,
//! and its end stops the reactor, so that no heartbeats are sent for a node that cannot write.

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

/// The maximum size of a batch: beyond it bandwidth gains little and latency more than doubles.
const BATCH_BYTES: usize = 1 << 20;
/// After this long without work the log records that everything before is synced.
const IDLE: Duration = Duration::from_millis(10);
/// The pause before another attempt at a failed spare segment.
const SPARE_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The minimum pause between two pieces of a spare segment; it lasts as long as the piece, to leave the disk to the
/// log.
const SPARE_PAUSE: Duration = Duration::from_millis(5);

/// The pause before another attempt of a log that is out of space.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the free space is checked: after it returns, writes are accepted again within five seconds.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The journal on its thread.
struct LogThread<D: Disk> {
    journal: Journal<D>,
    tasks: Receiver<Task>,
    /// Writes that arrived while the log waited for space.
    waiting: VecDeque<Task>,
    post: InboxSender,
    look: BusyPoll,
    /// The orders for spare segments, and the finished ones.
    orders: Sender<SpareOrder>,
    spares: Receiver<Result<Spare<D::File>>>,
    /// The time of the next order; `None` while a segment is being prepared.
    order_at: Option<Instant>,
}

/// Reports that a thread has ended, for whatever reason. If the reactor has ended first, nothing reads the report,
/// which is fine.
struct Alarm {
    post: InboxSender,
    which: &'static str,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.post.post(LoopMessage::Gone(self.which));
    }
}

/// Starts the log thread and its helper. It ends when all senders of writes are dropped and everything sent is synced,
/// or with the error of a failed operation.
pub fn spawn_log<D: Disk>(
    journal: Journal<D>,
    disk: D,
    post: InboxSender,
    look: Duration,
) -> io::Result<(Sender<Task>, JoinHandle<Result<()>>)> {
    let (sender, tasks) = channel();
    let (orders, ordered) = channel();
    let (made, spares) = channel();
    std::thread::Builder::new().name("spare".into()).spawn(move || make_spares(&disk, &ordered, &made))?;
    let look = BusyPoll::new(look);
    let mut log = LogThread {
        journal,
        tasks,
        waiting: VecDeque::new(),
        post,
        look,
        orders,
        spares,
        order_at: Some(Instant::now()),
    };
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
        let _alarm = Alarm { post: log.post.clone(), which: "log" };
        log.run()
    })?;
    Ok((sender, thread))
}

impl<D: Disk> LogThread<D> {
    fn run(&mut self) -> Result<()> {
        while let Some(task) = self.next()? {
            self.order_spares();
            let mut release = None;
            let mut bytes = self.take(task, &mut release)?;
            while bytes < BATCH_BYTES
                && let Ok(task) = self.try_next()
            {
                bytes += self.take(task, &mut release)?;
            }
            self.sync()?;
            if let Some(upto) = release {
                self.await_room(&Task::Release(upto))?;
                self.journal.release(upto)?;
            }
        }
        self.journal.confirm()
    }

    /// Syncs and reports; returns whether the reactor runs.
    fn sync(&mut self) -> Result<bool> {
        let begun = Instant::now();
        let mut report = self.journal.sync()?;
        report.took = begun.elapsed();
        Ok(self.post.post(LoopMessage::Journal(report)))
    }

    /// Waits until there is space for that task. The node sees this as a stalled disk: earlier writes are synced, later
    /// ones wait, and it neither leads nor votes. If the reactor is gone, the thread ends with the error.
    fn await_room(&mut self, task: &Task) -> Result<()> {
        let mut waits = false;
        while let Err(fault) = self.journal.provide(task) {
            let Fault::Full { file } = &fault else { return Err(fault) };
            if !waits {
                log::warn!("no space left for {file}: writing waits for free disk space");
                waits = true;
            }
            if !self.sync()? {
                return Err(fault);
            }
            std::thread::sleep(SPACE_CHECK_INTERVAL);
            self.order_spares();
            self.drain_releases()?;
        }
        if waits {
            log::info!("disk space is available again: writing resumes");
        }
        Ok(())
    }

    /// Releases old segments before the writes that wait for their space.
    fn drain_releases(&mut self) -> Result<()> {
        while let Ok(task) = self.tasks.try_recv() {
            match task {
                // A release needs some space itself; without any, the next release covers this one too.
                Task::Release(upto) if self.journal.provide(&task).is_ok() => self.journal.release(upto)?,
                Task::Release(_) => {}
                Task::Write(_) => self.waiting.push_back(task),
            }
        }
        Ok(())
    }

    /// Adds a write to the batch; a release waits until the batch is synced. Returns the write's size.
    fn take(&mut self, task: Task, release: &mut Option<Position>) -> Result<usize> {
        if let Task::Release(upto) = task {
            *release = Some(upto);
            return Ok(0);
        }
        self.await_room(&task)?;
        let Task::Write(write) = task else { return Ok(0) };
        self.journal.append(&write).map(|()| size(&write))
    }

    /// The next task; `None` when all senders are dropped.
    fn next(&mut self) -> Result<Option<Task>> {
        let mut looks = self.look.begin();
        while looks {
            match self.try_next() {
                Ok(task) => {
                    self.look.found();
                    return Ok(Some(task));
                }
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => looks = self.look.goes_on(),
            }
        }
        if let Some(task) = self.waiting.pop_front() {
            return Ok(Some(task));
        }
        let mut patience = IDLE;
        loop {
            match self.tasks.recv_timeout(patience) {
                Ok(task) => return Ok(Some(task)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if patience == IDLE => self.journal.confirm()?,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(report) = self.journal.check_space()? {
                        self.post.post(LoopMessage::Journal(report));
                    }
                }
            }
            patience = CHECK_INTERVAL;
        }
    }

    /// A task that has arrived already.
    fn try_next(&mut self) -> std::result::Result<Task, TryRecvError> {
        self.waiting.pop_front().map_or_else(|| self.tasks.try_recv(), Ok)
    }

    fn order_spares(&mut self) {
        match self.spares.try_recv() {
            Ok(Ok(spare)) => {
                self.order_at = Some(Instant::now());
                self.journal.spare_ready(spare);
            }
            // No reason to stop yet: the journal creates its own file when it must, and stops if it cannot.
            Ok(Err(fault)) => {
                self.order_at = Some(Instant::now() + SPARE_RETRY_INTERVAL);
                match fault {
                    Fault::Full { file } => log::warn!("no space left for {file}, the next segment: retrying"),
                    fault => log::warn!("cannot prepare the next segment: {fault}"),
                }
            }
            Err(_) => {}
        }
        if self.order_at.is_some_and(|at| at <= Instant::now())
            && let Some(order) = self.journal.spare_wanted()
        {
            self.order_at = None;
            if self.orders.send(order).is_err() {
                log::warn!("the thread that prepares segments has ended: the log creates the next segment itself");
            }
        }
    }
}

/// Starts the thread for snapshot files. It ends when all senders of jobs are dropped, or with the error of a failed
/// job.
pub fn spawn_snapshot_thread<D: Disk>(mut keeper: SnapshotWorker<D>, post: InboxSender) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    std::thread::Builder::new().name("snapshot".into()).spawn(move || {
        let _alarm = Alarm { post: post.clone(), which: "snapshot" };
        lower_priority();
        for job in jobs {
            let is_piece = matches!(job, Job::Piece(_) | Job::Verify);
            let begun = Instant::now();
            let done = keeper.run(job);
            if is_piece {
                // Not urgent: leaves the disk and the processor to the log for as long as this job used them.
                std::thread::sleep(begun.elapsed());
            }
            let over = done.is_err();
            if !post.post(LoopMessage::Snapshot(done)) || over {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Starts the thread that watches the free disk space. It ends when the returned sender is dropped.
pub fn spawn_watch<D: Disk>(
    mut watch: SpaceMonitor<D>,
    post: InboxSender,
) -> io::Result<(Sender<Infallible>, JoinHandle<()>)> {
    let (held, holds) = channel::<Infallible>();
    let thread = std::thread::Builder::new().name("space".into()).spawn(move || {
        loop {
            match watch.check_space() {
                Ok(Some(low)) => {
                    // If the reactor is gone, the sender will soon be dropped too.
                    post.post(LoopMessage::Space { low });
                }
                Ok(None) => {}
                // If the disk has failed, the log will fail too, and knows what to do.
                Err(fault) => log::warn!("cannot read the free disk space: {fault}"),
            }
            if holds.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    })?;
    Ok((held, thread))
}

fn make_spares<D: Disk>(
    disk: &D,
    orders: &Receiver<SpareOrder>,
    made: &Sender<std::result::Result<Spare<D::File>, Fault>>,
) {
    for order in orders {
        let mut begun = Instant::now();
        let spare = order.prepare(disk, || {
            std::thread::sleep(begun.elapsed().max(SPARE_PAUSE));
            begun = Instant::now();
        });
        if made.send(spare).is_err() {
            return;
        }
    }
}

/// An estimate of the bytes that a write adds to the log.
fn size(write: &Write) -> usize {
    let payload = |entry: &Entry| match &entry.payload {
        Payload::Opaque(bytes) => bytes.len(),
        Payload::Noop | Payload::Membership(_) => 0,
    };
    64 + write.entries.iter().map(|entry| 32 + payload(entry)).sum::<usize>()
}

#[cfg(test)]
mod tests;
