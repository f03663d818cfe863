//! The passes that check the files of simulated machines: the code of the product, one file at a time between other
//! events.

use super::checks;
use super::disk::SimDisk;
use super::event::SimEvent;
use super::host::{CLUSTER_ID, Host};
use super::world::World;
use crate::disk::Disk;
use crate::node::Event;
use crate::scrub::pass::{ScrubSource, Unthrottled};
use crate::scrub::{ScrubOrder, ScrubPace, ScrubPass, ScrubReport};
use crate::types::{NodeId, Position};
use rand::RngExt;
use std::time::Duration;

impl World {
    /// Begins a pass over a machine's files, in place of the pass that is running.
    pub(super) fn begin_scrub(&mut self, at: NodeId, order: ScrubOrder) {
        let pass = ScrubPass::new(self.hosts[&at].scrub_source(), order, Unthrottled);
        let Some(process) = &mut self.host(at).process else { return };
        process.scrub_pass = Some(pass);
        self.schedule_scrub_step(at, order.pass);
    }

    fn schedule_scrub_step(&mut self, at: NodeId, pass: u64) {
        let incarnation = self.hosts[&at].incarnation;
        let delay = Duration::from_micros(self.rng.random_range(10..20_000));
        self.schedule_after(delay, SimEvent::ScrubStep { at, incarnation, pass });
    }

    /// Checks the next file of a machine, and reports to the node. A step of a pass that was replaced is dropped.
    pub(super) fn continue_scrub(&mut self, at: NodeId, pass: u64) -> checks::Result<()> {
        let Some(process) = &mut self.host(at).process else { return Ok(()) };
        let Some(report) =
            process.scrub_pass.as_mut().filter(|running| running.number() == pass).and_then(Iterator::next)
        else {
            return Ok(());
        };
        if let ScrubReport::FileChecked { file, damage: Some(damage), .. } = &report {
            self.scrub_findings += 1;
            self.trace_line(|| format!("{at} finds {file} damaged at {}: {}", damage.offset, damage.description));
            if !self.is_damaged(at) {
                return Err(format!("{at} finds damage in the undamaged {file}: {damage:?}"));
            }
        }
        if matches!(report, ScrubReport::PassEnded { .. }) {
            self.record_mended_segment(at);
        }
        self.deliver_event(at, Event::Scrub(report))?;
        self.schedule_scrub_step(at, pass);
        Ok(())
    }

    /// Ends the damage of a machine whose only damaged file is a segment, once a power loss could not bring that file
    /// back: from then on the machine is checked like any other.
    ///
    /// If nobody had read the damaged file before it was released, the journal may have recycled it. A sector of it that
    /// cannot be read is then one of the new segment, until the log is written there.
    fn record_mended_segment(&mut self, at: NodeId) {
        let Some(segment) = self.hosts[&at].damaged_segment.clone() else { return };
        let is_gone =
            |disk: &SimDisk| disk.list().is_ok_and(|names| !names.contains(&segment)) && !disk.has_unreadable_sector();
        if is_gone(&self.hosts[&at].disk) && is_gone(&self.hosts[&at].disk.durable_copy()) {
            self.trace_line(|| format!("{at} has mended {segment}"));
            self.mended_segments += 1;
            let host = self.host(at);
            (host.has_damaged_file, host.damaged_segment) = (false, None);
        }
    }
}

impl Host {
    fn scrub_source(&self) -> ScrubSource<SimDisk> {
        ScrubSource {
            log_disk: self.disk.clone(),
            snapshot_disk: self.snapshot_disk.clone(),
            cluster: CLUSTER_ID,
            disk: self.disk_id,
        }
    }

    /// Whether no file that a pass checks is damaged. Only a machine whose files were damaged is checked.
    pub(super) fn is_mended(&self) -> bool {
        let Some(process) = self.process.as_ref().filter(|_| self.has_damaged_file) else { return true };
        let snapshot: Option<Position> = process.node.snapshot().map(|newest| newest.position);
        let order =
            ScrubOrder { pass: 0, sealed_upto: process.node.sealed_upto(), snapshot, pace: ScrubPace::Requested };
        ScrubPass::new(self.scrub_source(), order, Unthrottled)
            .all(|report| !matches!(report, ScrubReport::FileChecked { damage: Some(_), .. }))
    }
}
