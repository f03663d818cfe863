//! Reconciles snapshot and journal at a start.

use super::faults::{damage_fault, to_node_fault};
use crate::disk::Disk;
use crate::snapshot::{Header, NewestSnapshot, Snapshot};
use crate::types::{HardState, Index, Membership, Mutant, Position, SnapshotPoint, Term};
use crate::wal::{Fault, Journal, RecoveredLog, Result, View};

/// Reconciles the newest snapshot with the journal, and returns the snapshot to start from.
///
/// If the log ends before the snapshot, or holds another entry at the snapshot's position, the log restarts after the
/// snapshot. Both cases can happen: a node may apply committed entries, and take a snapshot of the state, before its
/// own disk holds the entries; and a node that received a snapshot may have died before its log was restarted.
///
/// If the log begins after the snapshot, a newer snapshot is damaged or missing, and the entries after it cannot be
/// applied. A journal with repair then gives up its log, so that a leader sends it a snapshot (`docs/repair.md`).
/// Otherwise this is a fault.
pub fn reconcile_with_log<D: Disk>(
    journal: &mut Journal<D>,
    recovered: &mut RecoveredLog,
    newest: NewestSnapshot,
) -> Result<Option<Snapshot>> {
    let NewestSnapshot { snapshot, newer_faults } = newest;
    let log_start = recovered.base.position;
    let snapshot_index = snapshot.as_ref().map_or(Index::ZERO, |snapshot| snapshot.header().position.index);
    if snapshot_index < log_start.index && !journal.mutants().breaks(Mutant::DamagedIsEmpty) {
        let fault = match newer_faults.into_iter().next() {
            Some(first) => to_node_fault(first),
            None => damage_fault(
                "snapshots",
                0,
                &format!("the log begins after {log_start}, and no snapshot reaches that far"),
            ),
        };
        let founding =
            SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: Membership::default() };
        let base = snapshot.as_ref().map_or(founding, |snapshot| base_after_snapshot(snapshot.header()));
        let Some(hard_state) = journal.give_up_log(&base)? else { return Err(fault) };
        recovered.repaired_damage = fault.damage();
        recovered.repair_note = Some(describe_repair(&fault, hard_state.promised_position));
        recovered.hard_state = hard_state;
        restart_recovered_log(recovered, base);
        return Ok(snapshot);
    }
    recovered
        .operator_notes
        .extend(newer_faults.iter().map(|fault| format!("{fault}; this node starts from an older state and its log")));
    let Some(snapshot) = snapshot else { return Ok(None) };
    let base = base_after_snapshot(snapshot.header());
    if term_at(recovered, snapshot_index) != Some(base.position.term) {
        recovered
            .operator_notes
            .push(format!("the log does not match the snapshot at {}: it restarts after that position", base.position));
        // The snapshot may be of a term that this disk had not recorded. The node has not voted in that term, since a
        // vote is sent only after it is durable.
        let raised_hard_state = (base.position.term > recovered.hard_state.term).then_some(HardState {
            term: base.position.term,
            vote: None,
            ..recovered.hard_state
        });
        journal.restart(&base, raised_hard_state)?;
        recovered.hard_state = raised_hard_state.unwrap_or(recovered.hard_state);
        restart_recovered_log(recovered, base);
    }
    recovered.last_time = recovered.last_time.max(snapshot.header().time);
    Ok(Some(snapshot))
}

/// Replaces the recovered log by an empty one after `base`.
fn restart_recovered_log(recovered: &mut RecoveredLog, base: SnapshotPoint) {
    recovered.view = View::new(base.position.index);
    recovered.entries.clear();
    recovered.configurations.clear();
    recovered.base = base;
}

/// The note for the operator about a log that was given up because of `fault`.
fn describe_repair(fault: &Fault, promised_position: Position) -> String {
    let cause = match fault {
        Fault::Corrupt { file, offset, description, .. } => format!("{file}: byte {offset}: {description}"),
        other => other.to_string(),
    };
    format!(
        "{cause}. The log after that snapshot is given up: this node gets a snapshot from the leader, and votes only for \
         logs that reach {promised_position}"
    )
}

/// The base of a log that begins after the snapshot with the header `header`.
pub fn base_after_snapshot(header: &Header) -> SnapshotPoint {
    let Header { position, configuration_index, membership, .. } = header;
    SnapshotPoint { position: *position, configured: *configuration_index, membership: membership.clone() }
}

/// The term of the entry at an index at or after the log's base; `None` if the log ends before it.
fn term_at(recovered: &RecoveredLog, index: Index) -> Option<Term> {
    let log_start = recovered.base.position;
    match index.0 - log_start.index.0 {
        0 => Some(log_start.term),
        n => recovered.entries.get(n as usize - 1).map(|head| head.term),
    }
}
