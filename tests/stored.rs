//! `drave diff` and `drave check` on stored logs that are equal, that differ in ways that Raft allows, or that violate
//! its rules.

use bytes::Bytes;
use drave::api::Op;
use drave::codec;
use drave::disk::FsDisk;
use drave::disk::fs::SyncMode;
use drave::machine::commands::Command;
use drave::snapshot::Store;
use drave::snapshot::format::{ChunkKind, Header};
use drave::types::*;
use drave::wal::identity::Identity;
use drave::wal::{Journal, Options};
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::{Cluster, ProgramOutput, drave_command, run, wait_until};
use tempfile::TempDir;

mod support;

const CLUSTER: ClusterId = ClusterId(0x6f2c_91aa_0d77_be21);

fn node_id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn membership_of(members: &[u64], voters: &[u64], outgoing: &[u64]) -> Membership {
    let base_membership = Membership::founding(members.iter().map(|n| (node_id(*n), format!("n{n}:1"))));
    let node_ids = |ids: &[u64]| ids.iter().map(|n| node_id(*n)).collect();
    Membership { voters: node_ids(voters), outgoing: node_ids(outgoing), ..base_membership }
}

fn put_payload(key: &str) -> Payload {
    let command = Command::Put { key: key.as_bytes(), value: b"v" }.encode();
    Payload::Opaque(Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command }.encode())
}

fn config_payload(membership: Membership) -> Payload {
    Payload::Membership(Box::new(membership))
}

/// Data directories of one cluster. The tests write them with `Journal`, as a node does.
struct TestDirectories(TempDir);

/// A data directory that a test is writing.
struct DirectoryWriter {
    journal: Journal<FsDisk>,
    path: PathBuf,
    node: u64,
    write_count: u64,
}

impl TestDirectories {
    fn new() -> TestDirectories {
        TestDirectories(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates a data directory of node `node`, of a cluster founded by nodes 1 to 3.
    fn create(&self, name: &str, node: u64) -> DirectoryWriter {
        self.create_founded(name, node, CLUSTER, Position::ZERO)
    }

    fn create_founded(&self, name: &str, node: u64, cluster: ClusterId, position: Position) -> DirectoryWriter {
        self.create_with(name, node, cluster, position, membership_of(&[1, 2, 3], &[1, 2, 3], &[]))
    }

    fn create_with(
        &self,
        name: &str,
        node: u64,
        cluster: ClusterId,
        position: Position,
        membership: Membership,
    ) -> DirectoryWriter {
        let path = self.path(name);
        let root = FsDisk::open_or_create(&path, SyncMode::Skipped).unwrap();
        let disk = DiskId(node * 100 + name.len() as u64);
        Identity { node: node_id(node), cluster, disk, journal_created: true, log: None, starts: 1 }
            .write(&root)
            .unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::new(node_id(node), cluster, disk) };
        let start_point = SnapshotPoint { position, configured: Index::ZERO, membership };
        let wal = FsDisk::open_or_create(&path.join("wal"), SyncMode::Skipped).unwrap();
        let journal = Journal::open(wal, options, Some(&start_point)).unwrap().0;
        DirectoryWriter { journal, path, node, write_count: 0 }
    }

    fn run(&self, args: &[&str], names: &[&str]) -> ProgramOutput {
        let mut command = drave_command(args);
        names.iter().for_each(|name| _ = command.arg(self.path(name)));
        run(&mut command)
    }

    fn diff(&self, names: &[&str]) -> ProgramOutput {
        self.run(&["diff"], names)
    }

    /// Asserts that `drave check` finds no violation and no damage in these directories.
    fn expect_no_violations(&self, names: &[&str]) {
        let output = self.run(&["check"], names);
        assert!(output.code == Some(0) && output.out.contains("0 broken · 0 damaged"), "{output:#?}");
    }

    /// Asserts that `drave check` reports violations of exactly these rules.
    fn expect_violations(&self, names: &[&str], rules: &[&str], expected_text: &str) {
        let output = self.run(&["check", "-o", "json"], names);
        let json = output.json();
        let violations = json["violations"].as_array().unwrap();
        let mut broken_rules: Vec<&str> =
            violations.iter().map(|violation| violation["rule"].as_str().unwrap()).collect();
        broken_rules.sort_unstable();
        broken_rules.dedup();
        assert_eq!(broken_rules, rules, "{json:#}");
        assert!(
            violations.iter().any(|violation| violation["what"].as_str().unwrap().contains(expected_text)),
            "{json:#}"
        );
        assert_eq!((output.code, &json["exit"]), (Some(5), &5.into()));
        let text_output = self.run(&["check"], names);
        assert!(text_output.code == Some(5) && text_output.out.contains("! BROKEN"), "{text_output:#?}");
    }
}

impl DirectoryWriter {
    fn write(mut self, term_and_vote: Option<(u64, u64)>, entries: Vec<Entry>) -> DirectoryWriter {
        self.write_count += 1;
        let hard_state = term_and_vote.map(|(term, vote)| HardState {
            term: Term(term),
            vote: NodeId::new(vote).map(|node| Vote { node, disk: DiskId(7) }),
            promised_position: Position::ZERO,
        });
        let write = Write { id: WriteId(self.write_count), hard_state, base: None, entries };
        self.journal.append(&write).unwrap();
        self.journal.sync().unwrap();
        self
    }

    /// Writes a term and a vote for node `vote`; 0 stands for no vote.
    fn write_vote(self, term: u64, vote: u64) -> DirectoryWriter {
        self.write(Some((term, vote)), Vec::new())
    }

    /// Appends entries from index `first` on.
    fn append(self, first: u64, term: u64, payloads: Vec<Payload>) -> DirectoryWriter {
        self.append_at(first, term, 5, payloads)
    }

    fn append_at(self, first: u64, term: u64, time: u64, payloads: Vec<Payload>) -> DirectoryWriter {
        let entry =
            |(index, payload)| codec::entry(Position::new(Index(index), Term(term)), ClusterTime(time), payload);
        self.write(None, (first..).zip(payloads).map(entry).collect())
    }

    fn write_snapshot(self, index: u64, term: u64, digest: u64) -> DirectoryWriter {
        let disk = FsDisk::open_or_create(&self.path.join("snapshots"), SyncMode::Skipped).unwrap();
        let header = Header {
            cluster: CLUSTER,
            node: node_id(self.node),
            position: Position::new(Index(index), Term(term)),
            configuration_index: Index::ZERO,
            time: ClusterTime(5),
            digest,
            sessions: 0,
            membership: membership_of(&[1, 2, 3], &[1, 2, 3], &[]),
        };
        let mut writer = Store::open(disk, CLUSTER).unwrap().create_writer(&header).unwrap();
        writer.write_piece(ChunkKind::Machine, b"a state").unwrap();
        writer.finish().unwrap();
        self
    }
}

/// Creates a directory and writes term 1 to its log: a no-op and two puts.
fn write_term_one(dirs: &TestDirectories, node: u64) -> DirectoryWriter {
    dirs.create(&format!("n{node}"), node).write_vote(1, 1).append(
        1,
        1,
        vec![Payload::Noop, put_payload("a"), put_payload("b")],
    )
}

const ALL_DIRECTORIES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn equal_logs_compare_as_identical() {
    let dirs = TestDirectories::new();
    (1..=3).for_each(|node| drop(write_term_one(&dirs, node)));
    let output = dirs.diff(&ALL_DIRECTORIES);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.out.contains("identical up to 3@1\n") && output.out.ends_with("\nidentical\n"), "{output:#?}");
    dirs.expect_no_violations(&ALL_DIRECTORIES);
    dirs.expect_no_violations(&["n1"]);
    let json = dirs.run(&["diff", "-o", "json"], &ALL_DIRECTORIES).json();
    assert_eq!((&json["verdict"], &json["identical_up_to"]["index"]), (&"identical".into(), &3.into()));
    assert_eq!((&json["differs_at"], &json["exit"]), (&Value::Null, &0.into()));
}

#[test]
fn damaged_log_is_not_called_identical() {
    let dirs = TestDirectories::new();
    (1..=2).for_each(|node| drop(write_term_one(&dirs, node)));
    let path = dirs.path("n2").join("wal/0000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    // Damages the key of an entry that is not the last one.
    let offset = bytes.windows(6).position(|six| six == b"\x01\0\0\0a\x01").unwrap();
    bytes[offset + 4] = b'c';
    std::fs::write(&path, bytes).unwrap();
    let output = dirs.diff(&["n1", "n2"]);
    assert_eq!(output.code, Some(5), "{output:#?}");
    assert!(!output.out.contains("identical") && output.out.ends_with("/n2\n"), "{output:#?}");
}

#[test]
fn longer_log_is_no_conflict_and_check_tells_whether_its_tail_is_committed() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).append(4, 1, vec![put_payload("c"), put_payload("d")]));
    drop(write_term_one(&dirs, 2).append(4, 1, vec![put_payload("c")]));
    drop(write_term_one(&dirs, 3));
    let output = dirs.diff(&ALL_DIRECTORIES);
    assert_eq!(output.code, Some(1));
    for expected_text in [
        "identical up to 3@1\n",
        "4@1..5@1, 2 entries: up to 4 on a quorum; behind that uncommitted: only on n1 of voters=1,2,3",
        "4@1..4@1, 1 entry: on a quorum (n1, n2): committed, or bound to be",
        "no conflict: ",
        "n3 is 2 entries behind",
    ] {
        assert!(output.out.contains(expected_text), "{expected_text}\n{}", output.out);
    }
    let output = dirs.diff(&["n1", "n3"]);
    assert!(output.out.contains("cannot be known without the directories of n2"), "{}", output.out);
    dirs.expect_no_violations(&ALL_DIRECTORIES);
}

#[test]
fn diff_prints_first_differing_entry() {
    let dirs = TestDirectories::new();
    // n1 led term 1 and was partitioned; n2 leads term 2.
    drop(write_term_one(&dirs, 1).append(4, 1, vec![put_payload("lost")]));
    drop(write_term_one(&dirs, 2).write_vote(2, 2).append(4, 2, vec![Payload::Noop, put_payload("kept")]));
    drop(write_term_one(&dirs, 3).write_vote(2, 2).append(4, 2, vec![Payload::Noop, put_payload("kept")]));
    let output = dirs.diff(&ALL_DIRECTORIES);
    assert_eq!(output.code, Some(1));
    for expected_text in [
        "first difference at 4\n",
        "4@1  put    1#1 \"lost\" = \"v\"\n",
        "4@2  noop\n",
        "uncommitted: only on n1 of voters=1,2,3, of term 1 and older than term 2",
        "conflict, of a kind that is allowed",
    ] {
        assert!(output.out.contains(expected_text), "{expected_text}\n{}", output.out);
    }
    let json = dirs.run(&["diff", "-o", "json"], &ALL_DIRECTORIES).json();
    assert_eq!((&json["differs_at"], &json["records"][0]["fields"]["key"]), (&4.into(), &"lost".into()));
    let standings: Vec<&Value> = json["tails"].as_array().unwrap().iter().map(|tail| &tail["standing"]).collect();
    assert_eq!(standings, ["uncommitted", "majority", "majority"]);
    dirs.expect_no_violations(&ALL_DIRECTORIES);
}

#[test]
fn logs_after_snapshots_are_compared_where_they_overlap() {
    let dirs = TestDirectories::new();
    let create_with_snapshot = |name, node, term| {
        let base = Position::new(Index(3), Term(1));
        let directory = dirs.create_founded(name, node, CLUSTER, base).write_snapshot(3, 1, 9);
        directory.write_vote(term, 1).append(4, term, vec![put_payload("c")])
    };
    drop(write_term_one(&dirs, 1).append(4, 1, vec![put_payload("c")]));
    drop(create_with_snapshot("n2", 2, 1));
    let output = dirs.diff(&["n1", "n2"]);
    assert!(output.code == Some(0) && output.out.contains("identical up to 4@1"), "{output:#?}");
    dirs.expect_no_violations(&["n1", "n2"]);
    // n3 was down while the other nodes took a snapshot, and has a diverging tail.
    drop(dirs.create("n3", 3).write_vote(1, 1).append(1, 1, vec![Payload::Noop]).write_vote(2, 3).append(
        2,
        2,
        vec![Payload::Noop; 2],
    ));
    let output = dirs.diff(&["n2", "n3"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output.out.contains("first difference at 3\n") && output.out.contains("3@1  (in its snapshot)"),
        "{}",
        output.out
    );
    assert!(output.out.contains("will be replaced: "), "{}", output.out);
}

#[test]
fn logs_of_two_clusters_are_not_compared() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1));
    drop(dirs.create_founded("other", 2, ClusterId(7), Position::ZERO));
    for verb in ["diff", "check"] {
        let output = dirs.run(&[verb], &["n1", "other"]);
        assert!(output.code == Some(2) && output.err.contains("only logs of one cluster"), "{output:#?}");
    }
    assert_eq!(dirs.run(&["check"], &["nowhere"]).code, Some(74));
}

/// A cluster that was founded twice has one cluster id, derived from its founders, and two logs.
#[test]
fn logs_of_a_cluster_founded_twice_are_not_compared() {
    let dirs = TestDirectories::new();
    for (name, node, log) in [("n1", 1, 5), ("n2", 2, 6), ("n3", 3, 5)] {
        let membership =
            Membership { log_id: Some(LogId(log)), log_agreed: true, ..membership_of(&[1, 2, 3], &[1, 2, 3], &[]) };
        drop(dirs.create_with(name, node, CLUSTER, Position::ZERO, membership));
    }
    for verb in ["diff", "check"] {
        let output = dirs.run(&[verb], &["n1", "n2"]);
        assert!(output.code == Some(2) && output.err.contains("the cluster was founded twice"), "{output:#?}");
        assert_ne!(dirs.run(&[verb], &["n1", "n3"]).code, Some(2));
    }
}

#[test]
fn second_vote_in_a_term_is_reported() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).write_vote(4, 2).write_vote(4, 3));
    dirs.expect_violations(&["n1"], &["election-safety"], "it voted for n2 and for n3 in term 4");
    // Two directories of one node are checked together: the node voted, lost its vote, and voted again.
    drop(dirs.create("once", 2).write_vote(4, 1));
    drop(dirs.create("again", 2).write_vote(4, 3));
    dirs.expect_no_violations(&["once"]);
    dirs.expect_violations(&["once", "again"], &["election-safety"], "n2 voted for n1 and for n3 in term 4");
}

#[test]
fn two_leaders_of_a_term_are_reported() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).write_vote(2, 1).append(4, 2, vec![Payload::Noop]));
    drop(write_term_one(&dirs, 2).write_vote(2, 2).append(3, 2, vec![Payload::Noop]));
    dirs.expect_violations(&["n1", "n2"], &["election-safety"], "term 2 begins at 4 and at 3: it had two leaders");
    drop(write_term_one(&dirs, 3).write_vote(2, 3).append(4, 2, vec![put_payload("other")]));
    let output = dirs.diff(&["n1", "n3"]);
    assert!(output.code == Some(5) && output.out.contains("VIOLATION"), "{output:#?}");
    dirs.expect_violations(
        &["n1", "n3"],
        &["election-safety", "log-matching"],
        "term 2 has two different entries at 4",
    );
}

#[test]
fn log_matching_violation_is_reported() {
    let dirs = TestDirectories::new();
    let write_second_key = |node, key| {
        dirs.create(&format!("n{node}"), node).write_vote(1, 1).append(1, 1, vec![Payload::Noop, put_payload(key)])
    };
    drop(write_second_key(1, "a").write_vote(3, 1).append(3, 2, vec![put_payload("x")]).append(
        4,
        3,
        vec![Payload::Noop],
    ));
    drop(write_second_key(2, "a").write_vote(3, 1).append(3, 1, vec![put_payload("y")]).append(
        4,
        3,
        vec![Payload::Noop],
    ));
    let expected_text = "both hold 4@3, and before it one holds 3@2, the other 3@1";
    dirs.expect_violations(&["n1", "n2"], &["log-matching"], expected_text);
}

#[test]
fn overwritten_entries_are_checked_too() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).append(4, 1, vec![put_payload("c")]).write_vote(2, 2).append(
        4,
        2,
        vec![Payload::Noop],
    ));
    drop(write_term_one(&dirs, 2).append(4, 1, vec![put_payload("not c")]));
    dirs.expect_no_violations(&["n1"]);
    dirs.expect_violations(&["n1", "n2"], &["election-safety", "log-matching"], "4@1 is two different entries");
}

#[test]
fn leader_overwriting_its_log_is_reported() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).append(3, 1, vec![put_payload("better")]));
    dirs.expect_violations(
        &["n1"],
        &["election-safety", "leader-append-only", "log-matching"],
        "3@1 gave way to 3@1 within term 1, which it voted for itself in",
    );
}

#[test]
fn decreasing_terms_and_times_are_reported() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).write_vote(4, 0).write_vote(3, 0));
    dirs.expect_violations(&["n1"], &["terms"], "from term 4 back to term 3");
    drop(write_term_one(&dirs, 2).append(4, 2, vec![Payload::Noop]));
    dirs.expect_violations(&["n2"], &["terms"], "4@2 was written while the node knew of no term above 1");
    drop(write_term_one(&dirs, 3).write_vote(3, 0).append(4, 3, vec![Payload::Noop]).append(
        5,
        2,
        vec![put_payload("old")],
    ));
    dirs.expect_violations(&["n3"], &["terms"], "5@2 follows 4@3");
    drop(dirs.create("clock", 1).write_vote(1, 1).append_at(1, 1, 9, vec![Payload::Noop]).append_at(
        2,
        1,
        8,
        vec![put_payload("a")],
    ));
    dirs.expect_violations(&["clock"], &["time"], "2@1 is of 8ms, and the entry before it of 9ms");
}

#[test]
fn configuration_changes_must_follow_joint_consensus() {
    let dirs = TestDirectories::new();
    let five_ids = [1, 2, 3, 4, 5];
    let learners_added = || config_payload(membership_of(&five_ids, &[1, 2, 3], &[]));
    let joint_config = || config_payload(membership_of(&five_ids, &[3, 4, 5], &[1, 2, 3]));
    let complete_change = vec![
        Payload::Noop,
        learners_added(),
        joint_config(),
        config_payload(membership_of(&[3, 4, 5], &[3, 4, 5], &[])),
    ];
    drop(dirs.create("whole", 1).write_vote(1, 1).append(1, 1, complete_change));
    let reverted_change = vec![
        Payload::Noop,
        learners_added(),
        joint_config(),
        config_payload(membership_of(&five_ids, &[1, 2, 3], &[3, 4, 5])),
        learners_added(),
    ];
    drop(dirs.create("back", 1).write_vote(1, 1).append(1, 1, reverted_change));
    dirs.expect_no_violations(&["whole"]);
    dirs.expect_no_violations(&["back"]);
    // The check ignores an uncommitted configuration that another entry has replaced.
    drop(
        dirs.create("rolled", 1)
            .write_vote(1, 1)
            .append(1, 1, vec![Payload::Noop, learners_added(), joint_config()])
            .write_vote(2, 2)
            .append(3, 2, vec![Payload::Noop, config_payload(membership_of(&[1, 2, 3], &[1, 2, 3], &[]))]),
    );
    dirs.expect_no_violations(&["rolled"]);
    let cases = [
        ("leap", vec![config_payload(membership_of(&five_ids, &[3, 4, 5], &[]))], "without a joint one between them"),
        (
            "others",
            vec![config_payload(membership_of(&five_ids, &[4, 5], &[2, 3]))],
            "outgoing voters are not the voters before it",
        ),
        (
            "third",
            vec![joint_config(), config_payload(membership_of(&five_ids, &[1, 5], &[]))],
            "neither the end of the joint one",
        ),
        (
            "stacked",
            vec![joint_config(), config_payload(membership_of(&five_ids, &[1, 5], &[1, 2, 3]))],
            "though a change was under way",
        ),
        ("nobody", vec![config_payload(membership_of(&five_ids, &[], &[1, 2, 3]))], "it has no voters"),
    ];
    for (name, payloads, expected_text) in cases {
        drop(dirs.create(name, 1).write_vote(1, 1).append(1, 1, payloads));
        dirs.expect_violations(&[name], &["configurations"], expected_text);
    }
}

/// A joining node may start with an empty configuration. A later change to an empty configuration is a violation.
#[test]
fn joined_node_starts_with_empty_configuration() {
    let dirs = TestDirectories::new();
    let create_joining = |name: &str| dirs.create_with(name, 4, CLUSTER, Position::ZERO, Membership::default());
    let founding_config = || config_payload(membership_of(&[1, 2, 3], &[1, 2, 3], &[]));
    let learner_entries =
        || vec![Payload::Noop, founding_config(), config_payload(membership_of(&[1, 2, 3, 4], &[1, 2, 3], &[]))];
    drop(create_joining("joined").write_vote(1, 0).append(1, 1, learner_entries()));
    drop(create_joining("new"));
    dirs.expect_no_violations(&["joined"]);
    dirs.expect_no_violations(&["new"]);
    drop(create_joining("lost").write_vote(1, 0).append(
        1,
        1,
        [learner_entries(), vec![config_payload(Membership::default())]].concat(),
    ));
    dirs.expect_violations(&["lost"], &["configurations"], "at 4: it has no voters");
}

#[test]
fn change_proposed_before_previous_change_commits_is_reported() {
    let dirs = TestDirectories::new();
    let add_learner = |n: u64| config_payload(membership_of(&[1, 2, 3, n], &[1, 2, 3], &[]));
    drop(write_term_one(&dirs, 1).append(4, 1, vec![add_learner(4), add_learner(5)]));
    drop(write_term_one(&dirs, 2));
    drop(write_term_one(&dirs, 3));
    dirs.expect_violations(
        &ALL_DIRECTORIES,
        &["configurations"],
        "was proposed while that at 4 (voters=1,2,3 learners=4) was not committed",
    );
    dirs.expect_no_violations(&["n1", "n2"]);
}

#[test]
fn conflicting_snapshots_are_reported() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1).write_snapshot(3, 1, 7));
    drop(write_term_one(&dirs, 2).write_snapshot(3, 1, 8));
    dirs.expect_no_violations(&["n1"]);
    dirs.expect_violations(
        &["n1", "n2"],
        &["snapshots"],
        "the digests of the state at 3@1 differ: 0000000000000007 and 0000000000000008",
    );
    drop(write_term_one(&dirs, 3).write_snapshot(2, 9, 7));
    dirs.expect_violations(&["n3"], &["snapshots"], "its snapshot is of 2@9, and its log has 2@1 there");
    dirs.expect_violations(&["n1", "n3"], &["snapshots", "state-machine-safety"], "one committed 2@9, the other 2@1");
}

#[test]
fn damaged_entry_is_reported_by_diff_and_check() {
    let dirs = TestDirectories::new();
    drop(write_term_one(&dirs, 1));
    drop(write_term_one(&dirs, 2));
    let path = dirs.path("n2").join("wal/0000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    // Damages the key of the last entry.
    let offset = bytes.windows(6).rposition(|six| six == b"\x01\0\0\0b\x01").unwrap();
    bytes[offset + 4] = b'c';
    std::fs::write(&path, bytes).unwrap();
    for verb in ["diff", "check"] {
        let output = dirs.run(&[verb], &["n1", "n2"]);
        assert!(output.code == Some(5) && output.out.contains("0000000001.wal: byte "), "{output:#?}");
    }
}

fn run_on_all_directories(cluster: &Cluster, verb: &str) -> ProgramOutput {
    let mut command = drave_command(&[verb]);
    (0..cluster.len()).for_each(|n| _ = command.arg(cluster.data_dir(n)));
    run(&mut command)
}

/// All files under a directory with their contents, to detect any write to it.
fn all_files(path: &Path) -> Vec<(PathBuf, Bytes)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files.extend(all_files(&entry)),
            false => files.push((entry.clone(), std::fs::read(&entry).unwrap().into())),
        }
    }
    files.sort();
    files
}

#[test]
fn running_cluster_passes_check() {
    let mut cluster = Cluster::prepare(3);
    let args = ["--segment-size", "4MiB", "--snapshot-log-bytes", "1MiB", "--trailing-bytes", "64KiB"];
    cluster.extra_args = args.map(String::from).to_vec();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let mut bench =
        cluster.drave_command(&["bench", "put", "--clients", "4", "--value-size", "4096", "--duration", "6s"]);
    let mut bench = support::BackgroundProgram::start(cluster.directory.path(), "load", &mut bench);
    let mut completed_rounds = 0;
    while bench.is_running() {
        let output = run_on_all_directories(&cluster, "check");
        assert_eq!(output.code, Some(0), "{output:#?}\n{}", cluster.logs());
        let output = run_on_all_directories(&cluster, "diff");
        assert!(matches!(output.code, Some(0 | 1)) && !output.out.contains("onflict,"), "{output:#?}");
        if completed_rounds == 2 {
            let leader = cluster.wait_for_leader();
            cluster.kill(leader);
            cluster.spawn(leader);
        }
        completed_rounds += 1;
    }
    assert!(completed_rounds > 2, "the load ended before three checks were run");
    let output = bench.wait_with_output();
    assert_eq!(output.code, Some(0), "{output:#?}");
    cluster.wait_for_convergence();
    wait_until(
        "all logs are identical",
        || (run_on_all_directories(&cluster, "diff").code == Some(0)).then_some(()),
        || cluster.logs(),
    );
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0)));
    let files_before = all_files(cluster.directory.path());
    let output = run_on_all_directories(&cluster, "check");
    assert_eq!(output.code, Some(0), "{output:#?}");
    let output = run_on_all_directories(&cluster, "diff");
    // The node that was stopped last may have led the remaining nodes for a moment.
    assert!(output.out.contains("identical up to") && !output.out.contains("onflict,"), "{output:#?}");
    assert!(files_before == all_files(cluster.directory.path()), "diff and check change no file");
}
