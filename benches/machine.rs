//! The cost of snapshots of the key-value state machine: puts while the state is frozen, serializing the state in
//! chunks, and restoring it from them.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use drave::limits::CHUNK_BYTES;
use drave::machine::{Command, Context, Kv, StateMachine};
use drave::types::{ClusterTime, Index, Term};
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEY_COUNT: u64 = 1_000_000;
/// The size of a value in bytes: a million keys have a gigabyte of values.
const VALUE_BYTES: usize = 1024;
const APPLY_CONTEXT: Context = Context { index: Index(1), term: Term(1), time: ClusterTime(0), feature_level: 1 };

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let mut remaining_digits = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (remaining_digits % 10) as u8;
        remaining_digits /= 10;
    }
    key
}

fn filled_kv() -> Kv {
    let mut kv = Kv::new();
    for number in 0..KEY_COUNT {
        put(&mut kv, number);
    }
    kv
}

fn put(kv: &mut Kv, number: u64) {
    let value = [number as u8; VALUE_BYTES];
    kv.apply(&APPLY_CONTEXT, &Command::Put { key: &key(number), value: &value }.encode());
}

/// The number of a pseudo-random key, uniformly distributed. Advances `state`, the state of the generator.
fn random_key(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % KEY_COUNT
}

/// Compares puts with and without a frozen state. A frozen state is copied on write: the first put to a key after the
/// freeze copies the former value.
fn bench_puts(c: &mut Criterion) {
    let mut kv = filled_kv();
    let mut group = c.benchmark_group("put of 1 KiB among 1,000,000 keys");
    let mut random_state = 1;
    group.bench_function("state not frozen", |b| b.iter(|| put(&mut kv, random_key(&mut random_state))));
    group.bench_function("state frozen, first put to each key", |b| {
        b.iter_custom(|count| {
            let (mut took, mut done) = (Duration::ZERO, 0);
            while done < count {
                kv.freeze();
                // The state is frozen again after so few puts that nearly each of them is the first one to its key
                // since the freeze.
                let puts_after_freeze = (count - done).min(KEY_COUNT / 10);
                let began = Instant::now();
                (0..puts_after_freeze).for_each(|_| put(&mut kv, random_key(&mut random_state)));
                took += began.elapsed();
                done += puts_after_freeze;
            }
            took
        });
    });
    kv.end_snapshot();
    group.bench_function("freeze and end_snapshot", |b| {
        b.iter(|| {
            kv.freeze();
            kv.end_snapshot();
        });
    });
    group.finish();
}

fn bench_snapshot_chunks(c: &mut Criterion) {
    let mut kv = filled_kv();
    let mut group = c.benchmark_group("snapshot of 1,000,000 keys and 1 GiB");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    group.bench_function("serialize a chunk of 256 KiB", |b| {
        b.iter_custom(|count| {
            let (mut serialize_time, mut done) = (Duration::ZERO, 0);
            kv.freeze();
            while done < count {
                let began = Instant::now();
                let chunk = black_box(kv.next_chunk(CHUNK_BYTES));
                serialize_time += began.elapsed();
                match chunk {
                    Some(_) => done += 1,
                    None => kv.freeze(),
                }
            }
            serialize_time
        });
    });
    kv.freeze();
    let chunks: Vec<Bytes> = std::iter::from_fn(|| kv.next_chunk(CHUNK_BYTES)).collect();
    drop(kv);
    group.throughput(Throughput::Bytes(chunks.iter().map(|chunk| chunk.len() as u64).sum()));
    group.sample_size(10);
    group.bench_function("restore", |b| {
        b.iter_custom(|count| {
            let mut restore_time = Duration::ZERO;
            for _ in 0..count {
                let mut kv = Kv::new();
                let began = Instant::now();
                chunks.iter().for_each(|chunk| kv.restore(chunk).unwrap());
                restore_time += began.elapsed();
            }
            restore_time
        });
    });
    group.finish();
}

criterion_group!(benches, bench_puts, bench_snapshot_chunks);
criterion_main!(benches);
