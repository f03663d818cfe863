//! Sends snapshots to followers that need entries which the log no longer holds: chunk by chunk, with a window of
//! unacknowledged chunks, from the offset that the follower has reached.
//!
//! ```text
//!   leader                                follower
//!   begin_transfer: one chunk  ──────▶    stores it, or has more already
//!   record_progress(next)      ◀──────    "I have `next` bytes"
//!   up to WINDOW_CHUNKS chunks ──────▶    …
//!   the window moves           ◀──────    "I have `next` bytes"
//!                                         complete: read back, then restored, or reported damaged
//! ```
//!
//! Only the follower knows its offset. It may restart, lose its partial file, or hold part of this snapshot from an
//! earlier transfer. So the sender keeps no record of what must have arrived, and probes again whenever it is in doubt.
//!
//! Each chunk is a message of its own, small enough that heartbeats can be sent between chunks. Lost chunks are noticed
//! in two ways: the follower repeats an offset, or is silent for `ACK_TIMEOUT`. A repeated offset may also be an
//! acknowledgment that was overtaken by a later one. Resending at each of them made the bytes sent grow with the square
//! of the number of chunks. So sending restarts no more often than every `RETRY_INTERVAL`, and only at an offset that
//! no newer acknowledgment has contradicted.
//!
//! A snapshot that arrived damaged is put on hold, see `TransferHold`: the leader reads its own file before it sends
//! any of it again.

use super::event::{Action, DurableSnapshot};
use super::options::Options;
use crate::consensus::Raft;
use crate::consensus::message::{Message, SnapshotChunk};
use crate::types::{Index, Mutant, Mutants, NodeId, Position, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many chunks may be unacknowledged by one follower. Enough to keep a link busy during a round trip, and little
/// enough that a link which breaks loses little.
const WINDOW_CHUNKS: u64 = 16;
/// Without an acknowledgment for this long, unacknowledged chunks are sent again.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// Chunks that a follower reports missing are sent again no more often than this: reordered acknowledgments report the
/// same.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How often a snapshot that is undamaged here, but that a follower received damaged, is sent again, at most. After
/// that the follower waits for a newer snapshot.
const RESENDS_MAX: u32 = 3;
/// The delay before the first resend; it doubles with each further one.
const RESEND_DELAY: Duration = Duration::from_secs(1);
/// How often the delay before a resend doubles, at most: up to about a minute.
const RESEND_DOUBLINGS_MAX: u32 = 6;

/// Sends snapshots to followers, one transfer for each.
///
/// Invariants, for each transfer: `acked_bytes ≤ sent_bytes ≤` the file's size; no more than `WINDOW_CHUNKS` chunks,
/// plus one that crosses the window's end, are unacknowledged; a damaged snapshot is resent `RESENDS_MAX` times at
/// most. No transfer sends a newer snapshot than the newest of this node.
#[derive(Clone, Debug)]
pub struct SnapshotSender {
    transfers: BTreeMap<NodeId, Transfer>,
    /// Bytes sent to all followers since this node started, whether they arrived or not.
    sent_bytes: u64,
    /// The size of a chunk, in bytes; the last chunk of a file may be shorter.
    chunk_bytes: u64,
    /// For a follower that does not respond for this long, no log is kept.
    log_hold_time: Duration,
    mutants: Mutants,
}

/// One snapshot on its way to one follower. The file is mapped once, however many followers receive it, and stays
/// readable while any of them does, even after it is deleted from its directory.
#[derive(Clone, Debug)]
struct Transfer {
    snapshot: DurableSnapshot,
    /// How many bytes the follower has acknowledged.
    acked_bytes: u64,
    /// Whether the follower has confirmed `acked_bytes`, and whether a probe for its offset was sent if not. A probe is
    /// a single chunk: a whole window, sent to a follower that has everything or nothing, would be wasted.
    offset_known: bool,
    probe_sent: bool,
    sent_bytes: u64,
    /// When a chunk was last sent or acknowledged. Sending counts, so that a silent follower is probed once per
    /// `ACK_TIMEOUT`, and not at each call of `turn` after it.
    last_progress_at: Time,
    /// When sending was last restarted because of a response of the follower. A new transfer to the same follower keeps
    /// this time.
    restarted_at: Time,
    /// The offset from which the follower reports chunks missing, if sending restarted too recently to trust that
    /// report.
    missing_from_offset: Option<u64>,
    /// When the follower last responded for this snapshot.
    last_response_at: Time,
    /// Why sending is on hold; `TransferHold::None` if it is not.
    hold: TransferHold,
    /// How many snapshots in a row, of any position, the follower received damaged; and how often `snapshot` was among
    /// them. The first number lengthens the delay, so that a follower with a bad disk costs less and less; the second
    /// ends the attempts.
    consecutive_damaged_count: u32,
    snapshot_damaged_count: u32,
}

/// Why a snapshot that a follower received damaged is on hold.
///
/// ```text
///   None ──damaged──▶ Inspection ──undamaged here──▶ Until(…) ──▶ None   (a few times, then NewerSnapshot)
///                         └────────damaged here────▶ Replacement
/// ```
///
/// A leader that resent without reading its own file sent 97.8 MB of a damaged snapshot of 12 MB in 8 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TransferHold {
    /// The snapshot is not on hold: it is being sent.
    None,
    /// The snapshot's file is being read again on this node.
    Inspection,
    /// The snapshot is sent again from the beginning, at this time.
    Until(Time),
    /// The file is damaged on this node: the next snapshot replaces it, even one of the same position.
    Replacement,
    /// The snapshot was resent [`RESENDS_MAX`] times: the next snapshot of a later position replaces it.
    NewerSnapshot,
}

impl SnapshotSender {
    /// Creates a sender with no snapshot in progress.
    pub fn new(options: &Options) -> SnapshotSender {
        let Options { chunk_bytes, log_hold_time, mutants, .. } = *options;
        SnapshotSender {
            transfers: BTreeMap::new(),
            sent_bytes: 0,
            chunk_bytes: chunk_bytes as u64,
            log_hold_time,
            mutants,
        }
    }

    /// Starts sending a snapshot to the follower `to`, which holds everything up to `matched`. A snapshot in progress
    /// continues, unless the follower already holds it; otherwise the newest is sent.
    ///
    /// The node calls this function each time that the core finds a follower to need a snapshot, also after a broken
    /// link or a late response while a transfer is under way. If the newest snapshot replaced the transfer each time,
    /// no transfer would finish under load: the next snapshot is taken before the last one has arrived. (rqlite before
    /// version 10 had the opposite fault: a stream blocked the next one.)
    pub fn begin_transfer(&mut self, now: Time, to: NodeId, newest: &DurableSnapshot, matched: Index) {
        let transfer = self.transfers.entry(to).or_insert_with(|| Transfer::new(now, newest.clone()));
        if transfer.snapshot.position.index <= matched {
            *transfer = Transfer { restarted_at: transfer.restarted_at, ..Transfer::new(now, newest.clone()) };
        } else if transfer.hold == TransferHold::None && now.since(transfer.restarted_at) >= RETRY_INTERVAL {
            // At most one probe per `RETRY_INTERVAL`: each late acknowledgment leads to a call of this function.
            transfer.restarted_at = now;
            transfer.probe(now);
        }
    }

    /// Records that a follower received all of a snapshot and found it damaged: no more of it is sent until the file is
    /// read again. Returns how many damaged snapshots in a row the follower received, if the file is to be read.
    ///
    /// A second report for the same transfer changes nothing: the file is being read already, or was found damaged or
    /// undamaged before.
    pub fn record_damaged(&mut self, now: Time, from: NodeId, snapshot: Position) -> Option<u32> {
        let transfer = self.transfers.get_mut(&from).filter(|transfer| transfer.snapshot.position == snapshot)?;
        transfer.last_response_at = now;
        if self.mutants.breaks(Mutant::ResendDamagedSnapshot) {
            (transfer.acked_bytes, transfer.sent_bytes, transfer.offset_known, transfer.last_progress_at) =
                (0, 0, true, now);
            return None;
        }
        if transfer.hold != TransferHold::None {
            return None;
        }
        transfer.consecutive_damaged_count += 1;
        transfer.snapshot_damaged_count += 1;
        transfer.hold = TransferHold::Inspection;
        Some(transfer.consecutive_damaged_count)
    }

    /// Records that the file of a snapshot that a follower received damaged was read again. If it is undamaged it is
    /// sent again after a delay, a few times; if it is damaged, it is sent to no follower any more.
    ///
    /// All transfers of that snapshot learn of a damaged file, also those whose follower has not noticed yet. An
    /// undamaged file matters only to the transfers that were waiting for this inspection.
    pub fn record_inspected(&mut self, now: Time, snapshot: Position, undamaged: bool) {
        for transfer in self.transfers.values_mut().filter(|transfer| transfer.snapshot.position == snapshot) {
            if !undamaged {
                transfer.hold = TransferHold::Replacement;
            } else if transfer.hold == TransferHold::Inspection && transfer.snapshot_damaged_count > RESENDS_MAX {
                transfer.hold = TransferHold::NewerSnapshot;
            } else if transfer.hold == TransferHold::Inspection {
                let doublings = transfer.consecutive_damaged_count.saturating_sub(1).min(RESEND_DOUBLINGS_MAX);
                transfer.hold = TransferHold::Until(now + RESEND_DELAY * (1 << doublings));
            }
        }
    }

    /// Records how many bytes of a snapshot a follower has.
    ///
    /// The number comes from a peer: one beyond the file's end is ignored, and one below `acked_bytes` restarts sending
    /// only if no later report contradicts it.
    pub fn record_progress(&mut self, now: Time, from: NodeId, snapshot: Position, next: u64) {
        let Some(transfer) = self.transfers.get_mut(&from).filter(|transfer| transfer.snapshot.position == snapshot)
        else {
            return;
        };
        if transfer.hold != TransferHold::None {
            // The follower sent this report before it found the damage.
            return;
        }
        if next > transfer.file_bytes() {
            return;
        }
        transfer.last_response_at = now;
        transfer.missing_from_offset = (transfer.offset_known && next <= transfer.acked_bytes).then_some(next);
        if !transfer.offset_known {
            transfer.restart_from(now, next);
        }
        // If the follower restarted and has less than before, or chunks were lost, they are sent again.
        transfer.resend_missing(now);
        (transfer.acked_bytes, transfer.offset_known) = (transfer.acked_bytes.max(next), true);
        // The follower may have more than was sent: an earlier leader, or an earlier attempt, sent the rest.
        transfer.sent_bytes = transfer.sent_bytes.max(next);
        if self.mutants.breaks(Mutant::SendSnapshotsAgain) {
            (transfer.acked_bytes, transfer.sent_bytes) = (0, 0);
        }
        transfer.last_progress_at = now;
        transfer.check();
    }

    /// Sends the chunks that are due. A follower that did not respond for `log_hold_time` is sent the newest snapshot
    /// when it responds again: neither its previous snapshot nor the log behind that snapshot is kept for it.
    pub fn send_due_chunks(
        &mut self,
        now: Time,
        raft: &Raft,
        newest: Option<&DurableSnapshot>,
        actions: &mut Vec<Action>,
    ) {
        if self.transfers.is_empty() {
            return;
        }
        // All transfers are dropped if this node no longer leads: the next leader begins its own.
        self.transfers.retain(|to, _| raft.is_sending_snapshot(*to));
        newest.into_iter().for_each(|newest| self.replace_outdated(now, newest));
        for (to, transfer) in &mut self.transfers {
            transfer.resume_after_hold(now);
            transfer.resend_missing(now);
            // Chunks or acknowledgments are lost, or the follower is down. A probe is enough to find out.
            if transfer.hold == TransferHold::None && now.since(transfer.last_progress_at) >= ACK_TIMEOUT {
                transfer.probe(now);
            }
            while let Some(chunk) = transfer.next_chunk(self.chunk_bytes) {
                transfer.last_progress_at = now;
                self.sent_bytes += chunk.bytes.len() as u64;
                // A response of the follower in this term shows that the term is durable on this node, so the message
                // may be sent now.
                actions.push(Action::Send(raft.envelope(*to, raft.term(), Message::InstallSnapshot(chunk))));
            }
        }
    }

    /// Replaces the snapshots of followers that do not respond, and snapshots received damaged, by `newest`.
    ///
    /// The time of the last response stays: a silent follower is still silent, and the log behind its new snapshot is
    /// not held for it either. So does the count of damaged snapshots, and with it the delay.
    fn replace_outdated(&mut self, now: Time, newest: &DurableSnapshot) {
        for transfer in self.transfers.values_mut() {
            let transfer_is_not_newer = newest.position.index >= transfer.snapshot.position.index;
            assert!(transfer_is_not_newer, "no transfer sends a newer snapshot than this node's newest one");
            let newest_is_newer = newest.position.index > transfer.snapshot.position.index;
            let is_outdated = newest_is_newer
                && (transfer.hold == TransferHold::NewerSnapshot || transfer.is_silent(now, self.log_hold_time));
            if is_outdated || transfer.hold == TransferHold::Replacement {
                *transfer = Transfer {
                    last_response_at: transfer.last_response_at,
                    consecutive_damaged_count: transfer.consecutive_damaged_count,
                    ..Transfer::new(now, newest.clone())
                };
            }
        }
    }

    /// The oldest snapshot that is being sent to a follower that responds. The log behind it is kept, so that the
    /// follower finds its next entry there. Followers that are silent, and transfers that will be replaced, do not
    /// count: otherwise every leader would keep its log forever for a node that never comes back.
    pub fn oldest_snapshot(&self, now: Time) -> Option<Index> {
        let includes_silent = self.mutants.breaks(Mutant::HoldForTheSilent);
        let will_be_replaced =
            |transfer: &Transfer| matches!(transfer.hold, TransferHold::Replacement | TransferHold::NewerSnapshot);
        let log_holding_transfers = self.transfers.values().filter(|transfer| {
            includes_silent || !(will_be_replaced(transfer) || transfer.is_silent(now, self.log_hold_time))
        });
        log_holding_transfers.map(|transfer| transfer.snapshot.position.index).min()
    }

    /// When chunks are next due to be sent again. A transfer that waits for an inspection or for another snapshot needs
    /// no timer: the event that ends the wait wakes the node.
    pub fn deadline(&self) -> Time {
        let due_at = |transfer: &Transfer| match transfer.hold {
            TransferHold::None if transfer.missing_from_offset.is_some() => transfer.restarted_at + RETRY_INTERVAL,
            TransferHold::None => transfer.last_progress_at + ACK_TIMEOUT,
            TransferHold::Until(when) => when,
            TransferHold::Inspection | TransferHold::Replacement | TransferHold::NewerSnapshot => Time::NEVER,
        };
        self.transfers.values().map(due_at).min().unwrap_or(Time::NEVER)
    }

    /// Panics if an invariant of a transfer is violated.
    pub(super) fn check(&self) {
        self.transfers.values().for_each(Transfer::check);
    }

    /// Bytes sent to all followers since this node started; some of them perhaps twice.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// How many bytes of its snapshot a follower has, and the snapshot's size. The first number decreases when the
    /// follower reports that chunks are missing.
    pub fn progress(&self, of: NodeId) -> Option<(u64, u64)> {
        self.transfers.get(&of).map(|transfer| (transfer.acked_bytes, transfer.file_bytes()))
    }
}

impl Transfer {
    fn new(now: Time, snapshot: DurableSnapshot) -> Transfer {
        Transfer {
            snapshot,
            acked_bytes: 0,
            offset_known: false,
            probe_sent: false,
            sent_bytes: 0,
            last_progress_at: now,
            restarted_at: now,
            missing_from_offset: None,
            last_response_at: now,
            hold: TransferHold::None,
            consecutive_damaged_count: 0,
            snapshot_damaged_count: 0,
        }
    }

    /// Resends from the offset that the follower reported missing, if no newer acknowledgment has contradicted it: then
    /// that report was not merely reordered. Waiting for `ACK_TIMEOUT` at each lost chunk would take as many seconds as
    /// chunks are lost.
    fn resend_missing(&mut self, now: Time) {
        if let Some(from) = self.missing_from_offset
            && self.hold == TransferHold::None
            && now.since(self.restarted_at) >= RETRY_INTERVAL
        {
            self.restart_from(now, from);
        }
    }

    /// Restarts sending at the offset `from`. `acked_bytes` is set to it as well, since the window begins at
    /// `acked_bytes`.
    fn restart_from(&mut self, now: Time, from: u64) {
        (self.acked_bytes, self.sent_bytes, self.missing_from_offset) = (from, from, None);
        (self.restarted_at, self.last_progress_at) = (now, now);
    }

    /// Restarts a snapshot received damaged, once its delay is over. The transfer restarts at offset 0: the follower
    /// has dropped its file, because it cannot tell which chunk was damaged.
    fn resume_after_hold(&mut self, now: Time) {
        if matches!(self.hold, TransferHold::Until(when) if when <= now) {
            let (consecutive_damaged_count, snapshot_damaged_count, last_response_at) =
                (self.consecutive_damaged_count, self.snapshot_damaged_count, self.last_response_at);
            *self = Transfer {
                consecutive_damaged_count,
                snapshot_damaged_count,
                last_response_at,
                ..Transfer::new(now, self.snapshot.clone())
            };
        }
    }

    /// Whether the follower did not respond for so long that no log is kept for it. A response to anything else does
    /// not count: a follower may be alive, and unable to store a snapshot.
    fn is_silent(&self, now: Time, log_hold_time: Duration) -> bool {
        now.since(self.last_response_at) >= log_hold_time
    }

    /// The size of the snapshot's file, which bounds every offset here.
    fn file_bytes(&self) -> u64 {
        self.snapshot.bytes.len() as u64
    }

    /// Panics if an invariant of the transfer is violated.
    fn check(&self) {
        assert!(self.acked_bytes <= self.sent_bytes, "the acknowledged bytes are at most the bytes sent");
        assert!(self.sent_bytes <= self.file_bytes(), "the bytes sent are at most the size of the snapshot's file");
        assert!(
            self.missing_from_offset.is_none_or(|from| from <= self.file_bytes()),
            "the first missing chunk begins within the snapshot's file"
        );
        assert!(
            self.snapshot_damaged_count <= self.consecutive_damaged_count,
            "the count of damaged arrivals of this snapshot is at most that of all snapshots in a row"
        );
        assert!(
            self.snapshot_damaged_count <= RESENDS_MAX + 1,
            "a snapshot that arrives damaged is resent at most RESENDS_MAX times"
        );
    }

    /// Probes the follower for its offset, because the chunks sent may be lost. Sending restarts at `acked_bytes`: the
    /// follower's answer corrects that offset, up or down.
    fn probe(&mut self, now: Time) {
        (self.offset_known, self.probe_sent) = (false, false);
        self.sent_bytes = self.acked_bytes;
        self.last_progress_at = now;
    }

    /// The next chunk, if the window has room. Until the follower has named its offset, a single chunk is sent as a
    /// probe; the probe is empty if the follower has acknowledged the whole file and may be restoring it.
    fn next_chunk(&mut self, chunk_bytes: u64) -> Option<SnapshotChunk> {
        if self.hold != TransferHold::None {
            return None;
        }
        let window_end = self.file_bytes().min(self.acked_bytes + WINDOW_CHUNKS * chunk_bytes);
        let may_send = if self.offset_known {
            self.sent_bytes < window_end
        } else {
            !std::mem::replace(&mut self.probe_sent, true)
        };
        if !may_send {
            return None;
        }
        let offset = self.sent_bytes;
        self.sent_bytes = self.file_bytes().min(offset + chunk_bytes);
        let unacknowledged = self.sent_bytes - self.acked_bytes;
        assert!(
            unacknowledged <= (WINDOW_CHUNKS + 1) * chunk_bytes,
            "the unacknowledged bytes are at most those of WINDOW_CHUNKS + 1 chunks"
        );
        let bytes = self.snapshot.bytes.slice(offset as usize..self.sent_bytes as usize);
        Some(SnapshotChunk { snapshot: self.snapshot.position, total_bytes: self.file_bytes(), offset, bytes })
    }
}

#[cfg(test)]
mod tests;
