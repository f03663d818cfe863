//! A single node, which leads: keys expire in its machine while it receives no requests.

use crate::api::{Op, Request};
use crate::apply::Applier;
use crate::consensus::Options as RaftOptions;
use crate::machine::Kv;
use crate::machine::commands::{Command, Deadline, Expiration, SetCondition};
use crate::node::event::{Action, Caller, Event};
use crate::node::node::{Node, NodeStart};
use crate::node::options::Options;
use crate::node::prefetch::Prefetch;
use crate::sim::disk::SimDisk;
use crate::types::{ClusterId, DiskId, Index, Membership, NodeId, Position, SessionId, SnapshotPoint, Time};
use crate::wal::{Journal, Options as WalOptions};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// A cluster of one node with its journal and machine, in simulated time.
struct SingleNode {
    node: Node,
    journal: Journal<SimDisk>,
    applier: Applier<Kv>,
    now: Time,
    /// The sequence number of the last command.
    seq: u64,
}

impl SingleNode {
    /// A node that leads and holds one open session.
    fn new() -> SingleNode {
        let node_id = NodeId::new(1).unwrap();
        let membership = Membership::founding([(node_id, "n1:1".to_owned())]);
        let founding_point = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        let options = WalOptions { segment_bytes: 1 << 20, ..WalOptions::new(node_id, ClusterId(7), DiskId(9)) };
        let (journal, recovered) = Journal::open(SimDisk::new(), options, Some(&founding_point)).unwrap();
        let now = Time::ZERO + Duration::from_secs(1);
        let mut applier = Applier::new(Kv::new());
        let node_start = NodeStart {
            now,
            disk: None,
            applied: applier.apply(&[]),
            snapshot: None,
            random: 5,
            prefetch: Prefetch::default(),
        };
        let node = crate::node::start(node_id, recovered, RaftOptions::default(), Options::default(), node_start);
        let mut leader = SingleNode { node, journal, applier, now, seq: 0 };
        while !leader.node.raft().accepts_commands() {
            leader.advance(10 * MS);
        }
        leader.execute(&Op::Open { window: 9, ordered: false });
        leader
    }

    /// Advances the time by `by` and performs all resulting actions. Returns how many entries were applied.
    fn advance(&mut self, by: Duration) -> usize {
        self.now = self.now + by;
        let mut applied_count = 0;
        loop {
            let mut actions = Vec::new();
            self.node.turn(self.now, &mut actions);
            if actions.is_empty() {
                return applied_count;
            }
            for action in actions {
                match action {
                    Action::Write(write) => {
                        self.journal.append(&write).unwrap();
                        let report = self.journal.sync().unwrap();
                        self.node.handle(self.now, Event::Journal(report));
                    }
                    Action::Apply(entries) => {
                        applied_count += entries.len();
                        let report = self.applier.apply(&entries);
                        self.node.handle(self.now, Event::Applied(report));
                    }
                    _ => {}
                }
            }
        }
    }

    fn execute(&mut self, op: &Op) {
        let request = Request::Propose { op: op.encode() };
        self.node.handle(self.now, Event::Request { from: Caller::Client(7), id: self.seq, forward: false, request });
        assert!(self.advance(Duration::ZERO) > 0);
    }

    /// Sets a key that expires after `ms` milliseconds.
    fn set_expiring_key(&mut self, key: &[u8], ms: u64) {
        self.seq += 1;
        let expiration = Expiration::Until(Deadline::InMs(ms));
        let command =
            Command::Set { key, value: b"v", only_if: SetCondition::Always, expiration, returns_previous: false }
                .encode();
        let session = self.session();
        self.execute(&Op::Execute { session, seq: self.seq, first_outstanding: 1, command });
    }

    /// The open session. Its id is the index of its entry; each later entry is one command of the session.
    fn session(&self) -> SessionId {
        SessionId(self.applier.applied().0 - (self.seq - 1))
    }

    fn key_count(&self) -> usize {
        self.applier.machine().len()
    }
}

#[test]
fn leader_proposes_tick_only_when_a_key_expires() {
    let mut leader = SingleNode::new();
    leader.set_expiring_key(b"a", 100);
    assert_eq!(leader.key_count(), 1);
    assert_eq!(leader.advance(60 * MS), 0);
    assert!(leader.node.deadline() <= leader.now + 50 * MS, "the node wakes when the key is due");
    assert_eq!((leader.advance(30 * MS), leader.key_count()), (0, 1));
    assert_eq!((leader.advance(20 * MS), leader.key_count()), (1, 0));
    for _ in 0..50 {
        assert_eq!(leader.advance(100 * MS), 0, "no key is left to expire");
    }
}

/// If all nodes stop, the time since the last entry is lost: hence a tick each minute.
#[test]
fn leader_proposes_tick_once_a_minute_while_keys_can_expire() {
    let mut leader = SingleNode::new();
    leader.set_expiring_key(b"a", 600_000);
    let entry_count: usize = (0..3000).map(|_| leader.advance(100 * MS)).sum();
    assert_eq!(entry_count, 5, "one tick per minute, in five minutes");
}

#[test]
fn leader_expires_no_key_after_its_process_was_frozen() {
    let mut leader = SingleNode::new();
    leader.set_expiring_key(b"a", 10_000);
    assert_eq!((leader.advance(Duration::from_secs(3600)), leader.key_count()), (0, 1));
    leader.set_expiring_key(b"b", 1);
    assert_eq!(leader.key_count(), 2);
    // After the freeze of one hour the clock runs normally.
    let mut passed_ms = 0;
    while leader.key_count() > 0 {
        leader.advance(50 * MS);
        passed_ms += 50;
        assert!(passed_ms <= 10_000, "the key expires within ten seconds");
    }
    assert!(passed_ms >= 8_900, "the freeze does not shorten the lifetime: {passed_ms}");
}

#[test]
fn keys_due_together_expire_in_one_tick() {
    let mut leader = SingleNode::new();
    for n in 0..60u8 {
        leader.set_expiring_key(&[n], 1000);
    }
    let next_deadline = |leader: &SingleNode| crate::machine::StateMachine::next_deadline(leader.applier.machine());
    (0..19).for_each(|_| assert_eq!(leader.advance(50 * MS), 0));
    assert_eq!((leader.advance(51 * MS), leader.key_count()), (1, 0));
    assert_eq!(next_deadline(&leader), None);
}
