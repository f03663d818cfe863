//! The time to encode and to decode entries and frames, without any system call.

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use drave::api::{Op, Request};
use drave::codec::{self, Reader};
use drave::consensus::message::{Envelope, Message, Origin};
use drave::types::*;
use drave::wire::client::{put_request_frame, read_request_frame};
use drave::wire::frame::FrameReader;
use drave::wire::hello::VERSION_MAX;
use drave::wire::peer::PeerFrame;
use std::hint::black_box;

/// Payload sizes in bytes.
const PAYLOAD_SIZES: [usize; 3] = [128, 4 << 10, 64 << 10];
/// Number of entries in an AppendEntries message: about as many as arrive during one sync.
const ENTRIES_PER_APPEND: u64 = 64;

fn entry(index: u64, payload_bytes: usize) -> Entry {
    let position = Position::new(Index(index), Term(1));
    codec::entry(position, ClusterTime(0), Payload::Opaque(Bytes::from(vec![7; payload_bytes])))
}

fn bench_entry_codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("entry");
    for size in PAYLOAD_SIZES {
        let entry = entry(1, size);
        let mut encoded_entry = BytesMut::new();
        codec::put_entry(&mut encoded_entry, &entry);
        let encoded_entry = encoded_entry.freeze();
        group.throughput(Throughput::Bytes(encoded_entry.len() as u64));
        let mut out = BytesMut::with_capacity(encoded_entry.len());
        group.bench_function(BenchmarkId::new("put", size), |b| {
            b.iter(|| {
                out.clear();
                codec::put_entry(&mut out, black_box(&entry));
            });
        });
        group.bench_function(BenchmarkId::new("read", size), |b| {
            b.iter(|| codec::read_entry(&mut Reader::new(black_box(&encoded_entry).clone())).unwrap());
        });
    }
    group.finish();
}

fn bench_request_codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("request frame");
    for size in PAYLOAD_SIZES {
        let op =
            Op::Execute { session: SessionId(1), seq: 1, first_outstanding: 1, command: Bytes::from(vec![7; size]) };
        let request = Request::Propose { op: op.encode() };
        let mut out = BytesMut::new();
        put_request_frame(&mut out, 1, false, &request);
        let encoded = out.clone();
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function(BenchmarkId::new("put", size), |b| {
            b.iter(|| {
                out.clear();
                put_request_frame(&mut out, 1, false, black_box(&request));
            });
        });
        group.bench_function(BenchmarkId::new("read", size), |b| {
            b.iter_batched(
                || encoded.clone(),
                |mut input| read_request_frame(FrameReader::default().next(&mut input).unwrap().unwrap()).unwrap(),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn bench_append_entries_codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("append of 64 entries");
    group.throughput(Throughput::Elements(ENTRIES_PER_APPEND));
    let (from, to) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
    let entries = (1..=ENTRIES_PER_APPEND).map(|index| entry(index, 128)).collect();
    let message = Message::AppendEntries { prev: Position::ZERO, commit: Index::ZERO, probe_number: 0, entries };
    let frame = PeerFrame::Raft(Envelope { from, to, term: Term(1), origin: Origin::default(), message });
    let mut out = BytesMut::new();
    frame.put(VERSION_MAX, &mut out);
    let encoded = out.clone();
    group.bench_function("put", |b| {
        b.iter(|| {
            out.clear();
            black_box(&frame).put(VERSION_MAX, &mut out);
        });
    });
    group.bench_function("read", |b| {
        b.iter_batched(
            || encoded.clone(),
            |mut input| {
                PeerFrame::read(FrameReader::default().next(&mut input).unwrap().unwrap(), VERSION_MAX).unwrap()
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, bench_entry_codec, bench_request_codec, bench_append_entries_codec);
criterion_main!(benches);
