//! Appends to one follower: where the logs match, what it has lost, and how much is in flight (§5.3).
//!
//! A follower is in one of three states, and an answer or its absence moves it between them (the names are etcd's):
//!
//! ```text
//!             ack, or a hint in this log          rejection, lost link, no answer
//! Probe ─────────────────────────────────> Stream ─────────────────────────────────> Probe
//!   │                                        │
//!   └──── the next entry is compacted ───────┴──> Snapshot ──── ack of its index ──> Stream
//! ```
//!
//! A probe asks one question and waits for the answer, because most probes find that the logs do not match there:
//! entries sent behind it would be thrown away. A stream waits for nothing, because its entries follow what is known to
//! match and connections keep their order. Raft as in Figure 2 is correct with probes alone, one round trip for each
//! append.

use crate::consensus::message::{Message, Round};
use crate::consensus::note::Note;
use crate::consensus::progress::{Progress, ProgressState};
use crate::consensus::ready::{EntriesToSend, Ready};
use crate::consensus::replica::Replica;
use crate::consensus::room::Room;
use crate::consensus::rules::replication;
use crate::types::{Index, NodeId, Position, Time};

/// A probe carries entries only up to this size in bytes: most probes find that the logs do not match there.
///
/// Few entries are sent along all the same: after an ordinary election the logs match, and the first probe then does
/// the work of the first append too.
const PROBE_BYTES: u64 = 64 << 10;

/// Learns the disk of a member that the configuration does not name yet, once the member has acknowledged that
/// configuration from the disk. The connection may be older than the membership; its hello was ignored then.
pub(super) fn learn_disk_from_ack(me: &mut Replica, peer: NodeId, progress: &Progress) {
    let is_held = progress.counted_from.is_none() && progress.matched >= me.configs.since();
    if let Some(disk) = progress.disk.filter(|_| is_held) {
        me.learn_disk_id(peer, disk);
    }
}

/// Handles a follower's loss of acknowledged entries: notifies it, and sends it no entries until it has promised to
/// vote as if it held them ([`Message::LostAcknowledged`]).
pub(super) fn lose(me: &mut Replica, peer: NodeId, progress: &mut Progress, hint: Position) {
    let upto = progress.matched;
    me.notes.push(Note::LostAcknowledged { peer, held: hint.index, upto });
    // Compacted by now: the follower needs a snapshot, and that restores what it lost.
    let Some(term) = me.log.term(upto) else { return };
    let upto = Position::new(upto, term);
    progress.has_lost = Some(upto);
    progress.losses += 1;
    // `matched` stays as it is until the promise comes. The acknowledgment was counted, perhaps for a commit, and from
    // the follower's promise on it is true again in all that it was counted for: which candidates get its vote.
    if !replication::promise_precedes_entries(me.options.mutants) {
        return progress.resume_after_loss();
    }
    me.send(peer, Message::LostAcknowledged { upto });
}

/// Handles a follower's answer to a heartbeat: the round it confirms, its room, and whether an append was lost.
///
/// A lost append shows itself only by what does not come. The connection may be open and the follower well, and without
/// this check neither side would ever send again.
pub(super) fn handle_heartbeat_response(
    me: &Replica,
    now: Time,
    progress: &mut Progress,
    (round, seen, room): (Round, Index, Room),
) {
    progress.room = room;
    progress.round = progress.round.max(round);
    // A hint from the follower's memory, not from its disk. It saves sending entries again that only wait
    // for a sync, and it never counts for a commit.
    progress.seen = seen.min(me.log.last().index);
    // Entries are in flight, or the acknowledgment of entries that it holds already; or it was restarted,
    // and no longer knows that its log matches the leader's.
    let waits = progress.matched.next() < progress.next || progress.seen < progress.matched;
    // A probe has its own timer (`tick`), and a snapshot its own sender.
    let streams = progress.stage == ProgressState::Stream;
    if streams && waits && now.since(progress.last_progress) >= me.options.election_min {
        // A message was lost, or the follower's disk is slow: probe.
        progress.probe(progress.agreed.next());
    }
}

/// Handles a rejected append: goes back by whole terms (§5.3).
///
/// The follower's hint is the last place at which its log can match a log that ends in `prev`, and the leader looks for
/// the same place from its own side. Each round trip so skips a whole term of one of the two logs: with `d` divergent
/// terms at most `d + 2` probes, where Figure 2 needs one for each entry. The hint is input: a hint beyond the question
/// is an error of the follower, and is reported.
pub(super) fn handle_rejection(
    me: &Replica,
    progress: &mut Progress,
    refused: Index,
    hint: Position,
) -> Result<(), &'static str> {
    if refused <= progress.matched {
        return Ok(()); // late
    }
    // A correct follower answers at or below the question. Otherwise `next` would go forward on a rejection.
    if hint.index > refused {
        return Err("its hint is beyond the rejected index");
    }
    let ours = me.log.at_or_below(hint);
    match progress.stage {
        ProgressState::Probe { .. } if refused.next() != progress.next => {} // late: for an earlier probe
        // The hint is in the leader's log, so the logs match up to there (Log Matching), and no probe is needed.
        ProgressState::Probe { .. } if ours == hint => progress.stream(ours.index.next()),
        // The snapshot replaces whatever this rejection was about.
        ProgressState::Snapshot => {}
        // Never beyond the rejected index: each rejection makes progress, so that a follower that gives useless hints
        // ends at the beginning of the log and not in a circle.
        ProgressState::Probe { .. } | ProgressState::Stream => progress.probe(ours.index.next().min(refused)),
    }
    Ok(())
}

/// Sends a follower the entries that its state and window allow.
///
/// The window is counted in bytes and in appends. One by bytes alone would let thousands of tiny appends queue up
/// behind a slow disk, and one by appends alone would let a few large ones fill the memory (cockroach#90314,
/// etcd#14624).
pub(super) fn stream(
    me: &Replica,
    now: Time,
    peer: NodeId,
    (progress, probes): (&mut Progress, &mut u64),
    ready: &mut Ready,
) {
    let (log, options) = (&me.log, &me.options);
    let last = log.last().index;
    // Positions only: the driver reads the payloads from its view of the log when the connection can take them.
    let mut order = |progress: &mut Progress, upto: Index, probe: u64| {
        let prev = progress.next.prev();
        let term = log.term(prev).expect("the entry before the next one to send is in the log");
        let commit = log.commit();
        assert!(prev <= upto && upto <= last, "an append ends in the leader's log (§5.3)");
        ready.appends.push(EntriesToSend {
            to: peer,
            term: me.term(),
            prev: Position::new(prev, term),
            upto,
            commit,
            probe,
        });
        // The append carries the commit index, and no separate message is needed for it. It counts up to `upto` only,
        // because the follower may commit no further on the strength of this append.
        progress.commit_sent = progress.commit_sent.max(commit.min(upto));
        progress.last_progress = now;
    };
    match progress.stage {
        ProgressState::Probe { asked: Some(_) } | ProgressState::Snapshot => {}
        ProgressState::Probe { asked: None } => {
            // A quarter of the reserve stays free for elections: a follower that cannot write its vote blocks more than
            // one that lacks entries.
            let few = log.bytes(progress.next.prev(), last) <= PROBE_BYTES
                && progress.room.fits(log, last, 0, options.reserve_bytes / 4);
            *probes += 1;
            order(progress, if few { last.max(progress.next.prev()) } else { progress.next.prev() }, *probes);
            progress.probe = *probes;
            progress.probes += 1;
            progress.stage = ProgressState::Probe { asked: Some(now) };
        }
        ProgressState::Stream => {
            while progress.next <= last
                && progress.in_flight.len() < options.window_appends
                && log.bytes(progress.agreed.max(log.base().index), progress.next.prev()) < options.window_bytes
            {
                let upto = log.reach(progress.next.prev(), options.append_bytes, options.append_entries);
                if !progress.room.fits(log, upto, 0, options.reserve_bytes / 4) {
                    // The entries could only wait there, and block its log for entries that free room. Its heartbeat
                    // response reports new room.
                    break;
                }
                order(progress, upto, 0);
                progress.in_flight.push_back(upto);
                progress.next = upto.next();
            }
        }
    }
}
