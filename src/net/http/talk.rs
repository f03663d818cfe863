//! One connection: requests in, responses out, in the order of the requests.

use super::asking::{About, Ask, ask};
use super::door::{Options, admit, is_of_node};
use super::telling::{self, Reading, What};
use crate::api::figures::Failure;
use crate::api::{Refusal, Reply};
use crate::machine::words::{Command, Life, Presence, Query};
use crate::pipeline::{NodeRequest, PendingRequest, RequestKind, RequestPipeline};
use crate::types::Time;
use crate::wire::http::{CONTINUE, Head, Manner, Reader, Wrong};
use bytes::{Bytes, BytesMut};

/// What a request may need to know.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// When it came.
    pub now: Time,
    /// How the door is set.
    pub options: &'a Options,
    /// Whether it came to an address of this machine alone.
    pub on_loopback: bool,
    /// Whether the node takes no new work.
    pub stopping: bool,
}

/// A request whose body has not come.
#[derive(Debug)]
struct Begun {
    ask: Ask,
    manner: Manner,
    length: usize,
}

/// One connection.
#[derive(Debug, Default)]
pub struct Talk {
    reader: Reader,
    begun: Option<Begun>,
    /// Whether it is a probe, let in beyond how many clients may be: it is told how the node is, once.
    probe: bool,
    /// What was asked and is not answered.
    pub pipeline: RequestPipeline<Reading>,
}

impl Talk {
    /// Nothing has been said. `probe`: as many clients are connected as may be.
    pub fn new(probe: bool) -> Talk {
        Talk { probe, ..Talk::default() }
    }

    /// Whether it was let in only to be told how the node is.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Whether the body of a request is waited for.
    pub fn awaits_body(&self) -> bool {
        self.begun.is_some()
    }

    /// Hears the next request, if it is whole, and takes it off the input. Says whether there may be another.
    pub fn hear_next(&mut self, input: &mut BytesMut, out: &mut BytesMut, setting: &Setting<'_>) -> bool {
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
                    self.refuse(&wrong, Manner::LAST, out);
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

    /// A head has come: its request begins, or is refused.
    fn begin(&mut self, head: &Head, out: &mut BytesMut, setting: &Setting<'_>) -> Option<Begun> {
        let manner = Manner::of(head);
        let manner = Manner { keeps: manner.keeps && !self.probe, ..manner };
        let asked = ask(head).and_then(|ask| {
            admit(head, &ask, setting.on_loopback, setting.options)?;
            if self.probe && !is_of_node(&ask) {
                return Err(Wrong::new(503, "as many clients are connected as may be"));
            }
            Ok(ask)
        });
        match asked {
            Ok(ask) => {
                if head.holds_back && head.length > 0 {
                    self.pipeline.say(out, BytesMut::from(CONTINUE));
                }
                Some(Begun { ask, manner, length: head.length as usize })
            }
            Err(wrong) => {
                // A body that nobody wants is not read: what follows it is not looked for.
                let keeps = manner.keeps && head.length == 0;
                self.refuse(&wrong, Manner { keeps, ..manner }, out);
                None
            }
        }
    }

    fn refuse(&mut self, wrong: &Wrong, manner: Manner, out: &mut BytesMut) {
        self.pipeline.tally.failures.push(telling::failure(wrong));
        self.pipeline.say(out, telling::wrong(wrong, manner));
        self.pipeline.leaving |= !manner.keeps;
    }

    /// A request is whole: it is answered in its turn, or waits for an answer.
    fn act(&mut self, begun: &Begun, body: &[u8], out: &mut BytesMut, setting: &Setting<'_>) {
        let Begun { ask, manner, .. } = begun;
        self.pipeline.leaving |= !manner.keeps;
        let (kind, body, what) = match ask {
            Ask::Known(known) => return self.pipeline.say(out, telling::known(*known, *manner)),
            Ask::Node(about @ About::Metrics(_)) if !setting.stopping => {
                (RequestKind::StatusAnd(None), Query::Keyspace.encode(), What::Node(*about))
            }
            Ask::Node(about @ (About::Leader | About::Status | About::Metrics(_))) => {
                (RequestKind::Status, Bytes::new(), What::Node(*about))
            }
            _ if setting.stopping => {
                self.pipeline.tally.failures.push(Failure::Refused(Refusal::Stopping.name()));
                return self.pipeline.say(out, telling::refused(&Refusal::Stopping, *manner));
            }
            Ask::Node(about) => (RequestKind::Status, Bytes::new(), What::Node(*about)),
            Ask::Get { key, consistency } => {
                (RequestKind::Read(*consistency), Query::Get { key }.encode(), What::Value)
            }
            Ask::Put { key, life: Life::Endless, only_if: Presence::Either } => {
                (RequestKind::Write(None), Command::Put { key, value: body }.encode(), What::Change)
            }
            Ask::Put { key, life, only_if } => {
                let set = Command::Set { key, value: body, only_if: *only_if, life: *life, tells: false };
                (RequestKind::Write(None), set.encode(), What::Change)
            }
            Ask::Delete { key } => (RequestKind::Write(None), Command::Del { key }.encode(), What::Change),
        };
        self.pipeline.wait(PendingRequest::new(setting.now, kind, body, Reading { what, manner: *manner }));
    }

    /// Says what is due, and what is wanted of the node now. `rests` is whether the client has too much to read.
    pub fn pump(&mut self, now: Time, out: &mut BytesMut, rests: bool, wants: &mut Vec<NodeRequest>) {
        self.pipeline.pump(now, out, rests, wants, &mut |pending, fate| telling::tell(pending, fate));
    }

    /// The node answers what was asked under that number.
    pub fn hear(&mut self, number: u64, reply: Reply) {
        self.pipeline.hear(number, reply, &mut |pending, fate| telling::tell(pending, fate));
    }
}
