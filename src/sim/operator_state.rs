//! The state of a world's operator.

use crate::api::Request;
use crate::types::Time;

/// A request in progress.
#[derive(Clone, Debug)]
pub(super) struct PendingRequest {
    pub(super) id: u64,
    pub(super) since: Time,
    pub(super) attempts: u32,
    pub(super) request: Request,
}

#[derive(Clone, Debug, Default)]
pub struct Operator {
    pub(super) asked: u64,
    pub(super) pending: Option<PendingRequest>,
    /// No request is sent before this time: a machine's loss of its disk is not known at once.
    pub(super) waits: Time,
    pub(super) wiped: u64,
}

impl Operator {
    /// Whether it waits for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }
}
