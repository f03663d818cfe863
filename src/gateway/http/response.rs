//! Encodes HTTP responses.

use super::exposition::ExpositionFormat;
use super::routes::{LocalRoute, NodeTopic};
use super::{health, metrics, page};
use crate::api::figures::{Failure, RequestError};
use crate::api::{Refusal, Status};
use crate::machine::commands::Answer;
use crate::pipeline::{PendingRequest, RequestFate, RequestKind};
use crate::wire::http::{HttpError, Response, ResponseOptions, put_response};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
/// After how many seconds a client should retry a request that was not applied.
const RETRY_AFTER: (&str, &str) = ("Retry-After", "1");

/// The response to a client beyond the maximum number.
pub const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                          Content-Length: 0\r\n\r\n";

/// How the result of a request is encoded.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFormat {
    /// The kind of response.
    pub what: ResponseKind,
    /// Options of the response that follow from the request.
    pub manner: ResponseOptions,
}

/// The kind of response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseKind {
    /// The value of a key.
    Value,
    /// Whether a key was set or deleted.
    Change,
    /// The status of the node.
    Node(NodeTopic),
}

/// A response that needs no answer from the node.
pub fn known(known: LocalRoute, manner: ResponseOptions) -> BytesMut {
    match known {
        LocalRoute::Live => ok(TEXT, b"alive\n", manner),
        LocalRoute::Version => {
            let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
            let version = json!({ "version": env!("CARGO_PKG_VERSION"), "profile": profile });
            ok(JSON, line(&version).as_bytes(), manner)
        }
        LocalRoute::Page => page::tell(manner),
    }
}

/// The response to a malformed or forbidden request, which had no effect.
pub fn wrong(wrong: &HttpError, manner: ResponseOptions) -> BytesMut {
    let body = error(&wrong.why, Some(false));
    let fields: &[(&str, &str)] = match wrong.status {
        503 => &[RETRY_AFTER],
        401 => &[("WWW-Authenticate", "Bearer realm=\"drave\"")],
        405 => &[("Allow", &wrong.why)],
        _ => &[],
    };
    said(&Response { status: wrong.status, kind: JSON, fields, body: body.as_bytes() }, manner)
}

/// How a malformed or forbidden request is counted.
pub fn failure(wrong: &HttpError) -> Failure {
    match wrong.status {
        401 | 403 | 421 => Failure::Wrong(RequestError::Unauthorized),
        404 | 405 | 505 => Failure::Wrong(RequestError::Unsupported),
        413 => Failure::Refused("too_large"),
        // Only probes get this status.
        503 => Failure::Refused("full"),
        _ => Failure::Wrong(RequestError::Malformed),
    }
}

/// Encodes the result of a request.
pub fn tell(pending: &PendingRequest<ResponseFormat>, fate: RequestFate<'_>) -> BytesMut {
    let reading = &pending.format;
    if let (ResponseKind::Node(NodeTopic::Metrics(form)), RequestKind::StatusAnd(Some(status))) =
        (reading.what, &pending.kind)
    {
        return figures(status, keys(fate), form, reading.manner);
    }
    match fate {
        RequestFate::Answer(answer) => answered(reading, answer),
        RequestFate::Status(status) => about(reading, &status),
        RequestFate::Refused(refusal) => refused(refusal, reading.manner),
        RequestFate::Unknown => fail(504, "outcome unknown: it may have been applied, or be yet", None, reading.manner),
        RequestFate::TooLong => fail(500, "the answer is too long to be told", None, reading.manner),
        RequestFate::OutOfTurn(who) => fail(500, &format!("{who} answered out of turn"), None, reading.manner),
    }
}

/// The response to a refused request, which had no effect.
pub fn refused(refusal: &Refusal, manner: ResponseOptions) -> BytesMut {
    let (status, fields): (u16, &[(&str, &str)]) = match refusal {
        Refusal::NoLeader
        | Refusal::NotLeader { .. }
        | Refusal::Busy
        | Refusal::Stopping
        | Refusal::NotMember { .. } => (503, &[RETRY_AFTER]),
        Refusal::NoSpace => (507, &[]),
        Refusal::TooLarge { .. } => (413, &[]),
        _ => (400, &[]),
    };
    let why = match refusal {
        Refusal::NotLeader { .. } => Refusal::NoLeader.to_string(),
        other => other.to_string(),
    };
    let body = error(&format!("{why}; nothing was applied"), Some(false));
    said(&Response { status, kind: JSON, fields, body: body.as_bytes() }, manner)
}

fn answered(reading: &ResponseFormat, answer: Bytes) -> BytesMut {
    let manner = reading.manner;
    let done = || said(&Response { status: 204, kind: "", fields: &[], body: b"" }, manner);
    let absent = || fail(404, "no such key", Some(false), manner);
    match (reading.what, Answer::decode(answer)) {
        (ResponseKind::Value, Ok(Answer::Value(Some(body)))) => ok(BYTES, &body, manner),
        (ResponseKind::Value, Ok(Answer::Value(None)))
        | (ResponseKind::Change, Ok(Answer::Deleted { existed: false })) => absent(),
        (ResponseKind::Change, Ok(Answer::Done | Answer::Deleted { existed: true })) => done(),
        (ResponseKind::Change, Ok(Answer::Unmet)) => {
            fail(412, "what was to hold of the key does not", Some(false), manner)
        }
        _ => fail(500, "the cluster answered out of turn", None, manner),
    }
}

fn about(reading: &ResponseFormat, status: &Status) -> BytesMut {
    let manner = reading.manner;
    let ResponseKind::Node(about) = reading.what else {
        return fail(500, "the node answered out of turn", None, manner);
    };
    match about {
        NodeTopic::Ready { verbose } => {
            let (fit, text) = health::ready(status, verbose);
            let code = if fit { 200 } else { 503 };
            said(&Response { status: code, kind: TEXT, fields: &[], body: text.as_bytes() }, manner)
        }
        NodeTopic::Leader => {
            let (leads, address) = health::leader(status);
            let body = line(&json!({ "leads": leads, "leader": status.leader, "address": address }));
            let fields: Vec<_> = address.map(|address| ("X-Drave-Leader", address)).into_iter().collect();
            let code = if leads { 200 } else { 503 };
            said(&Response { status: code, kind: JSON, fields: &fields, body: body.as_bytes() }, manner)
        }
        NodeTopic::Status => match serde_json::to_string(status) {
            Ok(body) => ok(JSON, body.as_bytes(), manner),
            Err(why) => fail(500, &why.to_string(), None, manner),
        },
        NodeTopic::Metrics(form) => figures(status, None, form, manner),
    }
}

/// The number of keys, and of those with an expiry, in the state machine's answer.
fn keys(fate: RequestFate<'_>) -> Option<(u64, u64)> {
    let RequestFate::Answer(answer) = fate else { return None };
    let Ok(Answer::Each(counts)) = Answer::decode(answer) else { return None };
    let [Answer::Count(keys), Answer::Count(dated)] = counts[..] else { return None };
    Some((keys, dated))
}

fn figures(status: &Status, keys: Option<(u64, u64)>, form: ExpositionFormat, manner: ResponseOptions) -> BytesMut {
    match metrics::tell(status, keys, form) {
        Ok(body) => ok(form.content_type(), body.as_bytes(), manner),
        Err(why) => fail(500, &why.to_string(), None, manner),
    }
}

fn ok(kind: &str, body: &[u8], manner: ResponseOptions) -> BytesMut {
    said(&Response { status: 200, kind, fields: &[], body }, manner)
}

fn fail(status: u16, why: &str, applied: Option<bool>, manner: ResponseOptions) -> BytesMut {
    let body = error(why, applied);
    said(&Response { status, kind: JSON, fields: &[], body: body.as_bytes() }, manner)
}

/// A line of JSON with the error, and whether anything was applied if that is known.
fn error(why: &str, applied: Option<bool>) -> String {
    line(&json!({ "error": why, "applied": applied }))
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn said(response: &Response<'_>, manner: ResponseOptions) -> BytesMut {
    let mut out = BytesMut::new();
    put_response(&mut out, response, manner);
    out
}
