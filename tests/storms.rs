//! The simulator: fixed seeds, fresh ones, and one broken rule at a time.

use drave::sim::{Scenario, run};
use std::time::Duration;

/// The number of seeds, or what the environment asks for: `DRAVE_SEEDS=100000 cargo test …`.
fn seeds(usually: u64) -> u64 {
    std::env::var("DRAVE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usually)
}

#[test]
fn nothing_is_lost_in_any_storm() {
    let mut failed = Vec::new();
    for seed in 0..seeds(200) {
        if let Err(violation) = run(Scenario::draw(seed, Duration::from_secs(10)), None) {
            failed.push(violation.to_string());
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..5 {
        let once = run(Scenario::draw(seed, Duration::from_secs(5)), None);
        assert_eq!(once, run(Scenario::draw(seed, Duration::from_secs(5)), None));
    }
}
