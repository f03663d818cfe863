//! Reconciles snapshot and journal at a start.

use super::faults::{damaged, fault};
use crate::disk::Disk;
use crate::snapshot::{Header, Newest, Snapshot};
use crate::types::{HardState, Index, Mutant, SnapshotPoint, Term};
use crate::wal::{Journal, Recovered, Result, View};

/// Reconciles the newest snapshot with the journal, and returns the snapshot to start from.
///
/// The snapshot replaces a log that ends before it or holds another entry at its position. Both can happen: a node may
/// apply and freeze entries that a quorum holds before its own disk does, and a node that received a snapshot may have
/// died before its journal was restarted. A log that begins after the snapshot is a fault: the entries between them are
/// lost.
pub fn reconcile_with_log<D: Disk>(
    journal: &mut Journal<D>,
    recovered: &mut Recovered,
    newest: Newest,
) -> Result<Option<Snapshot>> {
    let Newest { snapshot, damaged: wrong } = newest;
    let begins = recovered.base.position;
    let upto = snapshot.as_ref().map_or(Index::ZERO, |snapshot| snapshot.header().position.index);
    if upto < begins.index && !journal.mutants().breaks(Mutant::DamagedIsEmpty) {
        return Err(match wrong.into_iter().next() {
            Some(first) => fault(first),
            None => {
                damaged("snapshots", 0, &format!("the log begins after {begins}, and no snapshot reaches that far"))
            }
        });
    }
    recovered
        .notes
        .extend(wrong.iter().map(|wrong| format!("{wrong}; this node starts from an older state and its log")));
    let Some(snapshot) = snapshot else { return Ok(None) };
    let base = base_of(snapshot.header());
    if term_at(recovered, upto) != Some(base.position.term) {
        recovered
            .notes
            .push(format!("the log does not match the snapshot at {}: it restarts after that position", base.position));
        // The frozen state may be of a term that this disk had not recorded. Nothing was promised in that term, since
        // promises wait for the disk.
        let raised = (base.position.term > recovered.hard_state.term).then_some(HardState {
            term: base.position.term,
            vote: None,
            ..recovered.hard_state
        });
        journal.restart(&base, raised)?;
        recovered.hard_state = raised.unwrap_or(recovered.hard_state);
        recovered.view = View::new(upto);
        recovered.heads.clear();
        recovered.configurations.clear();
        recovered.base = base;
    }
    recovered.last_time = recovered.last_time.max(snapshot.header().time);
    Ok(Some(snapshot))
}

/// The base of a log that begins after that snapshot.
pub fn base_of(header: &Header) -> SnapshotPoint {
    let Header { position, configured, membership, .. } = header;
    SnapshotPoint { position: *position, configured: *configured, membership: membership.clone() }
}

/// The term of the entry at an index that is not before the log, or `None` if the log ends before it.
fn term_at(recovered: &Recovered, index: Index) -> Option<Term> {
    let begins = recovered.base.position;
    match index.0 - begins.index.0 {
        0 => Some(begins.term),
        n => recovered.heads.get(n as usize - 1).map(|head| head.term),
    }
}
