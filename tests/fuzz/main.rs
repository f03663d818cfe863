//! Feeds each fuzz target with random and mutated inputs. The seeds and the number of inputs are fixed: each run does
//! the same work, and a run that fails once fails again.
//!
//! `DRAVE_FUZZ` is the number of inputs for each target. Here, whole byte streams and files are mutated, and the
//! decoded parts are checked. Property tests in the decoders' modules check details on small inputs, and `malformed.rs`
//! and `hostile.rs` check that real nodes survive malformed input.

mod inputs;
mod targets;
#[allow(dead_code, reason = "this test uses only the functions for scripts")]
#[path = "../journal/world.rs"]
mod world;

use bytes::BytesMut;
use drave::sim::disk::SimDisk;
use drave::types::{ClusterId, DiskId, NodeId, Run};
use drave::wire::hello::{Hello, PeerLogState, VERSION_MAX, Welcome};
use drave::wire::peer::PeerFrame;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Number of inputs for each target, unless `DRAVE_FUZZ` is set. This number takes a few seconds.
const INPUTS_DEFAULT: u64 = 4_000;

/// Calls a fuzz target with generated inputs. A failing input is printed as a byte string, with its seed.
fn run_target(target: fn(&[u8]), mut generate_input: impl FnMut(&mut SmallRng) -> Vec<u8>) {
    let inputs = std::env::var("DRAVE_FUZZ").map_or(INPUTS_DEFAULT, |text| text.parse().unwrap());
    for seed in 0..inputs {
        let bytes = generate_input(&mut SmallRng::seed_from_u64(seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            eprintln!("seed {seed}: b\"{}\"", bytes.escape_ascii());
            resume_unwind(panic);
        }
    }
}

/// One to four generated inputs, concatenated.
fn join_inputs(rng: &mut SmallRng, generate_input: fn(&mut SmallRng) -> Vec<u8>) -> Vec<u8> {
    (0..rng.random_range(1..5)).flat_map(|_| generate_input(rng)).collect()
}

/// Encoded frames that nodes and clients exchange first on a connection, and a forwarded request.
fn handshake_frames() -> Vec<Vec<u8>> {
    let (node, cluster, disk) = (NodeId::new(1).unwrap(), ClusterId(7), DiskId(9));
    let process_run = Run { id: 5, starts: 2 };
    let mut frames = vec![BytesMut::new(); 4];
    Hello::peer(cluster, node, disk, process_run, node)
        .with_address("n1:7401")
        .with_machine_kind("kv 1")
        .put(&mut frames[0]);
    Hello::client().with_machine_kind("kv 1").put(&mut frames[1]);
    Welcome { version: 8, cluster, node, disk, log_state: PeerLogState::default() }.put(&mut frames[2]);
    PeerFrame::Forward { id: 3, request: drave::api::Request::Status }.put(VERSION_MAX, &mut frames[3]);
    frames.into_iter().map(|frame| frame.to_vec()).collect()
}

#[test]
fn frames_survive_arbitrary_bytes() {
    let handshakes = handshake_frames();
    run_target(targets::frame, |rng| {
        let mut bytes = handshakes.choose(rng).unwrap().clone();
        if rng.random() {
            inputs::mutate(&mut bytes, rng);
        }
        bytes.extend(join_inputs(rng, inputs::native_input));
        bytes
    });
}

#[test]
fn redis_commands_survive_arbitrary_bytes() {
    run_target(targets::resp, |rng| join_inputs(rng, inputs::redis_input));
}

#[test]
fn http_requests_survive_arbitrary_bytes() {
    run_target(targets::http, |rng| join_inputs(rng, inputs::http_input));
}

#[test]
fn wal_scan_survives_arbitrary_bytes() {
    let segments: Vec<Vec<u8>> = (0..40)
        .filter_map(|seed| {
            let disk = SimDisk::new();
            world::run_script(&disk, &world::options(), &world::random_script(seed), &mut world::Ledger::default())
                .unwrap();
            disk.read_file(&drave::wal::format::file_name(1))
        })
        .collect();
    assert!(segments.len() > 10, "only {} of 40 journals still have their first segment", segments.len());
    run_target(targets::wal_scan, |rng| match rng.random_range(0..8) {
        0 => inputs::random_bytes(rng, 2000),
        _ => {
            let mut bytes = segments.choose(rng).unwrap().clone();
            // Replaces a few bytes of the written part of the segment, which ends before the trailing zeros.
            let written_length = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |offset| offset + 1);
            for _ in 0..rng.random_range(0..4) {
                let offset = rng.random_range(0..written_length);
                bytes[offset] = rng.random();
            }
            if rng.random_range(0..4) == 0 {
                inputs::mutate(&mut bytes, rng);
            }
            bytes
        }
    });
}
