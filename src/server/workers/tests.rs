//! The log thread on a disk that fails.

use super::*;
use crate::driver::inbox::{Inbox, inbox};
use crate::net::waker::Waker;
use crate::sim::disk::SimDisk;
use crate::types::{
    ClusterId, ClusterTime, DiskId, HardState, Index, Membership, NodeId, Position, SnapshotPoint, Term, WriteId,
};
use crate::wal::Options;

type StartedLogThread = (Sender<Task>, JoinHandle<Result<()>>, Inbox);

/// Starts a log thread. Returns the sender of its tasks, its handle, and the inbox that receives its messages.
fn start_log_thread(disk: &SimDisk) -> StartedLogThread {
    let node = NodeId::new(1).unwrap();
    let membership = Membership::founding([(node, "a:1".to_owned())]);
    let founding_point = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let options = Options { segment_bytes: 4096, ..Options::new(node, ClusterId(7), DiskId(9)) };
    let (journal, _) = Journal::open(disk.clone(), options, Some(&founding_point)).unwrap();
    let poll = mio::Poll::new().unwrap();
    let waker = Waker::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    let (sender, inbox) = inbox(waker);
    let (writes, thread) = spawn_log_thread(journal, disk.clone(), sender, Duration::ZERO).unwrap();
    (writes, thread, inbox)
}

fn term_write_task(term: u64) -> Task {
    let hard_state = Some(HardState { term: Term(term), ..HardState::default() });
    Task::Write(Write { id: WriteId(term), hard_state, base: None, entries: Vec::new() })
}

fn received_messages(mut inbox: Inbox) -> Vec<LoopMessage> {
    std::iter::from_fn(|| inbox.try_receive()).collect()
}

#[test]
fn log_thread_syncs_before_it_ends() {
    let disk = SimDisk::new();
    let (writes, thread, inbox) = start_log_thread(&disk);
    writes.send(term_write_task(1)).unwrap();
    drop(writes);
    thread.join().unwrap().unwrap();
    let messages = received_messages(inbox);
    assert!(matches!(&messages[0], LoopMessage::Journal(report) if report.last_durable == WriteId(1)), "{messages:?}");
}

#[test]
fn failed_last_sync_is_the_result_of_the_log_thread() {
    let disk = SimDisk::new();
    let (writes, thread, inbox) = start_log_thread(&disk);
    disk.break_down();
    writes.send(term_write_task(1)).unwrap();
    // The node has stopped: nothing reads the messages any more, and the thread is joined.
    drop(writes);
    let fault = thread.join().unwrap().unwrap_err();
    assert_eq!(fault.exit_code(), 74, "{fault}");
    let messages = received_messages(inbox);
    assert!(matches!(messages[..], [LoopMessage::ThreadEnded("log")]), "{messages:?}");
}

/// A task with a write that is larger than a segment, so that it needs the next segment.
fn large_write_task(id: u64) -> Task {
    let entry = |index| {
        let payload = Payload::Opaque(vec![b'x'; 2500].into());
        crate::codec::entry(Position::new(Index(index), Term(1)), ClusterTime(0), payload)
    };
    let hard_state = Some(HardState { term: Term(1), ..HardState::default() });
    Task::Write(Write { id: WriteId(id), hard_state, base: None, entries: vec![entry(1), entry(2)] })
}

/// Receives messages until the log thread reports that the write `id` is durable; panics after a minute.
fn wait_until_durable(inbox: &mut Inbox, id: u64) {
    let started_at = Instant::now();
    while started_at.elapsed() < Duration::from_secs(60) {
        match inbox.try_receive() {
            Some(LoopMessage::Journal(report)) if report.last_durable == WriteId(id) => return,
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("write {id} is not durable after 60 s");
}

#[test]
fn log_without_space_waits_and_syncs_earlier_writes() {
    let disk = SimDisk::new();
    let (writes, thread, mut inbox) = start_log_thread(&disk);
    disk.set_capacity(Some(disk.used_bytes()));
    writes.send(term_write_task(1)).unwrap();
    writes.send(large_write_task(2)).unwrap();
    wait_until_durable(&mut inbox, 1);
    assert!(!thread.is_finished());
    disk.set_capacity(None);
    wait_until_durable(&mut inbox, 2);
    drop(writes);
    thread.join().unwrap().unwrap();
}

#[test]
fn log_without_space_ends_when_the_reactor_is_gone() {
    let disk = SimDisk::new();
    let (writes, thread, inbox) = start_log_thread(&disk);
    disk.set_capacity(Some(disk.used_bytes()));
    writes.send(large_write_task(1)).unwrap();
    drop(inbox);
    let fault = thread.join().unwrap().unwrap_err();
    assert!(matches!(fault, Fault::Full { .. }), "{fault}");
}
