//! Connections between simulated clients and nodes: ordered bytes in both directions, until the connection breaks.
//!
//! The process that runs on the machine when the first bytes arrive accepts the connection, which ends with that
//! process. Until the faults end, connections fail at random. A broken connection ends in the middle of a send, and
//! both ends notice. A silent connection delivers nothing any more, and neither end notices.

use super::checks;
use super::client_link::{ClientLink, FIRST_LINK_CALLER_ID, LinkEvent};
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

/// One in this many sends breaks the connection, and one in this many makes the connection silent.
const SENDS_PER_BREAK: u32 = 200;

/// The node of an endpoint such as `n3:1`.
fn node_of_endpoint(endpoint: &str) -> Option<NodeId> {
    NodeId::new(endpoint.strip_prefix('n')?.split(':').next()?.parse().ok()?)
}

impl World {
    /// Opens a connection from a client to an endpoint, and returns its number. The node learns of the
    /// connection when the first bytes arrive.
    pub(super) fn open_link(&mut self, client: u64, endpoint: &str) -> checks::Result<u64> {
        let to = node_of_endpoint(endpoint).filter(|to| self.hosts.contains_key(to));
        let to = to.ok_or_else(|| format!("client {client} dials {endpoint:?}, which is the address of no node"))?;
        let number = self.client_links.by_number.len() as u64 + 1;
        self.trace_line(|| format!("client {client} dials {to}: connection {number}"));
        let link = ClientLink {
            client,
            node: to,
            incarnation: None,
            is_closed: false,
            is_silent: false,
            is_reset: false,
            last_arrival_times: [Time::ZERO; 2],
            reader: FrameReader::default(),
            received_bytes: BytesMut::new(),
            is_welcomed: false,
            sends_made: 0,
            sends_arrived: 0,
        };
        self.client_links.by_number.insert(number, link);
        Ok(number)
    }

    /// Schedules an event at one end of a connection, after all earlier events at that end.
    fn schedule_on_link(&mut self, number: u64, event: LinkEvent) {
        let when = self.now + self.network.delay(&mut self.rng);
        let Some(link) = self.client_links.by_number.get_mut(&number) else { return };
        let last_arrival = &mut link.last_arrival_times[usize::from(!event.is_at_node_end())];
        let when = when.max(*last_arrival);
        *last_arrival = when;
        let at = event.is_at_node_end().then_some(link.node);
        self.schedule_at(when, SimEvent::ClientLink { at, link: number, event });
    }

    /// Sends a client's bytes to the node, and breaks or silences the connection at random.
    pub(super) fn send_on_link(&mut self, number: u64, mut bytes: Bytes) {
        let Some(link) = self.client_links.by_number.get_mut(&number).filter(|link| !link.is_closed && !link.is_silent)
        else {
            return;
        };
        let drawn_number = if self.faults_over { SENDS_PER_BREAK } else { self.rng.random_range(0..SENDS_PER_BREAK) };
        match drawn_number {
            0 => {
                link.is_closed = true;
                self.client_links.broken_count += 1;
                bytes.truncate(self.rng.random_range(0..=bytes.len()));
            }
            1 => {
                link.is_silent = true;
                self.client_links.broken_count += 1;
                return;
            }
            _ => {}
        }
        let send_number = link.sends_made;
        link.sends_made += 1;
        self.schedule_on_link(number, LinkEvent::ClientBytes(send_number, bytes));
        if drawn_number == 0 {
            self.trace_line(|| format!("connection {number} breaks"));
            self.schedule_on_link(number, LinkEvent::EndReachesNode);
            self.schedule_on_link(number, LinkEvent::EndReachesClient);
        }
    }

    /// Closes a connection at the client's end. The node notices, unless the connection is silent.
    pub(super) fn close_client_end(&mut self, number: u64) {
        let Some(link) = self.client_links.by_number.get_mut(&number).filter(|link| !link.is_closed) else { return };
        link.is_closed = true;
        if !link.is_silent {
            self.schedule_on_link(number, LinkEvent::EndReachesNode);
        }
    }

    /// Ends the connections of a process that has ended. The clients notice, unless the machine lost power.
    pub(super) fn end_links(&mut self, at: NodeId, lost_power: bool) {
        let incarnation = Some(self.hosts[&at].incarnation);
        let ends_with_process =
            |(_, link): &(&u64, &ClientLink)| link.node == at && link.incarnation == incarnation && !link.is_closed;
        let link_numbers: Vec<u64> =
            self.client_links.by_number.iter().filter(ends_with_process).map(|(number, _)| *number).collect();
        for number in link_numbers.into_iter().filter(|_| !lost_power) {
            self.close_node_end(number);
        }
    }

    /// Closes a connection at the node's end. The client notices, unless the connection is silent.
    fn close_node_end(&mut self, number: u64) {
        let Some(link) = self.client_links.by_number.get_mut(&number).filter(|link| !link.is_closed) else { return };
        link.is_closed = true;
        if !link.is_silent {
            self.schedule_on_link(number, LinkEvent::EndReachesClient);
        }
    }

    /// Handles an event at one end of a connection.
    pub(super) fn handle_link_event(&mut self, number: u64, event: LinkEvent) -> checks::Result<()> {
        let Some(link) = self.client_links.by_number.get(&number) else { return Ok(()) };
        let (client, to, incarnation) = (link.client, link.node, link.incarnation);
        match event {
            LinkEvent::ClientBytes(send_number, bytes) => self.receive_client_bytes(number, to, send_number, &bytes),
            LinkEvent::EndReachesNode if incarnation.is_some_and(|incarnation| self.is_running(to, incarnation)) => {
                self.deliver_event(to, Event::CallerGone(Caller::Client(FIRST_LINK_CALLER_ID + number)))
            }
            LinkEvent::EndReachesNode => Ok(()),
            LinkEvent::NodeBytes(_) if link.is_silent => Ok(()),
            LinkEvent::NodeBytes(bytes) => self.deliver_link_bytes(client, number, &bytes),
            LinkEvent::EndReachesClient => self.deliver_link_end(client, number),
        }
    }

    /// Handles a client's bytes at a node: first the hello, then requests.
    fn receive_client_bytes(&mut self, number: u64, to: NodeId, send_number: u64, bytes: &[u8]) -> checks::Result<()> {
        let incarnation = self.hosts[&to].process.as_ref().map(|_| self.hosts[&to].incarnation);
        let Some(link) = self.client_links.by_number.get_mut(&number) else { return Ok(()) };
        // If a paused process ends, the bytes that the process had not read are lost, so that later bytes of the client
        // do not continue the stream.
        let is_next_send = send_number == link.sends_arrived;
        link.sends_arrived = send_number + 1;
        if link.is_reset
            || !is_next_send
            || incarnation.is_none()
            || link.incarnation.is_some_and(|accepted| Some(accepted) != incarnation)
        {
            // The process that accepted this connection has ended, so the machine resets the connection.
            link.is_reset = true;
            self.close_node_end(number);
            return Ok(());
        }
        link.incarnation = incarnation;
        link.received_bytes.extend_from_slice(bytes);
        let undecodable_error = |error| format!("{to} cannot decode the bytes that a client sent: {error}");
        loop {
            let Some(link) = self.client_links.by_number.get_mut(&number) else { return Ok(()) };
            let Some(frame) =
                link.reader.next(&mut link.received_bytes).map_err(|error| undecodable_error(error.to_string()))?
            else {
                return Ok(());
            };
            if !std::mem::replace(&mut link.is_welcomed, true) {
                Hello::read(frame).map_err(|error| undecodable_error(error.to_string()))?;
                self.send_welcome(number, to);
                continue;
            }
            let frame = read_request_frame(frame).map_err(|error| undecodable_error(error.to_string()))?;
            let from = Caller::Client(FIRST_LINK_CALLER_ID + number);
            self.deliver_event(
                to,
                Event::Request { from, id: frame.id, forward: frame.forward, request: frame.request },
            )?;
            if self.hosts[&to].process.as_ref().map(|_| self.hosts[&to].incarnation) != incarnation {
                return Ok(()); // the process stopped because of this request
            }
        }
    }

    /// Answers a client's hello. The node accepts every client.
    fn send_welcome(&mut self, number: u64, at: NodeId) {
        let mut out = BytesMut::new();
        let disk = self.hosts[&at].disk_id;
        let welcome = Welcome {
            version: VERSION_MAX,
            cluster: super::host::CLUSTER_ID,
            node: at,
            disk,
            log_state: Default::default(),
        };
        welcome.put(&mut out);
        self.schedule_on_link(number, LinkEvent::NodeBytes(out.freeze()));
    }

    /// Sends a node's reply to a client, unless the connection is closed or silent, or an earlier process accepted it.
    pub(super) fn reply_on_link(&mut self, at: NodeId, caller: u64, id: u64, reply: &Reply) {
        let number = caller - FIRST_LINK_CALLER_ID;
        let incarnation = self.hosts[&at].incarnation;
        let accepts_reply =
            |link: &&ClientLink| !link.is_closed && !link.is_silent && link.incarnation == Some(incarnation);
        if self.client_links.by_number.get(&number).filter(accepts_reply).is_none() {
            return;
        }
        self.trace_line(|| format!("{at} answers request {id} of connection {number}: {reply:?}"));
        let mut bytes = BytesMut::new();
        put_reply_frame(&mut bytes, id, reply);
        self.fold_into_hash(&bytes);
        self.schedule_on_link(number, LinkEvent::NodeBytes(bytes.freeze()));
    }
}
