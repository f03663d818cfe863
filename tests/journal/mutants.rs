//! Breaks each rule of the journal on purpose: a test that does not notice proves nothing.

use super::damage::{every_failure, every_flip};
use super::matrix::{every_operation, scripts, storm};
use super::world::*;
use drave::types::{Mutant, Mutants};
use drave::wal::Options;

fn broken(mutant: Mutant) -> Options {
    Options { mutants: Mutants::only(mutant), ..options() }
}

/// The names of the scripts that notice.
fn noticed_by(look: impl Fn(&[Step]) -> Result<(), String>) -> Vec<&'static str> {
    scripts().into_iter().filter(|(_, script)| look(script).is_err()).map(|(name, _)| name).collect()
}

#[test]
fn skipping_the_sync_is_noticed() {
    let options = broken(Mutant::SkipSync);
    assert!(!noticed_by(|script| every_operation(&options, script).map(drop)).is_empty());
    assert!(storm(&options, 0..300).is_err());
}

#[test]
fn skipping_the_sync_of_names_is_noticed() {
    let options = broken(Mutant::SkipNameSync);
    assert!(noticed_by(|script| every_operation(&options, script).map(drop)).contains(&"rotations"));
}

#[test]
fn trying_a_failed_sync_again_is_noticed() {
    let options = broken(Mutant::RetryFailedSync);
    assert!(!noticed_by(|script| every_failure(&options, script)).is_empty());
}

#[test]
fn cutting_damage_off_is_noticed() {
    let options = broken(Mutant::CutDamage);
    assert!(!noticed_by(|script| every_flip(&options, script, true).map(drop)).is_empty());
}

#[test]
fn keeping_a_torn_tail_is_noticed() {
    let options = broken(Mutant::KeepTornTail);
    assert!(!noticed_by(|script| every_operation(&options, script).map(drop)).is_empty());
}

#[test]
fn skipping_the_sync_of_what_was_recovered_is_noticed() {
    let options = broken(Mutant::SkipRecoverySync);
    assert!(!noticed_by(|script| every_operation(&options, script).map(drop)).is_empty());
}
