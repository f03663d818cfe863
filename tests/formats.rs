//! Files that programs wrote: this one reads every version of them in `tests/fixtures`, whose README says how they are
//! made.
//!
//! `DRAVE_UPDATE_FIXTURES=1` writes the texts anew, after a change of what `dump` and `check` print.

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
use support::{Said, drave, run};
use tempfile::TempDir;

/// The pairs that every version's data directory holds.
const STATE: &[(&str, &str)] = &[
    ("a", "1"),
    ("b", "23"),
    ("d", "1"),
    ("late", "after-the-backup"),
    ("lunch", "rice"),
    ("seldom", "xxxxxxxxxxxxxxxxxxxx"),
    ("tea", "green"),
    ("visits", "42"),
];

/// One version of the formats, in a copy that may be changed.
struct Fixture {
    stored: PathBuf,
    copy: TempDir,
}

fn fixtures() -> Vec<Fixture> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let directories = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut found: Vec<PathBuf> = directories.collect();
    found.sort();
    assert!(!found.is_empty());
    found.into_iter().map(Fixture::copied).collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_all(&path, &to);
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
    fn copied(stored: PathBuf) -> Fixture {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&stored, copy.path());
        Fixture { stored, copy }
    }

    fn data(&self) -> PathBuf {
        self.copy.path().join("data")
    }

    /// Runs the program in the copy, so that it prints relative paths. It must succeed.
    fn run(&self, words: &[&str]) -> Said {
        let said = run(drave(words).current_dir(self.copy.path()));
        assert_eq!(said.code, Some(0), "{}: {said:?}", self.stored.display());
        said
    }

    /// Compares what the program prints with the stored text. Times are not compared.
    fn expect(&self, name: &str, words: &[&str]) {
        let said = self.run(words).out;
        let text: Vec<&str> = said.lines().map(|line| line.strip_suffix(" s").map_or(line, without_time)).collect();
        let (text, path) = (text.join("\n") + "\n", self.stored.join(name));
        if std::env::var_os("DRAVE_UPDATE_FIXTURES").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(text == stored, "{} says\n{stored}\ninstead of\n{text}", path.display());
    }
}

fn without_time(line: &str) -> &str {
    line.rsplit_once(" · ").map_or(line, |(before, _)| before)
}

/// The pairs that a node serves from this directory. The values are cut to 20 bytes.
fn served(data: &Path) -> BTreeMap<String, String> {
    let id = NodeId::new(1).unwrap();
    let mut config = Config::new(id, BTreeMap::from([(id, "127.0.0.1:7401".to_owned())]), data);
    config.listen = Some("127.0.0.1:0".into());
    (config.segment_bytes, config.reserve_bytes) = (SEGMENT_BYTES_MIN, 0);
    let server = Server::open(config, Kv::new()).unwrap();
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.run());
    let query = Query::Scan { prefix: b"", after: None, limit: 100 }.encode();
    let answer = handle.query(&query, Consistency::Linearizable, support::PATIENCE).unwrap().answer;
    handle.stop();
    thread.join().unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).into_owned();
    match Answer::decode(answer) {
        Ok(Answer::Pairs { pairs, more: false }) => pairs.iter().map(|(key, value)| (text(key), text(value))).collect(),
        other => panic!("{other:?}"),
    }
}

fn expected(leave_out: &str) -> BTreeMap<String, String> {
    let pairs = STATE.iter().filter(|(key, _)| *key != leave_out);
    pairs.map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn dump_check_and_inspect_print_the_stored_texts() {
    for fixture in fixtures() {
        fixture.expect("dump.txt", &["dump", "data"]);
        fixture.expect("dump-saved.txt", &["dump", "saved.snap"]);
        fixture.expect("check.txt", &["check", "data"]);
        // With the digest, to which the state must lead.
        fixture.expect("inspect.txt", &["snapshot", "inspect", "saved.snap"]);
    }
}

#[test]
fn every_entry_is_read() {
    for fixture in fixtures() {
        let directory = Directory::read(&fixture.data()).unwrap();
        assert!(directory.damage.is_empty(), "{:?}", directory.damage);
        let log = &directory.replay.log;
        assert_eq!(log.first(), Index(1));
        let style = Style { full: true, hex: false };
        let records = (1..=log.last().0).map(|index| directory.record(Index(index), style).unwrap());
        let names: Vec<String> = records.map(|record| record.name.to_string()).collect();
        for name in ["conf", "open", "put", "set", "incr", "cas", "mset", "append", "expire", "persist", "block", "del"]
        {
            assert!(names.iter().any(|known| known == name), "no {name} in {names:?}");
        }
        assert_eq!(directory.snapshots.len(), 1);
    }
}

#[test]
fn node_serves_the_stored_state() {
    for fixture in fixtures() {
        assert_eq!(served(&fixture.data()), expected(""), "{}", fixture.stored.display());
    }
}

#[test]
fn saved_snapshot_restores_its_state() {
    for fixture in fixtures() {
        let words = ["restore", "saved.snap", "--id", "1", "--peers", "1=127.0.0.1:7401", "--data", "restored"];
        fixture.run(&words);
        assert_eq!(served(&fixture.copy.path().join("restored")), expected("late"), "{}", fixture.stored.display());
    }
}

#[test]
fn bench_draws_the_stored_result() {
    for fixture in fixtures() {
        fixture.run(&["bench", "--results", "bench.json", "--report", "report.html"]);
        let page = fs::read_to_string(fixture.copy.path().join("report.html")).unwrap();
        assert_eq!(page.matches("<svg").count(), 2 * 3, "{}", fixture.stored.display());
    }
}
