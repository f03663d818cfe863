//! The rules of Raft as pure functions, each with the switch that breaks it.
//!
//! The roles decide *when* a rule applies and what follows from it; the rule itself is here, with its source. A test
//! breaks one rule at a time by its [`crate::types::Mutant`]. Without the feature `mutants` the switches are the
//! constant `false`, and only the rules remain.
//!
//! A few rules only say that a step is never left out, for example [`election::persists_term`]. The function returns
//! whether the step is done, and the role does it.

pub mod election;
pub mod membership;
pub mod replication;
