//! Reads the files of every format version in `tests/fixtures`. The README there says how the files were made.
//!
//! `DRAVE_UPDATE_FIXTURES=1` rewrites the stored texts, after a change of the output of `dump` or `check`.

mod support;

use drave::api::Consistency;
use drave::config::{Config, SEGMENT_BYTES_MIN};
use drave::inspect::directory::Directory;
use drave::inspect::record_text::Style;
use drave::machine::{Answer, Kv, Query};
use drave::server::Server;
use drave::types::{Index, NodeId};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::{ProgramOutput, drave_command, run};
use tempfile::TempDir;

/// The keys in every version's data directory, and the first 20 bytes of their values.
const EXPECTED_PAIRS: &[(&str, &str)] = &[
    ("a", "1"),
    ("b", "23"),
    ("d", "1"),
    ("late", "after-the-backup"),
    ("lunch", "rice"),
    ("seldom", "xxxxxxxxxxxxxxxxxxxx"),
    ("tea", "green"),
    ("visits", "42"),
];

/// The files of one format version, and a copy of them that a test may change.
struct Fixture {
    stored_path: PathBuf,
    working_copy: TempDir,
}

fn copy_fixtures() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let directories = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut paths: Vec<PathBuf> = directories.collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.into_iter().map(Fixture::copy_from).collect()
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_directory(&path, &to);
            continue;
        }
        fs::copy(&path, &to).unwrap();
        // A segment is stored without the zeros at its end.
        if to.extension().is_some_and(|extension| extension == "wal") {
            fs::File::options().write(true).open(&to).unwrap().set_len(SEGMENT_BYTES_MIN).unwrap();
        }
    }
}

impl Fixture {
    fn copy_from(stored_path: PathBuf) -> Fixture {
        let working_copy = tempfile::tempdir().unwrap();
        copy_directory(&stored_path, working_copy.path());
        Fixture { stored_path, working_copy }
    }

    fn data_dir(&self) -> PathBuf {
        self.working_copy.path().join("data")
    }

    /// Runs the program in the working copy, so that it prints relative paths. Asserts that the program succeeds.
    fn run(&self, args: &[&str]) -> ProgramOutput {
        let output = run(drave_command(args).current_dir(self.working_copy.path()));
        assert_eq!(output.code, Some(0), "{}: {output:?}", self.stored_path.display());
        output
    }

    /// Asserts that the program prints the stored text, apart from times.
    fn expect_printed_text(&self, name: &str, args: &[&str]) {
        let output = self.run(args).out;
        let printed_lines: Vec<&str> =
            output.lines().map(|line| line.strip_suffix(" s").map_or(line, without_duration)).collect();
        let (printed_text, path) = (printed_lines.join("\n") + "\n", self.stored_path.join(name));
        if std::env::var_os("DRAVE_UPDATE_FIXTURES").is_some() {
            fs::write(&path, &printed_text).unwrap();
        }
        let expected_text = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            printed_text == expected_text,
            "{} contains\n{expected_text}\nbut the program prints\n{printed_text}",
            path.display()
        );
    }
}

fn without_duration(line: &str) -> &str {
    line.rsplit_once(" · ").map_or(line, |(before, _)| before)
}

/// The keys that a node serves from the directory `data`, and the first 20 bytes of their values.
fn read_served_pairs(data: &Path) -> BTreeMap<String, String> {
    let id = NodeId::new(1).unwrap();
    let mut config = Config::new(id, BTreeMap::from([(id, "127.0.0.1:7401".to_owned())]), data);
    config.listen = Some("127.0.0.1:0".into());
    (config.segment_bytes, config.reserve_bytes) = (SEGMENT_BYTES_MIN, 0);
    let server = Server::open(config, Kv::new()).unwrap();
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.run());
    let query = Query::Scan { prefix: b"", after: None, limit: 100 }.encode();
    let answer = handle.query(&query, Consistency::Linearizable, support::WAIT_TIMEOUT).unwrap().answer;
    handle.stop();
    thread.join().unwrap().unwrap();
    let shortened_text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).into_owned();
    match Answer::decode(answer) {
        Ok(Answer::Pairs { pairs, has_more: false }) => {
            pairs.iter().map(|(key, value)| (shortened_text(key), shortened_text(value))).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn expected_pairs(omitted_key: &str) -> BTreeMap<String, String> {
    let pairs = EXPECTED_PAIRS.iter().filter(|(key, _)| *key != omitted_key);
    pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn dump_check_and_inspect_print_the_stored_texts() {
    for fixture in copy_fixtures() {
        fixture.expect_printed_text("dump.txt", &["dump", "data"]);
        fixture.expect_printed_text("dump-saved.txt", &["dump", "saved.snap"]);
        fixture.expect_printed_text("check.txt", &["check", "data"]);
        // The printed text contains the digest of the restored state.
        fixture.expect_printed_text("inspect.txt", &["snapshot", "inspect", "saved.snap"]);
    }
}

#[test]
fn every_stored_entry_is_decoded() {
    for fixture in copy_fixtures() {
        let directory = Directory::read(&fixture.data_dir()).unwrap();
        assert!(directory.damage.is_empty(), "{:?}", directory.damage);
        let log = &directory.replay.log;
        assert_eq!(log.first(), Index(1));
        let style = Style { full: true, hex: false };
        let records = (1..=log.last().0).map(|index| directory.record(Index(index), style).unwrap());
        let record_names: Vec<String> = records.map(|record| record.name.to_string()).collect();
        for name in ["conf", "open", "put", "set", "incr", "cas", "mset", "append", "expire", "persist", "block", "del"]
        {
            assert!(record_names.iter().any(|recorded| recorded == name), "no {name} in {record_names:?}");
        }
        assert_eq!(directory.snapshots.len(), 1);
    }
}

#[test]
fn node_serves_the_stored_state() {
    for fixture in copy_fixtures() {
        assert_eq!(read_served_pairs(&fixture.data_dir()), expected_pairs(""), "{}", fixture.stored_path.display());
    }
}

#[test]
fn saved_snapshot_restores_its_state() {
    for fixture in copy_fixtures() {
        let args = ["restore", "saved.snap", "--id", "1", "--peers", "1=127.0.0.1:7401", "--data", "restored"];
        fixture.run(&args);
        assert_eq!(
            read_served_pairs(&fixture.working_copy.path().join("restored")),
            expected_pairs("late"),
            "{}",
            fixture.stored_path.display()
        );
    }
}

#[test]
fn bench_report_renders_stored_result() {
    for fixture in copy_fixtures() {
        fixture.run(&["bench", "--results", "bench.json", "--report", "report.html"]);
        let report_html = fs::read_to_string(fixture.working_copy.path().join("report.html")).unwrap();
        assert_eq!(report_html.matches("<svg").count(), 2 * 3, "{}", fixture.stored_path.display());
    }
}
