//! Pipelined connections to each simulated node, through the gateways' request pipeline.
//!
//! A connection appends a counter to a key of its own, in single commands and in blocks, and reads that key now and
//! then. It ends with the process that it is connected to.

use super::checks;
use super::event::SimEvent;
use super::pipelined_connection::{Connection, FIRST_CONNECTION, PipelinedTask, Pipelines};
use super::world::World;
use crate::api::{Consistency, Op, Outcome, Reply, Request};
use crate::limits::SESSION_WINDOW_MAX;
use crate::machine::commands::Answer;
use crate::node::{Caller, Event};
use crate::pipeline::{NodeRequest, PendingRequest, RequestFate, RequestPipeline, Tally};
use crate::types::{NodeId, Time};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use std::time::Duration;

/// Added to a connection's number when its session is opened.
const OPENING: u64 = 1 << 41;
/// A client that waits this long without any reply disconnects. Where single messages are lost and no link ever breaks,
/// an answer may never come.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// How many requests may wait for their answers.
const WAITING_MAX: usize = 24;

/// The replies that a connection received, until they are checked.
type PipelinedReplies = Vec<(PipelinedTask, RequestEnd)>;

/// How a request ended for its connection.
#[derive(Debug)]
enum RequestEnd {
    Answered(Bytes),
    Refused,
    Unknown,
    Wrong(String),
}

fn ending(fate: RequestFate<'_>) -> RequestEnd {
    match fate {
        RequestFate::Answer(answer) => RequestEnd::Answered(answer),
        RequestFate::Refused(_) => RequestEnd::Refused,
        RequestFate::Unknown => RequestEnd::Unknown,
        other => RequestEnd::Wrong(format!("{other:?}")),
    }
}

impl World {
    /// Opens connections to a process that was just started.
    pub(super) fn open_connections(&mut self, at: NodeId) {
        (0..self.scenario.pipelines).for_each(|_| self.open_connection(at));
    }

    fn open_connection(&mut self, at: NodeId) {
        let life = self.hosts[&at].incarnation;
        self.pipelines.opened += 1;
        let number = self.pipelines.opened;
        let pipeline = RequestPipeline::default();
        let connection = Connection { at, life, pipeline, counter: 0, acknowledged: 0, shown: 0, told_at: self.now };
        self.pipelines.connections.retain(|_, other| other.at != at || other.life == life);
        self.pipelines.connections.insert(number, connection);
        let delay = Duration::from_millis(self.rng.random_range(1..100));
        self.later(delay, SimEvent::Pipelined { at, life, connection: number, more: true });
    }

    /// Whether no connection to a running process waits for an answer.
    pub(super) fn connections_are_done(&self) -> bool {
        let waits = |c: &Connection| self.lives(c.at, c.life) && c.pipeline.waiting() > 0;
        !self.pipelines.connections.values().any(waits)
    }

    /// A connection has more requests, or its retry is due.
    pub(super) fn pipelined(&mut self, at: NodeId, connection: u64, more: bool) -> checks::Result<()> {
        let (now, stopping) = (self.now, self.pipelines.stopping);
        let Some(one) = self.pipelines.connections.get_mut(&connection) else { return Ok(()) };
        if one.pipeline.waiting() == 0 {
            one.told_at = now;
        }
        if more && (!stopping || one.pipeline.waiting() > 0) {
            if now.since(one.told_at) > SILENCE_MAX || self.rng.random_range(0..300) == 0 {
                return self.close_connection(at, connection);
            }
            let life = self.hosts[&at].incarnation;
            let next = Duration::from_micros(self.rng.random_range(0..60_000));
            self.later(next, SimEvent::Pipelined { at, life, connection, more: true });
        }
        if more && !stopping {
            self.ask_more(connection);
        }
        self.pump_connection(at, connection)
    }

    /// A client disconnects, and another one connects.
    fn close_connection(&mut self, at: NodeId, connection: u64) -> checks::Result<()> {
        self.pipelines.connections.remove(&connection);
        if !self.pipelines.stopping {
            self.open_connection(at);
        }
        self.handle(at, Event::CallerGone(Caller::Client(FIRST_CONNECTION + connection)))
    }

    fn ask_more(&mut self, connection: u64) {
        let now = self.now;
        for _ in 0..self.rng.random_range(1..4) {
            let draw = self.rng.random_range(0..20);
            let Some(one) = self.pipelines.connections.get_mut(&connection) else { return };
            if one.pipeline.waiting() >= WAITING_MAX {
                return;
            }
            let pending = one.next(now, connection, draw);
            one.pipeline.push_request(pending);
        }
    }

    fn pump_connection(&mut self, at: NodeId, connection: u64) -> checks::Result<()> {
        let (now, life) = (self.now, self.hosts[&at].incarnation);
        let Some(one) = self.pipelines.connections.get_mut(&connection) else { return Ok(()) };
        let (mut out, mut wants, mut told) = (BytesMut::new(), Vec::new(), PipelinedReplies::new());
        one.pipeline.pump(now, &mut out, false, &mut wants, &mut |pending, fate| note(&mut told, pending, fate));
        // The tally is not used here.
        one.pipeline.tally = Tally::default();
        let again = one.pipeline.deadline();
        if again != Time::NEVER {
            self.at(again, SimEvent::Pipelined { at, life, connection, more: false });
        }
        self.check_told(connection, told)?;
        for want in wants {
            let (caller, id, request) = match want {
                NodeRequest::Answer(id, request) => (FIRST_CONNECTION + connection, id, request),
                NodeRequest::Session => {
                    let op = Op::<Bytes>::Open { window: SESSION_WINDOW_MAX, ordered: true };
                    (OPENING + connection, self.rng.random(), Request::Propose { op: op.encode() })
                }
            };
            self.trace_line(|| format!("connection {connection} sends {at} request {id}"));
            self.handle(at, Event::Request { from: Caller::Client(caller), id, forward: true, request })?;
        }
        Ok(())
    }

    pub(super) fn answers_connection(&mut self, at: NodeId, caller: u64, id: u64, reply: Reply) -> checks::Result<()> {
        let (now, life) = (self.now, self.hosts[&at].incarnation);
        let connection = if caller >= OPENING { caller - OPENING } else { caller - FIRST_CONNECTION };
        self.trace_line(|| format!("{at} answers connection {connection}: request {id}, {reply:?}"));
        let Some(one) = self.pipelines.connections.get_mut(&connection) else { return Ok(()) };
        let mut told = PipelinedReplies::new();
        if caller >= OPENING {
            let opened = match reply {
                Reply::Done { outcome: Outcome::Opened { session }, .. } => Ok(session),
                Reply::Refused(refusal) => Err(Some(refusal)),
                _ => Err(None),
            };
            one.pipeline.opened(now, opened);
        } else {
            one.pipeline.handle_reply(id, reply, &mut |pending, fate| note(&mut told, pending, fate));
        }
        self.later(Duration::from_micros(5), SimEvent::Pipelined { at, life, connection, more: false });
        self.check_told(connection, told)
    }

    /// Checks that the replies to a connection agree with the executed commands.
    fn check_told(&mut self, connection: u64, told: PipelinedReplies) -> checks::Result<()> {
        for (asked, ending) in told {
            self.trace_line(|| format!("connection {connection} receives the outcome of {asked:?}: {ending:?}"));
            let Pipelines { connections, order, .. } = &mut self.pipelines;
            let Some(one) = connections.get_mut(&connection) else { return Ok(()) };
            one.told_at = self.now;
            match (asked, ending) {
                (_, RequestEnd::Wrong(what)) => return Err(format!("connection {connection} receives {what}")),
                (PipelinedTask::Appends { first, last }, RequestEnd::Answered(_)) => {
                    (first..=last).try_for_each(|counter| order.acknowledged(connection, counter))?;
                    one.acknowledged = last;
                }
                (PipelinedTask::Appends { first, last }, RequestEnd::Refused) => {
                    (first..=last).try_for_each(|counter| order.refused(connection, counter))?;
                }
                (PipelinedTask::Reads(consistency), RequestEnd::Answered(answer)) => {
                    let value = match Answer::decode(answer) {
                        Ok(Answer::Value(value)) => value.unwrap_or_default(),
                        other => return Err(format!("connection {connection} reads {other:?}")),
                    };
                    let shown = order.shown(connection, &value)?;
                    let fresh = match consistency {
                        Consistency::Linearizable => order.executed_upto(connection, one.acknowledged),
                        Consistency::Local => 0,
                    };
                    if shown < fresh.max(one.shown) {
                        let seen = one.shown;
                        return Err(format!(
                            "connection {connection} reads {shown} commands, after {seen} read and {fresh} acknowledged"
                        ));
                    }
                    one.shown = shown;
                }
                (PipelinedTask::Appends { .. }, RequestEnd::Unknown)
                | (PipelinedTask::Reads(_), RequestEnd::Refused | RequestEnd::Unknown) => {}
            }
        }
        Ok(())
    }
}

fn note(told: &mut PipelinedReplies, pending: &PendingRequest<PipelinedTask>, fate: RequestFate<'_>) -> BytesMut {
    told.push((pending.format, ending(fate)));
    BytesMut::from(&b"."[..])
}
