//! The state of the pipelined connections of a world, and their requests.

use super::order::{self, OrderChecks};
use crate::api::Consistency;
use crate::machine::commands::{Command, CommandOrQuery, Query};
use crate::pipeline::{PendingRequest, RequestKind, RequestPipeline};
use crate::types::{NodeId, Time};
use std::collections::BTreeMap;

/// The caller id of pipelined connection 0. Pipelined connection `n` has this id plus `n`.
pub const FIRST_PIPELINE_CALLER_ID: u64 = 1 << 40;

/// The purpose of a request of a pipelined connection. The trace prints these names.
#[derive(Clone, Copy, Debug)]
pub(super) enum PipelinedTask {
    /// Appends the counters from the first to the last to the connection's key.
    Appends { first: u64, last: u64 },
    /// Reads the key to which the connection appends, with this consistency.
    Reads(Consistency),
}

/// A client's pipelined connection to one process.
#[derive(Debug)]
pub(super) struct PipelinedConnection {
    /// The node to which the client is connected.
    pub(super) at: NodeId,
    /// The incarnation of the process to which the client is connected.
    pub(super) incarnation: u64,
    pub(super) pipeline: RequestPipeline<PipelinedTask>,
    /// The last counter that the client has requested to append.
    pub(super) appended_upto: u64,
    /// The last counter whose append was acknowledged.
    pub(super) acknowledged_upto: u64,
    /// How many appends the value in the last read contained.
    pub(super) last_read_append_count: usize,
    /// When the client last received a reply, or had no unanswered request.
    pub(super) last_reply_at: Time,
}

/// The pipelined connections of a world, and the checks on them.
#[derive(Debug, Default)]
pub struct Pipelines {
    /// The open connections by their numbers, which are never reused.
    pub(super) connections: BTreeMap<u64, PipelinedConnection>,
    /// The number of the connection that was opened last.
    pub(super) last_connection_number: u64,
    pub(super) order_checks: OrderChecks,
    /// Whether the connections create no more requests.
    pub(super) stopping: bool,
}

impl PipelinedConnection {
    /// Creates the next request of the connection `number`: mostly an append of the next counter. The random number
    /// `drawn_number`, below 20, selects the kind of request.
    pub(super) fn next_request(&mut self, now: Time, number: u64, drawn_number: u32) -> PendingRequest<PipelinedTask> {
        let key = order::writer_key(number);
        let key = key.as_bytes();
        if drawn_number < 3 {
            let consistency = if drawn_number == 0 { Consistency::Local } else { Consistency::Linearizable };
            let query = Query::Get { key }.encode();
            return PendingRequest::new(now, RequestKind::Read(consistency), query, PipelinedTask::Reads(consistency));
        }
        let first_counter = self.appended_upto + 1;
        self.appended_upto = if drawn_number == 3 { first_counter + 1 } else { first_counter };
        let tails: Vec<String> = (first_counter..=self.appended_upto).map(order::appended_text).collect();
        let mut appends = tails.iter().map(|tail| Command::Append { key, tail: tail.as_bytes() });
        let body = match (tails.len(), appends.next()) {
            (1, Some(append)) => append.encode(),
            (_, append) => {
                Command::Block(append.into_iter().chain(appends).map(CommandOrQuery::Command).collect()).encode()
            }
        };
        let task = PipelinedTask::Appends { first: first_counter, last: self.appended_upto };
        PendingRequest::new(now, RequestKind::Write(None), body, task)
    }
}
