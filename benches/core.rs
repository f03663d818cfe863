//! The core alone: from a proposal to its commit on three nodes whose disks and network take no time; and the log of
//! positions by itself.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use drave::consensus::log::Log;
use drave::consensus::message::{Envelope, Message};
use drave::consensus::replica::{Recovered, Replica};
use drave::consensus::{Options, Raft};
use drave::types::*;
use std::hint::black_box;

struct Trio {
    now: Time,
    cores: Vec<Raft>,
    /// The entries of each core's last write: without faults, no other entries are ever sent.
    written: Vec<Vec<Entry>>,
    on_the_way: Vec<Envelope>,
}

fn id(n: u64) -> NodeId {
    NodeId::new(n).unwrap()
}

impl Trio {
    /// Starts three cores and makes the first one the leader.
    fn new() -> Trio {
        let now = Time::ZERO;
        let core = |n| {
            let membership = Membership::founding((1..=3).map(|n| (id(n), String::new())));
            let recovered = Recovered {
                disk: None,
                hard_state: HardState::default(),
                base: SnapshotPoint { position: Position::ZERO, configured: Index::ZERO, membership },
                entries: Vec::new(),
                configurations: Vec::new(),
                time: ClusterTime(0),
                applied: Index::ZERO,
            };
            Raft::new(Replica::recover(id(n), Options::default(), recovered, n), now)
        };
        let cores: Vec<Raft> = (1..=3).map(core).collect();
        let mut trio = Trio { now: cores[0].deadline(), cores, written: vec![Vec::new(); 3], on_the_way: Vec::new() };
        trio.cores[0].tick(trio.now);
        trio.settle();
        assert!(trio.cores[0].leads());
        trio
    }

    /// Persists writes and delivers messages until no core has any output.
    fn settle(&mut self) {
        loop {
            let mut busy = false;
            for (core, written) in self.cores.iter_mut().zip(&mut self.written) {
                let ready = core.ready(self.now);
                if let Some(write) = ready.write {
                    *written = write.entries;
                    core.persisted(self.now, write.id);
                    busy = true;
                }
                self.on_the_way.extend(ready.messages);
                for order in ready.appends {
                    let sent = order.prev.index.next()..=order.upto;
                    let entries =
                        written.iter().filter(|entry| sent.contains(&entry.position.index)).cloned().collect();
                    let message = Message::AppendEntries { prev: order.prev, commit: order.commit, probe: 0, entries };
                    self.on_the_way.push(core.envelope(order.to, order.term, message));
                }
            }
            if self.on_the_way.is_empty() && !busy {
                return;
            }
            for envelope in self.on_the_way.drain(..) {
                self.cores[envelope.to.get() as usize - 1].receive(self.now, envelope);
            }
        }
    }
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("propose to commit");
    let op = Bytes::from(vec![7; 128]);
    for batch in [1, 64, 1024] {
        let mut trio = Trio::new();
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    trio.cores[0].propose(trio.now, op.clone()).unwrap();
                }
                trio.settle();
            });
        });
        let log = trio.cores[0].log();
        assert_eq!(log.commit(), log.last().index);
    }
    group.finish();
}

fn logs(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    let mut log = Log::new(Position::ZERO);
    for i in 0..1_000_000u64 {
        log.append(Term(1 + i / 10_000), 160);
    }
    let last = log.last().index;
    group.bench_function("append", |b| {
        let mut log = log.clone();
        b.iter(|| log.append(Term(200), 160));
    });
    group.bench_function("term", |b| b.iter(|| log.term(black_box(Index(last.0 / 3)))));
    group.bench_function("reach", |b| b.iter(|| log.reach(black_box(Index(last.0 / 3)), 1 << 20, 8192)));
    group.bench_function("at_or_below", |b| {
        b.iter(|| log.at_or_below(black_box(Position::new(Index(last.0 / 2), Term(30)))));
    });
    group.finish();
}

criterion_group!(benches, commits, logs);
criterion_main!(benches);
