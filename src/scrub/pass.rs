//! One pass over the files of a node.

use super::report::{ScrubDamage, ScrubOrder, ScrubReport, ScrubbedFile};
use super::segment::check_segment;
use super::throttled_file::ThrottledFile;
pub use super::throttled_file::{Throttle, Unthrottled};
use crate::disk::{Disk, DiskFile, Meter};
use crate::snapshot::format as snapshot_format;
use crate::snapshot::verify::read_back;
use crate::types::{ClusterId, DiskId, Position};
use crate::wal::batches::ReaderState;
use crate::wal::format as wal_format;
use std::collections::VecDeque;
use std::io;

/// The directories that a pass reads, and the owner that their files must name.
#[derive(Clone, Debug)]
pub struct ScrubSource<D> {
    /// The directory of the log.
    pub log_disk: D,
    /// The directory of the snapshots.
    pub snapshot_disk: D,
    /// The id of this node's cluster, which each snapshot names.
    pub cluster: ClusterId,
    /// The id of this node's disk, which each segment names.
    pub disk: DiskId,
}

/// A pass: an iterator over its reports, each of which takes as long as it takes to read a file.
///
/// The pass ends without [`ScrubReport::PassEnded`] if its [`Throttle`] ends it.
pub struct ScrubPass<D, T> {
    source: ScrubSource<D>,
    order: ScrubOrder,
    throttle: T,
    /// The files that are left to check; `None` before the first step.
    files: Option<VecDeque<ScrubbedFile>>,
    /// The state of the log at the end of the last segment, and that segment's number.
    state: (u64, ReaderState),
    unchecked_files: u64,
    has_ended: bool,
}

impl<D: Disk, T: Throttle> ScrubPass<D, T> {
    /// Begins a pass. Reads nothing yet.
    pub fn new(source: ScrubSource<D>, order: ScrubOrder, throttle: T) -> ScrubPass<D, T> {
        let state = (0, ReaderState::default());
        ScrubPass { source, order, throttle, files: None, state, unchecked_files: 0, has_ended: false }
    }

    /// The number of the pass.
    pub fn number(&self) -> u64 {
        self.order.pass
    }

    /// Lists the files to check, and their size in bytes. Files that appear later need no check: they were just written.
    fn list_files(&self) -> io::Result<(VecDeque<ScrubbedFile>, u64)> {
        let mut numbers: Vec<u64> =
            self.source.log_disk.list()?.iter().filter_map(|name| wal_format::file_number(name)).collect();
        numbers.retain(|number| *number <= self.order.sealed_upto);
        numbers.sort_unstable();
        let segments = numbers.into_iter().map(ScrubbedFile::Segment);
        let files: VecDeque<ScrubbedFile> = segments.chain(self.order.snapshot.map(ScrubbedFile::Snapshot)).collect();
        // A file may be removed at any time.
        let size = |file: &ScrubbedFile| self.disk_of(*file).open(&file.to_string()).and_then(|file| file.size());
        let total_bytes = files.iter().filter_map(|file| size(file).ok()).sum();
        Ok((files, total_bytes))
    }

    fn disk_of(&self, file: ScrubbedFile) -> &D {
        match file {
            ScrubbedFile::Segment(_) => &self.source.log_disk,
            ScrubbedFile::Snapshot(_) => &self.source.snapshot_disk,
        }
    }

    /// Checks a file. Returns its size in bytes and the first damage. Damage counts only if a second read finds it too: a
    /// device may fail for a moment, and a snapshot at the same position may replace a damaged one while that is read.
    fn check_file(&mut self, file: ScrubbedFile) -> io::Result<(u64, Option<ScrubDamage>)> {
        match file {
            ScrubbedFile::Segment(number) => self.check_segment(number),
            ScrubbedFile::Snapshot(position) => match self.check_snapshot(position)? {
                (_, Some(_)) => self.check_snapshot(position),
                intact => Ok(intact),
            },
        }
    }

    fn check_segment(&mut self, number: u64) -> io::Result<(u64, Option<ScrubDamage>)> {
        let name = wal_format::file_name(number);
        let opened_file = ThrottledFile::new(self.source.log_disk.open_uncached(&name)?, self.throttle.clone());
        let (last_number, state) = std::mem::take(&mut self.state);
        // The oldest segment is compared with nothing, and neither is one that follows a removed or damaged one.
        let state_before = if last_number + 1 == number { state } else { ReaderState::before_segment(number) };
        let ids = (number, self.source.disk);
        let (mut damage, mut state_after) = check_segment(&opened_file, ids, state_before.clone())?;
        if damage.is_some() {
            let reopened_file = ThrottledFile::new(self.source.log_disk.open_uncached(&name)?, self.throttle.clone());
            (damage, state_after) = check_segment(&reopened_file, ids, state_before)?;
        }
        if damage.is_some() {
            // The file may have been recycled while it was read. Then its name is gone, and it is not used again.
            self.source.log_disk.open(&name)?;
        }
        self.state = (number, state_after);
        Ok((opened_file.size()?, damage))
    }

    /// The damage of a file that is missing: only a snapshot that no newer one has replaced. A segment is released
    /// before its file is removed.
    fn missing_file_damage(&self, file: ScrubbedFile) -> Option<ScrubDamage> {
        let ScrubbedFile::Snapshot(position) = file else { return None };
        let names = self.source.snapshot_disk.list().ok()?;
        let is_replaced = names.iter().filter_map(|name| snapshot_format::file_position(name)).any(|it| it >= position);
        let description = "the file is missing".to_owned();
        (!is_replaced).then_some(ScrubDamage { offset: 0, description, first_index: None })
    }

    fn check_snapshot(&self, position: Position) -> io::Result<(u64, Option<ScrubDamage>)> {
        let name = snapshot_format::file_name(position);
        let file = ThrottledFile::new(self.source.snapshot_disk.open_uncached(&name)?, self.throttle.clone());
        let flaw = read_back(&file, &name, self.source.cluster, &Meter::default())?.err();
        let damage = flaw.map(|flaw| ScrubDamage { offset: flaw.at, description: flaw.to_string(), first_index: None });
        Ok((file.size()?, damage))
    }
}

impl<D: Disk, T: Throttle> Iterator for ScrubPass<D, T> {
    type Item = ScrubReport;

    fn next(&mut self) -> Option<ScrubReport> {
        let pass = self.order.pass;
        if self.files.is_none() {
            let (files, total_bytes) = self.list_files().unwrap_or_else(|error| {
                log::warn!("cannot list the files to check: {error}; the next pass tries again");
                self.unchecked_files += 1;
                (VecDeque::new(), 0)
            });
            self.files = Some(files);
            return Some(ScrubReport::PassBegan { pass, total_bytes });
        }
        while let Some(file) = self.files.as_mut().and_then(VecDeque::pop_front) {
            match self.check_file(file) {
                Ok((bytes, damage)) => return Some(ScrubReport::FileChecked { pass, file, bytes, damage }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.has_ended = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let damage @ Some(_) = self.missing_file_damage(file) {
                        return Some(ScrubReport::FileChecked { pass, file, bytes: 0, damage });
                    }
                }
                Err(error) => {
                    log::warn!("cannot check {file}: {error}; the next pass tries again");
                    self.unchecked_files += 1;
                }
            }
            if self.has_ended {
                return None;
            }
        }
        (!std::mem::replace(&mut self.has_ended, true))
            .then_some(ScrubReport::PassEnded { pass, unchecked_files: self.unchecked_files })
    }
}

#[cfg(test)]
mod tests;
