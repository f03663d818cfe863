//! Damage of this node's files while it runs: what is mended, and what stops the node.
//!
//! The state in memory is an intact copy of everything applied. So a damaged part of the log that is committed needs no
//! other node: it is no longer read, a snapshot of the state is taken, and the log is discarded up to the end of the
//! damaged segment. A damaged snapshot is taken again. Only damage in entries that may not be applied yet, because they
//! are not committed or cannot be read any more, stops the node: its next start repairs the log with the help of the
//! other nodes.

use super::Node;
use crate::node::event::Action;
use crate::scrub::{ScrubDamage, ScrubReport, ScrubbedFile};
use crate::types::{Index, Position, Time};
use crate::wal::format::file_number;
use crate::wal::report::{DAMAGE_ADVICE, Fault};

impl Node {
    /// Handles a report of a pass over this node's files.
    pub(super) fn handle_scrub_report(&mut self, now: Time, report: ScrubReport) {
        self.scrub_schedule.record(now, &report);
        let ScrubReport::FileChecked { file, damage: Some(damage), .. } = report else { return };
        let ScrubDamage { offset, description, first_index } = damage;
        match file {
            ScrubbedFile::Segment(segment) => {
                let last_index = self.view.last_index_through(segment);
                let lost = match first_index {
                    Some(first_index) if first_index <= last_index => format!("{first_index} to {last_index}"),
                    Some(_) => "none".to_owned(),
                    None => format!("some up to {last_index}"),
                };
                let advice = DAMAGE_ADVICE;
                self.handle_log_damage(
                    segment,
                    Fault::Corrupt { file: file.to_string(), offset, description, lost, advice },
                );
            }
            ScrubbedFile::Snapshot(position) => {
                self.handle_snapshot_damage(now, position, &format!("{file}: byte {offset}: {description}"));
            }
        }
    }

    /// Handles an error of a read of the view. The entries were read to be sent, so other nodes may need them: but they
    /// need not come from this log.
    pub(super) fn handle_unreadable_entries(&mut self, fault: Fault) {
        match &fault {
            Fault::Corrupt { file, .. } if let Some(segment) = file_number(file) => {
                self.handle_log_damage(segment, fault)
            }
            _ => self.fault = Some(fault),
        }
    }

    /// Handles damage in a sealed segment, or stops the node if some of the segment's entries are not committed yet.
    ///
    /// The condition is about the whole segment, because only whole segments are discarded. Committed entries that are not
    /// applied yet are read when they are applied: if they cannot be, the node stops then.
    fn handle_log_damage(&mut self, segment: u64, fault: Fault) {
        let upto = self.view.last_index_through(segment);
        if upto > self.raft.log().commit() {
            self.fault = Some(fault);
            return;
        }
        let Fault::Corrupt { file, offset, description, lost, .. } = fault else { return };
        let text = format!("{file}: byte {offset}: {description}; affected entries: {lost}");
        self.compaction.mark_log_damaged(upto);
        self.raft.stop_reading_up_to(upto);
        if self.scrub_schedule.record_damage(ScrubbedFile::Segment(segment), text.clone()) {
            self.warnings.push(format!(
                "{text}. This node has them in its state, and goes on: it takes a snapshot, unless one covers them, and \
                 then discards its log up to {upto}. Check the disk"
            ));
        }
    }

    /// Handles damage in the file of a snapshot: it is no longer sent, and another one is taken.
    fn handle_snapshot_damage(&mut self, now: Time, position: Position, text: &str) {
        // A newer snapshot has replaced this one.
        if self.compaction.newest().is_none_or(|newest| newest.position != position) {
            return;
        }
        self.handle_snapshot_inspected(now, position, false);
        if self.scrub_schedule.record_damage(ScrubbedFile::Snapshot(position), text.to_owned()) {
            self.warnings
                .push(format!("{text}. This node goes on, and takes another snapshot at once. Check the disk"));
        }
    }

    /// Records what is mended by now, and orders the pass that is due.
    pub(super) fn maintain_files(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.compaction.damaged_log_upto().is_none() {
            self.scrub_schedule.record_mended(|file| matches!(file, ScrubbedFile::Segment(_)));
        }
        if self.compaction.sendable_snapshot().is_some() {
            self.scrub_schedule.record_mended(|file| matches!(file, ScrubbedFile::Snapshot(_)));
        }
        let newest = self.compaction.sendable_snapshot().map(|newest| newest.position);
        if let Some(order) = self.scrub_schedule.next_order(now, self.view.sealed_upto(), newest) {
            actions.push(Action::Scrub(order));
        }
        actions.extend(self.warnings.drain(..).map(Action::Warn));
    }

    /// The number of the newest sealed segment of the log; 0 if there is none.
    pub fn sealed_upto(&self) -> u64 {
        self.view.sealed_upto()
    }

    /// The last index of the damaged part of the log; zero if no damage is known that is not mended.
    pub(super) fn damaged_log_upto(&self) -> Index {
        self.compaction.damaged_log_upto().unwrap_or(Index::ZERO)
    }
}
