//! Sentences of the Raft paper, in the order of the paper, each with a test on simulated Raft cores. The comment of a
//! test quotes the sentence.

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
        assert_eq!(leaders, 1, "exactly one of {n} nodes leads");
        assert_eq!(cluster.raft(leader).vote(), Some(Vote::new(leader, None)));
    }
}

/// "Each server will vote for at most one candidate in a given term" (§5.2), and records its vote: no vote and no vote
/// request is sent before the vote is durable.
#[test]
fn stalled_disks_elect_no_leader() {
    let mut cluster = Cluster::new(3);
    for host in cluster.hosts.values_mut() {
        host.sync_delay = Duration::from_secs(3600);
    }
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), None);
    let relies_on_disk = |message: &Message| match message {
        Message::RequestVote { kind, .. } | Message::RequestVoteResponse { kind, .. } => *kind == VoteKind::Vote,
        Message::AppendEntries { .. } | Message::AppendResponse { .. } => true,
        _ => false,
    };
    assert!(!cluster.sent_messages.iter().any(|(_, envelope)| relies_on_disk(&envelope.message)));
}

/// "If the candidate's log is at least as up-to-date as any other log in that majority […], then it will hold all the
/// committed entries" (§5.4.1): the logs (a)–(f) of Figure 7.
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
    let leader_last_position = logs[leader.get() as usize - 1].1.last().unwrap().position;
    let is_not_ahead = |log: &Vec<Entry>| log.last().unwrap().position <= leader_last_position;
    assert!(logs.iter().filter(|(_, log)| is_not_ahead(log)).count() >= 4);
    cluster.run(ms(500));
    let leader_log = cluster.hosts[&leader].log.clone();
    assert!(cluster.hosts.values().all(|host| host.log == leader_log), "all logs are equal to the leader's log");
}

/// "When sending an AppendEntries RPC, the leader includes the index and term of the entry in its
/// log that immediately precedes the new entries" (§5.3): a follower with d divergent terms is
/// matched in at most d + 2 probes.
#[test]
fn follower_with_d_divergent_terms_matches_in_d_plus_2_probes() {
    for d in 1..12u64 {
        // The follower was cut off in term 1 and led d terms that no other node saw, three entries each.
        let divergent_terms: Vec<u64> = std::iter::repeat_n(1, 10).chain((0..d * 3).map(|i| 2 + 2 * (i / 3))).collect();
        let majority_terms: Vec<u64> = std::iter::repeat_n(1, 10).chain((0..d * 4).map(|i| 3 + 2 * (i / 4))).collect();
        let term = 4 + 2 * d;
        let logs = [(term, log_of(&divergent_terms)), (term, log_of(&majority_terms)), (term, log_of(&majority_terms))];
        let mut cluster = Cluster::with_logs(&logs);
        let leader = cluster.elect();
        assert_ne!(leader, id(1), "node 1 is not elected: its log is behind");
        cluster.run(ms(100));
        let (_, progress) = cluster.raft(leader).progress().find(|(node, _)| *node == id(1)).unwrap();
        assert_eq!(progress.matched, cluster.raft(leader).log().last().index);
        assert!(progress.probes_sent <= d + 2, "{} probes for {d} divergent terms", progress.probes_sent);
    }
}

/// A follower whose log is a prefix of the leader's log is matched in two probes, however many entries it lacks.
#[test]
fn follower_a_million_entries_behind_matches_in_two_probes() {
    let mut long_log_terms = vec![1; 400_000];
    long_log_terms.extend(vec![2; 300_000]);
    long_log_terms.extend(vec![5; 300_001]);
    let (long_log, short_log) = (log_of(&long_log_terms), log_of(&[1]));
    let mut cluster = Cluster::with_logs(&[(5, short_log), (5, long_log.clone()), (5, long_log)]);
    let leader = cluster.elect();
    cluster.run(ms(2000));
    let (_, progress) = cluster.raft(leader).progress().find(|(node, _)| *node == id(1)).unwrap();
    assert!(progress.probes_sent <= 2, "{} probes", progress.probes_sent);
    assert_eq!(progress.matched, cluster.raft(leader).log().last().index);
}

/// Entries that both logs hold are not sent again: a new leader finds the last matching position and sends only later
/// entries, even if the common part is much larger than the window.
#[test]
fn leader_sends_only_the_entries_that_the_follower_lacks() {
    let long_log = log_of(&vec![1; 20_000]);
    let logs = [(1, long_log[..19_990].to_vec()), (1, long_log.clone()), (1, long_log[..19_990].to_vec())];
    let mut cluster = Cluster::with_logs(&logs);
    cluster.options.window_bytes_max = 4096;
    for node in cluster.ids() {
        cluster.start(node);
    }
    cluster.isolate(id(3));
    let leader = cluster.elect();
    let elected_at = cluster.now;
    cluster.run_until("the first entry of the leader commits", |c| c.raft(leader).log().commit() > Index(20_000));
    assert!(cluster.now - elected_at < ms(20), "the first commit took {:?}", cluster.now - elected_at);
    assert!(cluster.entries_sent[&id(1)] < 20, "{} entries were sent", cluster.entries_sent[&id(1)]);
}

/// A restarted follower does not know the commit index, and learns it from a leader that has nothing new to send.
#[test]
fn restarted_follower_learns_commit_index_without_a_write() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let position = cluster.propose(leader, "x");
    cluster.run(ms(200));
    let restarted_follower = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    // The restart is so short that no other node notices the crash.
    cluster.crash(restarted_follower);
    cluster.start(restarted_follower);
    assert_eq!(cluster.raft(restarted_follower).log().commit(), Index::ZERO);
    cluster.run(ms(1000));
    assert_eq!(cluster.raft(restarted_follower).log().commit(), position.index);
}

/// A follower becomes a pre-candidate while the leader's messages do not arrive. When they arrive again, the node still
/// knows up to which index the leader's appends had matched its log, and commits up to there.
#[test]
fn precandidate_still_learns_the_commit_index() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    let position = cluster.propose(leader, "x");
    cluster.run(Duration::from_micros(1500));
    cluster.broken_links.insert((leader, other));
    cluster.run_until("the node is a pre-candidate", |c| c.raft(other).role() == RoleName::Precandidate);
    assert!(cluster.raft(other).log().commit() < position.index);
    cluster.broken_links.clear();
    cluster.run(ms(120));
    assert_eq!(cluster.raft(other).log().commit(), position.index);
}

/// "If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all
/// that follow it" (Figure 2), and only then. Returns whether an old append that arrives late truncates the log.
fn late_append_truncates(mutants: Mutants) -> bool {
    let mut cluster = Cluster::new(3);
    cluster.options.mutants = mutants;
    for node in cluster.ids() {
        cluster.start(node);
    }
    let leader = cluster.elect();
    cluster.run(ms(100));
    let follower = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    // From here on no entry commits, because other rules also protect committed entries from truncation.
    for other in cluster.ids() {
        cluster.broken_links.insert((other, leader));
    }
    for i in 0..5 {
        cluster.propose(leader, &format!("{i}"));
    }
    cluster.run(ms(10));
    let log_before = cluster.hosts[&follower].log.clone();
    assert!(log_before.len() >= 7, "the follower holds all entries");
    let is_append =
        |message: &Message| matches!(message, Message::AppendEntries { entries, .. } if !entries.is_empty());
    let mut appends = cluster.sent_messages.iter().filter(|(_, e)| e.to == follower && is_append(&e.message));
    let old_append = appends.nth_back(4).unwrap().1.clone();
    let now = cluster.now;
    cluster.hosts.get_mut(&follower).unwrap().raft.as_mut().unwrap().receive(now, old_append);
    cluster.process_ready(follower);
    let has_truncated = cluster.hosts[&follower].notes.iter().any(|note| matches!(note, Note::LogTruncated { .. }));
    assert_eq!(has_truncated, cluster.hosts[&follower].log != log_before);
    has_truncated
}

#[test]
fn late_shorter_append_truncates_nothing() {
    assert!(!late_append_truncates(Mutants::NONE));
    assert!(late_append_truncates(Mutants::only(Mutant::TruncateWithoutConflict)), "the mutant breaks the rule");
}

/// "Raft never commits log entries from previous terms by counting replicas" (§5.4.2, Figure 8).
#[test]
fn entry_of_earlier_term_commits_only_with_one_of_current_term() {
    assert!(first_committed_index(Mutants::NONE) >= Index(3));
    let first_committed_index_with_mutant = first_committed_index(Mutants::only(Mutant::CommitEarlierTerms));
    assert!(first_committed_index_with_mutant < Index(3), "the mutant breaks the rule");
}

/// The first index that the leader in (c) of Figure 8 commits: S1 leads term 4, and sends its entry of term 2 to a
/// majority before its own entry of term 4.
fn first_committed_index(mutants: Mutants) -> Index {
    let (log_with_term_2, log_with_term_3) = (log_of(&[1, 2]), log_of(&[1, 3]));
    let logs = [
        (3, log_with_term_2.clone()),
        (3, log_with_term_2.clone()),
        (3, log_with_term_2),
        (3, log_of(&[1])),
        (3, log_with_term_3),
    ];
    let mut cluster = Cluster::with_logs(&logs);
    cluster.options.mutants = mutants;
    cluster.options.append_entries_max = 1;
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
fn leader_appends_noop_and_first_leader_appends_log_id() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run_until("the log is agreed", |c| c.raft(leader).accepts_commands());
    // The first entry of a log is the configuration with the new log id; the next entry records that this id is agreed.
    let log = &cluster.hosts[&leader].log;
    let Payload::Membership(first) = &log[0].payload else { panic!("{:?}", log[0].payload) };
    assert!(first.voters.len() == 3 && first.log_id.is_some() && !first.log_agreed);
    let Payload::Membership(second) = &log[1].payload else { panic!("{:?}", log[1].payload) };
    assert!(second.log_id == first.log_id && second.log_agreed);
    cluster.crash(leader);
    let next_leader = cluster.elect();
    assert_eq!(cluster.hosts[&next_leader].log[2].payload, Payload::Noop);
}

/// "Raft handles this by having the leader exchange heartbeat messages with a majority of the cluster before responding
/// to read-only requests" (§8, thesis §6.4).
#[test]
fn isolated_leader_answers_no_read() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(100));
    let read = cluster.read(leader);
    cluster.run(ms(10));
    assert_eq!(cluster.hosts[&leader].confirmed_reads.len(), 1, "a quorum confirms the read");
    assert_eq!(cluster.hosts[&leader].confirmed_reads[0].0, read);
    cluster.isolate(leader);
    let stale_read = cluster.read(leader);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.hosts[&leader].confirmed_reads.len(), 1);
    assert_eq!(cluster.hosts[&leader].lost_reads, [stale_read], "the read fails when the leader steps down");
    assert!(cluster.leader().is_some_and(|now| now != leader), "another node leads");
}

/// A single voter counts its own copy like any other: only once it is durable (thesis §10.2.1).
#[test]
fn single_node_commits_only_after_its_own_sync() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    cluster.run(ms(10));
    cluster.hosts.get_mut(&leader).unwrap().sync_delay = ms(50);
    let position = cluster.propose(leader, "x");
    cluster.run(ms(49));
    assert!(cluster.raft(leader).log().commit() < position.index);
    cluster.run(ms(2));
    assert_eq!(cluster.raft(leader).log().commit(), position.index);
}

/// Thesis §4.2.3 and §9.6: a node that was isolated for an hour reconnects, and neither the term nor the leader
/// changes. etcd#8499 and #8498, tikv/raft-rs#84: neither PreVote without CheckQuorum nor CheckQuorum without PreVote
/// is enough. Here both are always enabled.
#[test]
fn node_isolated_for_an_hour_rejoins_in_the_same_term() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let isolated_node = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    let term = cluster.highest_term();
    cluster.isolate(isolated_node);
    cluster.run(Duration::from_secs(3600));
    cluster.heal();
    cluster.propose(leader, "x");
    cluster.run(ms(1000));
    assert_eq!((cluster.leader(), cluster.highest_term()), (Some(leader), term));
    assert_eq!(cluster.hosts[&isolated_node].log, cluster.hosts[&leader].log);
}

/// With the mutant there is no PreVote, and voters do not ignore candidates while they are in contact with a leader.
/// Then the reconnected node deposes the leader, so the test `node_isolated_for_an_hour_rejoins_in_the_same_term` can
/// fail.
#[test]
fn returning_node_deposes_leader_without_pre_vote() {
    let mut cluster = Cluster::new(3);
    cluster.options.mutants = Mutants::only(Mutant::NoPreVote);
    for node in cluster.ids() {
        cluster.start(node);
    }
    let leader = cluster.elect();
    let isolated_node = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    let term = cluster.highest_term();
    cluster.isolate(isolated_node);
    cluster.run(Duration::from_secs(60));
    cluster.heal();
    cluster.run(ms(1000));
    assert!(cluster.highest_term() > term + 10);
}

/// A node whose messages are delayed by three election timeouts changes neither term nor leader. The same holds for a
/// node that receives no messages while its own messages arrive (a link broken in one direction;
/// Hoverbear/old-raft-rs#27).
#[test]
fn slow_or_deaf_node_causes_no_election() {
    for deaf in [false, true] {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let slow_or_deaf_node = *cluster.ids().iter().find(|node| **node != leader).unwrap();
        let term = cluster.highest_term();
        for other in cluster.ids().into_iter().filter(|node| *node != slow_or_deaf_node) {
            if deaf {
                cluster.broken_links.insert((other, slow_or_deaf_node));
            } else {
                cluster.link_delays.insert((slow_or_deaf_node, other), ms(900));
                cluster.link_delays.insert((other, slow_or_deaf_node), ms(900));
            }
        }
        cluster.run(Duration::from_secs(600));
        assert_eq!(
            (cluster.leader(), cluster.highest_term()),
            (Some(leader), term),
            "the node receives no messages: {deaf}"
        );
    }
}

/// A leader without contact to a quorum steps down, so that its clients try other nodes (thesis §6.2).
#[test]
fn leader_without_quorum_steps_down() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.elect();
    for other in cluster.ids().into_iter().filter(|node| *node != leader).take(3) {
        cluster.broken_links.insert((other, leader));
    }
    cluster.run(ms(600));
    assert!(!cluster.raft(leader).leads());
}

/// A leader whose disk stalls steps down, and is not elected again while the disk stalls.
#[test]
fn leader_with_stalled_disk_steps_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(100));
    cluster.hosts.get_mut(&leader).unwrap().sync_delay = Duration::from_secs(60);
    cluster.propose(leader, "x");
    cluster.run(ms(1500));
    let next_leader = cluster.elect();
    assert_ne!(next_leader, leader);
    let position = cluster.propose(next_leader, "y");
    cluster.run(ms(100));
    assert!(cluster.raft(next_leader).log().commit() >= position.index, "the other nodes commit");
}

/// A killed process closes its sockets: its followers start a pre-vote at once, and a majority that has lost its leader
/// elects another one long before an election timeout.
#[test]
fn closed_connection_triggers_election_in_few_round_trips() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let crashed_at = cluster.now;
    cluster.crash(leader);
    for other in cluster.ids().into_iter().filter(|node| *node != leader) {
        cluster.report_lost_link(other, leader);
    }
    let term = cluster.highest_term();
    cluster.run_until("another node leads", |c| c.leader().is_some_and(|now| c.raft(now).term().0 > term));
    assert!(cluster.now - crashed_at < ms(40), "the election took {:?}", cluster.now - crashed_at);
}

/// A node that loses its own link to the leader, while the other nodes are in contact with the leader, changes neither
/// term nor leader.
#[test]
fn one_lost_link_does_not_depose_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(200));
    let term = cluster.highest_term();
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    cluster.report_lost_link(other, leader);
    cluster.run(ms(1000));
    assert_eq!((cluster.leader(), cluster.highest_term()), (Some(leader), term));
}

/// "If followers crash or run slowly, or if network packets are lost, the leader retries […] indefinitely" (§5.3):
/// after an append is lost, the follower soon has all entries.
#[test]
fn lost_append_is_sent_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.run(ms(100));
    let other = *cluster.ids().iter().find(|node| **node != leader).unwrap();
    cluster.broken_links.insert((leader, other));
    cluster.propose(leader, "lost on the way");
    cluster.run(ms(2));
    cluster.broken_links.clear();
    cluster.run(ms(500));
    assert_eq!(cluster.hosts[&other].log, cluster.hosts[&leader].log);
}

/// The commit index reaches an idle follower within milliseconds, not only with the next heartbeat.
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

/// Returns the index that node 1 of three acknowledges. Node 1 holds five entries, the last two from another leader,
/// and receives an append that proves that its log matches up to index 3.
fn acknowledged_index(mutants: Mutants) -> Index {
    let entries = log_of(&[1, 1, 1, 2, 2]);
    let mut cluster = Cluster::with_logs(&[(3, entries), (3, log_of(&[1, 1, 1])), (3, log_of(&[1, 1, 1]))]);
    cluster.options.mutants = mutants;
    cluster.start(id(1));
    let prev = Position::new(Index(3), Term(1));
    let message = Message::AppendEntries { prev, commit: Index(3), probe_number: 0, entries: Vec::new() };
    let now = cluster.now;
    let append = Envelope { from: id(2), to: id(1), term: Term(3), origin: Origin::default(), message };
    cluster.hosts.get_mut(&id(1)).unwrap().raft.as_mut().unwrap().receive(now, append);
    cluster.process_ready(id(1));
    match cluster.sent_messages.last().unwrap().1.message {
        Message::AppendResponse { matched } => matched,
        ref other => panic!("{other:?}"),
    }
}

/// "The follower's log is identical to its own log up through the new entries" (§5.3): the follower acknowledges only
/// the entries up to the end of the append, and not the further entries that it holds.
#[test]
fn follower_acknowledges_only_entries_proven_to_match() {
    assert_eq!(acknowledged_index(Mutants::NONE), Index(3));
    assert_eq!(acknowledged_index(Mutants::only(Mutant::AckUnmatched)), Index(5), "the mutant breaks the rule");
}

/// Whether node 1 becomes leader of its term by a vote of an earlier term.
fn becomes_leader_by_a_stale_vote(mutants: Mutants) -> bool {
    let mut cluster = Cluster::with_logs(&vec![(1, log_of(&[1])); 3]);
    cluster.options.mutants = mutants;
    cluster.start(id(1));
    cluster.crash(id(2));
    cluster.crash(id(3));
    for term in [1, 2] {
        cluster.run_until("the node is a pre-candidate", |c| c.raft(id(1)).role() == RoleName::Precandidate);
        deliver_vote(&mut cluster, term, VoteKind::PreVote);
        assert_eq!(cluster.raft(id(1)).term(), Term(term + 1), "the node campaigns");
        if term == 1 {
            cluster.run_until("the campaign fails", |c| c.raft(id(1)).role() != RoleName::Candidate);
        }
    }
    cluster.run(ms(5));
    deliver_vote(&mut cluster, 2, VoteKind::Vote);
    cluster.raft(id(1)).leads()
}

/// Delivers a vote or pre-vote of node 2 to node 1.
fn deliver_vote(cluster: &mut Cluster, term: u64, kind: VoteKind) {
    let now = cluster.now;
    let message =
        Message::RequestVoteResponse { granted: true, maybe_emptied: false, kind, leader_time: LeaderTime::default() };
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
