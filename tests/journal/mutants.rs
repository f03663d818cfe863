//! Breaks each rule of the journal on purpose: the crash and damage tests must fail, or they prove nothing.

use super::damage::{fail_every_operation, flip_every_byte};
use super::matrix::{crash_at_every_operation, run_random_crashes, scripts};
use super::world::*;
use drave::types::{Mutant, Mutants};
use drave::wal::Options;

fn options_with_mutant(mutant: Mutant) -> Options {
    Options { mutants: Mutants::only(mutant), ..options() }
}

/// The names of the scripts for which `check` fails.
fn scripts_that_detect(check: impl Fn(&[Step]) -> Result<(), String>) -> Vec<&'static str> {
    scripts().into_iter().filter(|(_, script)| check(script).is_err()).map(|(name, _)| name).collect()
}

#[test]
fn mutant_skip_sync_is_detected() {
    let options = options_with_mutant(Mutant::SkipSync);
    assert!(!scripts_that_detect(|script| crash_at_every_operation(&options, script).map(drop)).is_empty());
    assert!(run_random_crashes(&options, 0..300).is_err());
}

#[test]
fn mutant_skip_name_sync_is_detected() {
    let options = options_with_mutant(Mutant::SkipNameSync);
    assert!(scripts_that_detect(|script| crash_at_every_operation(&options, script).map(drop)).contains(&"rotations"));
}

#[test]
fn mutant_retry_failed_sync_is_detected() {
    let options = options_with_mutant(Mutant::RetryFailedSync);
    assert!(!scripts_that_detect(|script| fail_every_operation(&options, script)).is_empty());
}

#[test]
fn mutant_cut_damage_is_detected() {
    let options = options_with_mutant(Mutant::CutDamage);
    assert!(!scripts_that_detect(|script| flip_every_byte(&options, script, true).map(drop)).is_empty());
}

#[test]
fn mutant_keep_torn_tail_is_detected() {
    let options = options_with_mutant(Mutant::KeepTornTail);
    assert!(!scripts_that_detect(|script| crash_at_every_operation(&options, script).map(drop)).is_empty());
}

#[test]
fn mutant_skip_recovery_sync_is_detected() {
    let options = options_with_mutant(Mutant::SkipRecoverySync);
    assert!(!scripts_that_detect(|script| crash_at_every_operation(&options, script).map(drop)).is_empty());
}
