//! Appends to one follower: finds where the logs match, detects lost entries, and limits the entries in flight (§5.3).
//!
//! A follower is in one of three states, and an answer or its absence moves it between them (the names are etcd's):
//!
//! ```text
//!             ack, or a matching hint               rejection, lost link, no answer
//! Probe ─────────────────────────────────> Stream ─────────────────────────────────> Probe
//!   │                                        │
//!   └──── the next entry is compacted ───────┴──> Snapshot ──── ack of its index ──> Stream
//! ```
//!
//! A probe is an append that finds out whether the logs match at one position. No further append is sent until the
//! answer arrives: after a mismatch the further entries would be useless. A stream of appends waits for no answer,
//! because its entries follow entries that are known to match, and connections keep their order. Raft as in Figure 2 is
//! correct with probes alone, one round trip for each append.

use crate::consensus::disk_room::DiskRoom;
use crate::consensus::message::{Message, Round};
use crate::consensus::note::Note;
use crate::consensus::progress::{Progress, ProgressState};
use crate::consensus::ready::{EntriesToSend, Ready};
use crate::consensus::replica::Replica;
use crate::consensus::rules::replication;
use crate::types::{DiskId, Index, NodeId, Position, Time};

/// The most bytes of entries that a probe carries: if the logs do not match at its position, the entries are useless.
///
/// A probe may carry a few entries: after an ordinary election the logs match, and the first probe then serves as the
/// first append.
const PROBE_BYTES_MAX: u64 = 64 << 10;

/// Begins the progress of a peer whose message comes from another disk than the messages before it. Such a message
/// arrives only if the configuration names no disk for the peer yet. The progress then starts from zero: the
/// acknowledgments of the old disk prove nothing about the new disk.
pub(super) fn begin_with_other_disk(
    me: &Replica,
    now: Time,
    (peer, disk): (NodeId, Option<DiskId>),
    progress: &mut Progress,
) {
    // An earlier disk under the same node id acknowledged entries that the new disk does not hold.
    if progress.disk.is_some() {
        *progress = Progress::new(now, me.log.last().index.next());
    }
    progress.disk = disk;
    progress.copy_counts_from = me.copy_counts_from(peer, disk);
}

/// Learns the disk of a member for which the configuration names no disk yet, once that disk has acknowledged the entry
/// with the configuration. The connection may have been opened before the peer became a member: then the disk id in the
/// handshake was ignored.
pub(super) fn learn_disk_from_ack(me: &mut Replica, peer: NodeId, progress: &Progress) {
    let holds_configuration = progress.copy_counts_from.is_none() && progress.matched >= me.configs.current_index();
    if let Some(disk) = progress.disk.filter(|_| holds_configuration) {
        me.learn_disk_id(peer, disk);
    }
}

/// Handles a follower's loss of acknowledged entries: notifies it, and sends it no entries until it has promised to
/// vote as if it held them ([`Message::LostAcknowledged`]).
pub(super) fn handle_lost_entries(me: &mut Replica, peer: NodeId, progress: &mut Progress, hint: Position) {
    let acknowledged = progress.matched;
    me.notes.push(Note::LostAcknowledged { peer, last_held: hint.index, upto: acknowledged });
    // If the position is compacted, the follower needs a snapshot, which restores the lost entries.
    let Some(term) = me.log.term(acknowledged) else { return };
    let upto = Position::new(acknowledged, term);
    progress.lost_upto = Some(upto);
    progress.loss_count += 1;
    // `matched` does not change until the promise arrives. The acknowledgment may have committed the lost entries, and
    // the promise keeps them safe: the follower then votes only for candidates that hold them.
    if !replication::promise_precedes_entries(me.options.mutants) {
        return progress.resume_after_loss();
    }
    me.send(peer, Message::LostAcknowledged { upto });
}

/// Handles a follower's response to a heartbeat: records the confirmed round and the room on the follower's disk, and
/// detects a lost append.
///
/// A lost append is detected only by the missing acknowledgment. The connection may be open and the follower healthy,
/// and without this check neither node would send another message about the lost entries.
pub(super) fn handle_heartbeat_response(
    me: &Replica,
    now: Time,
    progress: &mut Progress,
    (round, matched_prefix, room): (Round, Index, DiskRoom),
) {
    progress.room = room;
    progress.confirmed_round = progress.confirmed_round.max(round);
    // The prefix may not be durable on the follower, so it never counts for a commit. Entries in the prefix that only
    // wait for a sync are not sent again.
    progress.reported_prefix = matched_prefix.min(me.log.last().index);
    // True if entries or acknowledgments are in flight, or if the follower was restarted and no longer knows how far
    // its log matches the leader's.
    let is_behind = progress.matched.next() < progress.next || progress.reported_prefix < progress.matched;
    // Only a stream is checked: a probe has its own timer in `tick`, and a snapshot its own sender.
    let is_streaming = progress.state == ProgressState::Stream;
    if is_streaming && is_behind && now.since(progress.last_progress) >= me.options.election_min {
        // A message was lost, or the follower's disk is slow. A probe finds out how far the logs match.
        progress.start_probe(progress.known_matching.next());
    }
}

/// Handles a rejected append: lowers the next index to send by whole terms (§5.3).
///
/// The follower's hint is the last position of its log that may match a log that holds the rejected `prev`. The leader
/// lowers the hint to the last position of its own log that may match. So each round trip skips a whole term of one of
/// the two logs: `d` divergent terms take at most `d + 2` probes, where Figure 2 needs one probe for each entry. A hint
/// beyond the rejected index is an error of the follower, and is reported.
pub(super) fn handle_rejection(
    me: &Replica,
    progress: &mut Progress,
    rejected_index: Index,
    hint: Position,
) -> Result<(), &'static str> {
    if rejected_index <= progress.matched {
        return Ok(()); // a late rejection: the entries up to this index were acknowledged since
    }
    // A correct follower's hint is at or below the rejected index. Otherwise a rejection would raise `next`.
    if hint.index > rejected_index {
        return Err("its hint is beyond the rejected index");
    }
    let possible_match = me.log.last_at_or_below(hint);
    match progress.state {
        // A late rejection of an earlier probe changes nothing.
        ProgressState::Probe { .. } if rejected_index.next() != progress.next => {}
        // The hint is in the leader's log, so the logs match up to there (Log Matching), and no probe is needed.
        ProgressState::Probe { .. } if possible_match == hint => progress.start_stream(possible_match.index.next()),
        // The snapshot replaces the entries that were rejected.
        ProgressState::Snapshot => {}
        // Each rejection lowers `next`, so that even useless hints lead to the beginning of the log and not to an
        // endless loop.
        ProgressState::Probe { .. } | ProgressState::Stream => {
            progress.start_probe(possible_match.index.next().min(rejected_index))
        }
    }
    Ok(())
}

/// Sends a follower the entries that its state and window allow.
///
/// The window is limited in bytes and in appends. A limit in bytes alone would let thousands of tiny appends queue up
/// behind a slow disk, and a limit in appends alone would let a few large ones fill the memory (cockroach#90314,
/// etcd#14624).
pub(super) fn send_entries(
    me: &Replica,
    now: Time,
    peer: NodeId,
    (progress, probe_count): (&mut Progress, &mut u64),
    ready: &mut Ready,
) {
    let (log, options) = (&me.log, &me.options);
    let last = log.last().index;
    // An append contains positions only: the driver reads the payloads from its view of the log when the connection can
    // send them.
    let mut push_append = |progress: &mut Progress, upto: Index, probe_number: u64| {
        let prev = progress.next.prev();
        let term = log.term(prev).expect("the log holds the entry before the next entry to send");
        let commit = log.commit();
        assert!(
            prev <= upto && upto <= last,
            "an append ends between its `prev` and the end of the leader's log (§5.3)"
        );
        ready.appends.push(EntriesToSend {
            to: peer,
            term: me.term(),
            prev: Position::new(prev, term),
            upto,
            commit,
            probe_number,
        });
        // The append carries the commit index, so no separate message is needed. The commit index counts as sent only
        // up to `upto`, because this append proves no match beyond that index.
        progress.commit_sent = progress.commit_sent.max(commit.min(upto));
        progress.last_progress = now;
    };
    match progress.state {
        ProgressState::Probe { sent_at: Some(_) } | ProgressState::Snapshot => {}
        ProgressState::Probe { sent_at: None } => {
            // A quarter of the reserve on the follower's disk is kept free for elections: a follower that cannot write
            // its vote harms the cluster more than a follower that lacks entries.
            let sends_entries = log.bytes(progress.next.prev(), last) <= PROBE_BYTES_MAX
                && progress.room.fits(log, last, 0, options.reserve_bytes / 4);
            *probe_count += 1;
            push_append(
                progress,
                if sends_entries { last.max(progress.next.prev()) } else { progress.next.prev() },
                *probe_count,
            );
            progress.probe_number = *probe_count;
            progress.probes_sent += 1;
            progress.state = ProgressState::Probe { sent_at: Some(now) };
        }
        ProgressState::Stream => {
            while progress.next <= last
                && progress.appends_in_flight.len() < options.window_appends_max
                && log.bytes(progress.known_matching.max(log.base().index), progress.next.prev())
                    < options.window_bytes_max
            {
                let upto = log.append_end(progress.next.prev(), options.append_bytes_max, options.append_entries_max);
                if !progress.room.fits(log, upto, 0, options.reserve_bytes / 4) {
                    // The entries would fill the follower's disk, and later entries that free space would not fit. The
                    // stream continues when a heartbeat response of the follower reports more room.
                    break;
                }
                push_append(progress, upto, 0);
                progress.appends_in_flight.push_back(upto);
                progress.next = upto.next();
            }
        }
    }
}
