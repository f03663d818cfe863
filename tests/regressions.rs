//! Bugs of other systems in snapshots, compaction, full disks, membership changes and partitions: which test here would
//! catch each, and those tests that belong to no other file. A test checks the table against the code.

use bytes::Bytes;
use drave::codec;
use drave::consensus::log::Log;
use drave::consensus::message::{Envelope, Message, Origin, Round};
use drave::consensus::replica::{RecoveredState, Replica};
use drave::consensus::{Options, Raft};
use drave::node::compaction::CompactionPolicy;
use drave::node::{DurableSnapshot, Options as NodeOptions};
use drave::sim::disk::SimDisk;
use drave::snapshot::{ChunkKind, Header, Store};
use drave::snapshotting::reconcile_with_log;
use drave::types::*;
use drave::wal::{Fault, Journal, Options as WalOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Each bug as (the report of the bug, the file and the test that would catch the bug here). The doc comment of the
/// test must cite the report.
const COVERED_BUGS: &[(&str, &str, &str)] = &[
    // Full disks, and recovery once they have free space.
    ("canonical/dqlite#283", "tests/full_disk.rs", "full_disks_reject_writes_until_space_returns"),
    ("vault#14372", "tests/full_disk.rs", "leader_with_full_disk_transfers_leadership"),
    ("baidu/braft#200", "src/wal/tests.rs", "log_uses_reserve_on_full_disk_and_resumes"),
    ("databend#18988", "src/wal/tests.rs", "journal_opens_on_full_disk"),
    ("etcd#9992", "tests/full_disk.rs", "full_disks_reject_writes_until_space_returns"),
    ("consul#866", "tests/soak.rs", "disk_and_memory_stay_bounded_and_stopped_node_catches_up"),
    ("etcd#11947", "tests/cli.rs", "key_commands_print_results_and_exit_codes"),
    ("rabbitmq-server#2505", "tests/dump.rs", "why_kept_reports_reason_of_each_segment"),
    (
        "rabbitmq-server#14522",
        "src/node/snapshot_sender/tests.rs",
        "silent_follower_holds_no_log_and_gets_newest_snapshot",
    ),
    ("openraft#617", "tests/snapshots_processes.rs", "killed_cluster_recovers_from_snapshots_and_logs"),
    // Slow followers, and snapshots for them.
    ("hashicorp/raft#697", "tests/regressions.rs", "conflict_at_snapshot_index_drops_the_whole_log"),
    ("hashicorp/raft#697", "src/node/snapshot_sender/tests.rs", "late_snapshot_responses_cause_no_resend"),
    ("hashicorp/raft#212", "tests/snapshots_processes.rs", "follower_behind_compacted_log_receives_snapshot"),
    ("baidu/braft#423", "tests/snapshots/matrix.rs", "killed_receiver_resumes_transfer"),
    ("rqlite", "src/node/snapshot_sender/tests.rs", "snapshot_transfer_does_not_block_a_newer_snapshot"),
    ("etcd FAQ", "tests/regressions.rs", "compaction_waits_while_a_snapshot_is_being_sent"),
    ("rqlite/rqlite#1228", "src/apply/applier/tests.rs", "large_session_is_serialized_in_several_chunks"),
    ("async-raft#103", "src/net/sockets/tests.rs", "heartbeat_overtakes_large_append"),
    // Log compaction.
    ("akka-entity-replication#152", "tests/regressions.rs", "append_before_the_snapshot_point_is_no_conflict"),
    ("openraft 674e78aa", "tests/regressions.rs", "snapshot_of_committed_entries_changes_nothing"),
    ("openraft 674e78aa", "tests/snapshots/installing.rs", "crash_after_any_operation_keeps_acknowledged_entries"),
    ("openraft#2116", "tests/storms.rs", "ten_simulated_hours_of_faults_lose_nothing"),
    ("cowsql e514f78f", "tests/mutants.rs", "every_mutant_is_caught"),
    ("cockroach#43605", "tests/storms.rs", "ten_simulated_hours_of_faults_lose_nothing"),
    ("nats-server#7556", "tests/snapshots/damage.rs", "flipped_bit_is_always_detected"),
    ("nats-server#7556", "tests/regressions.rs", "damaged_snapshot_is_not_an_empty_state"),
    ("arcadedb#5345", "tests/regressions.rs", "snapshot_is_due_by_log_bytes_or_age"),
    // Membership changes.
    ("etcd#7625", "tests/core/members.rs", "joint_configuration_needs_both_majorities"),
    ("Ongaro 2015", "tests/core/members.rs", "change_waits_for_the_leaders_first_commit"),
    ("redpanda#17675", "tests/core/members.rs", "second_change_is_rejected_until_the_first_commits"),
    ("openraft#1808", "tests/core/members.rs", "snapshot_replaces_the_configuration"),
    ("hiqlite#98", "tests/recover.rs", "last_node_recovers_alone_with_accept_data_loss"),
    ("canonical/raft#250", "tests/core/members.rs", "configuration_rolls_back_with_the_log"),
    ("canonical/raft#250", "tests/core/faults.rs", "configuration_rolls_back_to_that_of_the_snapshot"),
    ("cowsql#150", "tests/core/faults.rs", "vote_does_not_depend_on_the_voters_membership_view"),
    ("raft-rs#192", "tests/core/members.rs", "change_with_unresponsive_new_voters_is_reverted"),
    ("Redis-Raft", "tests/core/faults.rs", "isolated_leader_cannot_commit_a_change"),
    ("logcabin#56", "tests/core/members.rs", "member_removed_while_isolated_causes_no_election"),
    ("openraft#2091", "tests/core/members.rs", "removing_one_of_two_voters_never_loses_the_leader"),
    ("hashicorp/raft#524", "tests/core/members.rs", "removed_member_is_notified_and_stays_passive"),
    ("eBay/HomeStore#764", "tests/core/members.rs", "permanent_learner_never_votes_or_leads"),
    ("f-rustrated/EastGuard#150", "tests/core/members.rs", "unsafe_change_is_rejected_unless_forced"),
    ("etcd#15107", "tests/core/members.rs", "new_member_is_promoted_automatically"),
    ("tikv#1468", "tests/core/members.rs", "replacement_is_one_automatic_change"),
    ("hashicorp/consul#457", "tests/processes.rs", "cluster_with_all_addresses_changed_elects_leader"),
    ("etcd#13196", "tests/moving.rs", "removed_node_stays_removed_despite_its_peers_option"),
    ("nats-server#7545", "tests/storms.rs", "ten_simulated_hours_of_faults_lose_nothing"),
    ("nats-server#7545", "tests/core/faults.rs", "isolated_leader_cannot_commit_a_change"),
    ("qdrant", "tests/core/members.rs", "emptied_voter_does_not_elect_a_leader_that_lacks_its_entry"),
    ("qdrant#1235", "tests/mutants.rs", "every_mutant_is_caught"),
    // Partitions, and faults of a single node.
    ("etcd#8499", "tests/core/paper.rs", "node_isolated_for_an_hour_rejoins_in_the_same_term"),
    ("Hoverbear/old-raft-rs#27", "tests/core/paper.rs", "slow_or_deaf_node_causes_no_election"),
    ("tigerbeetle#2739", "tests/core/faults.rs", "fault_of_one_node_does_not_stop_commits"),
];

/// Files whose tests need not cite the reports of the bugs that they cover.
const UNCITED_FILES: &[&str] = &["tests/full_disk.rs"];

/// The doc comment directly above a test; `None` if there is no such test.
fn doc_comment_of(text: &str, test: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let line_index = lines.iter().position(|line| line.starts_with(&format!("fn {test}(")))?;
    let comment_lines: Vec<&str> = lines[..line_index]
        .iter()
        .rev()
        .copied()
        .take_while(|line| line.starts_with("///") || line.starts_with("#["))
        .collect();
    comment_lines
        .contains(&"#[test]")
        .then(|| comment_lines.into_iter().rev().filter(|line| line.starts_with("///")).collect())
}

#[test]
fn covered_tests_exist_and_cite_their_bug() {
    let mut violations = Vec::new();
    for (citation, file, test) in COVERED_BUGS {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        match doc_comment_of(&text, test) {
            None => violations.push(format!("{file} has no test {test}")),
            Some(comment) if !comment.contains(citation) && !UNCITED_FILES.contains(file) => {
                violations.push(format!("{file}: {test} does not cite {citation}: {comment:?}"));
            }
            Some(_) => {}
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

const LEADER: NodeId = NodeId::new(2).unwrap();

fn members() -> Membership {
    Membership::founding([1, 2, 3].map(|n| (NodeId::new(n).unwrap(), format!("n{n}:1"))))
}

fn position_at(index: u64, term: u64) -> Position {
    Position::new(Index(index), Term(term))
}

fn snapshot_point(position: Position) -> SnapshotPoint {
    SnapshotPoint { position, configured: Index::ZERO, membership: members() }
}

fn noop_entry(position: Position) -> Entry {
    codec::entry(position, ClusterTime(0), Payload::Noop)
}

/// A follower of node 2, which leads term 9. Its log begins after `log_start` and has entries of the given terms.
struct Follower {
    raft: Raft,
    now: Time,
}

impl Follower {
    fn new(log_start: Position, terms: &[u64], applied: u64, mutants: Mutants) -> Follower {
        let recovered = RecoveredState {
            disk: None,
            hard_state: HardState { term: Term(9), ..HardState::default() },
            base: snapshot_point(log_start),
            entries: terms.iter().map(|term| (Term(*term), 50)).collect(),
            configurations: Vec::new(),
            time: ClusterTime(0),
            applied_index: Index(applied),
            kept_fragments: Vec::new(),
        };
        let options = Options { mutants, ..Options::default() };
        let now = Time::ZERO + Duration::from_secs(1);
        let raft = Raft::new(Replica::recover(NodeId::new(1).unwrap(), options, recovered, 3), now);
        let mut follower = Follower { raft, now };
        follower.receive(Message::Heartbeat { commit: Index(applied), round: Round(1), time: ClusterTime(0) });
        follower
    }

    /// Persists the write of the next `Ready`. Returns that write, and the messages that the follower sent before and
    /// after the write was persisted.
    fn persist_and_take_messages(&mut self) -> (Option<Write>, Vec<Message>) {
        let mut ready = self.raft.ready(self.now);
        let write = ready.write.take();
        let mut messages: Vec<Message> = ready.messages.into_iter().map(|envelope| envelope.message).collect();
        if let Some(write) = &write {
            self.raft.handle_persisted(self.now, write.id);
            messages.extend(self.raft.ready(self.now).messages.into_iter().map(|envelope| envelope.message));
        }
        (write, messages)
    }

    fn receive(&mut self, message: Message) -> Vec<Message> {
        let to = self.raft.id();
        self.raft.receive(self.now, Envelope { from: LEADER, to, term: Term(9), origin: Origin::default(), message });
        self.persist_and_take_messages().1
    }

    fn receive_append(&mut self, prev: Position, entries: Vec<Entry>) -> Vec<Message> {
        self.receive(Message::AppendEntries { prev, commit: Index::ZERO, probe_number: 0, entries })
    }
}

/// hashicorp/raft#697 and #704: a log with a different entry at the last index of a snapshot was kept. Later entries
/// never matched, and the leader sent the snapshot again and again.
#[test]
fn conflict_at_snapshot_index_drops_the_whole_log() {
    let mut follower = Follower::new(Position::ZERO, &[1, 1, 2, 2, 2], 2, Mutants::NONE);
    follower.raft.install_snapshot(follower.now, snapshot_point(position_at(4, 3)), ClusterTime(0));
    assert_eq!((follower.raft.log().base(), follower.raft.log().last()), (position_at(4, 3), position_at(4, 3)));
    let (write, messages) = follower.persist_and_take_messages();
    assert_eq!(write.unwrap().base.map(|base| base.position), Some(position_at(4, 3)));
    assert_eq!(messages.last(), Some(&Message::AppendResponse { matched: Index(4) }));
    // The next entry matches, so no second snapshot is needed.
    let responses = follower.receive_append(position_at(4, 3), vec![noop_entry(position_at(5, 9))]);
    assert_eq!(responses, [Message::AppendResponse { matched: Index(5) }]);

    let mutants = Mutants::only(Mutant::KeepConflictingLog);
    let mut mutant_follower = Follower::new(Position::ZERO, &[1, 1, 2, 2, 2], 2, mutants);
    mutant_follower.raft.install_snapshot(mutant_follower.now, snapshot_point(position_at(4, 3)), ClusterTime(0));
    mutant_follower.persist_and_take_messages();
    let responses = mutant_follower.receive_append(position_at(4, 3), vec![noop_entry(position_at(5, 9))]);
    assert!(matches!(responses[..], [Message::AppendRejected { .. }]), "the mutant reproduces the bug: {responses:?}");
}

/// openraft 674e78aa and ac3e5a89: a snapshot that contradicts a committed index was accepted.
#[test]
fn snapshot_of_committed_entries_changes_nothing() {
    let mut follower = Follower::new(Position::ZERO, &[1, 1, 2, 2], 3, Mutants::NONE);
    follower.raft.install_snapshot(follower.now, snapshot_point(position_at(2, 5)), ClusterTime(0));
    assert_eq!((follower.raft.log().base(), follower.raft.log().last()), (Position::ZERO, position_at(4, 2)));
    assert_eq!((follower.raft.log().commit(), follower.persist_and_take_messages().0), (Index(3), None));

    let mutants = Mutants::only(Mutant::InstallOldSnapshots);
    let mut mutant_follower = Follower::new(Position::ZERO, &[1, 1, 2, 2], 3, mutants);
    let install = || {
        mutant_follower.raft.install_snapshot(mutant_follower.now, snapshot_point(position_at(2, 5)), ClusterTime(0))
    };
    assert!(catch_unwind(AssertUnwindSafe(install)).is_err(), "the mutant panics");
}

/// akka-entity-replication#152, openraft 71a290cd and 44381b0c: the entry before an append had been compacted; this was
/// treated as a conflict, and committed entries were deleted.
#[test]
fn append_before_the_snapshot_point_is_no_conflict() {
    let append_late = |mutants| {
        let mut follower = Follower::new(position_at(10, 2), &[2, 3], 10, mutants);
        let responses = follower.receive_append(
            position_at(8, 1),
            vec![noop_entry(position_at(9, 2)), noop_entry(position_at(10, 2)), noop_entry(position_at(11, 2))],
        );
        assert_eq!((follower.raft.log().base(), follower.raft.log().last()), (position_at(10, 2), position_at(12, 3)));
        responses
    };
    assert_eq!(append_late(Mutants::NONE), [Message::AppendResponse { matched: Index(11) }]);
    let mutant_responses = append_late(Mutants::only(Mutant::CompactedIsConflict));
    assert!(
        matches!(mutant_responses[..], [Message::AppendRejected { .. }]),
        "the mutant reproduces the bug: {mutant_responses:?}"
    );
}

/// A log of ten entries of 100 bytes each, all of them committed, durable and applied.
fn log_of_ten_entries() -> Log {
    let mut log = Log::new(Position::ZERO);
    for index in 1..=10 {
        assert_eq!(log.append(Term(1), 100), position_at(index, 1));
    }
    log.advance_durable(Index(10));
    log.commit_to(Index(10));
    log
}

fn durable_snapshot(index: u64, bytes: usize) -> DurableSnapshot {
    DurableSnapshot { position: position_at(index, 1), bytes: Bytes::from(vec![0; bytes]) }
}

/// etcd FAQ: "slow followers may livelock by needing a new snapshot before finishing receiving" the previous one.
#[test]
fn compaction_waits_while_a_snapshot_is_being_sent() {
    let released_index = |sending_from: Option<u64>, log_hold_bytes, trailing_bytes, mutants| {
        let options = NodeOptions { log_hold_bytes, trailing_bytes, mutants, ..NodeOptions::default() };
        let mut policy = CompactionPolicy::new(Time::ZERO, Some(durable_snapshot(8, 10)));
        policy.release(&log_of_ten_entries(), Index(10), sending_from.map(Index), &options)
    };
    assert_eq!(
        released_index(None, 1 << 30, 0, Mutants::NONE),
        Some(Index(8)),
        "the entries that the snapshot covers are released"
    );
    assert_eq!(
        released_index(None, 1 << 30, 300, Mutants::NONE),
        Some(Index(5)),
        "the last 300 bytes before the snapshot are kept"
    );
    assert_eq!(
        released_index(Some(3), 1 << 30, 0, Mutants::NONE),
        Some(Index(3)),
        "the entries after the snapshot that is being sent are kept"
    );
    assert_eq!(
        released_index(Some(3), 699, 0, Mutants::NONE),
        Some(Index(8)),
        "entries kept for the receiver of a snapshot are released if they exceed log_hold_bytes"
    );
    let mutant = Mutants::only(Mutant::CompactUnderShip);
    assert_eq!(released_index(Some(3), 1 << 30, 0, mutant), Some(Index(8)), "the mutant reproduces the bug");
}

/// arcadedb#5345: a snapshot was due after a number of entries, and the log of a cluster with few writes filled the
/// disk.
#[test]
fn snapshot_is_due_by_log_bytes_or_age() {
    let snapshot_is_due = |snapshot_log_bytes, state: Option<usize>, seconds, mutants| {
        let options = NodeOptions { snapshot_log_bytes, mutants, ..NodeOptions::default() };
        let policy = CompactionPolicy::new(Time::ZERO, state.map(|bytes| durable_snapshot(2, bytes)));
        policy.is_due(Time::ZERO + Duration::from_secs(seconds), &log_of_ten_entries(), Index(10), false, &options)
    };
    assert!(
        snapshot_is_due(1000, None, 1, Mutants::NONE) && !snapshot_is_due(1001, None, 1, Mutants::NONE),
        "a snapshot is due once the log has snapshot_log_bytes"
    );
    assert!(
        snapshot_is_due(800, Some(800), 1, Mutants::NONE) && !snapshot_is_due(800, Some(801), 1, Mutants::NONE),
        "the log must also have as many bytes as the last snapshot"
    );
    assert!(
        snapshot_is_due(u64::MAX, None, 3600, Mutants::NONE) && !snapshot_is_due(u64::MAX, None, 3599, Mutants::NONE),
        "a snapshot is due after an hour"
    );
    let mutant = Mutants::only(Mutant::SnapshotByCount);
    assert!(!snapshot_is_due(1, None, 7200, mutant), "the mutant reproduces the bug");
}

/// Starts a node whose log begins after a damaged snapshot. Returns whether the start found a state.
fn start_with_damaged_snapshot(mutants: Mutants) -> drave::wal::Result<bool> {
    let (wal, snapshot_disk) = (SimDisk::new(), SimDisk::new());
    let node = NodeId::new(1).unwrap();
    let options = WalOptions { segment_bytes: 2048, mutants, ..WalOptions::new(node, ClusterId(7), DiskId(9)) };
    let open_journal = || Journal::open(wal.clone(), options.clone(), Some(&snapshot_point(Position::ZERO)));
    let mut journal = open_journal()?.0;
    let position = position_at(30, 1);
    let entries =
        (1..=40).map(|index| codec::entry(position_at(index, 1), ClusterTime(1), Payload::Opaque(vec![7; 200].into())));
    journal.append(&Write { id: WriteId(1), hard_state: None, base: None, entries: entries.collect() })?;
    journal.sync()?;
    let header = Header {
        cluster: ClusterId(7),
        node,
        position,
        configuration_index: Index::ZERO,
        time: ClusterTime(1),
        digest: 5,
        sessions: 0,
        membership: members(),
    };
    let store = Store::open(snapshot_disk.clone(), ClusterId(7)).unwrap();
    let mut writer = store.create_writer(&header).unwrap();
    writer.write_piece(ChunkKind::Machine, b"all there is").unwrap();
    let name = writer.finish().unwrap().name().to_owned();
    journal.release(position)?;
    drop(journal);
    snapshot_disk.flip_bit(&name, snapshot_disk.read_file(&name).unwrap().len() as u64 / 2, 3);
    let (mut journal, mut recovered) = open_journal()?;
    let restored_state = reconcile_with_log(&mut journal, &mut recovered, store.newest().unwrap())?;
    Ok(restored_state.is_some())
}

/// nats-server#7556 and #4410: a damaged snapshot was treated as no data, and streams were deleted.
#[test]
fn damaged_snapshot_is_not_an_empty_state() {
    let fault = start_with_damaged_snapshot(Mutants::NONE).expect_err("a start without its state fails");
    assert!(matches!(fault, Fault::Corrupt { .. }) && fault.exit_code() == 5, "{fault}");
    assert!(
        !start_with_damaged_snapshot(Mutants::only(Mutant::DamagedIsEmpty))
            .expect("the mutant starts with an empty state")
    );
}
