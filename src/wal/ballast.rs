//! The ballast, or reserve: a file without content that only occupies disk space. On a full disk the file is removed,
//! and its space is used by the log, or lent to a snapshot.
//!
//! A full disk is dangerous in two ways. The log cannot grow, so the node can no longer vote or accept entries. And the
//! cure, a snapshot after which old segments are removed, needs space itself. So a node without any free space can free
//! none. The ballast breaks this circle: the node occupies this space from the beginning, and no other program can use
//! it.
//!
//! A limit below the real size of the disk, checked before each write, would not suffice: another program could still
//! fill the disk.
//!
//! ```text
//!             make_file                  remove_for_log
//!   missing ─────────▶ complete ──────────────────────────▶ missing: the log uses the space
//!                           │ lend
//!                           ▼            remove_for_log
//!                         lent ─────────────────────▶ claimed: the snapshot is aborted
//!                           └───────── end_loan ──────┴────▶ missing
//! ```

use super::report::{Fault, Result};
use super::sync_marker::to_fault;
use crate::disk::{Disk, DiskFile};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The name of the ballast's file in the data directory.
pub const FILE_NAME: &str = "reserve";

/// A file that only occupies disk space. Clones are handles to the same file.
///
/// Two threads use the file: one makes the file when there is space, the other removes the file when the log has no
/// other space. Each waits while the other changes the file.
///
/// The lock is held during disk operations, so that a creation and a removal never overlap: a file made just after its
/// removal would take the space away from the log again.
#[derive(Clone, Debug)]
pub struct Ballast<D> {
    disk: D,
    // The configured size. The file may have another size: the option was changed, or a crash interrupted
    // [`Ballast::make_file`].
    target_bytes: u64,
    loan_state: Arc<Mutex<Loan>>,
    /// The size of the file in bytes when the file was last measured, made or removed. Can be read without the lock.
    measured_size: Arc<AtomicU64>,
}

/// Whether the space of the ballast is lent to a snapshot. The file is not made again during the loan.
///
/// The log has priority over a snapshot: a node without the snapshot has a longer log, a node without log space cannot
/// vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Loan {
    #[default]
    None,
    Lent,
    /// Lent, but the log needs the space and has priority.
    ClaimedByLog,
}

impl<D: Disk> Ballast<D> {
    /// A reserve of `target_bytes` bytes on a disk; with 0 there is no reserve. Does not access the disk.
    pub fn new(disk: D, target_bytes: u64) -> Ballast<D> {
        Ballast { disk, target_bytes, loan_state: Arc::default(), measured_size: Arc::default() }
    }

    /// The number of bytes by which the file is smaller than its configured size.
    ///
    /// The file is measured anew each time: another process, or an operator in need of space, may have removed it.
    pub fn missing_bytes(&self) -> Result<u64> {
        let _guard = self.lock();
        Ok(self.target_bytes.saturating_sub(self.measure_size()?))
    }

    /// The size of the file in bytes, measured now: the space that its removal would free.
    pub fn size(&self) -> Result<u64> {
        let _guard = self.lock();
        self.measure_size()
    }

    /// The size of the file in bytes when the file was last measured, made or removed. Does not wait.
    ///
    /// The journal calls this after each sync, and must not wait there for a file that is being made.
    pub fn measured_size(&self) -> u64 {
        self.measured_size.load(Ordering::Relaxed)
    }

    fn measure_size(&self) -> Result<u64> {
        let size = match self.exists()? {
            true => self.disk.open(FILE_NAME).and_then(|file| file.size()).map_err(to_fault("measure", FILE_NAME))?,
            false => 0,
        };
        self.measured_size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    /// Makes the whole file. Returns `false` if the disk lacks the space or if the ballast is lent.
    ///
    /// If the space is not enough, no part of the file is left: a part would occupy space and still be too small for a
    /// segment.
    pub fn make_file(&self) -> Result<bool> {
        let loan_state = self.lock();
        if *loan_state != Loan::None {
            return Ok(false);
        }
        match self.allocate_file() {
            Err(Fault::Full { .. }) => {
                self.remove_file()?;
                Ok(false)
            }
            outcome => {
                self.measured_size.store(self.target_bytes, Ordering::Relaxed);
                outcome.map(|()| true)
            }
        }
    }

    /// Creates or extends the file. Syncs the name too: a power loss could otherwise remove the file, and the node
    /// would rely on space that is gone.
    fn allocate_file(&self) -> Result<()> {
        let file = if self.exists()? { self.disk.open(FILE_NAME) } else { self.disk.create(FILE_NAME) };
        let mut file = file.map_err(to_fault("create", FILE_NAME))?;
        // The file is never written to, so allocated space is enough.
        file.reserve(self.target_bytes).map_err(to_fault("reserve", FILE_NAME))?;
        file.sync_all().map_err(to_fault("sync", FILE_NAME))?;
        self.disk.sync_names().map_err(to_fault("sync the directory of", FILE_NAME))
    }

    /// Removes the file for the log. Returns whether the file existed and its space is now free. If the ballast is
    /// lent, [`Ballast::is_claimed_by_log`] is true from now on, so that the borrower aborts.
    ///
    /// `false` means that nothing was freed, and that a retry of the caller's write would fail again.
    pub fn remove_for_log(&self) -> Result<bool> {
        let mut loan_state = self.lock();
        if *loan_state == Loan::Lent {
            *loan_state = Loan::ClaimedByLog;
        }
        self.remove_file()
    }

    /// Lends the reserve to a snapshot: removes the file, which is not made again before [`Ballast::end_loan`].
    /// Returns `false`, without any change, if there is no file or if the reserve is lent already.
    pub fn lend(&self) -> Result<bool> {
        let mut loan_state = self.lock();
        let is_lent = *loan_state == Loan::None && self.remove_file()?;
        if is_lent {
            *loan_state = Loan::Lent;
            assert_eq!(self.measured_size(), 0, "a lent reserve has no file, so its measured size is 0");
        }
        Ok(is_lent)
    }

    /// Whether the reserve is lent and the log needs its space: the borrower should abort.
    pub fn is_claimed_by_log(&self) -> bool {
        *self.lock() == Loan::ClaimedByLog
    }

    /// Ends the loan: the file may be made again.
    ///
    /// May be called without a loan, so that the end of a snapshot need not know whether the snapshot has borrowed.
    pub fn end_loan(&self) {
        *self.lock() = Loan::None;
    }

    fn remove_file(&self) -> Result<bool> {
        // The size is set before the removal, so that no reader counts space that another caller is about to use.
        self.measured_size.store(0, Ordering::Relaxed);
        match self.disk.remove(FILE_NAME) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            removed => removed.map_err(to_fault("remove", FILE_NAME))?,
        }
        // Some file systems free the blocks only when the removal is committed.
        self.disk.sync_names().map_err(to_fault("sync the directory of", FILE_NAME))?;
        Ok(true)
    }

    fn exists(&self) -> Result<bool> {
        Ok(self.disk.list().map_err(to_fault("list", FILE_NAME))?.iter().any(|name| name == FILE_NAME))
    }

    /// Locks the state of the loan. A poisoned lock is fine: a panic leaves the loan unchanged, and the file's state is on the disk.
    fn lock(&self) -> MutexGuard<'_, Loan> {
        self.loan_state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the free space of a disk.
///
/// Space is low, and the node rejects writes, when the next segment would not fit beside the reserve, or when the
/// reserve is smaller than configured and cannot be made. The node accepts writes again somewhat above that limit, so
/// that one file more or less does not toggle the state.
///
/// The node rejects writes while there is still some space, because then its leader can still transfer the leadership,
/// and a follower can still vote. Without any space, neither is possible.
#[derive(Clone, Debug)]
pub struct SpaceMonitor<D> {
    disk: D,
    reserve: Ballast<D>,
    segment_bytes: u64,
    is_space_low: bool,
}

impl<D: Disk> SpaceMonitor<D> {
    /// A monitor for a log with segments of `segment_bytes` bytes. The space counts as enough until the first check.
    pub fn new(reserve: Ballast<D>, segment_bytes: u64) -> SpaceMonitor<D> {
        SpaceMonitor { disk: reserve.disk.clone(), reserve, segment_bytes, is_space_low: false }
    }

    /// Checks the disk, and makes the reserve if there is space for it. Returns `Some` if the state has changed: `true`
    /// if space is low now.
    pub fn check_space(&mut self) -> Result<Option<bool>> {
        let free_bytes = self.disk.free_bytes().map_err(to_fault("check the free disk space for", FILE_NAME))?;
        let missing_bytes = self.reserve.missing_bytes()?;
        // With a single limit, each spare that is made and used could disable and enable writes.
        let margin_bytes = self.segment_bytes / 4 * if self.is_space_low { 2 } else { 1 };
        let is_reserve_complete = missing_bytes == 0 || (missing_bytes <= free_bytes && self.reserve.make_file()?);
        assert!(
            !is_reserve_complete || missing_bytes <= free_bytes,
            "the reserve counts as complete only if the disk has space for its missing bytes"
        );
        let is_space_low = !is_reserve_complete || free_bytes - missing_bytes < self.segment_bytes + margin_bytes;
        let has_changed = is_space_low != self.is_space_low;
        self.is_space_low = is_space_low;
        Ok(has_changed.then_some(is_space_low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;

    const SEGMENT_BYTES: u64 = 4096;
    const RESERVE_BYTES: u64 = 2 * SEGMENT_BYTES;

    fn monitor(disk: &SimDisk) -> SpaceMonitor<SimDisk> {
        SpaceMonitor::new(Ballast::new(disk.clone(), RESERVE_BYTES), SEGMENT_BYTES)
    }

    /// Fills the disk, as another program would, until `bytes` bytes are free.
    fn leave_free_bytes(disk: &SimDisk, bytes: u64) {
        disk.set_capacity(Some(disk.used_bytes() + bytes));
    }

    #[test]
    fn free_disk_gets_reserve_and_reports_no_change() {
        let disk = SimDisk::new();
        let mut monitor = monitor(&disk);
        assert_eq!(monitor.check_space().unwrap(), None);
        assert_eq!(disk.durable_copy().read_file(FILE_NAME).map(|bytes| bytes.len() as u64), Some(RESERVE_BYTES));
        assert_eq!(disk.free_bytes().unwrap(), u64::MAX);
    }

    #[test]
    fn low_and_enough_space_are_each_reported_once() {
        let disk = SimDisk::new();
        let mut monitor = monitor(&disk);
        monitor.check_space().unwrap();
        leave_free_bytes(&disk, SEGMENT_BYTES);
        assert_eq!(disk.free_bytes().unwrap(), SEGMENT_BYTES);
        assert_eq!(monitor.check_space().unwrap(), Some(true));
        assert_eq!(monitor.check_space().unwrap(), None);
        // The free space that was enough before the shortage does not end the shortage.
        leave_free_bytes(&disk, SEGMENT_BYTES + SEGMENT_BYTES / 4);
        assert_eq!(monitor.check_space().unwrap(), None);
        leave_free_bytes(&disk, SEGMENT_BYTES + SEGMENT_BYTES / 2);
        assert_eq!(monitor.check_space().unwrap(), Some(false));
        leave_free_bytes(&disk, SEGMENT_BYTES + SEGMENT_BYTES / 4);
        assert_eq!(monitor.check_space().unwrap(), None);
    }

    #[test]
    fn removed_reserve_is_remade_before_writes_resume() {
        let disk = SimDisk::new();
        let mut monitor = monitor(&disk);
        monitor.check_space().unwrap();
        leave_free_bytes(&disk, 0);
        assert_eq!(monitor.check_space().unwrap(), Some(true));
        assert!(monitor.reserve.remove_for_log().unwrap());
        assert!(!monitor.reserve.remove_for_log().unwrap(), "the reserve is already removed");
        assert_eq!(disk.free_bytes().unwrap(), RESERVE_BYTES);
        leave_free_bytes(&disk, RESERVE_BYTES - 1);
        assert_eq!(monitor.check_space().unwrap(), None);
        assert_eq!(disk.read_file(FILE_NAME), None);
        // There is space for the reserve, but not for a segment as well.
        leave_free_bytes(&disk, RESERVE_BYTES + SEGMENT_BYTES);
        assert_eq!(monitor.check_space().unwrap(), None);
        assert!(disk.durable_copy().read_file(FILE_NAME).is_some());
        leave_free_bytes(&disk, SEGMENT_BYTES + SEGMENT_BYTES / 2);
        assert_eq!(monitor.check_space().unwrap(), Some(false));
    }

    #[test]
    fn lent_reserve_is_not_remade_and_log_can_claim_it() {
        let disk = SimDisk::new();
        let mut monitor = monitor(&disk);
        monitor.check_space().unwrap();
        leave_free_bytes(&disk, 0);
        let reserve = monitor.reserve.clone();
        assert!(reserve.lend().unwrap());
        assert!(!reserve.lend().unwrap(), "the reserve is lent only once");
        assert_eq!((monitor.check_space().unwrap(), disk.free_bytes().unwrap()), (Some(true), RESERVE_BYTES));
        assert!(!reserve.is_claimed_by_log());
        assert!(!reserve.remove_for_log().unwrap(), "a lent reserve has no file");
        assert!(reserve.is_claimed_by_log());
        assert!(!reserve.make_file().unwrap());
        reserve.end_loan();
        assert!(!reserve.is_claimed_by_log());
        assert_eq!((monitor.check_space().unwrap(), disk.free_bytes().unwrap()), (None, 0));
        assert!(reserve.remove_for_log().unwrap() && !reserve.is_claimed_by_log());
    }

    #[test]
    fn short_reserve_is_extended_and_failed_creation_leaves_no_file() {
        let disk = SimDisk::new();
        disk.create(FILE_NAME).unwrap().reserve(100).unwrap();
        let reserve = Ballast::new(disk.clone(), RESERVE_BYTES);
        assert_eq!(reserve.missing_bytes().unwrap(), RESERVE_BYTES - 100);
        assert!(reserve.make_file().unwrap());
        assert_eq!(reserve.missing_bytes().unwrap(), 0);
        let larger_ballast = Ballast::new(disk.clone(), 2 * RESERVE_BYTES);
        leave_free_bytes(&disk, 100);
        assert!(!larger_ballast.make_file().unwrap());
        assert_eq!(disk.used_bytes(), 0);
    }

    #[test]
    fn reserve_of_zero_bytes_creates_no_file() {
        let disk = SimDisk::new();
        let mut monitor = SpaceMonitor::new(Ballast::new(disk.clone(), 0), SEGMENT_BYTES);
        assert_eq!(monitor.check_space().unwrap(), None);
        assert_eq!(disk.list().unwrap().len(), 0);
        leave_free_bytes(&disk, 0);
        assert_eq!(monitor.check_space().unwrap(), Some(true));
    }
}
