//! Ballast: a file without content whose disk space is freed when the disk is full, for the log to grow or on loan for
//! a snapshot.
//!
//! A full disk is dangerous in two ways. The log cannot grow, so the node can no longer vote or accept entries; and the
//! cure, a snapshot that lets old segments go, needs room itself. A node without any room left can therefore not make
//! room. The ballast breaks this circle: room that the node holds from the beginning and that other programs cannot
//! take.
//!
//! A limit below the real size of the disk, checked before each write, would not do: it does not hold against the log
//! files of another program on the same disk.
//!
//! ```text
//!             make                       remove_for_log
//!   missing ─────────▶ whole on disk ─────────────────────▶ missing: the log uses the room
//!                           │ lend
//!                           ▼            remove_for_log
//!                         lent ─────────────────────▶ claimed: the snapshot gives way
//!                           └───────── end_loan ──────┴────▶ missing
//! ```

use super::report::{Fault, Result};
use super::sync_marker::io;
use crate::disk::{Disk, DiskFile};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The name of the file.
pub const NAME: &str = "reserve";

/// A file that only occupies disk space. Clones are handles to the same file.
///
/// Two threads use it: one makes the file when there is room for it, the other removes it when there is no other room.
/// Each waits for the other, since it could do nothing better.
///
/// The lock is held during disk operations, so that making and removing never overlap: a file made just after it was
/// removed for the log would take the room away again.
#[derive(Clone, Debug)]
pub struct Ballast<D> {
    disk: D,
    // The wanted size. The file may have another one: the option was changed, or a crash interrupted `make`.
    bytes: u64,
    loan: Arc<Mutex<Loan>>,
    /// The size of the file when it was last checked, in bytes, readable without waiting.
    seen: Arc<AtomicU64>,
}

/// Whether its room is lent to a snapshot: the file is not made again during the loan.
///
/// The log has priority over a snapshot: without the snapshot the node has a longer log, without the log it has no
/// vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Loan {
    #[default]
    None,
    Lent,
    /// Lent, but the log needs the room and has priority.
    Claimed,
}

impl<D: Disk> Ballast<D> {
    /// A reserve of `bytes` bytes on a disk; with 0 there is no reserve. Does not touch the disk.
    pub fn new(disk: D, bytes: u64) -> Ballast<D> {
        Ballast { disk, bytes, loan: Arc::default(), seen: Arc::default() }
    }

    /// How many bytes of the file are missing.
    ///
    /// Measured and not remembered: another process, or an operator in need of room, may have removed the file.
    pub fn missing(&self) -> Result<u64> {
        let _alone = self.lock();
        Ok(self.bytes.saturating_sub(self.measure()?))
    }

    /// How many bytes would be free if the file were removed.
    pub fn size(&self) -> Result<u64> {
        let _alone = self.lock();
        self.measure()
    }

    /// Like [`Ballast::size`], as of the last check, creation or removal. Does not wait.
    ///
    /// The journal asks for it after each sync, and must not wait there for a file that is being made.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    fn measure(&self) -> Result<u64> {
        let size = match self.is_there()? {
            true => self.disk.open(NAME).and_then(|file| file.size()).map_err(io("measure", NAME))?,
            false => 0,
        };
        self.seen.store(size, Ordering::Relaxed);
        Ok(size)
    }

    /// Makes the whole file. Returns `false` if there is no room, and then leaves no part of it, or if it is lent.
    ///
    /// All or nothing: a part of it would take room from others and still not be enough for a segment.
    pub fn make(&self) -> Result<bool> {
        let loan = self.lock();
        if *loan != Loan::None {
            return Ok(false);
        }
        match self.fill() {
            Err(Fault::Full { .. }) => {
                self.remove()?;
                Ok(false)
            }
            made => {
                self.seen.store(self.bytes, Ordering::Relaxed);
                made.map(|()| true)
            }
        }
    }

    /// The name is synced too, or a power loss gives the room to others while the node counts on it.
    fn fill(&self) -> Result<()> {
        let file = if self.is_there()? { self.disk.open(NAME) } else { self.disk.create(NAME) };
        let mut file = file.map_err(io("create", NAME))?;
        // The file is never written to, so allocated space is enough.
        file.reserve(self.bytes).map_err(io("reserve", NAME))?;
        file.sync_all().map_err(io("sync", NAME))?;
        self.disk.sync_names().map_err(io("sync the directory of", NAME))
    }

    /// Removes the file for the log: its room is free when this returns. Returns whether any of it was there. If it is
    /// lent, [`Ballast::is_claimed`] then shows the borrower that the log needs it.
    ///
    /// `false` means that nothing was freed and that a retry of the caller's write would fail again.
    pub fn remove_for_log(&self) -> Result<bool> {
        let mut loan = self.lock();
        if *loan == Loan::Lent {
            *loan = Loan::Claimed;
        }
        self.remove()
    }

    /// Lends the reserve to a snapshot: its room is free when this returns, and the file is not made again before
    /// [`Ballast::end_loan`]. Returns whether any of it was there; if not, or if it is lent already, nothing has
    /// changed.
    ///
    /// A second loan is refused, since the room is there only once.
    pub fn lend(&self) -> Result<bool> {
        let mut loan = self.lock();
        let lent = *loan == Loan::None && self.remove()?;
        if lent {
            *loan = Loan::Lent;
            assert_eq!(self.seen(), 0, "the journal does not count room that is lent to a snapshot");
        }
        Ok(lent)
    }

    /// Whether it is lent and the log needs the room.
    pub fn is_claimed(&self) -> bool {
        *self.lock() == Loan::Claimed
    }

    /// Ends the loan: the file may be made again.
    ///
    /// It may be called without a loan: the end of a snapshot need not know whether that snapshot had borrowed
    /// anything.
    pub fn end_loan(&self) {
        *self.lock() = Loan::None;
    }

    fn remove(&self) -> Result<bool> {
        // Before the removal, so that no reader counts room that is just being handed out.
        self.seen.store(0, Ordering::Relaxed);
        match self.disk.remove(NAME) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            removed => removed.map_err(io("remove", NAME))?,
        }
        // Some file systems free the blocks only when the removal is committed.
        self.disk.sync_names().map_err(io("sync the directory of", NAME))?;
        Ok(true)
    }

    fn is_there(&self) -> Result<bool> {
        Ok(self.disk.list().map_err(io("list", NAME))?.iter().any(|name| name == NAME))
    }

    /// Locks the reserve. A poisoned lock is fine: a panic leaves nothing half done under it, and the file itself holds
    /// the state.
    fn lock(&self) -> MutexGuard<'_, Loan> {
        self.loan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the free space of a disk.
///
/// Space is low, and writes are refused, when the next segment would not fit beside the reserve, or when the reserve is
/// not complete and cannot be made: the reserve comes first. Space is enough again somewhat above that limit, so that
/// one file more or less does not toggle the state. The state follows from the disk alone; there is nothing to report
/// to the monitor.
///
/// It refuses writes while there is still some room, because a leader that stops in time can hand over its leadership,
/// and a follower can still vote. With the last byte gone, neither is possible.
#[derive(Clone, Debug)]
pub struct SpaceMonitor<D> {
    disk: D,
    reserve: Ballast<D>,
    segment: u64,
    low: bool,
}

impl<D: Disk> SpaceMonitor<D> {
    /// A monitor that has not checked yet, for a log with segments of `segment` bytes.
    pub fn new(reserve: Ballast<D>, segment: u64) -> SpaceMonitor<D> {
        SpaceMonitor { disk: reserve.disk.clone(), reserve, segment, low: false }
    }

    /// Checks the disk, and makes the reserve if there is room for it. Returns whether space is low if that has
    /// changed.
    pub fn check_space(&mut self) -> Result<Option<bool>> {
        let free = self.disk.free().map_err(io("check the free disk space for", NAME))?;
        let missing = self.reserve.missing()?;
        // Without two limits, a spare that is made and used would switch writes off and on with each segment.
        let margin = self.segment / 4 * if self.low { 2 } else { 1 };
        let is_whole = missing == 0 || (missing <= free && self.reserve.make()?);
        assert!(!is_whole || missing <= free, "the reserve comes first: room that it lacks is no room for a segment");
        let low = !is_whole || free - missing < self.segment + margin;
        let news = low != self.low;
        self.low = low;
        Ok(news.then_some(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;

    const SEGMENT: u64 = 4096;
    const RESERVE: u64 = 2 * SEGMENT;

    fn watch(disk: &SimDisk) -> SpaceMonitor<SimDisk> {
        SpaceMonitor::new(Ballast::new(disk.clone(), RESERVE), SEGMENT)
    }

    /// A file of another program takes all but `room` bytes.
    fn leave(disk: &SimDisk, room: u64) {
        disk.set_capacity(Some(disk.used() + room));
    }

    #[test]
    fn free_disk_gets_reserve_and_reports_no_change() {
        let disk = SimDisk::new();
        let mut watch = watch(&disk);
        assert_eq!(watch.check_space().unwrap(), None);
        assert_eq!(disk.durable().seen(NAME).map(|bytes| bytes.len() as u64), Some(RESERVE));
        assert_eq!(disk.free().unwrap(), u64::MAX);
    }

    #[test]
    fn low_and_enough_space_are_each_reported_once() {
        let disk = SimDisk::new();
        let mut watch = watch(&disk);
        watch.check_space().unwrap();
        leave(&disk, SEGMENT);
        assert_eq!(disk.free().unwrap(), SEGMENT);
        assert_eq!(watch.check_space().unwrap(), Some(true));
        assert_eq!(watch.check_space().unwrap(), None);
        // The amount that was enough before is not yet enough again.
        leave(&disk, SEGMENT + SEGMENT / 4);
        assert_eq!(watch.check_space().unwrap(), None);
        leave(&disk, SEGMENT + SEGMENT / 2);
        assert_eq!(watch.check_space().unwrap(), Some(false));
        leave(&disk, SEGMENT + SEGMENT / 4);
        assert_eq!(watch.check_space().unwrap(), None);
    }

    #[test]
    fn removed_reserve_is_remade_before_writes_resume() {
        let disk = SimDisk::new();
        let mut watch = watch(&disk);
        watch.check_space().unwrap();
        leave(&disk, 0);
        assert_eq!(watch.check_space().unwrap(), Some(true));
        assert!(watch.reserve.remove_for_log().unwrap());
        assert!(!watch.reserve.remove_for_log().unwrap(), "the reserve is already removed");
        assert_eq!(disk.free().unwrap(), RESERVE);
        leave(&disk, RESERVE - 1);
        assert_eq!(watch.check_space().unwrap(), None);
        assert_eq!(disk.seen(NAME), None);
        // Room for the reserve, but not for a segment as well.
        leave(&disk, RESERVE + SEGMENT);
        assert_eq!(watch.check_space().unwrap(), None);
        assert!(disk.durable().seen(NAME).is_some());
        leave(&disk, SEGMENT + SEGMENT / 2);
        assert_eq!(watch.check_space().unwrap(), Some(false));
    }

    #[test]
    fn lent_reserve_is_not_remade_and_log_can_claim_it() {
        let disk = SimDisk::new();
        let mut watch = watch(&disk);
        watch.check_space().unwrap();
        leave(&disk, 0);
        let reserve = watch.reserve.clone();
        assert!(reserve.lend().unwrap());
        assert!(!reserve.lend().unwrap(), "the reserve is lent only once");
        assert_eq!((watch.check_space().unwrap(), disk.free().unwrap()), (Some(true), RESERVE));
        assert!(!reserve.is_claimed());
        assert!(!reserve.remove_for_log().unwrap(), "a lent reserve has no file");
        assert!(reserve.is_claimed());
        assert!(!reserve.make().unwrap());
        reserve.end_loan();
        assert!(!reserve.is_claimed());
        assert_eq!((watch.check_space().unwrap(), disk.free().unwrap()), (None, 0));
        assert!(reserve.remove_for_log().unwrap() && !reserve.is_claimed());
    }

    #[test]
    fn short_reserve_is_filled_and_failed_make_leaves_no_file() {
        let disk = SimDisk::new();
        disk.create(NAME).unwrap().reserve(100).unwrap();
        let reserve = Ballast::new(disk.clone(), RESERVE);
        assert_eq!(reserve.missing().unwrap(), RESERVE - 100);
        assert!(reserve.make().unwrap());
        assert_eq!(reserve.missing().unwrap(), 0);
        let larger = Ballast::new(disk.clone(), 2 * RESERVE);
        leave(&disk, 100);
        assert!(!larger.make().unwrap());
        assert_eq!(disk.used(), 0);
    }

    #[test]
    fn zero_size_reserve_makes_no_file() {
        let disk = SimDisk::new();
        let mut watch = SpaceMonitor::new(Ballast::new(disk.clone(), 0), SEGMENT);
        assert_eq!(watch.check_space().unwrap(), None);
        assert_eq!(disk.list().unwrap().len(), 0);
        leave(&disk, 0);
        assert_eq!(watch.check_space().unwrap(), Some(true));
    }
}
