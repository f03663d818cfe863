//! Snapshot transfers: windows, lost chunks, silent followers and damaged files.

use super::*;
use crate::limits::CHUNK_BYTES;
use crate::types::Term;
use bytes::Bytes;

const CHUNK: u64 = CHUNK_BYTES as u64;

fn ship(chunks: u64) -> Transfer {
    let bytes = Bytes::from(vec![7; (chunks * CHUNK) as usize]);
    Transfer::new(Time(0), DurableSnapshot { position: Position::new(Index(9), Term(2)), bytes })
}

fn offsets(ship: &mut Transfer) -> Vec<u64> {
    std::iter::from_fn(|| ship.next(CHUNK)).map(|chunk| chunk.offset / CHUNK).collect()
}

#[test]
fn first_chunk_probes_the_offset_then_the_window_fills() {
    let mut shipping = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let newest = ship(100).kept;
    shipping.begin(Time(0), to, &newest, Index(0));
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")), [0]);
    // The follower had ten chunks before it restarted: none of them is sent again.
    shipping.chunked(Time(1), to, newest.position, 10 * CHUNK);
    let ship = shipping.transfers.get_mut(&to).expect("a transfer");
    assert_eq!(offsets(ship), (10..26).collect::<Vec<_>>());
    shipping.chunked(Time(2), to, newest.position, 12 * CHUNK);
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")), [26, 27]);
    // Its link broke: one chunk probes for its offset.
    shipping.begin(Time(9) + RETRY_INTERVAL, to, &newest, Index(0));
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")), [12]);
    shipping.chunked(Time(9) + RETRY_INTERVAL, to, newest.position, 20 * CHUNK);
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")).first(), Some(&20));
}

/// Without it each lost chunk costs a second: seed 90 of ten seconds did not settle.
#[test]
fn lost_chunk_is_resent_after_retry_interval() {
    let mut shipping = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let newest = ship(100).kept;
    shipping.begin(Time(0), to, &newest, Index(0));
    shipping.chunked(Time(1), to, newest.position, CHUNK);
    let sends = |shipping: &mut SnapshotSender, now: Time| {
        let ship = shipping.transfers.get_mut(&to).expect("a transfer");
        ship.send_what_it_lacks(now);
        offsets(ship)
    };
    assert_eq!(sends(&mut shipping, Time(1)).len(), WINDOW as usize);
    // The first chunk is lost, and all others are rejected.
    (0..15).for_each(|_| shipping.chunked(Time(2), to, newest.position, CHUNK));
    assert_eq!(sends(&mut shipping, Time(2)), Vec::<u64>::new(), "the chunks may only be reordered");
    assert_eq!(shipping.deadline(), Time(1) + RETRY_INTERVAL);
    assert_eq!(sends(&mut shipping, Time(1) + RETRY_INTERVAL).first(), Some(&1));
    // The chunk was only late.
    shipping.chunked(Time(2) + RETRY_INTERVAL, to, newest.position, CHUNK);
    shipping.chunked(Time(3) + RETRY_INTERVAL, to, newest.position, 3 * CHUNK);
    assert_eq!(sends(&mut shipping, Time(3) + RETRY_INTERVAL + RETRY_INTERVAL), [17, 18]);
}

/// Streaming one snapshot to a follower blocked the next one (rqlite, before v10): pitfall 38.
#[test]
fn snapshot_transfer_does_not_block_a_newer_snapshot() {
    let mut shipping = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let (older, newer) =
        (ship(100).kept, DurableSnapshot { position: Position::new(Index(20), Term(2)), ..ship(3).kept });
    shipping.begin(Time(0), to, &older, Index(0));
    shipping.chunked(Time(1), to, older.position, 10 * CHUNK);
    // A newer snapshot was taken. The follower continues with the older one, and then needs no other.
    shipping.renew(Time(2), &newer);
    shipping.begin(Time(0) + RETRY_INTERVAL, to, &newer, Index(0));
    assert_eq!((shipping.oldest(Time(2)), shipping.progress(to)), (Some(Index(9)), Some((10 * CHUNK, 100 * CHUNK))));
    // A follower that holds it and needs a snapshot again is sent the newer one.
    shipping.begin(Time(0) + RETRY_INTERVAL, to, &newer, Index(9));
    assert_eq!((shipping.oldest(Time(2)), shipping.progress(to)), (Some(Index(20)), Some((0, 3 * CHUNK))));
}

/// Segments were kept for consumers that were gone for good (rabbitmq-server#14522): pitfall 23.
#[test]
fn silent_follower_holds_no_log_and_gets_newest_snapshot() {
    let options = Options::default();
    let mut shipping = SnapshotSender::new(&options);
    let to = NodeId::new(2).expect("not zero");
    let newer = DurableSnapshot { position: Position::new(Index(20), Term(2)), ..ship(3).kept };
    shipping.begin(Time(0), to, &ship(100).kept, Index(0));
    let (before, after) = (Time(0) + (options.hold_for - RETRY_INTERVAL), Time(0) + options.hold_for);
    shipping.renew(before, &newer);
    assert_eq!(shipping.oldest(before), Some(Index(9)));
    assert_eq!(shipping.oldest(after), None);
    let mutants = Mutants::only(Mutant::HoldForTheSilent);
    assert_eq!(SnapshotSender { mutants, ..shipping.clone() }.oldest(after), Some(Index(9)), "its mutant");
    shipping.renew(after, &newer);
    assert_eq!((shipping.oldest(after), shipping.progress(to)), (None, Some((0, 3 * CHUNK))));
    // The follower is back.
    shipping.chunked(after, to, newer.position, CHUNK);
    assert_eq!((shipping.oldest(after), shipping.progress(to)), (Some(Index(20)), Some((CHUNK, 3 * CHUNK))));
}

/// Reordered acknowledgments made everything be sent over and over: bytes grew with the square of the number of
/// chunks (hashicorp/raft#697 reached the same by another path): safety 41.
#[test]
fn late_snapshot_responses_cause_no_resend() {
    let mut shipping = SnapshotSender::new(&Options::default());
    let to = NodeId::new(2).expect("not zero");
    let newest = ship(100).kept;
    shipping.begin(Time(0), to, &newest, Index(0));
    shipping.chunked(Time(1), to, newest.position, CHUNK);
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")).len(), WINDOW as usize);
    let mut broken = SnapshotSender { mutants: Mutants::only(Mutant::SendSnapshotsAgain), ..shipping.clone() };
    broken.chunked(Time(2), to, newest.position, 2 * CHUNK);
    assert_eq!(offsets(broken.transfers.get_mut(&to).expect("a transfer")).first(), Some(&0), "its mutant");
    for next in [3, 2, 1, 3, 2, 1, 3] {
        shipping.chunked(Time(2), to, newest.position, next * CHUNK);
        shipping.begin(Time(2), to, &newest, Index(0));
    }
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")), [17, 18]);
    // If the follower repeats it, a chunk was lost.
    shipping.chunked(Time(9) + RETRY_INTERVAL, to, newest.position, 3 * CHUNK);
    assert_eq!(offsets(shipping.transfers.get_mut(&to).expect("a transfer")).first(), Some(&3));
}

#[test]
fn chunks_to_several_followers_share_the_mapped_file() {
    let mut shipping = SnapshotSender::new(&Options::default());
    let newest = ship(20).kept;
    let followers = [2, 3, 4].map(|n| NodeId::new(n).expect("not zero"));
    for to in followers {
        shipping.begin(Time(0), to, &newest, Index(0));
        shipping.chunked(Time(1), to, newest.position, CHUNK);
    }
    for to in followers {
        let ship = shipping.transfers.get_mut(&to).expect("a transfer");
        let chunks: Vec<SnapshotChunk> = std::iter::from_fn(|| ship.next(CHUNK)).collect();
        assert_eq!(chunks.len() as u64, WINDOW);
        for chunk in chunks {
            let there = newest.bytes[chunk.offset as usize..].as_ptr();
            assert_eq!(chunk.bytes.as_ptr(), there, "a chunk is a part of the file, mapped once");
        }
    }
}

#[test]
fn follower_with_whole_snapshot_is_probed_without_bytes() {
    let mut ship = ship(2);
    (ship.known, ship.acked, ship.sent) = (true, 2 * CHUNK, 2 * CHUNK);
    assert_eq!(ship.next(CHUNK), None);
    ship.probe(Time(5));
    let asked = ship.next(CHUNK).expect("a probe");
    assert_eq!((asked.offset, asked.bytes.len()), (2 * CHUNK, 0));
    assert_eq!(ship.next(CHUNK), None);
}

fn start_transfer(mutant: Option<Mutant>) -> (SnapshotSender, NodeId, DurableSnapshot) {
    let mutants = mutant.map_or(Mutants::NONE, Mutants::only);
    let mut shipping = SnapshotSender { mutants, ..SnapshotSender::new(&Options::default()) };
    let (to, newest) = (NodeId::new(2).expect("not zero"), ship(3).kept);
    shipping.begin(Time(0), to, &newest, Index(0));
    shipping.chunked(Time(0), to, newest.position, 0);
    (shipping, to, newest)
}

fn sends(shipping: &mut SnapshotSender, to: NodeId) -> Vec<u64> {
    offsets(shipping.transfers.get_mut(&to).expect("a transfer"))
}

#[test]
fn snapshot_received_damaged_is_resent_with_backoff() {
    let (mut shipping, to, newest) = start_transfer(None);
    let (mut now, mut pauses, mut times) = (Time(0), Vec::new(), 0);
    assert_eq!(sends(&mut shipping, to), [0, 1, 2]);
    while let Some(nth) = shipping.damaged(now, to, newest.position) {
        times += 1;
        assert_eq!(nth, times);
        assert_eq!(shipping.damaged(now, to, newest.position), None, "the file is being verified already");
        assert_eq!((sends(&mut shipping, to), shipping.deadline()), (vec![], Time::NEVER));
        shipping.inspected(now, newest.position, true);
        let Hold::Until(when) = shipping.transfers[&to].hold else { break };
        pauses.push(when.since(now).as_secs());
        let ship = shipping.transfers.get_mut(&to).expect("a transfer");
        ship.resume_after_hold(Time(when.0 - 1));
        assert_eq!(ship.next(CHUNK), None, "not yet");
        ship.resume_after_hold(when);
        now = when;
        shipping.chunked(now, to, newest.position, 0);
        assert_eq!(sends(&mut shipping, to), [0, 1, 2]);
    }
    assert_eq!(pauses, [1, 2, 4]);
    assert_eq!(shipping.oldest(now), None, "the transfer holds no log");
    shipping.renew(now, &newest);
    assert!(sends(&mut shipping, to).is_empty(), "the same snapshot is not resent");
    let newer = DurableSnapshot { position: Position::new(Index(20), Term(2)), ..ship(2).kept };
    shipping.renew(now, &newer);
    shipping.chunked(now, to, newer.position, 0);
    assert_eq!(sends(&mut shipping, to), [0, 1]);
    assert_eq!(shipping.damaged(now, to, newer.position), Some(5), "the pauses keep growing");
}

/// A damaged snapshot was sent forever: 97.8 MB of a 12 MB snapshot in 8 s, and no log line.
#[test]
fn snapshot_damaged_on_the_sender_is_not_sent() {
    let (mut shipping, to, newest) = start_transfer(None);
    let other = NodeId::new(3).expect("not zero");
    shipping.begin(Time(0), other, &newest, Index(0));
    assert_eq!(shipping.damaged(Time(1), to, newest.position), Some(1));
    shipping.inspected(Time(1), newest.position, false);
    for follower in [to, other] {
        assert!(sends(&mut shipping, follower).is_empty());
        shipping.begin(Time(0) + RETRY_INTERVAL, follower, &newest, Index(0));
        assert!(sends(&mut shipping, follower).is_empty());
    }
    // Another snapshot of the same position: no entry was applied meanwhile.
    shipping.renew(Time(2), &newest);
    assert_eq!(sends(&mut shipping, other), [0]);

    let (mut broken, to, newest) = start_transfer(Some(Mutant::ResendDamagedSnapshot));
    for _ in 0..100 {
        assert_eq!(sends(&mut broken, to), [0, 1, 2], "its mutant");
        assert_eq!(broken.damaged(Time(1), to, newest.position), None);
    }
}
