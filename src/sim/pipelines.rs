//! Pipelined connections to each simulated node, through the gateways' request pipeline.
//!
//! A connection appends the numbers 1, 2, 3 and so on to a key of its own, by commands with one append or several, and
//! sometimes reads that key. The connection ends with the process to which the client is connected.

use super::checks;
use super::event::SimEvent;
use super::pipelined_connection::{FIRST_PIPELINE_CALLER_ID, PipelinedConnection, PipelinedTask, Pipelines};
use super::world::World;
use crate::api::{Consistency, Op, Outcome, Reply, Request};
use crate::limits::SESSION_WINDOW_MAX;
use crate::machine::commands::Answer;
use crate::node::{Caller, Event};
use crate::pipeline::{NodeRequest, PendingRequest, RequestFate, RequestPipeline, RequestTally};
use crate::types::{NodeId, Time};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use std::time::Duration;

/// The caller id that opens the session of pipelined connection 0. The session of pipelined connection `n` is opened by
/// this id plus `n`.
const FIRST_SESSION_CALLER_ID: u64 = 1 << 41;
/// How long a client waits without any reply before it disconnects: on a network that loses single messages and never
/// breaks a link, an answer may be lost without notice.
const REPLY_TIMEOUT: Duration = Duration::from_secs(8);
/// How many requests of one connection may wait for their answers.
const WAITING_REQUESTS_MAX: usize = 24;

/// The requests of a connection that have ended and are not checked yet, each with how it ended.
type PipelinedReplies = Vec<(PipelinedTask, RequestEnd)>;

/// How a request of a pipelined connection ended. The trace prints these names.
#[derive(Debug)]
enum RequestEnd {
    /// The state machine's answer arrived.
    Answered(Bytes),
    /// The request had no effect and never will.
    Refused,
    /// The request may have taken effect, or may do so later.
    Unknown,
    /// A reply arrived that no correct node sends. The text describes it.
    UnexpectedReply(String),
}

fn to_request_end(fate: RequestFate<'_>) -> RequestEnd {
    match fate {
        RequestFate::Answer(answer) => RequestEnd::Answered(answer),
        RequestFate::Refused(_) => RequestEnd::Refused,
        RequestFate::Unknown => RequestEnd::Unknown,
        other => RequestEnd::UnexpectedReply(format!("{other:?}")),
    }
}

impl World {
    /// Opens pipelined connections to a process that was just started, as many as the scenario says.
    pub(super) fn open_pipelines(&mut self, at: NodeId) {
        (0..self.scenario.pipelines).for_each(|_| self.open_pipeline(at));
    }

    fn open_pipeline(&mut self, at: NodeId) {
        let incarnation = self.hosts[&at].incarnation;
        self.pipelines.last_connection_number += 1;
        let number = self.pipelines.last_connection_number;
        let pipeline = RequestPipeline::default();
        let connection = PipelinedConnection {
            at,
            incarnation,
            pipeline,
            appended_upto: 0,
            acknowledged_upto: 0,
            last_read_append_count: 0,
            last_reply_at: self.now,
        };
        self.pipelines.connections.retain(|_, other| other.at != at || other.incarnation == incarnation);
        self.pipelines.connections.insert(number, connection);
        let delay = Duration::from_millis(self.rng.random_range(1..100));
        self.schedule_after(delay, SimEvent::PipelineTurn { at, incarnation, connection: number, adds_requests: true });
    }

    /// Whether no connection to a running process waits for an answer.
    pub(super) fn pipelines_are_done(&self) -> bool {
        let is_waiting =
            |c: &PipelinedConnection| self.is_running(c.at, c.incarnation) && c.pipeline.queued_commands() > 0;
        !self.pipelines.connections.values().any(is_waiting)
    }

    /// Sends the requests of a connection that are ready. With `adds_requests`, first schedules the next turn and
    /// creates random requests. At random, or after [`REPLY_TIMEOUT`] without a reply, such a turn closes the
    /// connection instead.
    pub(super) fn run_pipeline_turn(&mut self, at: NodeId, connection: u64, adds_requests: bool) -> checks::Result<()> {
        let (now, stopping) = (self.now, self.pipelines.stopping);
        let Some(pipelined) = self.pipelines.connections.get_mut(&connection) else { return Ok(()) };
        if pipelined.pipeline.queued_commands() == 0 {
            pipelined.last_reply_at = now;
        }
        if adds_requests && (!stopping || pipelined.pipeline.queued_commands() > 0) {
            if now.since(pipelined.last_reply_at) > REPLY_TIMEOUT || self.rng.random_range(0..300) == 0 {
                return self.close_pipeline(at, connection);
            }
            let incarnation = self.hosts[&at].incarnation;
            let delay = Duration::from_micros(self.rng.random_range(0..60_000));
            self.schedule_after(delay, SimEvent::PipelineTurn { at, incarnation, connection, adds_requests: true });
        }
        if adds_requests && !stopping {
            self.queue_pipeline_requests(connection);
        }
        self.pump_pipeline(at, connection)
    }

    /// Closes a connection, and opens another one to the same process unless `stopping` is set.
    fn close_pipeline(&mut self, at: NodeId, connection: u64) -> checks::Result<()> {
        self.pipelines.connections.remove(&connection);
        if !self.pipelines.stopping {
            self.open_pipeline(at);
        }
        self.deliver_event(at, Event::CallerGone(Caller::Client(FIRST_PIPELINE_CALLER_ID + connection)))
    }

    /// Adds one to three requests to a connection's pipeline, while fewer than [`WAITING_REQUESTS_MAX`] wait in it.
    fn queue_pipeline_requests(&mut self, connection: u64) {
        let now = self.now;
        for _ in 0..self.rng.random_range(1..4) {
            let drawn_number = self.rng.random_range(0..20);
            let Some(pipelined) = self.pipelines.connections.get_mut(&connection) else { return };
            if pipelined.pipeline.queued_commands() >= WAITING_REQUESTS_MAX {
                return;
            }
            let pending_request = pipelined.next_request(now, connection, drawn_number);
            pipelined.pipeline.push_request(pending_request);
        }
    }

    /// Removes the replies and requests that are ready from a connection's pipeline, checks the replies, and sends the
    /// requests to the node.
    fn pump_pipeline(&mut self, at: NodeId, connection: u64) -> checks::Result<()> {
        let (now, incarnation) = (self.now, self.hosts[&at].incarnation);
        let Some(pipelined) = self.pipelines.connections.get_mut(&connection) else { return Ok(()) };
        let (mut out, mut node_requests, mut replies) = (BytesMut::new(), Vec::new(), PipelinedReplies::new());
        pipelined.pipeline.pump(now, &mut out, false, &mut node_requests, &mut |pending, fate| {
            record_reply(&mut replies, pending, fate)
        });
        // The counters of the pipeline, which the simulator does not report, are reset.
        pipelined.pipeline.tally = RequestTally::default();
        let retry_at = pipelined.pipeline.deadline();
        if retry_at != Time::NEVER {
            self.schedule_at(retry_at, SimEvent::PipelineTurn { at, incarnation, connection, adds_requests: false });
        }
        self.check_pipeline_replies(connection, replies)?;
        for node_request in node_requests {
            let (caller, id, request) = match node_request {
                NodeRequest::Send(id, request) => (FIRST_PIPELINE_CALLER_ID + connection, id, request),
                NodeRequest::OpenSession => {
                    let op = Op::<Bytes>::Open { window: SESSION_WINDOW_MAX, ordered: true };
                    (FIRST_SESSION_CALLER_ID + connection, self.rng.random(), Request::Propose { op: op.encode() })
                }
            };
            self.trace_line(|| format!("connection {connection} sends request {id} to {at}"));
            self.deliver_event(at, Event::Request { from: Caller::Client(caller), id, forward: true, request })?;
        }
        Ok(())
    }

    /// Delivers a node's reply to the pipeline of a connection.
    pub(super) fn receive_pipeline_reply(
        &mut self,
        at: NodeId,
        caller: u64,
        id: u64,
        reply: Reply,
    ) -> checks::Result<()> {
        let (now, incarnation) = (self.now, self.hosts[&at].incarnation);
        let connection = if caller >= FIRST_SESSION_CALLER_ID {
            caller - FIRST_SESSION_CALLER_ID
        } else {
            caller - FIRST_PIPELINE_CALLER_ID
        };
        self.trace_line(|| format!("{at} answers request {id} of connection {connection}: {reply:?}"));
        let Some(pipelined) = self.pipelines.connections.get_mut(&connection) else { return Ok(()) };
        let mut replies = PipelinedReplies::new();
        if caller >= FIRST_SESSION_CALLER_ID {
            let opened_session = match reply {
                Reply::Done { outcome: Outcome::Opened { session }, .. } => Ok(session),
                Reply::Refused(refusal) => Err(Some(refusal)),
                _ => Err(None),
            };
            pipelined.pipeline.handle_session_opened(now, opened_session);
        } else {
            pipelined.pipeline.handle_reply(id, reply, &mut |pending, fate| record_reply(&mut replies, pending, fate));
        }
        self.schedule_after(
            Duration::from_micros(5),
            SimEvent::PipelineTurn { at, incarnation, connection, adds_requests: false },
        );
        self.check_pipeline_replies(connection, replies)
    }

    /// Checks that the replies to a connection agree with the executed commands.
    fn check_pipeline_replies(&mut self, connection: u64, replies: PipelinedReplies) -> checks::Result<()> {
        for (task, end) in replies {
            self.trace_line(|| format!("connection {connection} receives the outcome of {task:?}: {end:?}"));
            let Pipelines { connections, order_checks, .. } = &mut self.pipelines;
            let Some(pipelined) = connections.get_mut(&connection) else { return Ok(()) };
            pipelined.last_reply_at = self.now;
            match (task, end) {
                (_, RequestEnd::UnexpectedReply(description)) => {
                    return Err(format!("connection {connection} receives the unexpected reply {description}"));
                }
                (PipelinedTask::Appends { first, last }, RequestEnd::Answered(_)) => {
                    (first..=last)
                        .try_for_each(|counter| order_checks.check_acknowledged_append(connection, counter))?;
                    pipelined.acknowledged_upto = last;
                }
                (PipelinedTask::Appends { first, last }, RequestEnd::Refused) => {
                    (first..=last).try_for_each(|counter| order_checks.check_refused_append(connection, counter))?;
                }
                (PipelinedTask::Reads(consistency), RequestEnd::Answered(answer)) => {
                    let value = match Answer::decode(answer) {
                        Ok(Answer::Value(value)) => value.unwrap_or_default(),
                        other => {
                            return Err(format!(
                                "connection {connection} receives the unexpected answer {other:?} to a read"
                            ));
                        }
                    };
                    let shown_append_count = order_checks.check_read(connection, &value)?;
                    let required_append_count = match consistency {
                        Consistency::Linearizable => {
                            order_checks.count_executed_upto(connection, pipelined.acknowledged_upto)
                        }
                        Consistency::Local => 0,
                    };
                    if shown_append_count < required_append_count.max(pipelined.last_read_append_count) {
                        let previous_append_count = pipelined.last_read_append_count;
                        return Err(format!(
                            "connection {connection} reads {shown_append_count} appends, but its last read showed \
                             {previous_append_count}, and {required_append_count} executed appends were acknowledged"
                        ));
                    }
                    pipelined.last_read_append_count = shown_append_count;
                }
                (PipelinedTask::Appends { .. }, RequestEnd::Unknown)
                | (PipelinedTask::Reads(_), RequestEnd::Refused | RequestEnd::Unknown) => {}
            }
        }
        Ok(())
    }
}

/// Records the end of a request. The returned bytes stand for the encoded reply, which no client reads here.
fn record_reply(
    replies: &mut PipelinedReplies,
    pending: &PendingRequest<PipelinedTask>,
    fate: RequestFate<'_>,
) -> BytesMut {
    replies.push((pending.format, to_request_end(fate)));
    BytesMut::from(&b"."[..])
}
