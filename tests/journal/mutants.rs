//! Breaks each rule of the journal on purpose: the tests must detect it, or they prove nothing.

use super::damage::{every_failure, every_flip};
use super::matrix::{every_operation, random_crashes, scripts};
use super::world::*;
use drave::types::{Mutant, Mutants};
use drave::wal::Options;

fn with_mutant(mutant: Mutant) -> Options {
    Options { mutants: Mutants::only(mutant), ..options() }
}

/// The names of the scripts for which `check` fails.
fn scripts_that_detect(check: impl Fn(&[Step]) -> Result<(), String>) -> Vec<&'static str> {
    scripts().into_iter().filter(|(_, script)| check(script).is_err()).map(|(name, _)| name).collect()
}

#[test]
fn mutant_skip_sync_is_detected() {
    let options = with_mutant(Mutant::SkipSync);
    assert!(!scripts_that_detect(|script| every_operation(&options, script).map(drop)).is_empty());
    assert!(random_crashes(&options, 0..300).is_err());
}

#[test]
fn mutant_skip_name_sync_is_detected() {
    let options = with_mutant(Mutant::SkipNameSync);
    assert!(scripts_that_detect(|script| every_operation(&options, script).map(drop)).contains(&"rotations"));
}

#[test]
fn mutant_retry_failed_sync_is_detected() {
    let options = with_mutant(Mutant::RetryFailedSync);
    assert!(!scripts_that_detect(|script| every_failure(&options, script)).is_empty());
}

#[test]
fn mutant_cut_damage_is_detected() {
    let options = with_mutant(Mutant::CutDamage);
    assert!(!scripts_that_detect(|script| every_flip(&options, script, true).map(drop)).is_empty());
}

#[test]
fn mutant_keep_torn_tail_is_detected() {
    let options = with_mutant(Mutant::KeepTornTail);
    assert!(!scripts_that_detect(|script| every_operation(&options, script).map(drop)).is_empty());
}

#[test]
fn mutant_skip_recovery_sync_is_detected() {
    let options = with_mutant(Mutant::SkipRecoverySync);
    assert!(!scripts_that_detect(|script| every_operation(&options, script).map(drop)).is_empty());
}
