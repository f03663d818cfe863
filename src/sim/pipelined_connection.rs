//! The state of the pipelined connections of a world, and their requests.

use super::order::{self, Order};
use crate::api::Consistency;
use crate::machine::commands::{Command, Query, Step};
use crate::pipeline::{PendingRequest, RequestKind, RequestPipeline};
use crate::types::{NodeId, Time};
use std::collections::BTreeMap;

/// Caller numbers from here on are pipelined connections.
pub const FIRST_CONNECTION: u64 = 1 << 40;

/// The purpose of a connection's request.
#[derive(Clone, Copy, Debug)]
pub(super) enum PipelinedTask {
    /// Appends the counters from the first to the last.
    Appends { first: u64, last: u64 },
    /// Reads the key.
    Reads(Consistency),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) at: NodeId,
    pub(super) life: u64,
    pub(super) pipeline: RequestPipeline<PipelinedTask>,
    /// The last appended counter, and the last whose append was acknowledged.
    pub(super) counter: u64,
    pub(super) acknowledged: u64,
    /// How many commands its last read showed.
    pub(super) shown: usize,
    /// When it last received a reply, or waited for none.
    pub(super) told_at: Time,
}

/// All connections, and the checks on them.
#[derive(Debug, Default)]
pub struct Pipelines {
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) opened: u64,
    pub(super) order: Order,
    /// No more requests are sent.
    pub(super) stopping: bool,
}

impl Connection {
    /// The connection's next request: mostly an append.
    pub(super) fn next(&mut self, now: Time, number: u64, draw: u32) -> PendingRequest<PipelinedTask> {
        let key = order::key(number);
        let key = key.as_bytes();
        if draw < 3 {
            let consistency = if draw == 0 { Consistency::Local } else { Consistency::Linearizable };
            let query = Query::Get { key }.encode();
            return PendingRequest::new(now, RequestKind::Read(consistency), query, PipelinedTask::Reads(consistency));
        }
        let first = self.counter + 1;
        self.counter = if draw == 3 { first + 1 } else { first };
        let tails: Vec<String> = (first..=self.counter).map(order::tail).collect();
        let mut appends = tails.iter().map(|tail| Command::Append { key, tail: tail.as_bytes() });
        let body = match (tails.len(), appends.next()) {
            (1, Some(append)) => append.encode(),
            (_, append) => Command::Block(append.into_iter().chain(appends).map(Step::Do).collect()).encode(),
        };
        let asked = PipelinedTask::Appends { first, last: self.counter };
        PendingRequest::new(now, RequestKind::Write(None), body, asked)
    }
}
