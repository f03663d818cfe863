//! Snapshot transfers: windows, lost chunks, silent followers and damaged files.

use super::*;
use crate::limits::CHUNK_BYTES;
use crate::types::Term;
use bytes::Bytes;

const CHUNK: u64 = CHUNK_BYTES as u64;

fn transfer(chunks: u64) -> Transfer {
    let bytes = Bytes::from(vec![7; (chunks * CHUNK) as usize]);
    Transfer::new(Time(0), DurableSnapshot { position: Position::new(Index(9), Term(2)), bytes })
}

fn next_chunk_offsets(transfer: &mut Transfer) -> Vec<u64> {
    std::iter::from_fn(|| transfer.next_chunk(CHUNK)).map(|chunk| chunk.offset / CHUNK).collect()
}

#[test]
fn first_chunk_probes_the_offset_then_the_window_fills() {
    let mut sender = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let newest = transfer(100).snapshot;
    sender.begin_transfer(Time(0), to, &newest, Index(0));
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")), [0]);
    // The follower had ten chunks before it restarted: none of them is sent again.
    sender.record_progress(Time(1), to, newest.position, 10 * CHUNK);
    let transfer = sender.transfers.get_mut(&to).expect("a transfer");
    assert_eq!(next_chunk_offsets(transfer), (10..26).collect::<Vec<_>>());
    sender.record_progress(Time(2), to, newest.position, 12 * CHUNK);
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")), [26, 27]);
    // The follower's link broke: one chunk probes for its offset.
    sender.begin_transfer(Time(9) + RETRY_INTERVAL, to, &newest, Index(0));
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")), [12]);
    sender.record_progress(Time(9) + RETRY_INTERVAL, to, newest.position, 20 * CHUNK);
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")).first(), Some(&20));
}

/// If lost chunks were resent only after `ACK_TIMEOUT`, each would cost a second: with seed 90 a simulated cluster did
/// not recover in ten seconds.
#[test]
fn lost_chunk_is_resent_after_retry_interval() {
    let mut sender = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let newest = transfer(100).snapshot;
    sender.begin_transfer(Time(0), to, &newest, Index(0));
    sender.record_progress(Time(1), to, newest.position, CHUNK);
    let next_offsets = |sender: &mut SnapshotSender, now: Time| {
        let transfer = sender.transfers.get_mut(&to).expect("a transfer");
        transfer.resend_missing(now);
        next_chunk_offsets(transfer)
    };
    assert_eq!(next_offsets(&mut sender, Time(1)).len(), WINDOW_CHUNKS as usize);
    // The first chunk is lost, and all others are rejected.
    (0..15).for_each(|_| sender.record_progress(Time(2), to, newest.position, CHUNK));
    assert_eq!(next_offsets(&mut sender, Time(2)), Vec::<u64>::new(), "the chunks may only be reordered");
    assert_eq!(sender.deadline(), Time(1) + RETRY_INTERVAL);
    assert_eq!(next_offsets(&mut sender, Time(1) + RETRY_INTERVAL).first(), Some(&1));
    // The chunk that seemed lost was only late.
    sender.record_progress(Time(2) + RETRY_INTERVAL, to, newest.position, CHUNK);
    sender.record_progress(Time(3) + RETRY_INTERVAL, to, newest.position, 3 * CHUNK);
    assert_eq!(next_offsets(&mut sender, Time(3) + RETRY_INTERVAL + RETRY_INTERVAL), [17, 18]);
}

/// In rqlite before version 10, streaming one snapshot to a follower blocked the next one.
#[test]
fn snapshot_transfer_does_not_block_a_newer_snapshot() {
    let mut sender = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let (older, newer) = (
        transfer(100).snapshot,
        DurableSnapshot { position: Position::new(Index(20), Term(2)), ..transfer(3).snapshot },
    );
    sender.begin_transfer(Time(0), to, &older, Index(0));
    sender.record_progress(Time(1), to, older.position, 10 * CHUNK);
    // A newer snapshot was taken. The follower continues with the older one, and then needs no other.
    sender.replace_outdated(Time(2), &newer);
    sender.begin_transfer(Time(0) + RETRY_INTERVAL, to, &newer, Index(0));
    assert_eq!(
        (sender.oldest_snapshot(Time(2)), sender.progress(to)),
        (Some(Index(9)), Some((10 * CHUNK, 100 * CHUNK)))
    );
    // A follower that holds the older snapshot and needs a snapshot again is sent the newer one.
    sender.begin_transfer(Time(0) + RETRY_INTERVAL, to, &newer, Index(9));
    assert_eq!((sender.oldest_snapshot(Time(2)), sender.progress(to)), (Some(Index(20)), Some((0, 3 * CHUNK))));
}

/// RabbitMQ kept log segments forever for consumers that never came back (rabbitmq-server#14522).
#[test]
fn silent_follower_holds_no_log_and_gets_newest_snapshot() {
    let options = Options::default();
    let mut sender = SnapshotSender::new(&options);
    let to = NodeId::new(2).expect("not zero");
    let newer = DurableSnapshot { position: Position::new(Index(20), Term(2)), ..transfer(3).snapshot };
    sender.begin_transfer(Time(0), to, &transfer(100).snapshot, Index(0));
    let (before, after) = (Time(0) + (options.log_hold_time - RETRY_INTERVAL), Time(0) + options.log_hold_time);
    sender.replace_outdated(before, &newer);
    assert_eq!(sender.oldest_snapshot(before), Some(Index(9)));
    assert_eq!(sender.oldest_snapshot(after), None);
    let mutants = Mutants::only(Mutant::HoldForTheSilent);
    assert_eq!(
        SnapshotSender { mutants, ..sender.clone() }.oldest_snapshot(after),
        Some(Index(9)),
        "with the mutant, the log is kept for a silent follower"
    );
    sender.replace_outdated(after, &newer);
    assert_eq!((sender.oldest_snapshot(after), sender.progress(to)), (None, Some((0, 3 * CHUNK))));
    // The follower responds again.
    sender.record_progress(after, to, newer.position, CHUNK);
    assert_eq!((sender.oldest_snapshot(after), sender.progress(to)), (Some(Index(20)), Some((CHUNK, 3 * CHUNK))));
}

/// Reordered acknowledgments once caused all chunks to be sent over and over: the bytes sent grew with the square of
/// the number of chunks (hashicorp/raft#697 reached the same by another path).
#[test]
fn late_snapshot_responses_cause_no_resend() {
    let mut sender = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let newest = transfer(100).snapshot;
    sender.begin_transfer(Time(0), to, &newest, Index(0));
    sender.record_progress(Time(1), to, newest.position, CHUNK);
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")).len(), WINDOW_CHUNKS as usize);
    let mut mutant_sender = SnapshotSender { mutants: Mutants::only(Mutant::SendSnapshotsAgain), ..sender.clone() };
    mutant_sender.record_progress(Time(2), to, newest.position, 2 * CHUNK);
    assert_eq!(
        next_chunk_offsets(mutant_sender.transfers.get_mut(&to).expect("a transfer")).first(),
        Some(&0),
        "with the mutant, every acknowledgment restarts sending"
    );
    for next in [3, 2, 1, 3, 2, 1, 3] {
        sender.record_progress(Time(2), to, newest.position, next * CHUNK);
        sender.begin_transfer(Time(2), to, &newest, Index(0));
    }
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")), [17, 18]);
    // If the follower repeats its offset later, a chunk was lost.
    sender.record_progress(Time(9) + RETRY_INTERVAL, to, newest.position, 3 * CHUNK);
    assert_eq!(next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer")).first(), Some(&3));
}

#[test]
fn chunks_to_several_followers_share_the_mapped_file() {
    let mut sender = SnapshotSender::new(&Options::default());
    let newest = transfer(20).snapshot;
    let followers = [2, 3, 4].map(|n| NodeId::new(n).expect("not zero"));
    for to in followers {
        sender.begin_transfer(Time(0), to, &newest, Index(0));
        sender.record_progress(Time(1), to, newest.position, CHUNK);
    }
    for to in followers {
        let transfer = sender.transfers.get_mut(&to).expect("a transfer");
        let chunks: Vec<SnapshotChunk> = std::iter::from_fn(|| transfer.next_chunk(CHUNK)).collect();
        assert_eq!(chunks.len() as u64, WINDOW_CHUNKS);
        for chunk in chunks {
            let file_pointer = newest.bytes[chunk.offset as usize..].as_ptr();
            assert_eq!(chunk.bytes.as_ptr(), file_pointer, "a chunk is a part of the file, mapped once");
        }
    }
}

#[test]
fn follower_with_whole_snapshot_is_probed_without_bytes() {
    let mut transfer = transfer(2);
    (transfer.offset_known, transfer.acked_bytes, transfer.sent_bytes) = (true, 2 * CHUNK, 2 * CHUNK);
    assert_eq!(transfer.next_chunk(CHUNK), None);
    transfer.probe(Time(5));
    let probe = transfer.next_chunk(CHUNK).expect("a probe");
    assert_eq!((probe.offset, probe.bytes.len()), (2 * CHUNK, 0));
    assert_eq!(transfer.next_chunk(CHUNK), None);
}

fn start_transfer(mutant: Option<Mutant>) -> (SnapshotSender, NodeId, DurableSnapshot) {
    let mutants = mutant.map_or(Mutants::NONE, Mutants::only);
    let mut sender = SnapshotSender { mutants, ..SnapshotSender::new(&Options::default()) };
    let (to, newest) = (NodeId::new(2).expect("not zero"), transfer(3).snapshot);
    sender.begin_transfer(Time(0), to, &newest, Index(0));
    sender.record_progress(Time(0), to, newest.position, 0);
    (sender, to, newest)
}

fn next_offsets(sender: &mut SnapshotSender, to: NodeId) -> Vec<u64> {
    next_chunk_offsets(sender.transfers.get_mut(&to).expect("a transfer"))
}

#[test]
fn snapshot_received_damaged_is_resent_with_backoff() {
    let (mut sender, to, newest) = start_transfer(None);
    let (mut now, mut pauses, mut times) = (Time(0), Vec::new(), 0);
    assert_eq!(next_offsets(&mut sender, to), [0, 1, 2]);
    while let Some(nth) = sender.record_damaged(now, to, newest.position) {
        times += 1;
        assert_eq!(nth, times);
        assert_eq!(sender.record_damaged(now, to, newest.position), None, "the file is being verified already");
        assert_eq!((next_offsets(&mut sender, to), sender.deadline()), (vec![], Time::NEVER));
        sender.record_inspected(now, newest.position, true);
        let TransferHold::Until(when) = sender.transfers[&to].hold else { break };
        pauses.push(when.since(now).as_secs());
        let transfer = sender.transfers.get_mut(&to).expect("a transfer");
        transfer.resume_after_hold(Time(when.0 - 1));
        assert_eq!(transfer.next_chunk(CHUNK), None, "the delay before the resend is not over");
        transfer.resume_after_hold(when);
        now = when;
        sender.record_progress(now, to, newest.position, 0);
        assert_eq!(next_offsets(&mut sender, to), [0, 1, 2]);
    }
    assert_eq!(pauses, [1, 2, 4]);
    assert_eq!(sender.oldest_snapshot(now), None, "the transfer holds no log");
    sender.replace_outdated(now, &newest);
    assert!(next_offsets(&mut sender, to).is_empty(), "the same snapshot is not resent");
    let newer = DurableSnapshot { position: Position::new(Index(20), Term(2)), ..transfer(2).snapshot };
    sender.replace_outdated(now, &newer);
    sender.record_progress(now, to, newer.position, 0);
    assert_eq!(next_offsets(&mut sender, to), [0, 1]);
    assert_eq!(sender.record_damaged(now, to, newer.position), Some(5), "the pauses keep growing");
}

/// A leader once resent a damaged snapshot forever: 97.8 MB of a 12 MB snapshot in 8 s, without a log line.
#[test]
fn snapshot_damaged_on_the_sender_is_not_sent() {
    let (mut sender, to, newest) = start_transfer(None);
    let other_follower = NodeId::new(3).expect("not zero");
    sender.begin_transfer(Time(0), other_follower, &newest, Index(0));
    assert_eq!(sender.record_damaged(Time(1), to, newest.position), Some(1));
    sender.record_inspected(Time(1), newest.position, false);
    for follower in [to, other_follower] {
        assert!(next_offsets(&mut sender, follower).is_empty());
        sender.begin_transfer(Time(0) + RETRY_INTERVAL, follower, &newest, Index(0));
        assert!(next_offsets(&mut sender, follower).is_empty());
    }
    // Another snapshot of the same position was taken: no entry was applied meanwhile.
    sender.replace_outdated(Time(2), &newest);
    assert_eq!(next_offsets(&mut sender, other_follower), [0]);

    let (mut mutant_sender, to, newest) = start_transfer(Some(Mutant::ResendDamagedSnapshot));
    for _ in 0..100 {
        assert_eq!(
            next_offsets(&mut mutant_sender, to),
            [0, 1, 2],
            "with the mutant, a damaged snapshot is resent at once"
        );
        assert_eq!(mutant_sender.record_damaged(Time(1), to, newest.position), None);
    }
}
