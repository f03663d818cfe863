//! One HTTP connection: reads requests, and answers them in order.

use super::gateway::{Options, check_access, concerns_node};
use super::response::{self, ResponseFormat, ResponseKind};
use super::routes::{NodeTopic, Route, parse_route};
use crate::api::figures::Failure;
use crate::api::{Refusal, Reply};
use crate::machine::commands::{Command, Expiration, Query, SetCondition};
use crate::pipeline::{NodeRequest, PendingRequest, RequestKind, RequestPipeline};
use crate::types::Time;
use crate::wire::http::{CONTINUE, HttpError, RequestHead, RequestHeadReader, ResponseOptions};
use bytes::{Bytes, BytesMut};

/// The circumstances in which a request is processed.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// The current time. The time limit of the request starts now.
    pub now: Time,
    /// The password that a request has to present, if one is set.
    pub options: &'a Options,
    /// Whether the client connected to a loopback address.
    pub on_loopback: bool,
    /// Whether the node is stopping, so that requests which need its answer are refused.
    pub stopping: bool,
}

/// An accepted request whose body has not arrived completely.
#[derive(Debug)]
struct PendingBody {
    route: Route,
    response_options: ResponseOptions,
    /// The length of the whole body in bytes; 0 for a request without a body.
    body_length: usize,
}

/// The protocol state of one HTTP connection.
#[derive(Debug, Default)]
pub struct HttpConnection {
    reader: RequestHeadReader,
    pending_body: Option<PendingBody>,
    /// Whether the client is a probe: it connected while the maximum number of clients was connected. It may send one
    /// request, about the node.
    is_probe: bool,
    /// The requests in progress, whose responses are sent in order.
    pub pipeline: RequestPipeline<ResponseFormat>,
}

impl HttpConnection {
    /// Creates a connection. It is a probe if the maximum number of clients is connected.
    pub fn new(is_probe: bool) -> HttpConnection {
        HttpConnection { is_probe, ..HttpConnection::default() }
    }

    /// Whether the client is a probe: it connected while the maximum number of clients was connected. It may send one
    /// request, about the node.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Whether the head of a request has arrived, and its body has not arrived completely.
    pub fn awaits_body(&self) -> bool {
        self.pending_body.is_some()
    }

    /// Processes the next complete request, and removes it from the input. Returns whether the input may contain
    /// another one.
    pub fn read_request(&mut self, input: &mut BytesMut, out: &mut BytesMut, context: &RequestContext<'_>) -> bool {
        let pending_body = match self.pending_body.take() {
            Some(pending_body) => pending_body,
            None => match self.reader.next(input) {
                Ok(None) => return false,
                Ok(Some(head)) => {
                    self.pipeline.tally.requests += 1;
                    match self.handle_head(&head, out, context) {
                        Some(pending_body) => pending_body,
                        None => return true,
                    }
                }
                Err(error) => {
                    self.pipeline.tally.requests += 1;
                    self.reject(&error, ResponseOptions::CLOSING, out);
                    return false;
                }
            },
        };
        if input.len() < pending_body.body_length {
            self.pending_body = Some(pending_body);
            return false;
        }
        let body = input.split_to(pending_body.body_length);
        self.handle_request(&pending_body, &body, out, context);
        true
    }

    /// Handles the head of a request. Returns the route and the length of the body, which follows; `None` if the
    /// request was rejected.
    fn handle_head(
        &mut self,
        head: &RequestHead,
        out: &mut BytesMut,
        context: &RequestContext<'_>,
    ) -> Option<PendingBody> {
        let response_options = ResponseOptions::of(head);
        let response_options =
            ResponseOptions { keep_alive: response_options.keep_alive && !self.is_probe, ..response_options };
        let checked_route = parse_route(head).and_then(|route| {
            check_access(head, &route, context.on_loopback, context.options)?;
            if self.is_probe && !concerns_node(&route) {
                return Err(HttpError::new(503, "as many clients are connected as may be"));
            }
            Ok(route)
        });
        match checked_route {
            Ok(route) => {
                if head.expects_continue && head.content_length > 0 {
                    self.pipeline.push_reply(out, BytesMut::from(CONTINUE));
                }
                Some(PendingBody { route, response_options, body_length: head.content_length as usize })
            }
            Err(error) => {
                // The body of a rejected request is not read, so no further request can follow on the connection.
                let keep_alive = response_options.keep_alive && head.content_length == 0;
                self.reject(&error, ResponseOptions { keep_alive, ..response_options }, out);
                None
            }
        }
    }

    /// Adds the response for a rejected request, in order. Without keep-alive, no further request is read.
    fn reject(&mut self, error: &HttpError, response_options: ResponseOptions, out: &mut BytesMut) {
        self.pipeline.tally.failures.push(response::classify_error(error));
        self.pipeline.push_reply(out, response::error_response(error, response_options));
        self.pipeline.closes_when_empty |= !response_options.keep_alive;
    }

    /// Handles a complete request: adds the response if it is known, or passes the request to the node.
    fn handle_request(
        &mut self,
        pending_body: &PendingBody,
        body: &[u8],
        out: &mut BytesMut,
        context: &RequestContext<'_>,
    ) {
        let PendingBody { route, response_options, .. } = pending_body;
        self.pipeline.closes_when_empty |= !response_options.keep_alive;
        let (kind, body, response_kind) = match route {
            Route::Local(local) => {
                return self.pipeline.push_reply(out, response::local_response(*local, *response_options));
            }
            Route::Node(topic @ NodeTopic::Metrics(_)) if !context.stopping => {
                (RequestKind::StatusThenRead(None), Query::Keyspace.encode(), ResponseKind::Node(*topic))
            }
            Route::Node(topic @ (NodeTopic::Leader | NodeTopic::Status | NodeTopic::Metrics(_))) => {
                (RequestKind::Status, Bytes::new(), ResponseKind::Node(*topic))
            }
            _ if context.stopping => {
                self.pipeline.tally.failures.push(Failure::Refused(Refusal::Stopping.name()));
                return self
                    .pipeline
                    .push_reply(out, response::refusal_response(&Refusal::Stopping, *response_options));
            }
            Route::Node(topic) => (RequestKind::Status, Bytes::new(), ResponseKind::Node(*topic)),
            Route::Get { key, consistency } => {
                (RequestKind::Read(*consistency), Query::Get { key }.encode(), ResponseKind::Value)
            }
            Route::Put { key, expiration: Expiration::Endless, only_if: SetCondition::Always } => {
                (RequestKind::Write(None), Command::Put { key, value: body }.encode(), ResponseKind::Change)
            }
            Route::Put { key, expiration, only_if } => {
                let set_command = Command::Set {
                    key,
                    value: body,
                    only_if: *only_if,
                    expiration: *expiration,
                    returns_previous: false,
                };
                (RequestKind::Write(None), set_command.encode(), ResponseKind::Change)
            }
            Route::Delete { key } => (RequestKind::Write(None), Command::Del { key }.encode(), ResponseKind::Change),
        };
        self.pipeline.push_request(PendingRequest::new(
            context.now,
            kind,
            body,
            ResponseFormat { kind: response_kind, options: *response_options },
        ));
    }

    /// Appends the responses that are due now to the output `out`, and the requests for the node to `requests`. If the
    /// client has too much unread output (`output_full`), no request is appended.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, output_full: bool, requests: &mut Vec<NodeRequest>) {
        self.pipeline
            .pump(now, out, output_full, requests, &mut |pending, fate| response::encode_result(pending, fate));
    }

    /// Handles the node's reply to the request with the number `number`.
    pub fn handle_reply(&mut self, number: u64, reply: Reply) {
        self.pipeline.handle_reply(number, reply, &mut |pending, fate| response::encode_result(pending, fate));
    }
}
