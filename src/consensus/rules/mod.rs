//! The rules of Raft as pure functions, each with the switch that breaks it.
//!
//! The roles decide *when* a rule applies and act on its result. The rule itself is here, with its source. A test
//! breaks one rule at a time by its [`crate::types::Mutant`]. Without the feature `mutants` the switches are the
//! constant `false`, and only the rules remain.
//!
//! A few rules only require that an action is never left out, for example [`election::persists_term`]. Such a function
//! returns whether the action is performed, and the caller performs it.

pub mod election;
pub mod lost_entries;
pub mod membership;
pub mod replication;
