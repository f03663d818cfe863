//! One test for each sentence of the paper, in its order, on bare Raft cores: the sentence is the comment.

use super::cluster::{Cluster, id, log_of, ms};
use drave::api::RoleName;
use drave::consensus::clock::LeaderTime;
use drave::consensus::message::{Envelope, Message, Origin, VoteKind};
use drave::consensus::note::Note;
use drave::types::*;
use std::time::Duration;

/// "When servers start up, they begin as followers. […] If a follower receives no communication over
/// a period of time called the election timeout, then it […] begins an election" (§5.2).
#[test]
fn cluster_elects_one_leader() {
    for n in [1, 2, 3, 4, 5, 7] {
        let mut cluster = Cluster::new(n);
        assert!(cluster.ids().iter().all(|node| !cluster.raft(*node).leads()));
        let leader = cluster.elect();
        let leaders = cluster.ids().into_iter().filter(|node| cluster.raft(*node).leads()).count();
        assert_eq!(leaders, 1, "leaders among {n} nodes");
        assert_eq!(cluster.raft(leader).vote(), Some(Vote::new(leader, None)));
    }
}

/// "Each server will vote for at most one candidate in a given term" (§5.2), and remembers it: no vote, and no request
/// for one, leaves before it is on the disk.
#[test]
fn stalled_disks_elect_no_leader() {
    let mut cluster = Cluster::new(3);
    for host in cluster.hosts.values_mut() {
        host.disk_delay = Duration::from_secs(3600);
    }
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), None);
    let promise = |message: &Message| match message {
        Message::RequestVote { ask, .. } | Message::RequestVoteResponse { ask, .. } => *ask == VoteKind::Vote,
        Message::AppendEntries { .. } | Message::AppendResponse { .. } => true,
        _ => false,
    };
    assert!(!cluster.sent.iter().any(|(_, envelope)| promise(&envelope.message)));
}

/// "A candidate's log […] at least as up-to-date" (§5.4.1): the logs (a)–(f) of Figure 7.
#[test]
fn leader_has_the_most_up_to_date_log_of_its_majority() {
    let logs = [
        (6, log_of(&[1, 1, 1, 4, 4, 5, 5, 6, 6])),
        (6, log_of(&[1, 1, 1, 4])),
        (6, log_of(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6])),
        (7, log_of(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7])),
        (4, log_of(&[1, 1, 1, 4, 4, 4, 4])),
        (3, log_of(&[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3])),
    ];
    let mut cluster = Cluster::with_logs(&logs);
    let leader = cluster.elect();
    let last = logs[leader.get() as usize - 1].1.last().unwrap().position;
    let outranks = |log: &Vec<Entry>| log.last().unwrap().position <= last;
    assert!(logs.iter().filter(|(_, log)| outranks(log)).count() >= 4);
    cluster.run(ms(500));
    let reference = cluster.hosts[&leader].log.clone();
    assert!(cluster.hosts.values().all(|host| host.log == reference), "all logs became the leader's");
}

/// "When sending an AppendEntries RPC, the leader includes the index and term of the entry in its
/// log that immediately precedes the new entries" (§5.3): a follower with d divergent terms is
/// matched in at most d + 2 probes.
#[test]
fn follower_with_d_divergent_terms_matches_in_d_plus_2_probes() {
    for d in 1..12u64 {
        // The follower was cut off in term 1 and led d terms that no other node saw, three entries each.
        let diverged: Vec<u64> = std::iter::repeat_n(1, 10).chain((0..d * 3).map(|i| 2 + 2 * (i / 3))).collect();
        let theirs: Vec<u64> = std::iter::repeat_n(1, 10).chain((0..d * 4).map(|i| 3 + 2 * (i / 4))).collect();
        let term = 4 + 2 * d;
        let logs = [(term, log_of(&diverged)), (term, log_of(&theirs)), (term, log_of(&theirs))];
        let mut cluster = Cluster::with_logs(&logs);
        let leader = cluster.elect();
        assert_ne!(leader, id(1), "its log is behind");
        cluster.run(ms(100));
        let (_, progress) = cluster.raft(leader).progress().find(|(node, _)| *node == id(1)).unwrap();
        assert_eq!(progress.matched, cluster.raft(leader).log().last().index);
        assert!(progress.probes <= d + 2, "{} probes for {d} divergent terms", progress.probes);
    }
}

/// The same for a follower that is merely behind: two probes, however far.
#[test]
fn follower_a_million_entries_behind_matches_in_two_probes() {
    let mut long = vec![1; 400_000];
    long.extend(vec![2; 300_000]);
    long.extend(vec![5; 300_001]);
    let (long, short) = (log_of(&long), log_of(&[1]));
    let mut cluster = Cluster::with_logs(&[(5, short), (5, long.clone()), (5, long)]);
    let leader = cluster.elect();
    cluster.run(ms(2000));
    let (_, progress) = cluster.raft(leader).progress().find(|(node, _)| *node == id(1)).unwrap();
    assert!(progress.probes <= 2, "{} probes", progress.probes);
    assert_eq!(progress.matched, cluster.raft(leader).log().last().index);
}

/// Entries that both logs hold are not sent again: a new leader finds how far the logs agree and goes on from there,
/// with a window far smaller than the common part.
#[test]
fn leader_sends_only_the_entries_that_the_follower_lacks() {
    let long = log_of(&vec![1; 20_000]);
    let logs = [(1, long[..19_990].to_vec()), (1, long.clone()), (1, long[..19_990].to_vec())];
    let mut cluster = Cluster::with_logs(&logs);
    cluster.options.window_bytes = 4096;
    for node in cluster.ids() {
        cluster.start(node);
    }
    cluster.isolate(id(3));
    let leader = cluster.elect();
    let elected = cluster.now;
    cluster.until("its first entry commits", |c| c.raft(leader).log().commit() > Index(20_000));
    assert!(cluster.now - elected < ms(20), "took {:?}", cluster.now - elected);
    assert!(cluster.entries[&id(1)] < 20, "{} entries were sent", cluster.entries[&id(1)]);
}

/// A restarted follower does not know the commit index, and learns it from a leader that has nothing new to send.
#[test]
fn restarted_follower_learns_commit_index_without_a_write() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let position = cluster.propose(leader, "x");
    cluster.run(ms(200));
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    // No other node notices that it was away.
    cluster.crash(other);
    cluster.start(other);
    assert_eq!(cluster.raft(other).log().commit(), Index::ZERO);
    cluster.run(ms(1000));
    assert_eq!(cluster.raft(other).log().commit(), position.index);
}

/// A follower that became a pre-candidate while the leader's messages were held back still knows, once they arrive, how
/// far that leader's appends had matched its log.
#[test]
fn precandidate_still_learns_the_commit_index() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    let position = cluster.propose(leader, "x");
    cluster.run(Duration::from_micros(1500));
    cluster.cut.insert((leader, other));
    cluster.until("the node is a pre-candidate", |c| c.raft(other).role() == RoleName::Precandidate);
    assert!(cluster.raft(other).log().commit() < position.index);
    cluster.cut.clear();
    cluster.run(ms(120));
    assert_eq!(cluster.raft(other).log().commit(), position.index);
}

/// "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all
/// that follow it" (Figure 2), and only then. Returns whether an old append that arrived late deleted anything.
fn late_append_truncates(mutants: Mutants) -> bool {
    let mut cluster = Cluster::new(3);
    cluster.options.mutants = mutants;
    for node in cluster.ids() {
        cluster.start(node);
    }
    let leader = cluster.elect();
    cluster.run(ms(100));
    let follower = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    // Nothing from here on commits: committed entries are protected by more than this rule.
    for other in cluster.ids() {
        cluster.cut.insert((other, leader));
    }
    for i in 0..5 {
        cluster.propose(leader, &format!("{i}"));
    }
    cluster.run(ms(10));
    let before = cluster.hosts[&follower].log.clone();
    assert!(before.len() >= 7, "the follower holds all entries");
    let is_append =
        |message: &Message| matches!(message, Message::AppendEntries { entries, .. } if !entries.is_empty());
    let mut appends = cluster.sent.iter().filter(|(_, e)| e.to == follower && is_append(&e.message));
    let old = appends.nth_back(4).unwrap().1.clone();
    let now = cluster.now;
    cluster.hosts.get_mut(&follower).unwrap().raft.as_mut().unwrap().receive(now, old);
    cluster.process_ready(follower);
    let dropped = cluster.hosts[&follower].notes.iter().any(|note| matches!(note, Note::Truncated { .. }));
    assert_eq!(dropped, cluster.hosts[&follower].log != before);
    dropped
}

#[test]
fn late_shorter_append_truncates_nothing() {
    assert!(!late_append_truncates(Mutants::NONE));
    assert!(late_append_truncates(Mutants::only(Mutant::TruncateWithoutConflict)), "the mutant breaks the rule");
}

/// "Raft never commits log entries from previous terms by counting replicas" (§5.4.2, Figure 8).
#[test]
fn entry_of_earlier_term_commits_only_with_one_of_current_term() {
    assert!(first_commit(Mutants::NONE) >= Index(3));
    let broken = first_commit(Mutants::only(Mutant::CommitEarlierTerms));
    assert!(broken < Index(3), "the mutant breaks the rule");
}

/// The first index that the leader in (c) of Figure 8 commits: S1 leads term 4, and sends its entry of term 2 to a
/// majority before its own of term 4.
fn first_commit(mutants: Mutants) -> Index {
    let (two, three) = (log_of(&[1, 2]), log_of(&[1, 3]));
    let logs = [(3, two.clone()), (3, two.clone()), (3, two), (3, log_of(&[1])), (3, three)];
    let mut cluster = Cluster::with_logs(&logs);
    cluster.options.mutants = mutants;
    cluster.options.append_entries = 1;
    for node in cluster.ids() {
        cluster.start(node);
    }
    cluster.isolate(id(5));
    let leader = cluster.elect();
    while cluster.raft(leader).log().commit() == Index::ZERO {
        cluster.run(Duration::from_micros(100));
    }
    cluster.raft(leader).log().commit()
}

/// "A leader […] must have the latest information on which entries are committed. […] Raft handles
/// this by having each leader commit a blank no-op entry" (§8).
#[test]
fn leader_appends_a_noop_and_the_first_leader_the_log_id() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.until("the log is agreed", |c| c.raft(leader).accepts_commands());
    // The first entry of a log is the configuration, which draws the log id; the next entry records that this id is
    // agreed.
    let log = &cluster.hosts[&leader].log;
    let Payload::Membership(first) = &log[0].payload else { panic!("{:?}", log[0].payload) };
    assert!(first.voters.len() == 3 && first.log_id.is_some() && !first.log_agreed);
    let Payload::Membership(second) = &log[1].payload else { panic!("{:?}", log[1].payload) };
    assert!(second.log_id == first.log_id && second.log_agreed);
    cluster.crash(leader);
    let next = cluster.elect();
    assert_eq!(cluster.hosts[&next].log[2].payload, Payload::Noop);
}

/// "The leader […] waits for […] a majority of the cluster" before a read (§8, thesis §6.4).
#[test]
fn isolated_leader_answers_no_read() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(100));
    let read = cluster.read(leader);
    cluster.run(ms(10));
    assert_eq!(cluster.hosts[&leader].reads.len(), 1, "a quorum confirms");
    assert_eq!(cluster.hosts[&leader].reads[0].0, read);
    cluster.isolate(leader);
    let stale = cluster.read(leader);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.hosts[&leader].reads.len(), 1);
    assert_eq!(cluster.hosts[&leader].reads_lost, [stale], "the read fails when the leader steps down");
    assert!(cluster.leader().is_some_and(|now| now != leader), "another node leads");
}

/// A single voter counts its own copy like any other: only once it is durable (thesis §10.2.1).
#[test]
fn single_node_commits_only_after_its_own_sync() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    cluster.run(ms(10));
    cluster.hosts.get_mut(&leader).unwrap().disk_delay = ms(50);
    let position = cluster.propose(leader, "x");
    cluster.run(ms(49));
    assert!(cluster.raft(leader).log().commit() < position.index);
    cluster.run(ms(2));
    assert_eq!(cluster.raft(leader).log().commit(), position.index);
}

/// "Followers […] deposed" (thesis §4.2.3, §9.6): a node that was away for an hour comes back, and neither the term nor
/// the leader changes. etcd#8499 and #8498, tikv/raft-rs#84: neither PreVote without CheckQuorum nor CheckQuorum
/// without PreVote is enough. Both are always on.
#[test]
fn node_isolated_for_an_hour_rejoins_in_the_same_term() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let away = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    let term = cluster.term();
    cluster.isolate(away);
    cluster.run(Duration::from_secs(3600));
    cluster.heal();
    cluster.propose(leader, "x");
    cluster.run(ms(1000));
    assert_eq!((cluster.leader(), cluster.term()), (Some(leader), term));
    assert_eq!(cluster.hosts[&away].log, cluster.hosts[&leader].log);
}

/// The mutant: without PreVote, and without voters that stay with a leader they are in contact with, the same node does
/// depose it. So the test above can fail.
#[test]
fn returning_node_deposes_leader_without_pre_vote() {
    let mut cluster = Cluster::new(3);
    cluster.options.mutants = Mutants::only(Mutant::NoPreVote);
    for node in cluster.ids() {
        cluster.start(node);
    }
    let leader = cluster.elect();
    let away = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    let term = cluster.term();
    cluster.isolate(away);
    cluster.run(Duration::from_secs(60));
    cluster.heal();
    cluster.run(ms(1000));
    assert!(cluster.term() > term + 10);
}

/// The same for a node whose messages take three election timeouts, and for one that receives nothing but whose
/// messages arrive (a one-way cut; Hoverbear/old-raft-rs#27).
#[test]
fn slow_or_deaf_node_causes_no_election() {
    for deaf in [false, true] {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let far = *cluster.ids().iter().find(|node| **node != leader).unwrap();
        let term = cluster.term();
        for other in cluster.ids().into_iter().filter(|node| *node != far) {
            if deaf {
                cluster.cut.insert((other, far));
            } else {
                cluster.delay.insert((far, other), ms(900));
                cluster.delay.insert((other, far), ms(900));
            }
        }
        cluster.run(Duration::from_secs(600));
        assert_eq!((cluster.leader(), cluster.term()), (Some(leader), term), "deaf: {deaf}");
    }
}

/// A leader without contact to a quorum steps down, so that its clients try other nodes (thesis §6.2).
#[test]
fn leader_without_quorum_steps_down() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.elect();
    for other in cluster.ids().into_iter().filter(|node| *node != leader).take(3) {
        cluster.cut.insert((other, leader));
    }
    cluster.run(ms(600));
    assert!(!cluster.raft(leader).leads());
}

/// The disk counts for leadership: a leader whose disk stalls steps down, and is not elected again while it stalls.
#[test]
fn leader_with_stalled_disk_steps_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(100));
    cluster.hosts.get_mut(&leader).unwrap().disk_delay = Duration::from_secs(60);
    cluster.propose(leader, "x");
    cluster.run(ms(1500));
    let next = cluster.elect();
    assert_ne!(next, leader);
    let position = cluster.propose(next, "y");
    cluster.run(ms(100));
    assert!(cluster.raft(next).log().commit() >= position.index, "the other nodes commit");
}

/// A killed process closes its sockets: its followers start a pre-vote at once, and a majority that has lost it elects
/// another leader long before an election timeout.
#[test]
fn closed_connection_triggers_election_in_few_round_trips() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let died = cluster.now;
    cluster.crash(leader);
    for other in cluster.ids().into_iter().filter(|node| *node != leader) {
        cluster.lost(other, leader);
    }
    let term = cluster.term();
    cluster.until("another leader", |c| c.leader().is_some_and(|now| c.raft(now).term().0 > term));
    assert!(cluster.now - died < ms(40), "took {:?}", cluster.now - died);
}

/// A node that lost only its own link, while the others are in contact with the leader, disturbs nothing.
#[test]
fn one_lost_link_does_not_depose_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let term = cluster.term();
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    cluster.lost(other, leader);
    cluster.run(ms(1000));
    assert_eq!((cluster.leader(), cluster.term()), (Some(leader), term));
}

/// "If followers crash or run slowly, or if network packets are lost, the leader retries […] indefinitely" (§5.3):
/// whatever single message is lost, the follower has all entries soon after.
#[test]
fn lost_append_is_sent_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(100));
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    cluster.cut.insert((leader, other));
    cluster.propose(leader, "lost on the way");
    cluster.run(ms(2));
    cluster.cut.clear();
    cluster.run(ms(500));
    assert_eq!(cluster.hosts[&other].log, cluster.hosts[&leader].log);
}

/// The commit index reaches an idle follower in a moment, not with the next heartbeat.
#[test]
fn idle_follower_learns_the_commit_index_promptly() {
    let mut cluster = Cluster::new(3);
    cluster.options.heartbeat = ms(140);
    for node in cluster.ids() {
        cluster.start(node);
    }
    let leader = cluster.elect();
    cluster.run(ms(400));
    let position = cluster.propose(leader, "x");
    cluster.run(ms(10));
    assert!(cluster.ids().iter().all(|node| cluster.raft(*node).log().commit() >= position.index));
}

/// The index that node 1 of three acknowledges to an append that shows its log to agree up to 3, while it holds five
/// entries, the last two from another leader.
fn acknowledged(mutants: Mutants) -> Index {
    let ours = log_of(&[1, 1, 1, 2, 2]);
    let mut cluster = Cluster::with_logs(&[(3, ours), (3, log_of(&[1, 1, 1])), (3, log_of(&[1, 1, 1]))]);
    cluster.options.mutants = mutants;
    cluster.start(id(1));
    let prev = Position::new(Index(3), Term(1));
    let message = Message::AppendEntries { prev, commit: Index(3), probe: 0, entries: Vec::new() };
    let now = cluster.now;
    let append = Envelope { from: id(2), to: id(1), term: Term(3), origin: Origin::default(), message };
    cluster.hosts.get_mut(&id(1)).unwrap().raft.as_mut().unwrap().receive(now, append);
    cluster.process_ready(id(1));
    match cluster.sent.last().unwrap().1.message {
        Message::AppendResponse { matched } => matched,
        ref other => panic!("{other:?}"),
    }
}

/// "The follower's log is identical to its own log up through the new entries" (§5.3): only up through those, and not
/// up to the other entries that it holds.
#[test]
fn follower_acknowledges_only_entries_proven_to_match() {
    assert_eq!(acknowledged(Mutants::NONE), Index(3));
    assert_eq!(acknowledged(Mutants::only(Mutant::AckUnmatched)), Index(5), "the mutant breaks the rule");
}

/// Whether node 1, campaigning in term 2, becomes leader by a vote of term 1.
fn becomes_leader_by_a_stale_vote(mutants: Mutants) -> bool {
    let mut cluster = Cluster::with_logs(&vec![(1, log_of(&[1])); 3]);
    cluster.options.mutants = mutants;
    cluster.start(id(1));
    cluster.crash(id(2));
    cluster.crash(id(3));
    for term in [1, 2] {
        cluster.until("the node is a pre-candidate", |c| c.raft(id(1)).role() == RoleName::Precandidate);
        vote(&mut cluster, term, VoteKind::PreVote);
        assert_eq!(cluster.raft(id(1)).term(), Term(term + 1), "the node campaigns");
        if term == 1 {
            cluster.until("the campaign fails", |c| c.raft(id(1)).role() != RoleName::Candidate);
        }
    }
    cluster.run(ms(5));
    vote(&mut cluster, 2, VoteKind::Vote);
    cluster.raft(id(1)).leads()
}

fn vote(cluster: &mut Cluster, term: u64, ask: VoteKind) {
    let now = cluster.now;
    let message = Message::RequestVoteResponse { granted: true, void: false, ask, heard: LeaderTime::default() };
    let vote = Envelope { from: id(2), to: id(1), term: Term(term), origin: Origin::default(), message };
    cluster.hosts.get_mut(&id(1)).unwrap().raft.as_mut().unwrap().receive(now, vote);
    cluster.process_ready(id(1));
}

/// "A candidate wins an election if it receives votes from a majority of the servers […] for the same
/// term" (§5.2).
#[test]
fn vote_of_an_earlier_term_is_not_counted() {
    assert!(!becomes_leader_by_a_stale_vote(Mutants::NONE));
    assert!(becomes_leader_by_a_stale_vote(Mutants::only(Mutant::CountStaleVotes)), "the mutant breaks the rule");
}
