//! When the files of this node are checked, and what was found.
//!
//! A start reads and checks the whole log and the newest snapshot. So the interval counts from the start of the process,
//! and nothing about passes is stored. The first pass comes after a part of the interval that depends on the node's id:
//! nodes that were started together do not all read at once.

use crate::scrub::{ScrubOrder, ScrubPace, ScrubReport, ScrubbedFile};
use crate::types::{NodeId, Position, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// The number of parts of the interval after which first passes begin.
const STAGGER_PARTS: u32 = 8;
/// How many findings are kept for the status: the latest ones.
const FINDINGS_MAX: usize = 16;

/// Decides when a pass begins, and keeps what the passes have found.
///
/// Invariants: at most one pass is running; the number of a pass that has ended is at most that of the last order.
#[derive(Clone, Debug)]
pub struct ScrubSchedule {
    /// The time between two passes; `None` if passes begin on request only.
    interval: Option<Duration>,
    /// When the next pass is due, if none is running.
    due_at: Time,
    /// Whether an operator waits for a pass that was not ordered yet.
    requested: bool,
    running: Option<RunningPass>,
    /// The number of the last order.
    last_ordered: u64,
    last_ended: u64,
    ended_at: Option<Time>,
    /// How many files the last pass could not check.
    unchecked_files: u64,
    checked_bytes: u64,
    found_count: u64,
    mended_count: u64,
    findings: VecDeque<Finding>,
}

#[derive(Clone, Copy, Debug)]
struct RunningPass {
    number: u64,
    pace: ScrubPace,
    total_bytes: u64,
    checked_bytes: u64,
}

/// Damage that this node has found in one of its files while it was running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The damaged file.
    pub file: ScrubbedFile,
    /// File, offset, what is wrong, and the affected entries, in words.
    pub text: String,
    /// Whether the file is mended: a snapshot has replaced it.
    pub mended: bool,
}

/// The numbers that the status reports about passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubFigures {
    /// The number of the pass that is running or requested; otherwise of the last one.
    pub pass: u64,
    /// The number of the last pass that has ended.
    pub ended: u64,
    /// The time since the last pass ended; `None` before the first.
    pub ended_ago: Option<Duration>,
    /// The bytes of the running pass: to check, and checked so far.
    pub running: Option<(u64, u64)>,
    /// How many files the last pass could not check.
    pub unchecked_files: u64,
    /// Bytes checked since the process started.
    pub checked_bytes: u64,
    /// Damaged files found since the process started.
    pub found: u64,
    /// How many of the damaged files are mended.
    pub mended: u64,
}

impl ScrubSchedule {
    /// Creates the schedule of the node `node`, which starts now and has checked all its files.
    pub fn new(now: Time, node: NodeId, interval: Option<Duration>) -> ScrubSchedule {
        let first_part = 1 + (node.get() % u64::from(STAGGER_PARTS)) as u32;
        ScrubSchedule {
            interval,
            due_at: interval.map_or(Time::NEVER, |interval| now + interval / STAGGER_PARTS * first_part),
            requested: false,
            running: None,
            last_ordered: 0,
            last_ended: 0,
            ended_at: None,
            unchecked_files: 0,
            checked_bytes: 0,
            found_count: 0,
            mended_count: 0,
            findings: VecDeque::new(),
        }
    }

    /// Requests a pass now. A requested pass that is running serves this request too; a regular one is too slow for an
    /// operator who waits, and begins again.
    pub fn request(&mut self) {
        self.requested |= self.running.is_none_or(|pass| pass.pace == ScrubPace::Background);
    }

    /// The order for a pass that is due, with the files to check.
    pub fn next_order(&mut self, now: Time, sealed_upto: u64, snapshot: Option<Position>) -> Option<ScrubOrder> {
        let pace = match std::mem::take(&mut self.requested) {
            true => ScrubPace::Requested,
            false if self.running.is_none() && self.due_at <= now => ScrubPace::Background,
            false => return None,
        };
        self.last_ordered += 1;
        self.running = Some(RunningPass { number: self.last_ordered, pace, total_bytes: 0, checked_bytes: 0 });
        Some(ScrubOrder { pass: self.last_ordered, sealed_upto, snapshot, pace })
    }

    /// Records the progress of a pass. Reports of a pass that a later order has ended count as well: the bytes were
    /// checked.
    pub fn record(&mut self, now: Time, report: &ScrubReport) {
        match *report {
            ScrubReport::PassBegan { pass, total_bytes } => {
                self.running_pass(pass).into_iter().for_each(|running| running.total_bytes = total_bytes);
            }
            ScrubReport::FileChecked { pass, bytes, .. } => {
                self.checked_bytes += bytes;
                self.running_pass(pass).into_iter().for_each(|running| running.checked_bytes += bytes);
            }
            ScrubReport::PassEnded { pass, unchecked_files } => {
                if self.running_pass(pass).is_some() {
                    self.unchecked_files = unchecked_files;
                    (self.running, self.last_ended, self.ended_at) = (None, pass, Some(now));
                    self.due_at = self.interval.map_or(Time::NEVER, |interval| now + interval);
                }
            }
        }
    }

    fn running_pass(&mut self, number: u64) -> Option<&mut RunningPass> {
        self.running.as_mut().filter(|pass| pass.number == number)
    }

    /// Records damage in a file. Returns false if the same file was found damaged before and is not mended yet.
    pub fn record_damage(&mut self, file: ScrubbedFile, text: String) -> bool {
        if self.findings.iter().any(|finding| finding.file == file && !finding.mended) {
            return false;
        }
        self.found_count += 1;
        if self.findings.len() == FINDINGS_MAX {
            self.findings.pop_front();
        }
        self.findings.push_back(Finding { file, text, mended: false });
        true
    }

    /// Records that all damaged files of a kind are mended: the segments, or the snapshots.
    pub fn record_mended(&mut self, is_mended: impl Fn(ScrubbedFile) -> bool) {
        for finding in self.findings.iter_mut().filter(|finding| !finding.mended && is_mended(finding.file)) {
            finding.mended = true;
            self.mended_count += 1;
        }
    }

    /// The latest findings, oldest first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    /// The numbers for the status.
    pub fn figures(&self, now: Time) -> ScrubFigures {
        ScrubFigures {
            pass: self.last_ordered + u64::from(self.requested),
            ended: self.last_ended,
            ended_ago: self.ended_at.map(|ended_at| now.since(ended_at)),
            running: self.running.map(|pass| (pass.total_bytes, pass.checked_bytes)),
            unchecked_files: self.unchecked_files,
            checked_bytes: self.checked_bytes,
            found: self.found_count,
            mended: self.mended_count,
        }
    }

    /// When a pass is next due. While one is running, its end wakes the node.
    pub fn deadline(&self) -> Time {
        match self.running {
            _ if self.requested => Time::ZERO,
            Some(_) => Time::NEVER,
            None => self.due_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(80);

    fn schedule(node: u64) -> ScrubSchedule {
        ScrubSchedule::new(Time::ZERO, NodeId::new(node).expect("an id is not zero"), Some(INTERVAL))
    }

    fn end_pass(schedule: &mut ScrubSchedule, now: Time, pass: u64) {
        schedule.record(now, &ScrubReport::PassEnded { pass, unchecked_files: 0 });
    }

    #[test]
    fn first_passes_of_nodes_are_staggered() {
        let due = [1, 2, 3].map(|node| schedule(node).deadline());
        assert_eq!(due, [20, 30, 40].map(|seconds| Time::ZERO + Duration::from_secs(seconds)));
        let off = ScrubSchedule::new(Time::ZERO, NodeId::new(1).expect("an id is not zero"), None);
        assert_eq!(off.deadline(), Time::NEVER);
    }

    #[test]
    fn passes_follow_one_another_at_the_interval() {
        let mut schedule = schedule(1);
        let due = schedule.deadline();
        assert_eq!(schedule.next_order(Time(due.0 - 1), 3, None), None);
        let order = schedule.next_order(due, 3, None).expect("a pass is due");
        assert_eq!((order.pass, order.sealed_upto, order.pace), (1, 3, ScrubPace::Background));
        let ended_at = due + Duration::from_secs(500);
        assert_eq!((schedule.next_order(ended_at, 3, None), schedule.deadline()), (None, Time::NEVER));
        end_pass(&mut schedule, ended_at, 1);
        assert_eq!(schedule.deadline(), ended_at + INTERVAL);
    }

    #[test]
    fn request_ends_a_regular_pass_and_joins_a_requested_one() {
        let mut schedule = schedule(1);
        let now = schedule.deadline();
        assert!(schedule.next_order(now, 3, None).is_some());
        schedule.request();
        assert_eq!((schedule.figures(now).pass, schedule.deadline()), (2, Time::ZERO));
        let order = schedule.next_order(now, 3, None).expect("the request begins a pass");
        assert_eq!((order.pass, order.pace), (2, ScrubPace::Requested));
        schedule.request();
        assert_eq!((schedule.next_order(now, 3, None), schedule.figures(now).pass), (None, 2));
        end_pass(&mut schedule, now, 1);
        assert_eq!(schedule.figures(now).ended, 0, "the first pass was given up");
        end_pass(&mut schedule, now, 2);
        assert_eq!(schedule.figures(now).ended, 2);
    }

    #[test]
    fn finding_counts_once_until_it_is_mended() {
        let mut schedule = schedule(1);
        let file = ScrubbedFile::Segment(7);
        assert!(schedule.record_damage(file, "first".to_owned()) && !schedule.record_damage(file, "again".to_owned()));
        schedule.record_mended(|file| matches!(file, ScrubbedFile::Snapshot(_)));
        assert_eq!((schedule.figures(Time::ZERO).found, schedule.figures(Time::ZERO).mended), (1, 0));
        schedule.record_mended(|mended| mended == file);
        assert!(schedule.record_damage(file, "another".to_owned()));
        assert_eq!((schedule.figures(Time::ZERO).found, schedule.figures(Time::ZERO).mended), (2, 1));
        (0..40).for_each(|number| _ = schedule.record_damage(ScrubbedFile::Segment(number), String::new()));
        assert_eq!(schedule.findings().count(), FINDINGS_MAX);
    }
}
