//! Connections between simulated clients and nodes: ordered bytes in both directions, until the connection breaks.
//!
//! A connection is accepted by the process that runs on the machine when the first bytes arrive, and ends with that
//! process. Until calm, connections break at random: either in the middle of a send, which both ends notice, or
//! silently, so that nothing passes any more and neither end notices.

use super::checks;
use super::client_link::{FIRST_LINK, Link, OnLink};
use super::event::SimEvent;
use super::world::World;
use crate::api::Reply;
use crate::node::{Caller, Event};
use crate::types::{NodeId, Time};
use crate::wire::client::{put_reply_frame, read_request_frame};
use crate::wire::frame::FrameReader;
use crate::wire::hello::{Hello, VERSION_MAX, Welcome};
use bytes::{Bytes, BytesMut};
use rand::RngExt;

/// One in this many sends breaks the connection, and one in this many silences it.
const BREAKS: u32 = 200;

fn node_at(endpoint: &str) -> Option<NodeId> {
    NodeId::new(endpoint.strip_prefix('n')?.split(':').next()?.parse().ok()?)
}

impl World {
    /// A client dials an endpoint. Returns the number of the connection.
    pub(super) fn open_link(&mut self, client: u64, endpoint: &str) -> checks::Result<u64> {
        let to = node_at(endpoint).filter(|to| self.hosts.contains_key(to));
        let to = to.ok_or_else(|| format!("client {client} dials {endpoint:?}, which is the address of no node"))?;
        let number = self.links.links.len() as u64 + 1;
        self.trace_line(|| format!("client {client} dials {to}: connection {number}"));
        let link = Link {
            client,
            to,
            life: None,
            over: false,
            dark: false,
            reset: false,
            last: [Time::ZERO; 2],
            reader: FrameReader::default(),
            input: BytesMut::new(),
            greeted: false,
            sent: 0,
            arrived: 0,
        };
        self.links.links.insert(number, link);
        Ok(number)
    }

    /// Schedules an event at one end of a connection, after everything sent before.
    fn later_on_link(&mut self, number: u64, what: OnLink) {
        let when = self.now + self.network.delay(&mut self.rng);
        let Some(link) = self.links.links.get_mut(&number) else { return };
        let last = &mut link.last[usize::from(!what.is_at_node())];
        let when = when.max(*last);
        *last = when;
        let at = what.is_at_node().then_some(link.to);
        self.at(when, SimEvent::Linked { at, link: number, what });
    }

    pub(super) fn send_on_link(&mut self, number: u64, mut bytes: Bytes) {
        let Some(link) = self.links.links.get_mut(&number).filter(|link| !link.over && !link.dark) else { return };
        let draw = if self.calm { BREAKS } else { self.rng.random_range(0..BREAKS) };
        match draw {
            0 => {
                link.over = true;
                self.links.broken += 1;
                bytes.truncate(self.rng.random_range(0..=bytes.len()));
            }
            1 => {
                link.dark = true;
                self.links.broken += 1;
                return;
            }
            _ => {}
        }
        let nth = link.sent;
        link.sent += 1;
        self.later_on_link(number, OnLink::Arrives(nth, bytes));
        if draw == 0 {
            self.trace_line(|| format!("connection {number} breaks"));
            self.later_on_link(number, OnLink::HangsUp);
            self.later_on_link(number, OnLink::Ends);
        }
    }

    /// A client closes its end.
    pub(super) fn close_link(&mut self, number: u64) {
        let Some(link) = self.links.links.get_mut(&number).filter(|link| !link.over) else { return };
        link.over = true;
        if !link.dark {
            self.later_on_link(number, OnLink::HangsUp);
        }
    }

    /// A process ends, and its connections with it. Its clients notice, unless the machine lost power.
    pub(super) fn links_end(&mut self, at: NodeId, power: bool) {
        let life = Some(self.hosts[&at].incarnation);
        let of_it = |(_, link): &(&u64, &Link)| link.to == at && link.life == life && !link.over;
        let numbers: Vec<u64> = self.links.links.iter().filter(of_it).map(|(number, _)| *number).collect();
        for number in numbers.into_iter().filter(|_| !power) {
            self.ends_link(number);
        }
    }

    /// Closes the node's end.
    fn ends_link(&mut self, number: u64) {
        let Some(link) = self.links.links.get_mut(&number).filter(|link| !link.over) else { return };
        link.over = true;
        if !link.dark {
            self.later_on_link(number, OnLink::Ends);
        }
    }

    /// Handles an event at one end of a connection.
    pub(super) fn on_link(&mut self, number: u64, what: OnLink) -> checks::Result<()> {
        let Some(link) = self.links.links.get(&number) else { return Ok(()) };
        let (client, to, life) = (link.client, link.to, link.life);
        match what {
            OnLink::Arrives(nth, bytes) => self.link_brings(number, to, nth, &bytes),
            OnLink::HangsUp if life.is_some_and(|life| self.lives(to, life)) => {
                self.handle(to, Event::CallerGone(Caller::Client(FIRST_LINK + number)))
            }
            OnLink::HangsUp => Ok(()),
            OnLink::Returns(_) if link.dark => Ok(()),
            OnLink::Returns(bytes) => self.client_receives(client, number, &bytes),
            OnLink::Ends => self.client_loses(client, number),
        }
    }

    /// Handles a client's bytes at a node.
    fn link_brings(&mut self, number: u64, to: NodeId, nth: u64, bytes: &[u8]) -> checks::Result<()> {
        let life = self.hosts[&to].up.as_ref().map(|_| self.hosts[&to].incarnation);
        let Some(link) = self.links.links.get_mut(&number) else { return Ok(()) };
        // Bytes that a paused process had not read are lost when it ends; the next ones do not continue its stream.
        let is_next = nth == link.arrived;
        link.arrived = nth + 1;
        if link.reset || !is_next || life.is_none() || link.life.is_some_and(|accepted| Some(accepted) != life) {
            // The machine does not know this connection.
            link.reset = true;
            self.ends_link(number);
            return Ok(());
        }
        link.life = life;
        link.input.extend_from_slice(bytes);
        let broken = |error| format!("{to} cannot read what a client sent: {error}");
        loop {
            let Some(link) = self.links.links.get_mut(&number) else { return Ok(()) };
            let Some(frame) = link.reader.next(&mut link.input).map_err(|error| broken(error.to_string()))? else {
                return Ok(());
            };
            if !std::mem::replace(&mut link.greeted, true) {
                let hello = Hello::read(frame).map_err(|error| broken(error.to_string()))?;
                self.welcomes(number, to, &hello);
                continue;
            }
            let asked = read_request_frame(frame).map_err(|error| broken(error.to_string()))?;
            let from = Caller::Client(FIRST_LINK + number);
            self.handle(to, Event::Request { from, id: asked.id, forward: asked.forward, request: asked.request })?;
            if self.hosts[&to].up.as_ref().map(|_| self.hosts[&to].incarnation) != life {
                return Ok(()); // the process stopped because of this request
            }
        }
    }

    fn welcomes(&mut self, number: u64, at: NodeId, _hello: &Hello) {
        let mut out = BytesMut::new();
        let disk = self.hosts[&at].disk_id;
        let welcome =
            Welcome { version: VERSION_MAX, cluster: super::host::CLUSTER, node: at, disk, holds: Default::default() };
        welcome.put(&mut out);
        self.later_on_link(number, OnLink::Returns(out.freeze()));
    }

    /// Sends a node's reply to a client on its connection.
    pub(super) fn answers_link(&mut self, at: NodeId, caller: u64, id: u64, reply: &Reply) {
        let number = caller - FIRST_LINK;
        let life = self.hosts[&at].incarnation;
        let is_there = |link: &&Link| !link.over && !link.dark && link.life == Some(life);
        if self.links.links.get(&number).filter(is_there).is_none() {
            return;
        }
        self.trace_line(|| format!("{at} answers on connection {number}: {id} {reply:?}"));
        let mut bytes = BytesMut::new();
        put_reply_frame(&mut bytes, id, reply);
        self.fold(&bytes);
        self.later_on_link(number, OnLink::Returns(bytes.freeze()));
    }
}
