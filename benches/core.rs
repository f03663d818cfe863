//! The cost of the consensus core without I/O: from a proposal to its commit on three nodes whose disks and network
//! take no time. Also the cost of appends and lookups in the log that a core keeps in memory: the term and size of each
//! entry.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use drave::consensus::log::Log;
use drave::consensus::message::{Envelope, Message};
use drave::consensus::replica::{RecoveredState, Replica};
use drave::consensus::{Options, Raft};
use drave::types::*;
use std::hint::black_box;

/// The cores of a cluster of three nodes; the first core is the leader.
struct ThreeCores {
    now: Time,
    cores: Vec<Raft>,
    /// The entries of the last write of each core, from which its AppendEntries messages are filled: without faults, a
    /// core sends no older entries.
    last_written: Vec<Vec<Entry>>,
    undelivered: Vec<Envelope>,
}

fn node_id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

impl ThreeCores {
    /// Starts three cores and makes the first one the leader.
    fn new() -> ThreeCores {
        let now = Time::ZERO;
        let new_core = |n| {
            let membership = Membership::founding((1..=3).map(|n| (node_id(n), String::new())));
            let recovered = RecoveredState {
                disk: None,
                hard_state: HardState::default(),
                base: SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership },
                entries: Vec::new(),
                configurations: Vec::new(),
                time: ClusterTime(0),
                applied_index: Index::ZERO,
                kept_fragments: Vec::new(),
            };
            Raft::new(Replica::recover(node_id(n), Options::default(), recovered, n), now)
        };
        let cores: Vec<Raft> = (1..=3).map(new_core).collect();
        let mut cluster =
            ThreeCores { now: cores[0].deadline(), cores, last_written: vec![Vec::new(); 3], undelivered: Vec::new() };
        cluster.cores[0].tick(cluster.now);
        cluster.run_until_idle();
        assert!(cluster.cores[0].leads());
        cluster
    }

    /// Persists the writes and delivers the messages of all cores until no core has a write or a message left.
    fn run_until_idle(&mut self) {
        loop {
            let mut persisted_any = false;
            for (core, last_written) in self.cores.iter_mut().zip(&mut self.last_written) {
                let ready = core.ready(self.now);
                if let Some(write) = ready.write {
                    *last_written = write.entries;
                    core.handle_persisted(self.now, write.id);
                    persisted_any = true;
                }
                self.undelivered.extend(ready.messages);
                for append in ready.appends {
                    let indexes = append.prev.index.next()..=append.upto;
                    let entries =
                        last_written.iter().filter(|entry| indexes.contains(&entry.position.index)).cloned().collect();
                    let message =
                        Message::AppendEntries { prev: append.prev, commit: append.commit, probe_number: 0, entries };
                    self.undelivered.push(core.envelope(append.to, append.term, message));
                }
            }
            if self.undelivered.is_empty() && !persisted_any {
                return;
            }
            for envelope in self.undelivered.drain(..) {
                self.cores[envelope.to.get() as usize - 1].receive(self.now, envelope);
            }
        }
    }
}

fn bench_commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("from proposal to commit");
    let op = Bytes::from(vec![7; 128]);
    for batch in [1, 64, 1024] {
        let mut cluster = ThreeCores::new();
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    cluster.cores[0].propose(cluster.now, op.clone()).unwrap();
                }
                cluster.run_until_idle();
            });
        });
        let log = cluster.cores[0].log();
        assert_eq!(log.commit(), log.last().index);
    }
    group.finish();
}

fn bench_log_appends_and_lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    let mut log = Log::new(Position::ZERO);
    for i in 0..1_000_000u64 {
        log.append(Term(1 + i / 10_000), 160);
    }
    let last_index = log.last().index;
    group.bench_function("append", |b| {
        let mut log = log.clone();
        b.iter(|| log.append(Term(200), 160));
    });
    group.bench_function("term", |b| b.iter(|| log.term(black_box(Index(last_index.0 / 3)))));
    group
        .bench_function("append_end", |b| b.iter(|| log.append_end(black_box(Index(last_index.0 / 3)), 1 << 20, 8192)));
    group.bench_function("last_at_or_below", |b| {
        b.iter(|| log.last_at_or_below(black_box(Position::new(Index(last_index.0 / 2), Term(30)))));
    });
    group.finish();
}

criterion_group!(benches, bench_commits, bench_log_appends_and_lookups);
criterion_main!(benches);
