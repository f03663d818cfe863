//! A model of repair: when a node with damaged entries may still vote, campaign and acknowledge, checked over all
//! orders of events.
//!
//! Three voters replicate a log of up to three entries in up to three terms. Elections, appends and commits happen in
//! every order, with every delay of a vote or an acknowledgment. Disks are damaged at every moment, twice in all, on
//! one node or on two. The rules are those of `docs/repair.md`; each of them can be broken by a [`Clause`], and a test
//! shows that the search then finds a violation.
//!
//! The model is smaller than the product on purpose: no snapshots, no membership changes, and a write is durable at
//! once. The simulator runs the real code with all of these (`drave sim`), but only in some orders; the model runs in
//! all of them.

mod cluster;
mod explore;
mod recovery;
mod replication;

use cluster::Clause;
use explore::{Limits, explore, walk_randomly};

/// The limits of the full model, for random walks.
const MODEL_LIMITS: Limits = Limits { term_max: 3, entries_max: 3, damages_max: 2 };

#[test]
fn damage_loses_no_acknowledged_entry_and_stops_no_progress() {
    let result = explore(None, Limits { term_max: 2, entries_max: 2, damages_max: 2 });
    assert!(result.violation.is_none(), "{}", result.describe());
    assert!(
        result.state_count > 10_000,
        "the search reached only {} states, too few to be meaningful",
        result.state_count
    );
    println!(
        "{} states: {} elect a leader without an operator, {} need an operator",
        result.state_count, result.electing_state_count, result.operator_state_count
    );
}

/// With three terms, a leader's entries can replace those of another leader. These are too many states to search them
/// all, so the test takes random walks.
#[test]
fn damage_in_three_terms_loses_no_acknowledged_entry() {
    let result = walk_randomly(None, MODEL_LIMITS, 300_000);
    assert!(result.violation.is_none(), "{}", result.describe());
    println!(
        "{} steps: {} clusters elect a leader without an operator, {} need an operator",
        result.state_count, result.electing_state_count, result.operator_state_count
    );
}

#[test]
fn each_clause_of_repair_rule_is_needed() {
    for clause in Clause::ALL {
        let result = walk_randomly(Some(clause), MODEL_LIMITS, 2_000_000);
        assert!(result.violation.is_some(), "no violation was found with {clause:?} broken");
        println!("with {clause:?} broken, a violation after {} steps: {}", result.state_count, result.describe());
    }
}
