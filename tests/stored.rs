//! `drave diff` and `drave check` on stored logs that are healthy, different within the rules, or in violation of them.

use bytes::Bytes;
use drave::api::Op;
use drave::codec;
use drave::disk::FsDisk;
use drave::disk::fs::Syncs;
use drave::machine::commands::Command;
use drave::snapshot::Store;
use drave::snapshot::format::{ChunkKind, Header};
use drave::types::*;
use drave::wal::identity::Identity;
use drave::wal::{Journal, Options};
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::{Cluster, Said, drave, run, until};
use tempfile::TempDir;

mod support;

const CLUSTER: ClusterId = ClusterId(0x6f2c_91aa_0d77_be21);

fn id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

fn members(members: &[u64], voters: &[u64], outgoing: &[u64]) -> Membership {
    let founded = Membership::founding(members.iter().map(|n| (id(*n), format!("n{n}:1"))));
    let set = |ids: &[u64]| ids.iter().map(|n| id(*n)).collect();
    Membership { voters: set(voters), outgoing: set(outgoing), ..founded }
}

fn put(key: &str) -> Payload {
    let command = Command::Put { key: key.as_bytes(), value: b"v" }.encode();
    Payload::Opaque(Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command }.encode())
}

fn conf(membership: Membership) -> Payload {
    Payload::Membership(Box::new(membership))
}

/// Data directories of one cluster, written with `Journal` itself.
struct TestDirectories(TempDir);

/// A data directory that a test is writing.
struct DirectoryWriter {
    journal: Journal<FsDisk>,
    path: PathBuf,
    node: u64,
    writes: u64,
}

impl TestDirectories {
    fn new() -> TestDirectories {
        TestDirectories(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates a directory of that node, founded by nodes 1 to 3.
    fn node(&self, name: &str, node: u64) -> DirectoryWriter {
        self.founded(name, node, CLUSTER, Position::ZERO)
    }

    fn founded(&self, name: &str, node: u64, cluster: ClusterId, position: Position) -> DirectoryWriter {
        self.create_with(name, node, cluster, position, members(&[1, 2, 3], &[1, 2, 3], &[]))
    }

    fn create_with(
        &self,
        name: &str,
        node: u64,
        cluster: ClusterId,
        position: Position,
        with: Membership,
    ) -> DirectoryWriter {
        let path = self.path(name);
        let root = FsDisk::make(&path, Syncs::Skipped).unwrap();
        let disk = DiskId(node * 100 + name.len() as u64);
        Identity { node: id(node), cluster, disk, founded: true, log: None, starts: 1 }.write(&root).unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::new(id(node), cluster, disk) };
        let base = SnapshotPoint { position, configured: Index::ZERO, membership: with };
        let wal = FsDisk::make(&path.join("wal"), Syncs::Skipped).unwrap();
        let journal = Journal::open(wal, options, Some(&base)).unwrap().0;
        DirectoryWriter { journal, path, node, writes: 0 }
    }

    fn run(&self, words: &[&str], names: &[&str]) -> Said {
        let mut command = drave(words);
        names.iter().for_each(|name| _ = command.arg(self.path(name)));
        run(&mut command)
    }

    fn diff(&self, names: &[&str]) -> Said {
        self.run(&["diff"], names)
    }

    /// Asserts that `drave check` finds nothing wrong in these directories.
    fn expect_sound(&self, names: &[&str]) {
        let said = self.run(&["check"], names);
        assert!(said.code == Some(0) && said.out.contains("0 broken · 0 damaged"), "{said:#?}");
    }

    /// Asserts that `drave check` reports violations of exactly these rules.
    fn expect_violations(&self, names: &[&str], rules: &[&str], words: &str) {
        let said = self.run(&["check", "-o", "json"], names);
        let json = said.json();
        let violations = json["violations"].as_array().unwrap();
        let mut broken: Vec<&str> = violations.iter().map(|one| one["rule"].as_str().unwrap()).collect();
        broken.sort_unstable();
        broken.dedup();
        assert_eq!(broken, rules, "{json:#}");
        assert!(violations.iter().any(|one| one["what"].as_str().unwrap().contains(words)), "{json:#}");
        assert_eq!((said.code, &json["exit"]), (Some(5), &5.into()));
        let text = self.run(&["check"], names);
        assert!(text.code == Some(5) && text.out.contains("! BROKEN"), "{text:#?}");
    }
}

impl DirectoryWriter {
    fn write(mut self, hard: Option<(u64, u64)>, entries: Vec<Entry>) -> DirectoryWriter {
        self.writes += 1;
        let hard_state = hard.map(|(term, vote)| HardState {
            term: Term(term),
            vote: NodeId::new(vote).map(|node| Vote { node, disk: DiskId(7) }),
            promised: Position::ZERO,
        });
        let write = Write { id: WriteId(self.writes), hard_state, base: None, entries };
        self.journal.append(&write).unwrap();
        self.journal.sync().unwrap();
        self
    }

    /// Writes a term and a vote; vote 0 is none.
    fn votes(self, term: u64, vote: u64) -> DirectoryWriter {
        self.write(Some((term, vote)), Vec::new())
    }

    /// Appends entries from index `first` on.
    fn log(self, first: u64, term: u64, payloads: Vec<Payload>) -> DirectoryWriter {
        self.timed(first, term, 5, payloads)
    }

    fn timed(self, first: u64, term: u64, time: u64, payloads: Vec<Payload>) -> DirectoryWriter {
        let entry =
            |(index, payload)| codec::entry(Position::new(Index(index), Term(term)), ClusterTime(time), payload);
        self.write(None, (first..).zip(payloads).map(entry).collect())
    }

    fn snapshot(self, index: u64, term: u64, digest: u64) -> DirectoryWriter {
        let disk = FsDisk::make(&self.path.join("snapshots"), Syncs::Skipped).unwrap();
        let header = Header {
            cluster: CLUSTER,
            node: id(self.node),
            position: Position::new(Index(index), Term(term)),
            configured: Index::ZERO,
            time: ClusterTime(5),
            digest,
            sessions: 0,
            membership: members(&[1, 2, 3], &[1, 2, 3], &[]),
        };
        let mut writer = Store::open(disk, CLUSTER).unwrap().writer(&header).unwrap();
        writer.put(ChunkKind::Machine, b"a state").unwrap();
        writer.finish().unwrap();
        self
    }
}

/// Writes term 1: a no-op and two keys.
fn term_one(dirs: &TestDirectories, node: u64) -> DirectoryWriter {
    dirs.node(&format!("n{node}"), node).votes(1, 1).log(1, 1, vec![Payload::Noop, put("a"), put("b")])
}

const ALL: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn equal_logs_compare_as_identical() {
    let dirs = TestDirectories::new();
    (1..=3).for_each(|node| drop(term_one(&dirs, node)));
    let said = dirs.diff(&ALL);
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(said.out.contains("identical up to 3@1\n") && said.out.ends_with("\nidentical\n"), "{said:#?}");
    dirs.expect_sound(&ALL);
    dirs.expect_sound(&["n1"]);
    let json = dirs.run(&["diff", "-o", "json"], &ALL).json();
    assert_eq!((&json["verdict"], &json["identical_up_to"]["index"]), (&"identical".into(), &3.into()));
    assert_eq!((&json["differs_at"], &json["exit"]), (&Value::Null, &0.into()));
}

#[test]
fn damaged_log_is_not_called_identical() {
    let dirs = TestDirectories::new();
    (1..=2).for_each(|node| drop(term_one(&dirs, node)));
    let path = dirs.path("n2").join("wal/0000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    // Damages the key of an entry that has others after it.
    let at = bytes.windows(6).position(|six| six == b"\x01\0\0\0a\x01").unwrap();
    bytes[at + 4] = b'c';
    std::fs::write(&path, bytes).unwrap();
    let said = dirs.diff(&["n1", "n2"]);
    assert_eq!(said.code, Some(5), "{said:#?}");
    assert!(!said.out.contains("identical") && said.out.ends_with("/n2\n"), "{said:#?}");
}

#[test]
fn longer_log_is_no_conflict_and_its_tail_is_classified() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).log(4, 1, vec![put("c"), put("d")]));
    drop(term_one(&dirs, 2).log(4, 1, vec![put("c")]));
    drop(term_one(&dirs, 3));
    let said = dirs.diff(&ALL);
    assert_eq!(said.code, Some(1));
    for words in [
        "identical up to 3@1\n",
        "4@1..5@1, 2 entries: up to 4 on a quorum; behind that uncommitted: only on n1 of voters=1,2,3",
        "4@1..4@1, 1 entry: on a quorum (n1, n2): committed, or bound to be",
        "no conflict: ",
        "n3 is 2 entries behind",
    ] {
        assert!(said.out.contains(words), "{words}\n{}", said.out);
    }
    let said = dirs.diff(&["n1", "n3"]);
    assert!(said.out.contains("cannot be known without the directories of n2"), "{}", said.out);
    dirs.expect_sound(&ALL);
}

#[test]
fn diff_prints_first_differing_entry() {
    let dirs = TestDirectories::new();
    // n1 led term 1 and was partitioned; n2 leads term 2.
    drop(term_one(&dirs, 1).log(4, 1, vec![put("lost")]));
    drop(term_one(&dirs, 2).votes(2, 2).log(4, 2, vec![Payload::Noop, put("kept")]));
    drop(term_one(&dirs, 3).votes(2, 2).log(4, 2, vec![Payload::Noop, put("kept")]));
    let said = dirs.diff(&ALL);
    assert_eq!(said.code, Some(1));
    for words in [
        "first difference at 4\n",
        "4@1  put    1#1 \"lost\" = \"v\"\n",
        "4@2  noop\n",
        "uncommitted: only on n1 of voters=1,2,3, of term 1 and older than term 2",
        "conflict, of a kind that is allowed",
    ] {
        assert!(said.out.contains(words), "{words}\n{}", said.out);
    }
    let json = dirs.run(&["diff", "-o", "json"], &ALL).json();
    assert_eq!((&json["differs_at"], &json["records"][0]["fields"]["key"]), (&4.into(), &"lost".into()));
    let standings: Vec<&Value> = json["tails"].as_array().unwrap().iter().map(|tail| &tail["standing"]).collect();
    assert_eq!(standings, ["uncommitted", "majority", "majority"]);
    dirs.expect_sound(&ALL);
}

#[test]
fn logs_after_snapshots_are_compared_where_they_overlap() {
    let dirs = TestDirectories::new();
    let late = |name, node, term| {
        let base = Position::new(Index(3), Term(1));
        let begun = dirs.founded(name, node, CLUSTER, base).snapshot(3, 1, 9);
        begun.votes(term, 1).log(4, term, vec![put("c")])
    };
    drop(term_one(&dirs, 1).log(4, 1, vec![put("c")]));
    drop(late("n2", 2, 1));
    let said = dirs.diff(&["n1", "n2"]);
    assert!(said.code == Some(0) && said.out.contains("identical up to 4@1"), "{said:#?}");
    dirs.expect_sound(&["n1", "n2"]);
    // n3 was down while the other nodes took a snapshot, and has a diverging tail.
    drop(dirs.node("n3", 3).votes(1, 1).log(1, 1, vec![Payload::Noop]).votes(2, 3).log(2, 2, vec![Payload::Noop; 2]));
    let said = dirs.diff(&["n2", "n3"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.contains("first difference at 3\n") && said.out.contains("3@1  (in its snapshot)"),
        "{}",
        said.out
    );
    assert!(said.out.contains("will be replaced: "), "{}", said.out);
}

#[test]
fn logs_of_two_clusters_are_not_compared() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1));
    drop(dirs.founded("other", 2, ClusterId(7), Position::ZERO));
    for verb in ["diff", "check"] {
        let said = dirs.run(&[verb], &["n1", "other"]);
        assert!(said.code == Some(2) && said.err.contains("only logs of one cluster"), "{said:#?}");
    }
    assert_eq!(dirs.run(&["check"], &["nowhere"]).code, Some(74));
}

/// A cluster that was founded twice has one cluster id, derived from its founders, and two logs.
#[test]
fn logs_of_a_cluster_founded_twice_are_not_compared() {
    let dirs = TestDirectories::new();
    for (name, node, log) in [("n1", 1, 5), ("n2", 2, 6), ("n3", 3, 5)] {
        let with = Membership { log_id: Some(LogId(log)), log_agreed: true, ..members(&[1, 2, 3], &[1, 2, 3], &[]) };
        drop(dirs.create_with(name, node, CLUSTER, Position::ZERO, with));
    }
    for verb in ["diff", "check"] {
        let said = dirs.run(&[verb], &["n1", "n2"]);
        assert!(said.code == Some(2) && said.err.contains("the cluster was founded twice"), "{said:#?}");
        assert_ne!(dirs.run(&[verb], &["n1", "n3"]).code, Some(2));
    }
}

#[test]
fn second_vote_in_a_term_is_reported() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).votes(4, 2).votes(4, 3));
    dirs.expect_violations(&["n1"], &["election-safety"], "it voted for n2 and for n3 in term 4");
    // Two directories of one node also count: it voted, lost its vote, and voted again.
    drop(dirs.node("once", 2).votes(4, 1));
    drop(dirs.node("again", 2).votes(4, 3));
    dirs.expect_sound(&["once"]);
    dirs.expect_violations(&["once", "again"], &["election-safety"], "n2 voted for n1 and for n3 in term 4");
}

#[test]
fn two_leaders_of_a_term_are_reported() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).votes(2, 1).log(4, 2, vec![Payload::Noop]));
    drop(term_one(&dirs, 2).votes(2, 2).log(3, 2, vec![Payload::Noop]));
    dirs.expect_violations(&["n1", "n2"], &["election-safety"], "term 2 begins at 4 and at 3: it had two leaders");
    drop(term_one(&dirs, 3).votes(2, 3).log(4, 2, vec![put("other")]));
    let said = dirs.diff(&["n1", "n3"]);
    assert!(said.code == Some(5) && said.out.contains("VIOLATION"), "{said:#?}");
    dirs.expect_violations(
        &["n1", "n3"],
        &["election-safety", "log-matching"],
        "term 2 has two different entries at 4",
    );
}

#[test]
fn log_matching_violation_is_reported() {
    let dirs = TestDirectories::new();
    let odd = |node, key| dirs.node(&format!("n{node}"), node).votes(1, 1).log(1, 1, vec![Payload::Noop, put(key)]);
    drop(odd(1, "a").votes(3, 1).log(3, 2, vec![put("x")]).log(4, 3, vec![Payload::Noop]));
    drop(odd(2, "a").votes(3, 1).log(3, 1, vec![put("y")]).log(4, 3, vec![Payload::Noop]));
    let words = "both hold 4@3, and before it one holds 3@2, the other 3@1";
    dirs.expect_violations(&["n1", "n2"], &["log-matching"], words);
}

#[test]
fn overwritten_entries_are_checked_too() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).log(4, 1, vec![put("c")]).votes(2, 2).log(4, 2, vec![Payload::Noop]));
    drop(term_one(&dirs, 2).log(4, 1, vec![put("not c")]));
    dirs.expect_sound(&["n1"]);
    dirs.expect_violations(&["n1", "n2"], &["election-safety", "log-matching"], "4@1 is two different entries");
}

#[test]
fn leader_overwriting_its_log_is_reported() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).log(3, 1, vec![put("better")]));
    dirs.expect_violations(
        &["n1"],
        &["election-safety", "leader-append-only", "log-matching"],
        "3@1 gave way to 3@1 within term 1, which it voted for itself in",
    );
}

#[test]
fn decreasing_terms_and_times_are_reported() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).votes(4, 0).votes(3, 0));
    dirs.expect_violations(&["n1"], &["terms"], "from term 4 back to term 3");
    drop(term_one(&dirs, 2).log(4, 2, vec![Payload::Noop]));
    dirs.expect_violations(&["n2"], &["terms"], "4@2 was written while the node knew of no term above 1");
    drop(term_one(&dirs, 3).votes(3, 0).log(4, 3, vec![Payload::Noop]).log(5, 2, vec![put("old")]));
    dirs.expect_violations(&["n3"], &["terms"], "5@2 follows 4@3");
    drop(dirs.node("clock", 1).votes(1, 1).timed(1, 1, 9, vec![Payload::Noop]).timed(2, 1, 8, vec![put("a")]));
    dirs.expect_violations(&["clock"], &["time"], "2@1 is of 8ms, and the entry before it of 9ms");
}

#[test]
fn configuration_steps_obey_joint_consensus() {
    let dirs = TestDirectories::new();
    let five = [1, 2, 3, 4, 5];
    let learners = || conf(members(&five, &[1, 2, 3], &[]));
    let joint = || conf(members(&five, &[3, 4, 5], &[1, 2, 3]));
    let whole = vec![Payload::Noop, learners(), joint(), conf(members(&[3, 4, 5], &[3, 4, 5], &[]))];
    drop(dirs.node("whole", 1).votes(1, 1).log(1, 1, whole));
    let back = vec![Payload::Noop, learners(), joint(), conf(members(&five, &[1, 2, 3], &[3, 4, 5])), learners()];
    drop(dirs.node("back", 1).votes(1, 1).log(1, 1, back));
    dirs.expect_sound(&["whole"]);
    dirs.expect_sound(&["back"]);
    // An uncommitted configuration that another entry replaced does not count.
    drop(dirs.node("rolled", 1).votes(1, 1).log(1, 1, vec![Payload::Noop, learners(), joint()]).votes(2, 2).log(
        3,
        2,
        vec![Payload::Noop, conf(members(&[1, 2, 3], &[1, 2, 3], &[]))],
    ));
    dirs.expect_sound(&["rolled"]);
    let cases = [
        ("leap", vec![conf(members(&five, &[3, 4, 5], &[]))], "without a joint one between them"),
        ("others", vec![conf(members(&five, &[4, 5], &[2, 3]))], "outgoing voters are not the voters before it"),
        ("third", vec![joint(), conf(members(&five, &[1, 5], &[]))], "neither the end of the joint one"),
        ("stacked", vec![joint(), conf(members(&five, &[1, 5], &[1, 2, 3]))], "though a change was under way"),
        ("nobody", vec![conf(members(&five, &[], &[1, 2, 3]))], "it has no voters"),
    ];
    for (name, payloads, words) in cases {
        drop(dirs.node(name, 1).votes(1, 1).log(1, 1, payloads));
        dirs.expect_violations(&[name], &["configurations"], words);
    }
}

/// A joining node starts with an empty configuration, which is allowed; a later change to an empty one is not.
#[test]
fn joined_node_starts_with_empty_configuration() {
    let dirs = TestDirectories::new();
    let joins = |name: &str| dirs.create_with(name, 4, CLUSTER, Position::ZERO, Membership::default());
    let founding = || conf(members(&[1, 2, 3], &[1, 2, 3], &[]));
    let learns = || vec![Payload::Noop, founding(), conf(members(&[1, 2, 3, 4], &[1, 2, 3], &[]))];
    drop(joins("joined").votes(1, 0).log(1, 1, learns()));
    drop(joins("new"));
    dirs.expect_sound(&["joined"]);
    dirs.expect_sound(&["new"]);
    drop(joins("lost").votes(1, 0).log(1, 1, [learns(), vec![conf(Membership::default())]].concat()));
    dirs.expect_violations(&["lost"], &["configurations"], "at 4: it has no voters");
}

#[test]
fn change_proposed_before_the_previous_commits_is_reported() {
    let dirs = TestDirectories::new();
    let learner = |n: u64| conf(members(&[1, 2, 3, n], &[1, 2, 3], &[]));
    drop(term_one(&dirs, 1).log(4, 1, vec![learner(4), learner(5)]));
    drop(term_one(&dirs, 2));
    drop(term_one(&dirs, 3));
    dirs.expect_violations(
        &ALL,
        &["configurations"],
        "was proposed while that at 4 (voters=1,2,3 learners=4) was not committed",
    );
    dirs.expect_sound(&["n1", "n2"]);
}

#[test]
fn conflicting_snapshots_are_reported() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1).snapshot(3, 1, 7));
    drop(term_one(&dirs, 2).snapshot(3, 1, 8));
    dirs.expect_sound(&["n1"]);
    dirs.expect_violations(
        &["n1", "n2"],
        &["snapshots"],
        "the digests of the state at 3@1 differ: 0000000000000007 and 0000000000000008",
    );
    drop(term_one(&dirs, 3).snapshot(2, 9, 7));
    dirs.expect_violations(&["n3"], &["snapshots"], "its snapshot is of 2@9, and its log has 2@1 there");
    dirs.expect_violations(&["n1", "n3"], &["snapshots", "state-machine-safety"], "one committed 2@9, the other 2@1");
}

#[test]
fn damage_is_reported_and_skipped() {
    let dirs = TestDirectories::new();
    drop(term_one(&dirs, 1));
    drop(term_one(&dirs, 2));
    let path = dirs.path("n2").join("wal/0000000001.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    // Damages the key of the last entry.
    let at = bytes.windows(6).rposition(|six| six == b"\x01\0\0\0b\x01").unwrap();
    bytes[at + 4] = b'c';
    std::fs::write(&path, bytes).unwrap();
    for verb in ["diff", "check"] {
        let said = dirs.run(&[verb], &["n1", "n2"]);
        assert!(said.code == Some(5) && said.out.contains("0000000001.wal: byte "), "{said:#?}");
    }
}

fn run_on_all(cluster: &Cluster, verb: &str) -> Said {
    let mut command = drave(&[verb]);
    (0..cluster.len()).for_each(|n| _ = command.arg(cluster.data(n)));
    run(&mut command)
}

/// All files under a directory with their contents, to detect any write to it.
fn all_files(path: &Path) -> Vec<(PathBuf, Bytes)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => all.extend(all_files(&entry)),
            false => all.push((entry.clone(), std::fs::read(&entry).unwrap().into())),
        }
    }
    all.sort();
    all
}

#[test]
fn running_cluster_passes_check() {
    let mut cluster = Cluster::prepare(3);
    let words = ["--segment-size", "4MiB", "--snapshot-log-bytes", "1MiB", "--trailing-bytes", "64KiB"];
    cluster.words = words.map(String::from).to_vec();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    let mut load = cluster.drave(&["bench", "put", "--clients", "4", "--value-size", "4096", "--duration", "6s"]);
    let mut load = support::Beside::start(cluster.directory.path(), "load", &mut load);
    let mut looks = 0;
    while load.is_running() {
        let said = run_on_all(&cluster, "check");
        assert_eq!(said.code, Some(0), "{said:#?}\n{}", cluster.logs());
        let said = run_on_all(&cluster, "diff");
        assert!(matches!(said.code, Some(0 | 1)) && !said.out.contains("onflict,"), "{said:#?}");
        if looks == 2 {
            let leader = cluster.leader();
            cluster.kill(leader);
            cluster.spawn(leader);
        }
        looks += 1;
    }
    assert!(looks > 2, "the load ended before three checks were run");
    let said = load.end();
    assert_eq!(said.code, Some(0), "{said:#?}");
    cluster.agree();
    until("all logs are identical", || (run_on_all(&cluster, "diff").code == Some(0)).then_some(()), || cluster.logs());
    (0..3).for_each(|n| assert_eq!(cluster.stop(n), Some(0)));
    let before = all_files(cluster.directory.path());
    let said = run_on_all(&cluster, "check");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let said = run_on_all(&cluster, "diff");
    // The node that was stopped last may have led the remaining nodes for a moment.
    assert!(said.out.contains("identical up to") && !said.out.contains("onflict,"), "{said:#?}");
    assert!(before == all_files(cluster.directory.path()), "diff and check change no file");
}
