//! Generators of malformed input: random bytes, lengths over the limit, and real requests with errors in them.

use bytes::{BufMut, BytesMut};
use drave::api::{Consistency, Op, Request};
use drave::machine::{Command as Do, Query};
use drave::types::SessionId;
use drave::wire::client::put_request_frame;
use drave::wire::frame::{FrameKind, put_frame};
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// Between 1 and `length_end - 1` random bytes.
pub fn random_bytes(rng: &mut SmallRng, length_end: usize) -> Vec<u8> {
    (0..rng.random_range(1..length_end)).map(|_| rng.random()).collect()
}

/// Makes one to three random changes: replaces, removes or inserts a byte, repeats the end of the input, or truncates
/// it.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..4) {
        let offset = rng.random_range(0..=bytes.len());
        match rng.random_range(0..5) {
            0 if offset < bytes.len() => bytes[offset] = rng.random(),
            1 => bytes.truncate(offset),
            2 => bytes.insert(offset, *b"\r\n\0 :%0*$-9\xff".choose(rng).unwrap()),
            3 => bytes.extend_from_within(offset..),
            _ if offset < bytes.len() => drop(bytes.remove(offset)),
            _ => {}
        }
    }
}

/// Malformed input in the native protocol: random bytes, frame headers with lengths over the limit, or mutated requests
/// of a real client.
pub fn native_input(rng: &mut SmallRng) -> Vec<u8> {
    // An unused session id: session ids are no secret, and the honest client's session must not be closed.
    let session = SessionId(rng.random_range(1 << 40..1 << 41));
    let command = Do::Put { key: b"malformed", value: b"value" }.encode();
    let requests = [
        Request::Status,
        Request::Query { query: Query::Get { key: b"malformed" }.encode(), consistency: Consistency::Linearizable },
        Request::Query {
            query: Query::Scan { prefix: b"", after: None, limit: u32::MAX }.encode(),
            consistency: Consistency::Local,
        },
        Request::Propose { op: Op::Open { window: 7, ordered: false }.encode() },
        Request::Propose { op: Op::Execute { session, seq: 1, first_outstanding: 1, command }.encode() },
        Request::Propose { op: Op::Close { session }.encode() },
    ];
    let mut out = BytesMut::new();
    match rng.random_range(0..4) {
        0 => out.put_slice(&random_bytes(rng, 400)),
        1 => {
            let length = [u32::MAX, u32::MAX - 12, 1 << 31, (64 << 10) + 1, 64 << 10].choose(rng).unwrap();
            out.put_u32_le(*length);
            out.put_slice(&[rng.random(), rng.random_range(0..4), 0, 0]);
            out.put_u32_le(rng.random());
        }
        variant => {
            let mut frame = BytesMut::new();
            put_request_frame(&mut frame, rng.random(), rng.random(), requests.choose(rng).unwrap());
            let mut bytes = frame[if variant == 2 { 12 } else { 0 }..].to_vec();
            mutate(&mut bytes, rng);
            // Variant 2 mutates the body alone, and then computes the checksum: the frame passes the checksum test.
            if variant == 2 {
                put_frame(&mut out, FrameKind::Request, |out| out.put_slice(&bytes))
            } else {
                out.put_slice(&bytes)
            }
        }
    }
    out.to_vec()
}

/// Malformed commands for the Redis gateway.
pub fn redis_input(rng: &mut SmallRng) -> Vec<u8> {
    let valid_commands: [&[u8]; 9] = [
        b"*3\r\n$3\r\nSET\r\n$9\r\nmalformed\r\n$5\r\nvalue\r\n",
        b"*2\r\n$3\r\nGET\r\n$9\r\nmalformed\r\n",
        b"*5\r\n$3\r\nSET\r\n$1\r\nt\r\n$1\r\nv\r\n$2\r\nPX\r\n$4\r\n1000\r\n",
        b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*1\r\n$4\r\nEXEC\r\n",
        b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        b"SET inline \"a \\x41 b\"\r\n",
        b"*4\r\n$4\r\nSCAN\r\n$1\r\n0\r\n$5\r\nCOUNT\r\n$2\r\n10\r\n",
        b"*1\r\n$4\r\nINFO\r\n",
        b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n",
    ];
    let oversized_commands: [&[u8]; 7] = [
        b"*2147483647\r\n",
        b"*1048576\r\n$1\r\na\r\n",
        b"$2147483647\r\n",
        b"*2\r\n$3\r\nGET\r\n$1073741824\r\nabc\r\n",
        b"*-9223372036854775808\r\n",
        b"*99999999999999999999\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
    ];
    pick_input(rng, &valid_commands, &oversized_commands)
}

/// Malformed requests for the HTTP gateway.
pub fn http_input(rng: &mut SmallRng) -> Vec<u8> {
    let valid: [&[u8]; 7] = [
        b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PUT /kv/k?ttl=1h HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nvalue",
        b"PUT /kv/a%20b HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        b"DELETE /kv/k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: [::1]:80\r\nAuthorization: Bearer x\r\n\r\n",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET http://localhost/readyz?verbose HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ];
    let oversized: [&[u8]; 5] = [
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\nx",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\nx",
        b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nvalue",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-18446744073709551615\r\n\r\n",
    ];
    pick_input(rng, &valid, &oversized)
}

/// Random bytes, one of the `oversized` inputs, or a mutated one of the `valid` inputs.
fn pick_input(rng: &mut SmallRng, valid: &[&[u8]], oversized: &[&[u8]]) -> Vec<u8> {
    match rng.random_range(0..8) {
        0 => random_bytes(rng, 400),
        1 => oversized.choose(rng).unwrap().to_vec(),
        _ => {
            let mut bytes = valid.choose(rng).unwrap().to_vec();
            mutate(&mut bytes, rng);
            bytes
        }
    }
}
