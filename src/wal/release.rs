//! Releases of the log: the removal of segments that a snapshot covers.

use super::format::{self, RecordKind, file_name};
use super::journal::{Journal, SPARES_MAX};
use super::report::Result;
use super::spare::{Spare, TMP_SUFFIX};
use super::sync_marker::to_fault;
use crate::disk::Disk;
use crate::types::Position;

impl<D: Disk> Journal<D> {
    /// Releases the log up to a position: removes or recycles whole segments, oldest first.
    ///
    /// A part of a segment is never removed: files that begin in the middle would need a second format. So the log on
    /// the disk begins up to a segment before its base, and recovery skips the entries before the base.
    pub fn release(&mut self, upto: Position) -> Result<()> {
        self.release_and_reuse(upto, true)
    }

    /// Like [`Journal::release`], and removes every file unless `reuses_files` is set: it is not if a file is damaged. In
    /// a recycled file, a sector that the disk cannot read would stay unreadable until the log is written there, and a
    /// start in between would find damage.
    pub fn release_and_reuse(&mut self, upto: Position, reuses_files: bool) -> Result<()> {
        self.check_usable()?;
        let outcome = self.release_segments(upto, reuses_files);
        self.poison_on_error(outcome)
    }

    fn release_segments(&mut self, upto: Position, reuses_files: bool) -> Result<()> {
        // `take_while` and not `filter`: a gap in the numbers would look like lost segments at the next start, even if
        // the segment in the middle holds no live entry.
        let released_count = self.older_segments.iter().take_while(|older| older.last_live_index <= upto.index).count();
        if released_count == 0 || upto.index > self.summary.last_position.index {
            return Ok(());
        }
        if upto.index > self.summary.base.position.index {
            // The release record must be durable before any file is removed, so that the remaining segments are known
            // to be complete.
            let base = self.summary.base_at(upto);
            let mut body = Vec::new();
            format::encode_base(&mut body, &base);
            self.ensure_room(body.len())?;
            self.segment.add_frame(RecordKind::Release, self.batch_number, |out| out.extend_from_slice(&body));
            self.summary.release(base);
            self.dirty = true;
        }
        if self.dirty {
            self.sync_and_record()?;
        }
        // One sync covers all removals, so a power loss may undo some of them. Recovery therefore accepts a gap in the
        // segment numbers if the base is after the gap.
        for older in self.older_segments.drain(..released_count).collect::<Vec<_>>() {
            let name = file_name(older.number);
            assert!(
                older.last_live_index <= self.summary.base.position.index,
                "a segment is removed only if a snapshot holds all of its live entries (§7)"
            );
            // A file with readers must not be written to.
            let is_reusable =
                reuses_files && older.mapping_readers.strong_count() == 0 && older.bytes == self.options.segment_bytes;
            // A recycled file needs no zeros: its blocks were written, so a sync of new bytes in it changes no
            // metadata. Its old records fail the checksum, which is salted with the number of the segment.
            if is_reusable && self.spares.len() < SPARES_MAX {
                let spare_name = format!("recycled-{:010}{TMP_SUFFIX}", older.number);
                self.disk.rename(&name, &spare_name).map_err(to_fault("rename", &name))?;
                let file = self.disk.open(&spare_name).map_err(to_fault("open", &spare_name))?;
                self.spares.push_back(Spare::recycled(spare_name, file, older.bytes));
            } else {
                self.disk.remove(&name).map_err(to_fault("remove", &name))?;
            }
        }
        self.disk.sync_names().map_err(to_fault("sync the directory of", &file_name(self.segment.number)))
    }
}
