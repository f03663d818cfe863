//! Each safety rule, broken on purpose: the simulator must notice, and this says in how many seeds.

use drave::sim::{Scenario, run};
use drave::types::{Mutant, Mutants};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A hole in the checks if it takes more.
const SEEDS: u64 = 400;

/// The first seed in which the mutant is noticed, and what was noticed.
fn hunt(mutant: Mutant) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| {
        let mut scenario = Scenario::draw(seed, Duration::from_secs(10));
        scenario.mutants = Mutants::only(mutant);
        run(scenario, None).err().map(|violation| (seed, violation.what))
    })
}

/// What was noticed, in a line.
fn tell(caught: &Option<(u64, String)>) -> String {
    match caught {
        Some((seed, what)) => {
            let what: String = what.lines().next().unwrap_or_default().chars().take(90).collect();
            format!("caught by seed {seed:>4}: {what}")
        }
        None => format!("NOT caught in {SEEDS} seeds"),
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    // The panics of mutants are expected, and many: their backtraces help nobody.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let caught = hunt(*mutant);
            println!("{:<28} {}", mutant.name(), tell(&caught));
            found.lock().unwrap().push((*mutant, caught));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let _default = std::panic::take_hook();
    let mut found = found.into_inner().unwrap();
    found.sort();
    let missed: Vec<&str> = found.iter().filter(|(_, caught)| caught.is_none()).map(|(m, _)| m.name()).collect();
    assert!(missed.is_empty(), "nobody notices {missed:?}");
}
