//! Encodes HTTP responses: the results of requests, errors, and reports about the node.

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

const TEXT_TYPE: &str = "text/plain; charset=utf-8";
const JSON_TYPE: &str = "application/json";
const BINARY_TYPE: &str = "application/octet-stream";
/// The header field that asks a client to retry after 1 second. It is sent only if the request was not applied.
const RETRY_AFTER: (&str, &str) = ("Retry-After", "1");

/// The complete response to a client that is rejected because the maximum number of clients and probes is connected.
pub const TOO_MANY_CLIENTS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                          Content-Length: 0\r\n\r\n";

/// How the result of a request is encoded, stored with the request while it waits for the node.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFormat {
    /// The answer that the request expects: a value, the result of a change, or a report.
    pub kind: ResponseKind,
    /// Keep-alive, HTTP version and the absence of a body, as they follow from the head of the request.
    pub options: ResponseOptions,
}

/// What a request asks for, which decides the status codes and the body of the response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseKind {
    /// The value of a key, or 404.
    Value,
    /// Whether a key was set or deleted: 204, 404, or 412 for an unmet condition.
    Change,
    /// A report from the status of the node.
    Node(NodeTopic),
}

/// Encodes a response that needs no answer from the node.
pub fn local_response(local: LocalRoute, options: ResponseOptions) -> BytesMut {
    match local {
        LocalRoute::Live => ok_response(TEXT_TYPE, b"alive\n", options),
        LocalRoute::Version => {
            let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
            let version = json!({ "version": env!("CARGO_PKG_VERSION"), "profile": profile });
            ok_response(JSON_TYPE, json_line(&version).as_bytes(), options)
        }
        LocalRoute::Page => page::render(options),
    }
}

/// Encodes the response to a malformed or forbidden request, which had no effect.
pub fn error_response(error: &HttpError, options: ResponseOptions) -> BytesMut {
    let body = error_line(&error.why, Some(false));
    let fields: &[(&str, &str)] = match error.status {
        503 => &[RETRY_AFTER],
        401 => &[("WWW-Authenticate", "Bearer realm=\"drave\"")],
        405 => &[("Allow", &error.why)],
        _ => &[],
    };
    encode_response(&Response { status: error.status, content_type: JSON_TYPE, fields, body: body.as_bytes() }, options)
}

/// The kind of failure under which metrics count a malformed or forbidden request.
pub fn classify_error(error: &HttpError) -> Failure {
    match error.status {
        401 | 403 | 421 => Failure::Error(RequestError::Unauthorized),
        404 | 405 | 505 => Failure::Error(RequestError::Unsupported),
        413 => Failure::Refused("too_large"),
        // The request concerns a key, and the maximum number of clients was connected before its client.
        503 => Failure::Refused("full"),
        _ => Failure::Error(RequestError::Malformed),
    }
}

/// Encodes the result of a request that was passed to the node.
pub fn encode_result(pending: &PendingRequest<ResponseFormat>, fate: RequestFate<'_>) -> BytesMut {
    let format = &pending.format;
    if let (ResponseKind::Node(NodeTopic::Metrics(exposition)), RequestKind::StatusThenRead(Some(status))) =
        (format.kind, &pending.kind)
    {
        return metrics_response(status, key_counts(fate), exposition, format.options);
    }
    match fate {
        RequestFate::Answer(answer) => answer_response(format, answer),
        RequestFate::Status(status) => status_response(format, &status),
        RequestFate::Refused(refusal) => refusal_response(refusal, format.options),
        RequestFate::Unknown => {
            failure_response(504, "outcome unknown: it may have been applied, or may be later", None, format.options)
        }
        RequestFate::AnswerTooLong => failure_response(500, "the answer is too long to be sent", None, format.options),
        RequestFate::UnexpectedReply(who) => {
            failure_response(500, &format!("{who} sent an unexpected answer"), None, format.options)
        }
    }
}

/// Encodes the response to a request that the node refused, without effect.
pub fn refusal_response(refusal: &Refusal, options: ResponseOptions) -> BytesMut {
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
    let body = error_line(&format!("{why}; nothing was applied"), Some(false));
    encode_response(&Response { status, content_type: JSON_TYPE, fields, body: body.as_bytes() }, options)
}

fn answer_response(format: &ResponseFormat, answer: Bytes) -> BytesMut {
    let options = format.options;
    let no_content = || encode_response(&Response { status: 204, content_type: "", fields: &[], body: b"" }, options);
    let not_found = || failure_response(404, "no such key", Some(false), options);
    match (format.kind, Answer::decode(answer)) {
        (ResponseKind::Value, Ok(Answer::Value(Some(body)))) => ok_response(BINARY_TYPE, &body, options),
        (ResponseKind::Value, Ok(Answer::Value(None)))
        | (ResponseKind::Change, Ok(Answer::Deleted { existed: false })) => not_found(),
        (ResponseKind::Change, Ok(Answer::Done | Answer::Deleted { existed: true })) => no_content(),
        (ResponseKind::Change, Ok(Answer::ConditionUnmet)) => {
            failure_response(412, "the condition on the key does not hold", Some(false), options)
        }
        _ => failure_response(500, "the cluster sent an unexpected answer", None, options),
    }
}

fn status_response(format: &ResponseFormat, status: &Status) -> BytesMut {
    let options = format.options;
    let ResponseKind::Node(topic) = format.kind else {
        return failure_response(500, "the node sent an unexpected answer", None, options);
    };
    match topic {
        NodeTopic::Ready { verbose } => {
            let (is_ready, text) = health::readiness(status, verbose);
            let status_code = if is_ready { 200 } else { 503 };
            encode_response(
                &Response { status: status_code, content_type: TEXT_TYPE, fields: &[], body: text.as_bytes() },
                options,
            )
        }
        NodeTopic::Leader => {
            let (leads, address) = health::leadership(status);
            let body = json_line(&json!({ "leads": leads, "leader": status.leader, "address": address }));
            let fields: Vec<_> = address.map(|address| ("X-Drave-Leader", address)).into_iter().collect();
            let status_code = if leads { 200 } else { 503 };
            encode_response(
                &Response { status: status_code, content_type: JSON_TYPE, fields: &fields, body: body.as_bytes() },
                options,
            )
        }
        NodeTopic::Status => match serde_json::to_string(status) {
            Ok(body) => ok_response(JSON_TYPE, body.as_bytes(), options),
            Err(why) => failure_response(500, &why.to_string(), None, options),
        },
        NodeTopic::Metrics(exposition) => metrics_response(status, None, exposition, options),
    }
}

/// The number of keys and the number of keys with an expiry, from the state machine's answer; `None` if the answer
/// failed.
fn key_counts(fate: RequestFate<'_>) -> Option<(u64, u64)> {
    let RequestFate::Answer(answer) = fate else { return None };
    let Ok(Answer::List(counts)) = Answer::decode(answer) else { return None };
    let [Answer::Count(keys), Answer::Count(with_expiry)] = counts[..] else { return None };
    Some((keys, with_expiry))
}

fn metrics_response(
    status: &Status,
    key_counts: Option<(u64, u64)>,
    exposition: ExpositionFormat,
    options: ResponseOptions,
) -> BytesMut {
    match metrics::render(status, key_counts, exposition) {
        Ok(body) => ok_response(exposition.content_type(), body.as_bytes(), options),
        Err(why) => failure_response(500, &why.to_string(), None, options),
    }
}

fn ok_response(content_type: &str, body: &[u8], options: ResponseOptions) -> BytesMut {
    encode_response(&Response { status: 200, content_type, fields: &[], body }, options)
}

fn failure_response(status: u16, why: &str, applied: Option<bool>, options: ResponseOptions) -> BytesMut {
    let body = error_line(why, applied);
    encode_response(&Response { status, content_type: JSON_TYPE, fields: &[], body: body.as_bytes() }, options)
}

/// The body of an error: a line of JSON with the reason, and with whether anything was applied, `null` if unknown.
fn error_line(why: &str, applied: Option<bool>) -> String {
    json_line(&json!({ "error": why, "applied": applied }))
}

fn json_line(value: &Value) -> String {
    format!("{value}\n")
}

fn encode_response(response: &Response<'_>, options: ResponseOptions) -> BytesMut {
    let mut out = BytesMut::new();
    put_response(&mut out, response, options);
    out
}
