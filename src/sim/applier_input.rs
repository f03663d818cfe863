//! The inputs of a simulated state machine, and the queue of the inputs that the state machine has not processed yet.

use crate::types::{ClusterTime, Entry};
use bytes::Bytes;
use std::collections::VecDeque;

/// An input of a state machine.
pub enum ApplierInput {
    /// Committed entries.
    Entries(Vec<Entry>),
    /// A query: the node's ticket for it, its body, and the latest cluster time that the node knows.
    Query(u64, Bytes, ClusterTime),
}

/// The inputs that a state machine has not processed yet, in order.
#[derive(Default)]
pub struct ApplierInputQueue {
    inputs: VecDeque<ApplierInput>,
}

impl ApplierInputQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    pub(super) fn push(&mut self, input: ApplierInput) {
        self.inputs.push_back(input);
    }

    /// Removes and returns the first input and the queries right behind this input, which are processed without a
    /// delay of their own.
    pub(super) fn take_first_with_queries(&mut self) -> Vec<ApplierInput> {
        let mut taken: Vec<ApplierInput> = self.inputs.pop_front().into_iter().collect();
        let is_query = |input: &mut ApplierInput| matches!(input, ApplierInput::Query(..));
        while let Some(query) = self.inputs.pop_front_if(is_query) {
            taken.push(query);
        }
        taken
    }

    /// Removes and returns all inputs.
    pub(super) fn take_all(&mut self) -> Vec<ApplierInput> {
        self.inputs.drain(..).collect()
    }
}
