//! One HTTP connection: requests are answered in order.

use super::gateway::{Options, admit, is_of_node};
use super::response::{self, ResponseFormat, ResponseKind};
use super::routes::{NodeTopic, Route, parse_route};
use crate::api::figures::Failure;
use crate::api::{Refusal, Reply};
use crate::machine::commands::{Command, Expiration, Query, SetCondition};
use crate::pipeline::{NodeRequest, PendingRequest, RequestKind, RequestPipeline};
use crate::types::Time;
use crate::wire::http::{CONTINUE, HttpError, Reader, RequestHead, ResponseOptions};
use bytes::{Bytes, BytesMut};

/// The context of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// When it is processed.
    pub now: Time,
    /// Options of the gateway.
    pub options: &'a Options,
    /// Whether the connection was made to a loopback address.
    pub on_loopback: bool,
    /// Whether the node refuses new requests because it is stopping.
    pub stopping: bool,
}

/// A request whose body is incomplete.
#[derive(Debug)]
struct PendingBody {
    ask: Route,
    manner: ResponseOptions,
    length: usize,
}

/// One HTTP connection.
#[derive(Debug, Default)]
pub struct HttpConnection {
    reader: Reader,
    begun: Option<PendingBody>,
    /// Whether it is a probe, accepted beyond the maximum number of clients for one request about the node's health.
    probe: bool,
    /// The requests that are not answered yet.
    pub pipeline: RequestPipeline<ResponseFormat>,
}

impl HttpConnection {
    /// A new connection. It is a `probe` if the maximum number of clients is connected.
    pub fn new(probe: bool) -> HttpConnection {
        HttpConnection { probe, ..HttpConnection::default() }
    }

    /// Whether it was accepted only for a request about the node's health.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Whether the body of a request is incomplete.
    pub fn awaits_body(&self) -> bool {
        self.begun.is_some()
    }

    /// Processes the next request if it is complete, and removes it from the input. Returns whether there may be
    /// another.
    pub fn read_request(&mut self, input: &mut BytesMut, out: &mut BytesMut, setting: &RequestContext<'_>) -> bool {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => match self.reader.next(input) {
                Ok(None) => return false,
                Ok(Some(head)) => {
                    self.pipeline.tally.requests += 1;
                    match self.begin(&head, out, setting) {
                        Some(begun) => begun,
                        None => return true,
                    }
                }
                Err(wrong) => {
                    self.pipeline.tally.requests += 1;
                    self.refuse(&wrong, ResponseOptions::LAST, out);
                    return false;
                }
            },
        };
        if input.len() < begun.length {
            self.begun = Some(begun);
            return false;
        }
        let body = input.split_to(begun.length);
        self.act(&begun, &body, out, setting);
        true
    }

    /// Handles the head of a request: starts to receive its body, or rejects it.
    fn begin(&mut self, head: &RequestHead, out: &mut BytesMut, setting: &RequestContext<'_>) -> Option<PendingBody> {
        let manner = ResponseOptions::of(head);
        let manner = ResponseOptions { keeps: manner.keeps && !self.probe, ..manner };
        let asked = parse_route(head).and_then(|ask| {
            admit(head, &ask, setting.on_loopback, setting.options)?;
            if self.probe && !is_of_node(&ask) {
                return Err(HttpError::new(503, "as many clients are connected as may be"));
            }
            Ok(ask)
        });
        match asked {
            Ok(ask) => {
                if head.holds_back && head.length > 0 {
                    self.pipeline.push_reply(out, BytesMut::from(CONTINUE));
                }
                Some(PendingBody { ask, manner, length: head.length as usize })
            }
            Err(wrong) => {
                // The body of a rejected request is not read, so the connection cannot be reused after it.
                let keeps = manner.keeps && head.length == 0;
                self.refuse(&wrong, ResponseOptions { keeps, ..manner }, out);
                None
            }
        }
    }

    fn refuse(&mut self, wrong: &HttpError, manner: ResponseOptions, out: &mut BytesMut) {
        self.pipeline.tally.failures.push(response::failure(wrong));
        self.pipeline.push_reply(out, response::wrong(wrong, manner));
        self.pipeline.leaving |= !manner.keeps;
    }

    /// Handles a complete request: answers it in order, or passes it to the node.
    fn act(&mut self, begun: &PendingBody, body: &[u8], out: &mut BytesMut, setting: &RequestContext<'_>) {
        let PendingBody { ask, manner, .. } = begun;
        self.pipeline.leaving |= !manner.keeps;
        let (kind, body, what) = match ask {
            Route::Known(known) => return self.pipeline.push_reply(out, response::known(*known, *manner)),
            Route::Node(about @ NodeTopic::Metrics(_)) if !setting.stopping => {
                (RequestKind::StatusAnd(None), Query::Keyspace.encode(), ResponseKind::Node(*about))
            }
            Route::Node(about @ (NodeTopic::Leader | NodeTopic::Status | NodeTopic::Metrics(_))) => {
                (RequestKind::Status, Bytes::new(), ResponseKind::Node(*about))
            }
            _ if setting.stopping => {
                self.pipeline.tally.failures.push(Failure::Refused(Refusal::Stopping.name()));
                return self.pipeline.push_reply(out, response::refused(&Refusal::Stopping, *manner));
            }
            Route::Node(about) => (RequestKind::Status, Bytes::new(), ResponseKind::Node(*about)),
            Route::Get { key, consistency } => {
                (RequestKind::Read(*consistency), Query::Get { key }.encode(), ResponseKind::Value)
            }
            Route::Put { key, life: Expiration::Endless, only_if: SetCondition::Either } => {
                (RequestKind::Write(None), Command::Put { key, value: body }.encode(), ResponseKind::Change)
            }
            Route::Put { key, life, only_if } => {
                let set = Command::Set { key, value: body, only_if: *only_if, life: *life, tells: false };
                (RequestKind::Write(None), set.encode(), ResponseKind::Change)
            }
            Route::Delete { key } => (RequestKind::Write(None), Command::Del { key }.encode(), ResponseKind::Change),
        };
        self.pipeline.push_request(PendingRequest::new(
            setting.now,
            kind,
            body,
            ResponseFormat { what, manner: *manner },
        ));
    }

    /// Writes the responses that are due to `out`, and adds the requests to send now to `wants`. `rests` is whether the
    /// client has too much output to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<NodeRequest>) {
        self.pipeline.pump(now, out, rests, wants, &mut |pending, fate| response::tell(pending, fate));
    }

    /// Handles the node's answer to the request of that number.
    pub fn handle_reply(&mut self, number: u64, reply: Reply) {
        self.pipeline.handle_reply(number, reply, &mut |pending, fate| response::tell(pending, fate));
    }
}
