//! Tests of the rules on disk ids, log ids and promised positions: which nodes vote, and which votes and
//! acknowledgments count. One Raft core receives scripted messages. Most rules are also tested with a mutant that
//! breaks the rule.

use crate::cluster::{command, id, ms};
use drave::api::Refusal;
use drave::consensus::clock::LeaderTime;
use drave::consensus::message::{Envelope, Message, Origin, Round, VoteKind};
use drave::consensus::ready::{EntriesToSend, LostEntriesToSend};
use drave::consensus::replica::{RecoveredState, Replica};
use drave::consensus::{Options, Raft};
use drave::types::*;
use std::time::Duration;

const LOG_ID: LogId = LogId(5);

/// The id of the disk that the configuration names for node `n`.
fn disk(n: u64) -> DiskId {
    DiskId(n * 11)
}

fn position(index: u64, term: u64) -> Position {
    Position::new(Index(index), Term(term))
}

/// The entries of a log (term and size), and its configurations.
type LogContents = (Vec<(Term, u64)>, Vec<(Index, Membership)>);

/// The Raft core of node 1 of three, and its output.
struct TestNode {
    raft: Raft,
    now: Time,
    /// The messages that the core has sent since it last received a message.
    sent_since_receive: Vec<Envelope>,
    /// All messages that the core has sent, until a test clears the list.
    all_sent_messages: Vec<Envelope>,
    appends: Vec<EntriesToSend>,
    lost_entries: Vec<LostEntriesToSend>,
}

impl TestNode {
    /// Node 1 of three founders, with an empty log.
    fn new_founder(mutants: Mutants) -> TestNode {
        let membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
        let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
        TestNode::start(disk(1), HardState::default(), base, (Vec::new(), Vec::new()), mutants)
    }

    /// Node 1 with an agreed log of `entries` entries of term 1. The first entry is a configuration that names the
    /// disks of all three nodes.
    fn with_log(own_disk: DiskId, hard_state: HardState, entries: u64, mutants: Mutants) -> TestNode {
        let mut membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
        for n in 1..=3 {
            membership.members.get_mut(&id(n)).unwrap().disk = Some(disk(n));
        }
        (membership.log_id, membership.log_agreed) = (Some(LOG_ID), true);
        let hard_state = HardState { term: hard_state.term.max(Term(1)), ..hard_state };
        let base =
            SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership: Membership::default() };
        let entries = vec![(Term(1), 50); entries as usize];
        TestNode::start(own_disk, hard_state, base, (entries, vec![(Index(1), membership)]), mutants)
    }

    fn start(
        own_disk: DiskId,
        hard_state: HardState,
        base: SnapshotPoint,
        (entries, configurations): LogContents,
        mutants: Mutants,
    ) -> TestNode {
        let recovered = RecoveredState {
            disk: Some(own_disk),
            hard_state,
            base,
            entries,
            configurations,
            time: ClusterTime(0),
            applied_index: Index::ZERO,
            kept_fragments: Vec::new(),
        };
        let now = Time::ZERO + ms(1000);
        let raft = Raft::new(Replica::recover(id(1), options_with_mutants(mutants), recovered, 7), now);
        TestNode {
            raft,
            now,
            sent_since_receive: Vec::new(),
            all_sent_messages: Vec::new(),
            appends: Vec::new(),
            lost_entries: Vec::new(),
        }
    }

    /// Collects the output of the core, with a disk that syncs at once.
    fn process_ready(&mut self) {
        loop {
            let ready = self.raft.ready(self.now);
            self.all_sent_messages.extend(ready.messages.iter().cloned());
            self.sent_since_receive.extend(ready.messages);
            self.appends.extend(ready.appends);
            self.lost_entries.extend(ready.lost_entries);
            match ready.write {
                Some(write) => self.raft.handle_persisted(self.now, write.id),
                None => return,
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + ms(10);
            self.raft.tick(self.now);
            self.process_ready();
        }
    }

    /// Receives a message from a peer with that disk and that log.
    fn receive_from(&mut self, from: u64, disk: DiskId, log_id: Option<LogId>, term: u64, message: Message) {
        let origin = Origin { disk: Some(disk), log: log_id };
        self.sent_since_receive.clear();
        self.raft.receive(self.now, Envelope { from: id(from), to: id(1), term: Term(term), origin, message });
        self.process_ready();
    }

    /// Receives a message from a peer of the same log, on the peer's recorded disk.
    fn receive(&mut self, from: u64, term: u64, message: Message) {
        self.receive_from(from, disk(from), Some(LOG_ID), term, message);
    }

    /// Whether the last message was answered with a vote or pre-vote.
    fn has_granted(&self) -> bool {
        self.sent_since_receive
            .iter()
            .any(|envelope| matches!(envelope.message, Message::RequestVoteResponse { granted: true, .. }))
    }

    /// Delivers votes of one peer until the node leads, for at most 40 attempts. Returns the term of the node.
    fn campaign_with_votes(&mut self, (from, disk, maybe_emptied): (u64, DiskId, bool)) -> u64 {
        for _ in 0..40 {
            for kind in [VoteKind::PreVote, VoteKind::Vote] {
                if self.raft.leads() {
                    break;
                }
                let (log, term) = (self.raft.membership().agreed_log_id(), self.raft.term().0);
                self.receive_from(
                    from,
                    disk,
                    log,
                    term,
                    Message::RequestVoteResponse {
                        granted: true,
                        maybe_emptied,
                        kind,
                        leader_time: LeaderTime::default(),
                    },
                );
            }
            if self.raft.leads() {
                break;
            }
            self.run(ms(50));
        }
        self.raft.term().0
    }

    /// Receives an acknowledgment of that follower for all entries up to `matched`.
    fn acknowledge(&mut self, from: u64, matched: u64) {
        let (log, term) = (self.raft.membership().agreed_log_id(), self.raft.term().0);
        self.receive_from(from, disk(from), log, term, Message::AppendResponse { matched: Index(matched) });
    }
}

fn options_with_mutants(mutants: Mutants) -> Options {
    Options { mutants, founding_wait: ms(100), sole_founder_wait: Duration::ZERO, ..Options::default() }
}

/// Checks that a property holds, and that it does not hold with the mutant that breaks its rule.
fn check_rule(mutant: Mutant, property_holds: impl Fn(Mutants) -> bool) {
    assert!(property_holds(Mutants::NONE), "the property holds without a mutant");
    assert!(!property_holds(Mutants::only(mutant)), "the property does not hold with the mutant {mutant}");
}

fn request_vote(last: Position) -> Message {
    Message::RequestVote { last, kind: VoteKind::Vote }
}

#[test]
fn node_on_an_unknown_disk_neither_campaigns_nor_votes() {
    check_rule(Mutant::VoteUnnamed, |mutants| {
        let mut node = TestNode::with_log(DiskId(99), HardState::default(), 10, mutants);
        node.receive(2, 2, request_vote(position(20, 1)));
        let voted = node.has_granted();
        node.run(ms(2000));
        !voted && !node.all_sent_messages.iter().any(|envelope| matches!(envelope.message, Message::RequestVote { .. }))
    });
}

#[test]
fn vote_from_another_disk_is_not_counted() {
    check_rule(Mutant::CountAnyDisk, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        node.campaign_with_votes((2, DiskId(99), false));
        !node.raft.leads()
    });
    let mut node = TestNode::with_log(disk(1), HardState::default(), 10, Mutants::NONE);
    node.campaign_with_votes((2, disk(2), false));
    assert!(node.raft.leads());
}

/// Node 1 as the leader that began the log. The first entry names the second node's disk; the second entry will record
/// that the log is agreed.
fn first_leader(mutants: Mutants) -> TestNode {
    let mut node = TestNode::new_founder(mutants);
    node.campaign_with_votes((2, disk(2), true));
    assert!(node.raft.leads(), "{:?}", node.raft.role());
    node
}

#[test]
fn commands_are_rejected_until_the_log_is_agreed() {
    check_rule(Mutant::ServeBeforeAgreed, |mutants| {
        let mut node = first_leader(mutants);
        node.raft.propose(node.now, command("x")) == Err(Refusal::Busy)
    });
    let mut node = first_leader(Mutants::NONE);
    node.acknowledge(2, 1);
    assert!(node.raft.propose(node.now, command("x")).is_ok());
}

#[test]
fn acknowledgment_counts_from_the_entry_that_records_the_disk_id() {
    check_rule(Mutant::CountBeforeNamed, |mutants| {
        let mut node = first_leader(mutants);
        node.acknowledge(2, 1);
        node.acknowledge(2, 2);
        node.raft.propose(node.now, command("x")).unwrap();
        node.raft.learn_disk_id(id(3), disk(3));
        node.run(ms(60));
        assert_eq!(node.raft.membership().disk(id(3)), Some(disk(3)), "the entry at index 4 names the disk of node 3");
        node.acknowledge(3, 3);
        node.raft.log().commit() == Index(2)
    });
}

#[test]
fn learner_is_not_promoted_before_its_disk_id_is_recorded() {
    check_rule(Mutant::PromoteUnnamed, |mutants| {
        let mut node = first_leader(mutants);
        node.acknowledge(2, 1);
        node.acknowledge(2, 2);
        let add_change =
            Change::Add { id: id(4), address: "d:4".into(), disk: None, pending_role: PendingRole::Unchanged };
        node.raft.reconfigure(node.now, &add_change, true).unwrap();
        node.process_ready();
        node.acknowledge(2, 3);
        assert_eq!(node.raft.log().commit(), Index(3));
        matches!(node.raft.reconfigure(node.now, &Change::Promote(id(4)), true), Err(Refusal::InvalidChange { .. }))
    });
}

/// A connection may have been opened before the peer became a member (simulator seed 2199024011446: no leader ever
/// recorded the disk of a learner).
#[test]
fn disk_id_of_peer_that_connected_before_it_was_added_is_recorded() {
    let mut node = first_leader(Mutants::NONE);
    node.acknowledge(2, 1);
    node.acknowledge(2, 2);
    node.raft.learn_disk_id(id(4), disk(4));
    let add_change = Change::Add { id: id(4), address: "d:4".into(), disk: None, pending_role: PendingRole::Unchanged };
    node.raft.reconfigure(node.now, &add_change, true).unwrap();
    node.process_ready();
    node.acknowledge(2, 3);
    node.acknowledge(4, 2);
    node.run(ms(60));
    assert_eq!((node.raft.log().commit(), node.raft.membership().disk(id(4))), (Index(3), None));
    node.acknowledge(4, 3);
    node.run(ms(60));
    assert_eq!(node.raft.membership().disk(id(4)), Some(disk(4)));
}

#[test]
fn same_id_on_another_disk_is_another_candidate() {
    check_rule(Mutant::VoteForAnyDisk, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        node.receive(2, 5, request_vote(position(10, 1)));
        assert!(node.has_granted());
        node.receive_from(2, DiskId(99), Some(LOG_ID), 5, request_vote(position(10, 1)));
        !node.has_granted()
    });
}

#[test]
fn messages_of_a_leader_of_another_log_are_rejected() {
    check_rule(Mutant::HearAnyLog, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        for log in [None, Some(LogId(6))] {
            let entry = drave::codec::entry(position(1, 9), ClusterTime(0), Payload::Noop);
            let entries = vec![entry];
            let append = Message::AppendEntries { prev: Position::ZERO, commit: Index::ZERO, probe_number: 0, entries };
            node.receive_from(2, disk(2), log, 9, append);
            node.receive_from(3, disk(3), log, 9, request_vote(position(7, 9)));
        }
        node.raft.log().last() == position(10, 1) && node.raft.term() == Term(1)
    });
}

/// A leader sends its log id even before the log is agreed. Otherwise a follower that holds the entry which records the
/// log as agreed would ignore a leader that has lost that entry.
#[test]
fn leader_sends_its_log_id_before_it_is_agreed() {
    check_rule(Mutant::HideUnagreedLog, |mutants| {
        let mut node = first_leader(mutants);
        node.all_sent_messages.clear();
        node.run(ms(100));
        let membership = node.raft.membership();
        assert!(membership.log_id.is_some() && membership.agreed_log_id().is_none());
        let mut leader_messages = node.all_sent_messages.iter().filter(|sent| sent.message.is_from_leader()).peekable();
        leader_messages.peek().is_some() && leader_messages.all(|envelope| envelope.origin.log == membership.log_id)
    });
}

/// etcd#9395, kubernetes#65497: a new leader extended the expiry of keys by the time since the last write.
#[test]
fn new_leader_starts_at_the_last_received_cluster_time() {
    check_rule(Mutant::TimeFromEntriesAlone, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        let heartbeat = |ms| Message::Heartbeat { commit: Index(10), round: Round(1), time: ClusterTime(ms) };
        node.receive(2, 1, heartbeat(40_000));
        node.receive(2, 1, heartbeat(39_000));
        let keeps_latest_time = node.raft.cluster_time(node.now) == ClusterTime(40_000);
        // There is no leader for an hour: the cluster clock does not advance.
        node.run(Duration::from_secs(3600));
        node.campaign_with_votes((2, disk(2), false));
        assert!(node.raft.leads());
        let time_as_leader = node.raft.cluster_time(node.now);
        keeps_latest_time && (ClusterTime(40_000)..ClusterTime(41_000)).contains(&time_as_leader)
    });
}

/// A key that a read found expired must not reappear under the next leader: a majority had received the time of that
/// read.
#[test]
fn new_leader_starts_at_the_latest_time_of_its_voters() {
    check_rule(Mutant::IgnoreVotersTime, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 10, mutants);
        node.receive(2, 1, Message::Heartbeat { commit: Index(10), round: Round(1), time: ClusterTime(40_000) });
        node.run(Duration::from_secs(3));
        assert!(!node.raft.leads());
        let term = node.raft.term().0;
        for kind in [VoteKind::PreVote, VoteKind::Vote] {
            let leader_time = LeaderTime { term: Term(1), time: ClusterTime(50_000) };
            node.receive(
                3,
                term,
                Message::RequestVoteResponse { granted: true, maybe_emptied: false, kind, leader_time },
            );
            let term = node.raft.term().0;
            node.receive(
                3,
                term,
                Message::RequestVoteResponse { granted: true, maybe_emptied: false, kind: VoteKind::Vote, leader_time },
            );
        }
        assert!(node.raft.leads());
        (ClusterTime(50_000)..ClusterTime(51_000)).contains(&node.raft.cluster_time(node.now))
    });
}

/// An isolated leader continues to advance its cluster clock. Keys that are set under the next leader, whose clock is
/// behind, must not expire early when the first leader leads again.
#[test]
fn time_counted_by_an_isolated_leader_is_discarded() {
    let mut node = TestNode::with_log(disk(1), HardState::default(), 10, Mutants::NONE);
    node.receive(2, 1, Message::Heartbeat { commit: Index(10), round: Round(1), time: ClusterTime(40_000) });
    let term = node.campaign_with_votes((2, disk(2), false));
    node.run(Duration::from_secs(2));
    let isolated_time = node.raft.cluster_time(node.now);
    assert!(isolated_time > ClusterTime(40_100), "{isolated_time:?}");
    let entry = drave::codec::entry(position(11, term + 1), ClusterTime(40_005), Payload::Noop);
    let append =
        Message::AppendEntries { prev: position(10, 1), commit: Index(10), probe_number: 0, entries: vec![entry] };
    node.receive(3, term + 1, append);
    assert_eq!(node.raft.cluster_time(node.now), ClusterTime(40_005));
    node.campaign_with_votes((3, disk(3), false));
    assert!(node.raft.leads());
    assert!(node.raft.cluster_time(node.now) < ClusterTime(40_100), "{:?}", node.raft.cluster_time(node.now));
}

#[test]
fn founder_with_a_log_vetoes_founding() {
    check_rule(Mutant::FoundOverHolder, |mutants| {
        let mut node = TestNode::new_founder(mutants);
        node.run(ms(400));
        for _ in 0..10 {
            let term = node.raft.term().0;
            node.receive_from(
                2,
                disk(2),
                None,
                term,
                Message::RequestVoteResponse {
                    granted: true,
                    maybe_emptied: true,
                    kind: VoteKind::PreVote,
                    leader_time: LeaderTime::default(),
                },
            );
            node.receive_from(
                3,
                disk(3),
                Some(LOG_ID),
                term,
                Message::RequestVoteResponse {
                    granted: false,
                    maybe_emptied: false,
                    kind: VoteKind::PreVote,
                    leader_time: LeaderTime::default(),
                },
            );
            node.run(ms(100));
        }
        !node
            .all_sent_messages
            .iter()
            .any(|envelope| matches!(envelope.message, Message::RequestVote { kind: VoteKind::Vote, .. }))
    });
}

#[test]
fn promised_position_decides_votes_and_campaigns() {
    let hard_state = HardState { promised_position: position(50, 1), ..HardState::default() };
    check_rule(Mutant::ForgetPromised, |mutants| {
        let mut node = TestNode::with_log(disk(1), hard_state, 30, mutants);
        node.receive(2, 5, request_vote(position(40, 1)));
        !node.has_granted()
    });
    check_rule(Mutant::ForgetPromised, |mutants| {
        let mut node = TestNode::with_log(disk(1), hard_state, 30, mutants);
        node.run(ms(2000));
        let is_request = |envelope: &Envelope| matches!(envelope.message, Message::RequestLostEntries { .. });
        node.sent_since_receive.iter().all(is_request)
    });
    let mut node = TestNode::with_log(disk(1), hard_state, 30, Mutants::NONE);
    node.receive(2, 5, request_vote(position(50, 1)));
    assert!(node.has_granted());
}

/// Lost entries of term 1, after the first `after` entries of the log.
fn lost_entries(after: u64, upto: u64) -> Message {
    let entry = |index| drave::codec::entry(position(index, 1), ClusterTime(0), Payload::Noop);
    Message::LostEntries { after: position(after, 1), entries: (after + 1..=upto).map(entry).collect() }
}

#[test]
fn lost_entries_are_requested_and_appended_only_without_a_leader() {
    let hard_state = HardState { promised_position: position(33, 1), ..HardState::default() };
    let last_index = |node: &TestNode| node.raft.log().last().index.0;
    let mut node = TestNode::with_log(disk(1), hard_state, 30, Mutants::NONE);
    node.run(ms(2000));
    let request = Message::RequestLostEntries { after: position(30, 1), known: vec![position(33, 1)] };
    for peer in [2, 3] {
        let is_request = |envelope: &Envelope| envelope.to == id(peer) && envelope.message == request;
        assert!(node.all_sent_messages.iter().any(is_request), "{:?}", node.all_sent_messages);
    }
    node.receive_from(2, disk(2), None, 1, lost_entries(30, 33));
    assert_eq!(last_index(&node), 30, "a peer without an agreed log");
    node.receive(2, 1, lost_entries(29, 33));
    assert_eq!(last_index(&node), 30, "the answer to an earlier request");
    node.receive(2, 1, Message::Heartbeat { commit: Index(0), round: Round(1), time: ClusterTime(0) });
    node.receive(3, 1, lost_entries(30, 33));
    assert_eq!(last_index(&node), 30, "a leader sends the entries itself");
    node.run(ms(2000));
    node.receive(3, 1, lost_entries(30, 32));
    let next_request = Message::RequestLostEntries { after: position(32, 1), known: vec![position(33, 1)] };
    assert!(node.sent_since_receive.iter().any(|envelope| envelope.message == next_request));
    node.receive(3, 1, lost_entries(32, 33));
    assert_eq!((last_index(&node), node.sent_since_receive.len()), (33, 0));
    node.run(ms(2000));
    assert!(node.sent_since_receive.iter().any(|envelope| matches!(envelope.message, Message::RequestVote { .. })));
}

/// The damage may hide the entry that names the id of the log (seed 948).
#[test]
fn kept_entries_are_appended_also_if_the_log_does_not_name_its_id() {
    let hard_state = HardState { term: Term(1), promised_position: position(33, 1), ..HardState::default() };
    let membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
    let base = SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership };
    let mut node = TestNode::start(disk(1), hard_state, base, (vec![(Term(1), 50); 2], Vec::new()), Mutants::NONE);
    node.receive_from(2, disk(2), None, 1, lost_entries(2, 33));
    assert_eq!(node.raft.log().last(), position(2, 1), "entries of a peer's log, which may be another one");
    node.run(ms(2000));
    let is_request = |envelope: &Envelope| matches!(envelope.message, Message::RequestLostEntries { .. });
    assert!(!node.all_sent_messages.iter().any(is_request), "the peers' logs may be other ones");
    let Message::LostEntries { after, entries } = lost_entries(2, 33) else { unreachable!() };
    node.raft.append_kept_entries(after, entries);
    assert_eq!(node.raft.log().last(), position(33, 1));
}

#[test]
fn node_answers_only_with_entries_of_the_same_log() {
    let upto = |known: Position, mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
        node.receive(2, 1, Message::RequestLostEntries { after: position(10, 1), known: vec![known] });
        node.lost_entries.first().map(|answer| answer.upto.0)
    };
    assert_eq!(upto(position(20, 1), Mutants::NONE), Some(20));
    assert_eq!(upto(position(40, 1), Mutants::NONE), Some(30));
    check_rule(Mutant::AnswerWithAnyEntries, |mutants| upto(position(20, 2), mutants).is_none());
}

#[test]
fn recorded_claim_raises_term_and_promised_position_and_uses_up_the_vote() {
    check_rule(Mutant::IgnoreReminders, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
        node.receive(3, 7, Message::RecordedClaim { term: Term(7), position: position(50, 1) });
        node.receive(2, 7, request_vote(position(60, 1)));
        let voted = node.has_granted();
        node.receive(2, 8, request_vote(position(40, 1)));
        !voted && !node.has_granted()
    });
    let mut node = TestNode::with_log(disk(1), HardState::default(), 30, Mutants::NONE);
    node.receive(3, 1, Message::RecordedClaim { term: Term(1), position: position(30, 1) });
    assert_eq!(
        node.raft.promised_position(),
        Position::ZERO,
        "a node that holds the claimed position records no promised position"
    );
}

/// A leader whose follower n2 acknowledged the whole log, and then rejected a probe because it had lost entries.
fn leader_whose_follower_lost_entries(mutants: Mutants) -> TestNode {
    let mut node = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
    let term = node.campaign_with_votes((2, disk(2), false));
    assert!(node.raft.leads());
    node.receive(2, term, Message::AppendResponse { matched: Index(31) });
    assert_eq!(node.raft.log().commit(), Index(31));
    node.raft.handle_lost_link(node.now, id(2));
    node.appends.clear();
    node.process_ready();
    let probe = node
        .appends
        .iter()
        .find(|append| append.to == id(2))
        .expect("the leader probes n2 after the lost link")
        .clone();
    assert_eq!((probe.prev.index, probe.probe_number > 0), (Index(31), true));
    node.appends.clear();
    node.receive(
        2,
        term,
        Message::AppendRejected { index: Index(31), hint: position(20, 1), probe_number: probe.probe_number },
    );
    node
}

#[test]
fn follower_with_lost_entries_is_notified_and_sent_entries_again() {
    let is_notified = |node: &TestNode| {
        node.sent_since_receive.iter().any(|envelope| matches!(envelope.message, Message::LostAcknowledged { .. }))
    };
    let sends_entries_to_n2 = |node: &TestNode| node.appends.iter().any(|append| append.to == id(2));
    check_rule(Mutant::IgnoreLost, |mutants| is_notified(&leader_whose_follower_lost_entries(mutants)));
    check_rule(Mutant::FeedBeforePromise, |mutants| {
        let mut node = leader_whose_follower_lost_entries(mutants);
        node.process_ready();
        !sends_entries_to_n2(&node)
    });
    let mut node = leader_whose_follower_lost_entries(Mutants::NONE);
    let term = node.raft.term().0;
    node.receive(2, term, Message::LostAcknowledgedResponse { upto: position(31, term) });
    assert!(sends_entries_to_n2(&node), "a follower that has promised receives entries again");
    let late_rejection = Message::AppendRejected { index: Index(31), hint: position(20, 1), probe_number: 0 };
    node.receive(2, term, late_rejection);
    assert!(!is_notified(&node), "a late rejection proves no loss");
}

#[test]
fn leader_that_cannot_commit_steps_down() {
    check_rule(Mutant::NeverYield, |mutants| {
        let mut node = TestNode::with_log(disk(1), HardState::default(), 30, mutants);
        let term = node.campaign_with_votes((2, disk(2), false));
        assert!(node.raft.leads());
        for _ in 0..40 {
            node.run(ms(100));
            let room = drave::consensus::disk_room::DiskRoom::AMPLE;
            node.receive(
                2,
                term,
                Message::HeartbeatResponse { round: Default::default(), matched_prefix: Index::ZERO, room },
            );
        }
        !node.raft.leads()
    });
}
