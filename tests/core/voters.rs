//! Which nodes vote and count, and promised positions: one Raft core with disk and log ids that receives scripted
//! messages. Each rule is also tested with a mutant that breaks it.

use crate::cluster::{command, id, ms};
use drave::api::Refusal;
use drave::consensus::clock::LeaderTime;
use drave::consensus::message::{Envelope, Message, Origin, Round, VoteKind};
use drave::consensus::ready::EntriesToSend;
use drave::consensus::replica::{Recovered, Replica};
use drave::consensus::{Options, Raft};
use drave::types::*;
use std::time::Duration;

const LOG: LogId = LogId(5);

/// The id of each node's disk.
fn disk(n: u64) -> DiskId {
    DiskId(n * 11)
}

fn at(index: u64, term: u64) -> Position {
    Position::new(Index(index), Term(term))
}

/// The entries of a log (term and size), and its configurations.
type LogContents = (Vec<(Term, u64)>, Vec<(Index, Membership)>);

/// One node of three, and its output.
struct TestNode {
    raft: Raft,
    now: Time,
    sent: Vec<Envelope>,
    /// All messages since the start.
    all: Vec<Envelope>,
    orders: Vec<EntriesToSend>,
}

impl TestNode {
    /// A founder of three that holds nothing.
    fn founder(mutants: Mutants) -> TestNode {
        let membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
        let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        TestNode::begin(disk(1), HardState::default(), base, (Vec::new(), Vec::new()), mutants)
    }

    /// A node with the agreed log and that many entries of term 1: the first names the disks of all three nodes.
    fn with_log(own: DiskId, hard_state: HardState, entries: u64, mutants: Mutants) -> TestNode {
        let mut membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
        for n in 1..=3 {
            membership.members.get_mut(&id(n)).unwrap().disk = Some(disk(n));
        }
        (membership.log_id, membership.log_agreed) = (Some(LOG), true);
        let hard_state = HardState { term: hard_state.term.max(Term(1)), ..hard_state };
        let base =
            SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: Membership::default() };
        let entries = vec![(Term(1), 50); entries as usize];
        TestNode::begin(own, hard_state, base, (entries, vec![(Index(1), membership)]), mutants)
    }

    fn begin(
        own: DiskId,
        hard_state: HardState,
        base: SnapshotPoint,
        (entries, configurations): LogContents,
        mutants: Mutants,
    ) -> TestNode {
        let (time, applied) = (ClusterTime(0), Index::ZERO);
        let recovered = Recovered { disk: Some(own), hard_state, base, entries, configurations, time, applied };
        let now = Time::ZERO + ms(1000);
        let raft = Raft::new(Replica::recover(id(1), options(mutants), recovered, 7), now);
        TestNode { raft, now, sent: Vec::new(), all: Vec::new(), orders: Vec::new() }
    }

    /// Executes its output, with a disk that takes no time.
    fn process_ready(&mut self) {
        loop {
            let ready = self.raft.ready(self.now);
            self.all.extend(ready.messages.iter().cloned());
            self.sent.extend(ready.messages);
            self.orders.extend(ready.appends);
            match ready.write {
                Some(write) => self.raft.persisted(self.now, write.id),
                None => return,
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + ms(10);
            self.raft.tick(self.now);
            self.process_ready();
        }
    }

    /// Receives a message from a node with that disk and that log.
    fn receives_from(&mut self, from: u64, disk: DiskId, log: Option<LogId>, term: u64, message: Message) {
        let origin = Origin { disk: Some(disk), log };
        self.sent.clear();
        self.raft.receive(self.now, Envelope { from: id(from), to: id(1), term: Term(term), origin, message });
        self.process_ready();
    }

    /// Receives a message from a node of its own log, on that node's known disk.
    fn receives(&mut self, from: u64, term: u64, message: Message) {
        self.receives_from(from, disk(from), Some(LOG), term, message);
    }

    /// Whether it just granted a vote, or a pre-vote.
    fn granted(&self) -> bool {
        self.sent.iter().any(|envelope| matches!(envelope.message, Message::RequestVoteResponse { granted: true, .. }))
    }

    /// Campaigns with the votes of that node. Returns its term.
    fn campaigns(&mut self, (from, disk, void): (u64, DiskId, bool)) -> u64 {
        for _ in 0..40 {
            for ask in [VoteKind::PreVote, VoteKind::Vote] {
                if self.raft.leads() {
                    break;
                }
                let (log, term) = (self.raft.membership().agreed_log(), self.raft.term().0);
                self.receives_from(
                    from,
                    disk,
                    log,
                    term,
                    Message::RequestVoteResponse { granted: true, void, ask, heard: LeaderTime::default() },
                );
            }
            if self.raft.leads() {
                break;
            }
            self.pass(ms(50));
        }
        self.raft.term().0
    }

    /// That follower acknowledges all entries up to `matched`.
    fn acknowledges(&mut self, from: u64, matched: u64) {
        let (log, term) = (self.raft.membership().agreed_log(), self.raft.term().0);
        self.receives_from(from, disk(from), log, term, Message::AppendResponse { matched: Index(matched) });
    }
}

fn options(mutants: Mutants) -> Options {
    Options { mutants, founding_wait: ms(100), sole_founder_wait: Duration::ZERO, ..Options::default() }
}

/// Checks that a property holds with the rule, and does not without it.
fn needs(mutant: Mutant, holds: impl Fn(Mutants) -> bool) {
    assert!(holds(Mutants::NONE), "the property holds with the rule");
    assert!(!holds(Mutants::only(mutant)), "mutant {mutant} is not caught");
}

fn request_vote(last: Position) -> Message {
    Message::RequestVote { last, ask: VoteKind::Vote }
}

#[test]
fn node_on_an_unknown_disk_neither_campaigns_nor_votes() {
    needs(Mutant::VoteUnnamed, |mutants| {
        let mut one = TestNode::with_log(DiskId(99), HardState::default(), 10, mutants);
        one.receives(2, 2, request_vote(at(20, 1)));
        let voted = one.granted();
        one.pass(ms(2000));
        !voted && !one.all.iter().any(|envelope| matches!(envelope.message, Message::RequestVote { .. }))
    });
}

#[test]
fn vote_from_another_disk_is_not_counted() {
    needs(Mutant::CountAnyDisk, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        one.campaigns((2, DiskId(99), false));
        !one.raft.leads()
    });
    let mut one = TestNode::with_log(disk(1), HardState::default(), 10, Mutants::NONE);
    one.campaigns((2, disk(2), false));
    assert!(one.raft.leads());
}

/// A founder of three that leads: its first entry names the second node's disk, its next one records that the log is
/// agreed.
fn first_leader(mutants: Mutants) -> TestNode {
    let mut one = TestNode::founder(mutants);
    one.campaigns((2, disk(2), true));
    assert!(one.raft.leads(), "{:?}", one.raft.role());
    one
}

#[test]
fn commands_are_rejected_until_the_log_is_agreed() {
    needs(Mutant::ServeBeforeAgreed, |mutants| {
        let mut one = first_leader(mutants);
        one.raft.propose(one.now, command("x")) == Err(Refusal::Busy)
    });
    let mut one = first_leader(Mutants::NONE);
    one.acknowledges(2, 1);
    assert!(one.raft.propose(one.now, command("x")).is_ok());
}

#[test]
fn acknowledgment_counts_from_the_entry_that_records_the_disk_id() {
    needs(Mutant::CountBeforeNamed, |mutants| {
        let mut one = first_leader(mutants);
        one.acknowledges(2, 1);
        one.acknowledges(2, 2);
        one.raft.propose(one.now, command("x")).unwrap();
        one.raft.learn_disk_id(id(3), disk(3));
        one.pass(ms(60));
        assert_eq!(one.raft.membership().disk(id(3)), Some(disk(3)), "named at 4");
        one.acknowledges(3, 3);
        one.raft.log().commit() == Index(2)
    });
}

#[test]
fn learner_is_not_promoted_before_its_disk_id_is_recorded() {
    needs(Mutant::PromoteUnnamed, |mutants| {
        let mut one = first_leader(mutants);
        one.acknowledges(2, 1);
        one.acknowledges(2, 2);
        let add = Change::Add { id: id(4), address: "d:4".into(), disk: None, prospect: PendingRole::Stays };
        one.raft.reconfigure(one.now, &add, true).unwrap();
        one.process_ready();
        one.acknowledges(2, 3);
        assert_eq!(one.raft.log().commit(), Index(3));
        matches!(one.raft.reconfigure(one.now, &Change::Promote(id(4)), true), Err(Refusal::InvalidChange { .. }))
    });
}

/// A connection may be older than this node's knowledge of the peer's membership: seed 2199024011446, a learner whose
/// disk no leader ever recorded.
#[test]
fn disk_id_of_peer_that_connected_before_it_was_added_is_recorded() {
    let mut one = first_leader(Mutants::NONE);
    one.acknowledges(2, 1);
    one.acknowledges(2, 2);
    one.raft.learn_disk_id(id(4), disk(4));
    let add = Change::Add { id: id(4), address: "d:4".into(), disk: None, prospect: PendingRole::Stays };
    one.raft.reconfigure(one.now, &add, true).unwrap();
    one.process_ready();
    one.acknowledges(2, 3);
    one.acknowledges(4, 2);
    one.pass(ms(60));
    assert_eq!((one.raft.log().commit(), one.raft.membership().disk(id(4))), (Index(3), None));
    one.acknowledges(4, 3);
    one.pass(ms(60));
    assert_eq!(one.raft.membership().disk(id(4)), Some(disk(4)));
}

#[test]
fn same_id_on_another_disk_is_another_candidate() {
    needs(Mutant::VoteForAnyDisk, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        one.receives(2, 5, request_vote(at(10, 1)));
        assert!(one.granted());
        one.receives_from(2, DiskId(99), Some(LOG), 5, request_vote(at(10, 1)));
        !one.granted()
    });
}

#[test]
fn messages_of_a_leader_of_another_log_are_rejected() {
    needs(Mutant::HearAnyLog, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        for log in [None, Some(LogId(6))] {
            let entry = drave::codec::entry(at(1, 9), ClusterTime(0), Payload::Noop);
            let entries = vec![entry];
            let append = Message::AppendEntries { prev: Position::ZERO, commit: Index::ZERO, probe: 0, entries };
            one.receives_from(2, disk(2), log, 9, append);
            one.receives_from(3, disk(3), log, 9, request_vote(at(7, 9)));
        }
        one.raft.log().last() == at(10, 1) && one.raft.term() == Term(1)
    });
}

/// Otherwise a follower that holds the entry with *agreed* ignores a leader that has lost that entry.
#[test]
fn leader_sends_its_log_id_before_it_is_agreed() {
    needs(Mutant::HideUnagreedLog, |mutants| {
        let mut one = first_leader(mutants);
        one.all.clear();
        one.pass(ms(100));
        let membership = one.raft.membership();
        assert!(membership.log_id.is_some() && membership.agreed_log().is_none());
        let mut said = one.all.iter().filter(|sent| sent.message.is_leaders()).peekable();
        said.peek().is_some() && said.all(|envelope| envelope.origin.log == membership.log_id)
    });
}

/// etcd#9395, kubernetes#65497: expiring keys got back all the time during which nothing was written.
#[test]
fn new_leader_starts_at_the_last_received_cluster_time() {
    needs(Mutant::TimeFromEntriesAlone, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        let beat = |ms| Message::Heartbeat { commit: Index(10), round: Round(1), time: ClusterTime(ms) };
        one.receives(2, 1, beat(40_000));
        one.receives(2, 1, beat(39_000));
        let heard = one.raft.cluster_time(one.now) == ClusterTime(40_000);
        // There is no leader for a while: nothing expires without a leader.
        one.pass(Duration::from_secs(3600));
        one.campaigns((2, disk(2), false));
        assert!(one.raft.leads());
        let first = one.raft.cluster_time(one.now);
        heard && (ClusterTime(40_000)..ClusterTime(41_000)).contains(&first)
    });
}

/// A key that a read found expired must not be back under the next leader: a majority had received the time of that
/// read.
#[test]
fn new_leader_starts_at_the_latest_time_of_its_voters() {
    needs(Mutant::IgnoreVotersTime, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        one.receives(2, 1, Message::Heartbeat { commit: Index(10), round: Round(1), time: ClusterTime(40_000) });
        one.pass(Duration::from_secs(3));
        assert!(!one.raft.leads());
        let term = one.raft.term().0;
        for ask in [VoteKind::PreVote, VoteKind::Vote] {
            let heard = LeaderTime { term: Term(1), time: ClusterTime(50_000) };
            one.receives(3, term, Message::RequestVoteResponse { granted: true, void: false, ask, heard });
            let term = one.raft.term().0;
            one.receives(
                3,
                term,
                Message::RequestVoteResponse { granted: true, void: false, ask: VoteKind::Vote, heard },
            );
        }
        assert!(one.raft.leads());
        (ClusterTime(50_000)..ClusterTime(51_000)).contains(&one.raft.cluster_time(one.now))
    });
}

/// A leader that was cut off kept counting time by itself. Keys set under the next leader, whose clock is behind, must
/// not expire early when the first one leads again.
#[test]
fn time_counted_by_an_isolated_leader_is_discarded() {
    let mut one = TestNode::with_log(disk(1), HardState::default(), 10, Mutants::NONE);
    one.receives(2, 1, Message::Heartbeat { commit: Index(10), round: Round(1), time: ClusterTime(40_000) });
    let term = one.campaigns((2, disk(2), false));
    one.pass(Duration::from_secs(2));
    let alone = one.raft.cluster_time(one.now);
    assert!(alone > ClusterTime(40_100), "{alone:?}");
    let entry = drave::codec::entry(at(11, term + 1), ClusterTime(40_005), Payload::Noop);
    let append = Message::AppendEntries { prev: at(10, 1), commit: Index(10), probe: 0, entries: vec![entry] };
    one.receives(3, term + 1, append);
    assert_eq!(one.raft.cluster_time(one.now), ClusterTime(40_005));
    one.campaigns((3, disk(3), false));
    assert!(one.raft.leads());
    assert!(one.raft.cluster_time(one.now) < ClusterTime(40_100), "{:?}", one.raft.cluster_time(one.now));
}

#[test]
fn founder_with_a_log_vetoes_founding() {
    needs(Mutant::FoundOverHolder, |mutants| {
        let mut one = TestNode::founder(mutants);
        one.pass(ms(400));
        for _ in 0..10 {
            let term = one.raft.term().0;
            one.receives_from(
                2,
                disk(2),
                None,
                term,
                Message::RequestVoteResponse {
                    granted: true,
                    void: true,
                    ask: VoteKind::PreVote,
                    heard: LeaderTime::default(),
                },
            );
            one.receives_from(
                3,
                disk(3),
                Some(LOG),
                term,
                Message::RequestVoteResponse {
                    granted: false,
                    void: false,
                    ask: VoteKind::PreVote,
                    heard: LeaderTime::default(),
                },
            );
            one.pass(ms(100));
        }
        !one.all.iter().any(|envelope| matches!(envelope.message, Message::RequestVote { ask: VoteKind::Vote, .. }))
    });
}

#[test]
fn promised_position_decides_votes_and_campaigns() {
    let promised = HardState { promised: at(50, 1), ..HardState::default() };
    needs(Mutant::ForgetPromised, |mutants| {
        let mut one = TestNode::with_log(disk(1), promised, 30, mutants);
        one.receives(2, 5, request_vote(at(40, 1)));
        !one.granted()
    });
    needs(Mutant::ForgetPromised, |mutants| {
        let mut one = TestNode::with_log(disk(1), promised, 30, mutants);
        one.pass(ms(2000));
        one.sent.is_empty()
    });
    let mut one = TestNode::with_log(disk(1), promised, 30, Mutants::NONE);
    one.receives(2, 5, request_vote(at(50, 1)));
    assert!(one.granted());
}

#[test]
fn reminder_raises_term_and_promised_position_and_spends_the_vote() {
    needs(Mutant::IgnoreReminders, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
        one.receives(3, 7, Message::Reminder { term: Term(7), position: at(50, 1) });
        one.receives(2, 7, request_vote(at(60, 1)));
        let voted = one.granted();
        one.receives(2, 8, request_vote(at(40, 1)));
        !voted && !one.granted()
    });
    let mut one = TestNode::with_log(disk(1), HardState::default(), 30, Mutants::NONE);
    one.receives(3, 1, Message::Reminder { term: Term(1), position: at(30, 1) });
    assert_eq!(one.raft.promised(), Position::ZERO, "a node that holds the position records no promise");
}

/// A leader of term 2 whose follower n2 acknowledged its whole log, and then came back with less.
fn leader_after_follower_loss(mutants: Mutants) -> TestNode {
    let mut one = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
    let term = one.campaigns((2, disk(2), false));
    assert!(one.raft.leads());
    one.receives(2, term, Message::AppendResponse { matched: Index(31) });
    assert_eq!(one.raft.log().commit(), Index(31));
    one.raft.lost(one.now, id(2));
    one.orders.clear();
    one.process_ready();
    let probe = one.orders.iter().find(|order| order.to == id(2)).expect("a probe").clone();
    assert_eq!((probe.prev.index, probe.probe > 0), (Index(31), true));
    one.orders.clear();
    one.receives(2, term, Message::AppendRejected { refused: Index(31), hint: at(20, 1), probe: probe.probe });
    one
}

#[test]
fn follower_with_lost_entries_is_notified_and_caught_up() {
    let told =
        |one: &TestNode| one.sent.iter().any(|envelope| matches!(envelope.message, Message::LostAcknowledged { .. }));
    let fed = |one: &TestNode| one.orders.iter().any(|order| order.to == id(2));
    needs(Mutant::IgnoreLost, |mutants| told(&leader_after_follower_loss(mutants)));
    needs(Mutant::FeedBeforePromise, |mutants| {
        let mut one = leader_after_follower_loss(mutants);
        one.process_ready();
        !fed(&one)
    });
    let mut one = leader_after_follower_loss(Mutants::NONE);
    let term = one.raft.term().0;
    one.receives(2, term, Message::Promised { upto: at(31, term) });
    assert!(fed(&one), "a follower that has promised receives entries again");
    let late = Message::AppendRejected { refused: Index(31), hint: at(20, 1), probe: 0 };
    one.receives(2, term, late);
    assert!(!told(&one), "a late rejection proves no loss");
}

#[test]
fn leader_that_cannot_commit_steps_down() {
    needs(Mutant::NeverYield, |mutants| {
        let mut one = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
        let term = one.campaigns((2, disk(2), false));
        assert!(one.raft.leads());
        for _ in 0..40 {
            one.pass(ms(100));
            let room = drave::consensus::room::Room::AMPLE;
            one.receives(2, term, Message::HeartbeatResponse { round: Default::default(), seen: Index::ZERO, room });
        }
        !one.raft.leads()
    });
}
