//! The cost of snapshots: commands while a snapshot is taken, its chunks, and restoring from them.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use drave::limits::CHUNK_BYTES;
use drave::machine::{Command, Context, Kv, StateMachine};
use drave::types::{ClusterTime, Index, Term};
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEYS: u64 = 1_000_000;
/// Value size in bytes: a gigabyte with a million keys.
const VALUE: usize = 1024;
const CONTEXT: Context = Context { index: Index(1), term: Term(1), time: ClusterTime(0) };

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

fn filled() -> Kv {
    let mut kv = Kv::new();
    for number in 0..KEYS {
        put(&mut kv, number);
    }
    kv
}

fn put(kv: &mut Kv, number: u64) {
    let value = [number as u8; VALUE];
    kv.apply(&CONTEXT, &Command::Put { key: &key(number), value: &value }.encode());
}

/// A pseudo-random key, uniformly distributed.
fn chance(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % KEYS
}

/// Puts with and without a frozen state. A frozen state is copied on write: the first change of a key copies it.
fn applies(c: &mut Criterion) {
    let mut kv = filled();
    let mut group = c.benchmark_group("put of 1 KiB among 1,000,000 keys");
    let mut seed = 1;
    group.bench_function("nothing frozen", |b| b.iter(|| put(&mut kv, chance(&mut seed))));
    group.bench_function("frozen, each the first change of its key", |b| {
        b.iter_custom(|count| {
            let (mut took, mut done) = (Duration::ZERO, 0);
            while done < count {
                kv.freeze();
                // Few enough puts that nearly all are first changes.
                let batch = (count - done).min(KEYS / 10);
                let began = Instant::now();
                (0..batch).for_each(|_| put(&mut kv, chance(&mut seed)));
                took += began.elapsed();
                done += batch;
            }
            took
        });
    });
    kv.end_snapshot();
    group.bench_function("freeze and thaw", |b| {
        b.iter(|| {
            kv.freeze();
            kv.end_snapshot();
        });
    });
    group.finish();
}

fn pieces(c: &mut Criterion) {
    let mut kv = filled();
    let mut group = c.benchmark_group("of 1,000,000 keys and 1 GiB");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    group.bench_function("a piece of 256 KiB", |b| {
        b.iter_custom(|count| {
            let (mut took, mut done) = (Duration::ZERO, 0);
            kv.freeze();
            while done < count {
                let began = Instant::now();
                let piece = black_box(kv.next_chunk(CHUNK_BYTES));
                took += began.elapsed();
                match piece {
                    Some(_) => done += 1,
                    None => kv.freeze(),
                }
            }
            took
        });
    });
    kv.freeze();
    let pieces: Vec<Bytes> = std::iter::from_fn(|| kv.next_chunk(CHUNK_BYTES)).collect();
    drop(kv);
    group.throughput(Throughput::Bytes(pieces.iter().map(|piece| piece.len() as u64).sum()));
    group.sample_size(10);
    group.bench_function("restore", |b| {
        b.iter_custom(|count| {
            let mut took = Duration::ZERO;
            for _ in 0..count {
                let mut kv = Kv::new();
                let began = Instant::now();
                pieces.iter().for_each(|piece| kv.restore(piece).unwrap());
                took += began.elapsed();
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, applies, pieces);
criterion_main!(benches);
