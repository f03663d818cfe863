//! Bugs of other systems in snapshots, compaction, full disks, membership changes and partitions: which test here would
//! catch each, and those tests that belong to no other file. A test checks the table against the code.

use bytes::Bytes;
use drave::codec;
use drave::consensus::log::Log;
use drave::consensus::message::{Envelope, Message, Origin, Round};
use drave::consensus::replica::{Recovered, Replica};
use drave::consensus::{Options, Raft};
use drave::node::compaction::CompactionPolicy;
use drave::node::{DurableSnapshot, Options as NodeOptions};
use drave::shelf::reconcile_with_log;
use drave::sim::disk::SimDisk;
use drave::snapshot::{ChunkKind, Header, Store};
use drave::types::*;
use drave::wal::{Fault, Journal, Options as WalOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// (where the bug was, the file and the test that would catch it here). The doc comment of the test must cite it.
const COVERED: &[(&str, &str, &str)] = &[
    // Full disks, and how they get free space again.
    (
        "canonical/dqlite#283",
        "tests/full_disk.rs",
        "where_all_disks_are_full_writes_are_refused_and_return_by_themselves",
    ),
    ("vault#14372", "tests/full_disk.rs", "a_leader_whose_disk_is_full_lets_another_lead"),
    ("baidu/braft#200", "src/wal/tests.rs", "a_log_without_room_takes_the_reserve_then_waits_and_goes_on"),
    ("databend#18988", "src/wal/tests.rs", "a_journal_opens_on_a_full_disk"),
    ("etcd#9992", "tests/full_disk.rs", "where_all_disks_are_full_writes_are_refused_and_return_by_themselves"),
    ("consul#866", "tests/soak.rs", "disks_and_memory_stay_bounded_and_who_was_away_comes_back"),
    ("etcd#11947", "tests/cli.rs", "verbs_answer_yes_or_no"),
    ("rabbitmq-server#2505", "tests/dump.rs", "why_each_segment_is_kept_is_told"),
    ("rabbitmq-server#14522", "src/node/snapshot_sender.rs", "who_is_silent_holds_back_nothing_and_is_sent_the_newest"),
    ("openraft#617", "tests/snapshots_processes.rs", "all_killed_after_their_logs_gave_way_come_back_with_everything"),
    // Slow followers, and snapshots for them.
    ("hashicorp/raft#697", "tests/regressions.rs", "a_conflict_at_the_last_index_of_a_snapshot_drops_the_whole_log"),
    ("hashicorp/raft#697", "src/node/snapshot_sender.rs", "words_that_come_late_make_nothing_go_twice"),
    (
        "hashicorp/raft#212",
        "tests/snapshots_processes.rs",
        "who_was_away_while_the_log_gave_way_comes_back_through_a_snapshot",
    ),
    ("baidu/braft#423", "tests/snapshots/matrix.rs", "a_receiver_that_is_killed_ten_times_asks_for_little_again"),
    ("rqlite", "src/node/snapshot_sender.rs", "a_snapshot_that_is_being_sent_holds_up_no_newer_one"),
    ("etcd FAQ", "tests/regressions.rs", "compaction_holds_back_while_a_snapshot_is_under_way"),
    ("rqlite/rqlite#1228", "src/apply/applier/tests.rs", "a_session_larger_than_a_piece_is_told_in_several"),
    ("async-raft#103", "src/net/sockets/tests.rs", "peers_talk_and_a_beat_passes_megabytes"),
    // Log compaction.
    ("akka-entity-replication#152", "tests/regressions.rs", "an_append_that_begins_before_the_base_is_no_conflict"),
    ("openraft 674e78aa", "tests/regressions.rs", "a_snapshot_of_what_is_committed_already_changes_nothing"),
    (
        "openraft 674e78aa",
        "tests/snapshots/installing.rs",
        "whatever_operation_of_taking_installing_or_compacting_is_the_last_nothing_acknowledged_is_lost",
    ),
    ("openraft#2116", "tests/storms.rs", "nothing_is_lost_in_ten_simulated_hours_of_trouble"),
    ("cowsql e514f78f", "tests/mutants.rs", "every_broken_rule_is_noticed"),
    ("cockroach#43605", "tests/storms.rs", "nothing_is_lost_in_ten_simulated_hours_of_trouble"),
    ("nats-server#7556", "tests/snapshots/damage.rs", "a_flipped_bit_is_always_noticed"),
    ("nats-server#7556", "tests/regressions.rs", "a_damaged_snapshot_is_never_an_empty_state"),
    ("arcadedb#5345", "tests/regressions.rs", "a_snapshot_is_due_by_bytes_and_by_age_not_by_count"),
    // Membership changes.
    ("etcd#7625", "tests/core/members.rs", "a_joint_configuration_needs_both_majorities"),
    ("Ongaro 2015", "tests/core/members.rs", "no_change_before_the_leaders_own_first_entry_is_committed"),
    ("redpanda#17675", "tests/core/members.rs", "one_change_at_a_time"),
    ("openraft#1808", "tests/core/members.rs", "a_snapshot_brings_its_own_configuration"),
    ("hiqlite#98", "tests/recover.rs", "one_that_is_left_goes_on_alone_when_it_is_told_what_that_costs"),
    ("canonical/raft#250", "tests/core/members.rs", "a_configuration_rolls_back_with_the_log"),
    ("canonical/raft#250", "tests/core/faults.rs", "a_configuration_rolls_back_to_the_one_that_a_snapshot_holds"),
    ("cowsql#150", "tests/core/faults.rs", "a_vote_does_not_depend_on_who_the_voter_thinks_is_a_member"),
    ("raft-rs#192", "tests/core/members.rs", "a_change_whose_new_voters_do_not_answer_is_taken_back"),
    ("Redis-Raft", "tests/core/faults.rs", "a_leader_on_an_island_changes_nothing_alone"),
    ("logcabin#56", "tests/core/members.rs", "who_was_away_when_it_was_removed_disturbs_nobody"),
    ("openraft#2091", "tests/core/members.rs", "two_of_which_one_is_removed_never_end_without_a_leader"),
    ("hashicorp/raft#524", "tests/core/members.rs", "who_is_removed_knows_and_is_quiet"),
    ("eBay/HomeStore#764", "tests/core/members.rs", "a_learner_that_stays_one_never_votes_nor_leads"),
    ("f-rustrated/EastGuard#150", "tests/core/members.rs", "what_may_stop_the_cluster_is_refused_unless_forced"),
    ("etcd#15107", "tests/core/members.rs", "a_new_member_is_a_learner_and_then_a_voter_by_itself"),
    ("tikv#1468", "tests/core/members.rs", "a_replacement_is_one_change_and_comes_by_itself"),
    ("hashicorp/consul#457", "tests/processes.rs", "a_cluster_that_moved_is_found_where_it_is"),
    ("etcd#13196", "tests/moving.rs", "who_was_removed_stays_so_whatever_the_peers_say"),
    ("nats-server#7545", "tests/storms.rs", "nothing_is_lost_in_ten_simulated_hours_of_trouble"),
    ("nats-server#7545", "tests/core/faults.rs", "a_leader_on_an_island_changes_nothing_alone"),
    ("qdrant", "tests/core/members.rs", "who_has_forgotten_everything_does_not_help_to_lose_it"),
    ("qdrant#1235", "tests/mutants.rs", "every_broken_rule_is_noticed"),
    // Partitions, and one failing node.
    ("etcd#8499", "tests/core/paper.rs", "a_node_isolated_for_an_hour_rejoins_and_the_term_does_not_move"),
    ("Hoverbear/old-raft-rs#27", "tests/core/paper.rs", "a_node_far_away_or_deaf_causes_no_election"),
    ("tigerbeetle#2739", "tests/core/faults.rs", "whatever_ails_one_node_the_others_go_on"),
];

/// Files whose tests need not cite: the reports concern other disks, and the tests' own comments give their purpose.
const UNCITED: &[&str] = &["tests/full_disk.rs"];

/// The doc comment directly above a test; `None` if there is no such test.
fn comment_of(text: &str, test: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.starts_with(&format!("fn {test}(")))?;
    let above: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .copied()
        .take_while(|line| line.starts_with("///") || line.starts_with("#["))
        .collect();
    above.contains(&"#[test]").then(|| above.into_iter().rev().filter(|line| line.starts_with("///")).collect())
}

#[test]
fn every_test_that_is_named_here_is_there_and_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for (citation, file, test) in COVERED {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        match comment_of(&text, test) {
            None => wrong.push(format!("{file} has no test {test}")),
            Some(comment) if !comment.contains(citation) && !UNCITED.contains(file) => {
                wrong.push(format!("{file}: {test} does not say {citation}: {comment:?}"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const LEADER: NodeId = NodeId::new(2).unwrap();

fn members() -> Membership {
    Membership::founding([1, 2, 3].map(|n| (NodeId::new(n).unwrap(), format!("n{n}:1"))))
}

fn at(index: u64, term: u64) -> Position {
    Position::new(Index(index), Term(term))
}

fn base(position: Position) -> SnapshotPoint {
    SnapshotPoint { position, configured: Index::ZERO, membership: members() }
}

fn entry(position: Position) -> Entry {
    codec::entry(position, ClusterTime(0), Payload::Noop)
}

/// A follower of node 2, which leads term 9. Its log begins at `begins` and has entries of the given terms.
struct Follower {
    raft: Raft,
    now: Time,
}

impl Follower {
    fn new(begins: Position, terms: &[u64], applied: u64, mutants: Mutants) -> Follower {
        let recovered = Recovered {
            disk: None,
            hard_state: HardState { term: Term(9), ..HardState::default() },
            base: base(begins),
            entries: terms.iter().map(|term| (Term(*term), 50)).collect(),
            configurations: Vec::new(),
            time: ClusterTime(0),
            applied: Index(applied),
        };
        let options = Options { mutants, ..Options::default() };
        let now = Time::ZERO + Duration::from_secs(1);
        let raft = Raft::new(Replica::recover(NodeId::new(1).unwrap(), options, recovered, 3), now);
        let mut follower = Follower { raft, now };
        follower.hears(Message::Heartbeat { commit: Index(applied), round: Round(1), time: ClusterTime(0) });
        follower
    }

    /// The write of the next `Ready`, and the messages from before and after its persistence.
    fn answers(&mut self) -> (Option<Write>, Vec<Message>) {
        let mut ready = self.raft.ready(self.now);
        let write = ready.write.take();
        let mut messages: Vec<Message> = ready.messages.into_iter().map(|envelope| envelope.message).collect();
        if let Some(write) = &write {
            self.raft.persisted(self.now, write.id);
            messages.extend(self.raft.ready(self.now).messages.into_iter().map(|envelope| envelope.message));
        }
        (write, messages)
    }

    fn hears(&mut self, message: Message) -> Vec<Message> {
        let to = self.raft.id();
        self.raft.receive(self.now, Envelope { from: LEADER, to, term: Term(9), origin: Origin::default(), message });
        self.answers().1
    }

    fn appends(&mut self, prev: Position, entries: Vec<Entry>) -> Vec<Message> {
        self.hears(Message::AppendEntries { prev, commit: Index::ZERO, probe: 0, entries })
    }
}

/// hashicorp/raft#697 and #704: a log with a different entry at the last index of a snapshot was kept. Later entries
/// never matched, and the leader sent the snapshot again and again.
#[test]
fn a_conflict_at_the_last_index_of_a_snapshot_drops_the_whole_log() {
    let mut follower = Follower::new(Position::ZERO, &[1, 1, 2, 2, 2], 2, Mutants::NONE);
    follower.raft.restored(follower.now, base(at(4, 3)), ClusterTime(0));
    assert_eq!((follower.raft.log().base(), follower.raft.log().last()), (at(4, 3), at(4, 3)));
    let (write, messages) = follower.answers();
    assert_eq!(write.unwrap().base.map(|base| base.position), Some(at(4, 3)));
    assert_eq!(messages.last(), Some(&Message::AppendResponse { matched: Index(4) }));
    // The next entry matches, so no second snapshot is needed.
    let next = follower.appends(at(4, 3), vec![entry(at(5, 9))]);
    assert_eq!(next, [Message::AppendResponse { matched: Index(5) }]);

    let mutants = Mutants::only(Mutant::KeepConflictingLog);
    let mut broken = Follower::new(Position::ZERO, &[1, 1, 2, 2, 2], 2, mutants);
    broken.raft.restored(broken.now, base(at(4, 3)), ClusterTime(0));
    broken.answers();
    let next = broken.appends(at(4, 3), vec![entry(at(5, 9))]);
    assert!(matches!(next[..], [Message::AppendRejected { .. }]), "the mutant of it: {next:?}");
}

/// openraft 674e78aa and ac3e5a89: a snapshot that contradicts a committed index was accepted.
#[test]
fn a_snapshot_of_what_is_committed_already_changes_nothing() {
    let mut follower = Follower::new(Position::ZERO, &[1, 1, 2, 2], 3, Mutants::NONE);
    follower.raft.restored(follower.now, base(at(2, 5)), ClusterTime(0));
    assert_eq!((follower.raft.log().base(), follower.raft.log().last()), (Position::ZERO, at(4, 2)));
    assert_eq!((follower.raft.log().commit(), follower.answers().0), (Index(3), None));

    let mutants = Mutants::only(Mutant::InstallOldSnapshots);
    let mut broken = Follower::new(Position::ZERO, &[1, 1, 2, 2], 3, mutants);
    let installs = || broken.raft.restored(broken.now, base(at(2, 5)), ClusterTime(0));
    assert!(catch_unwind(AssertUnwindSafe(installs)).is_err(), "the mutant of it panics");
}

/// akka-entity-replication#152, openraft 71a290cd and 44381b0c: the entry before an append had been compacted; this was
/// treated as a conflict, and committed entries were deleted.
#[test]
fn an_append_that_begins_before_the_base_is_no_conflict() {
    let late = |mutants| {
        let mut follower = Follower::new(at(10, 2), &[2, 3], 10, mutants);
        let answers = follower.appends(at(8, 1), vec![entry(at(9, 2)), entry(at(10, 2)), entry(at(11, 2))]);
        assert_eq!((follower.raft.log().base(), follower.raft.log().last()), (at(10, 2), at(12, 3)));
        answers
    };
    assert_eq!(late(Mutants::NONE), [Message::AppendResponse { matched: Index(11) }]);
    let broken = late(Mutants::only(Mutant::CompactedIsConflict));
    assert!(matches!(broken[..], [Message::AppendRejected { .. }]), "the mutant of it: {broken:?}");
}

/// A log of ten entries of 100 bytes each, all of them committed, durable and applied.
fn ten() -> Log {
    let mut log = Log::new(Position::ZERO);
    for index in 1..=10 {
        assert_eq!(log.append(Term(1), 100), at(index, 1));
    }
    log.persisted(Index(10));
    log.commit_to(Index(10));
    log
}

fn kept(index: u64, bytes: usize) -> DurableSnapshot {
    DurableSnapshot { position: at(index, 1), bytes: Bytes::from(vec![0; bytes]) }
}

/// etcd FAQ: "slow followers may livelock by needing a new snapshot before finishing receiving" the last.
#[test]
fn compaction_holds_back_while_a_snapshot_is_under_way() {
    let release = |shipped: Option<u64>, hold_bytes, trailing_bytes, mutants| {
        let options = NodeOptions { hold_bytes, trailing_bytes, mutants, ..NodeOptions::default() };
        let mut keeping = CompactionPolicy::new(Time::ZERO, Some(kept(8, 10)));
        keeping.release(&ten(), Index(10), shipped.map(Index), &options)
    };
    assert_eq!(release(None, 1 << 30, 0, Mutants::NONE), Some(Index(8)), "nothing that no snapshot holds");
    assert_eq!(release(None, 1 << 30, 300, Mutants::NONE), Some(Index(5)), "some is kept for who is a little behind");
    assert_eq!(release(Some(3), 1 << 30, 0, Mutants::NONE), Some(Index(3)), "and what follows one on its way");
    assert_eq!(release(Some(3), 699, 0, Mutants::NONE), Some(Index(8)), "unless that is too much");
    let broken = Mutants::only(Mutant::CompactUnderShip);
    assert_eq!(release(Some(3), 1 << 30, 0, broken), Some(Index(8)), "the mutant of it");
}

/// arcadedb#5345: a snapshot was due after a number of entries, and the log of a quiet cluster filled the disk.
#[test]
fn a_snapshot_is_due_by_bytes_and_by_age_not_by_count() {
    let due = |snapshot_log_bytes, state: Option<usize>, seconds, mutants| {
        let options = NodeOptions { snapshot_log_bytes, mutants, ..NodeOptions::default() };
        let keeping = CompactionPolicy::new(Time::ZERO, state.map(|bytes| kept(2, bytes)));
        keeping.is_due(Time::ZERO + Duration::from_secs(seconds), &ten(), Index(10), false, &options)
    };
    assert!(due(1000, None, 1, Mutants::NONE) && !due(1001, None, 1, Mutants::NONE), "by bytes");
    assert!(
        due(800, Some(800), 1, Mutants::NONE) && !due(800, Some(801), 1, Mutants::NONE),
        "as many as the state has"
    );
    assert!(due(u64::MAX, None, 3600, Mutants::NONE) && !due(u64::MAX, None, 3599, Mutants::NONE), "by age");
    let broken = Mutants::only(Mutant::SnapshotByCount);
    assert!(!due(1, None, 7200, broken), "the mutant of it");
}

/// Starts a node whose log begins after a damaged snapshot. Returns whether the start found a state.
fn start_on_damage(mutants: Mutants) -> drave::wal::Result<bool> {
    let (wal, shelf) = (SimDisk::new(), SimDisk::new());
    let node = NodeId::new(1).unwrap();
    let options = WalOptions { segment_bytes: 2048, mutants, ..WalOptions::new(node, ClusterId(7), DiskId(9)) };
    let open = || Journal::open(wal.clone(), options.clone(), Some(&base(Position::ZERO)));
    let mut journal = open()?.0;
    let position = at(30, 1);
    let entries =
        (1..=40).map(|index| codec::entry(at(index, 1), ClusterTime(1), Payload::Opaque(vec![7; 200].into())));
    journal.append(&Write { id: WriteId(1), hard_state: None, base: None, entries: entries.collect() })?;
    journal.sync()?;
    let header = Header {
        cluster: ClusterId(7),
        node,
        position,
        configured: Index::ZERO,
        time: ClusterTime(1),
        digest: 5,
        sessions: 0,
        membership: members(),
    };
    let store = Store::open(shelf.clone(), ClusterId(7)).unwrap();
    let mut writer = store.writer(&header).unwrap();
    writer.put(ChunkKind::Machine, b"all there is").unwrap();
    let name = writer.finish().unwrap().name().to_owned();
    journal.release(position)?;
    drop(journal);
    shelf.flip(&name, shelf.seen(&name).unwrap().len() as u64 / 2, 3);
    let (mut journal, mut recovered) = open()?;
    let begun = reconcile_with_log(&mut journal, &mut recovered, store.newest().unwrap())?;
    Ok(begun.is_some())
}

/// nats-server#7556 and #4410: a damaged snapshot was treated as no data, and streams were deleted.
#[test]
fn a_damaged_snapshot_is_never_an_empty_state() {
    let refused = start_on_damage(Mutants::NONE).expect_err("a start without its state");
    assert!(matches!(refused, Fault::Corrupt { .. }) && refused.exit_code() == 5, "{refused}");
    assert!(!start_on_damage(Mutants::only(Mutant::DamagedIsEmpty)).expect("the mutant of it begins with nothing"));
}
