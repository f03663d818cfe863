//! Feeds each fuzz target with random and mutated inputs. The seeds are fixed and so is the number of inputs, so that
//! a run takes no longer on a slower day than it must, and fails again if it fails once.
//!
//! `DRAVE_FUZZ` is the number of inputs for each target. The proptests beside the decoders check their details on small
//! inputs, and `malformed.rs` and `hostile.rs` check that real nodes survive; here whole conversations and files are
//! mutated, and the decoded parts checked.

mod inputs;
mod targets;
#[allow(dead_code, reason = "only the scripts are used")]
#[path = "../journal/world.rs"]
mod world;

use bytes::BytesMut;
use drave::sim::disk::SimDisk;
use drave::types::{ClusterId, DiskId, NodeId, Run};
use drave::wire::hello::{Hello, PeerLogState, Welcome};
use drave::wire::peer::PeerFrame;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Inputs of each target, unless the environment says otherwise. They take a few seconds.
const INPUTS: u64 = 4_000;

/// Feeds a target with inputs of a generator. A failing input is printed as a byte string.
fn feed(target: fn(&[u8]), mut input: impl FnMut(&mut SmallRng) -> Vec<u8>) {
    let inputs = std::env::var("DRAVE_FUZZ").map_or(INPUTS, |text| text.parse().unwrap());
    for seed in 0..inputs {
        let bytes = input(&mut SmallRng::seed_from_u64(seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&bytes))) {
            eprintln!("seed {seed}: b\"{}\"", bytes.escape_ascii());
            resume_unwind(panic);
        }
    }
}

/// Several inputs of a generator, one after the other.
fn conversation(chance: &mut SmallRng, input: fn(&mut SmallRng) -> Vec<u8>) -> Vec<u8> {
    (0..chance.random_range(1..5)).flat_map(|_| input(chance)).collect()
}

/// The first frames of connections, and a forwarded request.
fn greetings() -> Vec<Vec<u8>> {
    let (node, cluster, disk) = (NodeId::new(1).unwrap(), ClusterId(7), DiskId(9));
    let run = Run { id: 5, starts: 2 };
    let mut all = vec![BytesMut::new(); 4];
    Hello::peer(cluster, node, disk, run, node).at("n1:7401").of_machine("kv 1").put(&mut all[0]);
    Hello::client().of_machine("kv 1").put(&mut all[1]);
    Welcome { version: 8, cluster, node, disk, holds: PeerLogState::default() }.put(&mut all[2]);
    PeerFrame::Forward { id: 3, request: drave::api::Request::Status }.put(&mut all[3]);
    all.into_iter().map(|frame| frame.to_vec()).collect()
}

#[test]
fn frames_survive_arbitrary_bytes() {
    let greetings = greetings();
    feed(targets::frame, |chance| {
        let mut bytes = greetings.choose(chance).unwrap().clone();
        if chance.random() {
            inputs::mutate(&mut bytes, chance);
        }
        bytes.extend(conversation(chance, inputs::native));
        bytes
    });
}

#[test]
fn redis_commands_survive_arbitrary_bytes() {
    feed(targets::resp, |chance| conversation(chance, inputs::redis));
}

#[test]
fn http_requests_survive_arbitrary_bytes() {
    feed(targets::http, |chance| conversation(chance, inputs::http));
}

#[test]
fn wal_scan_survives_arbitrary_bytes() {
    let segments: Vec<Vec<u8>> = (0..40)
        .filter_map(|seed| {
            let disk = SimDisk::new();
            world::run(&disk, &world::options(), &world::random_script(seed), &mut world::Ledger::default()).unwrap();
            disk.seen(&drave::wal::format::file_name(1))
        })
        .collect();
    assert!(segments.len() > 10, "{} of 40 scripts leave their first segment", segments.len());
    feed(targets::wal_scan, |chance| match chance.random_range(0..8) {
        0 => inputs::noise(chance, 2000),
        _ => {
            let mut bytes = segments.choose(chance).unwrap().clone();
            // A few bytes that are written, rather than the zeros behind them.
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
            for _ in 0..chance.random_range(0..4) {
                let at = chance.random_range(0..written);
                bytes[at] = chance.random();
            }
            if chance.random_range(0..4) == 0 {
                inputs::mutate(&mut bytes, chance);
            }
            bytes
        }
    });
}
