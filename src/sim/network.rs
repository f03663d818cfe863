//! A network that drops, delays, duplicates and reorders messages, partitions nodes, and breaks links in the middle of
//! a frame.

use crate::types::{NodeId, Time};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the links between nodes carry: byte streams or single messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// Byte streams like TCP: in order, and nothing is lost except by a broken link, which both ends notice.
    Stream,
    /// Single messages that may be lost, duplicated and reordered: harsher than TCP ever is.
    Datagram,
}

/// How a network delays, loses, duplicates and reorders what is sent over it.
#[derive(Clone, Debug)]
pub struct NetworkProfile {
    /// Whether links are byte streams or carry single messages.
    pub link_kind: LinkKind,
    /// The shortest delay of a message.
    pub delay: Duration,
    /// The largest additional delay, drawn for each message.
    pub jitter: Duration,
    /// The percentage of messages that are lost (datagrams only).
    pub loss_percent: u32,
    /// The percentage of messages that arrive twice (datagrams only).
    pub duplicate_percent: u32,
    /// The percentage of messages that are stragglers: they take twenty times as long, and on a stream also delay the
    /// messages behind them.
    pub straggler_percent: u32,
    /// The percentage of messages sent on a cut link that arrive late instead of never (datagrams only). By then the
    /// cut may have ended, or either node restarted.
    pub late_on_cut_percent: u32,
}

/// How many times as long as another message a straggler takes.
const STRAGGLER_FACTOR: u32 = 20;

/// The longest delay of a straggler with which heartbeats still arrive within the shortest election timeout.
const TIMELY_DELAY_MAX: Duration = Duration::from_millis(150);

impl NetworkProfile {
    /// Whether heartbeats arrive within the shortest election timeout.
    pub fn is_timely(&self) -> bool {
        self.straggler_percent == 0 || (self.delay + self.jitter) * STRAGGLER_FACTOR <= TIMELY_DELAY_MAX
    }
}

/// How late a message sent on a cut link arrives, in milliseconds.
const LATE_DELAY_MS: std::ops::RangeInclusive<u64> = 100..=4000;

/// Bytes that will arrive at the other end of a link.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The simulated time at which the bytes arrive.
    pub at: Time,
    /// The generation of a stream's link; 0 for a datagram. The receiver ignores bytes of earlier generations than the
    /// current one.
    pub generation: u64,
    /// A part of the stream, or one message.
    pub bytes: Bytes,
}

/// The link from one node to another; the opposite direction is another link.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// How often the link was broken.
    generation: u64,
    /// The time when the last bytes sent on the stream arrive: bytes sent later arrive no earlier.
    last_arrival_time: Time,
    /// Whether the stream lacks bytes that were sent during a cut.
    lacks_bytes: bool,
}

/// All links between the nodes; each is one-way.
#[derive(Clone, Debug)]
pub struct Network {
    profile: NetworkProfile,
    /// The links by sender and receiver. A link that is missing here was never broken.
    links: BTreeMap<(NodeId, NodeId), Link>,
    /// The links that are cut, each as its sender and receiver.
    cuts: BTreeSet<(NodeId, NodeId)>,
}

/// The bytes of one send, and how often they may arrive.
#[derive(Debug)]
pub struct Packet {
    /// One or more whole frames.
    pub bytes: Bytes,
    /// Whether the packet is never duplicated, even on a network that duplicates messages.
    ///
    /// Raft tolerates duplicated messages. But if a client's request that one node forwards to another arrived twice,
    /// the second copy might be refused as "not applied" while the first copy is in the log. A real link never delivers
    /// anything twice.
    pub at_most_once: bool,
}

impl Network {
    /// A network without cuts.
    pub fn new(profile: NetworkProfile) -> Network {
        Network { profile, links: BTreeMap::new(), cuts: BTreeSet::new() }
    }

    /// Whether the network's links are byte streams or carry single messages.
    pub fn link_kind(&self) -> LinkKind {
        self.profile.link_kind
    }

    /// Cuts the link from `from` to `to`: nothing sent on it arrives until the cuts end.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Ends all cuts, and lets no more messages be lost, duplicated or become stragglers.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.profile.loss_percent = 0;
        self.profile.duplicate_percent = 0;
        self.profile.straggler_percent = 0;
    }

    /// Ends all cuts.
    pub fn end_cuts(&mut self) {
        self.cuts.clear();
    }

    /// The current generation of the link: how often it was broken.
    pub fn generation(&self, from: NodeId, to: NodeId) -> u64 {
        self.links.get(&(from, to)).map_or(0, |link| link.generation)
    }

    /// Breaks the link and begins its next generation: bytes in flight never arrive.
    pub fn break_link(&mut self, from: NodeId, to: NodeId) {
        let link = self.links.entry((from, to)).or_default();
        link.generation += 1;
        link.lacks_bytes = false;
    }

    /// Draws the delay of a message: the shortest delay plus a random jitter, many times as long for a straggler.
    pub fn delay(&self, rng: &mut SmallRng) -> Duration {
        let jitter = Duration::from_nanos(rng.random_range(0..=self.profile.jitter.as_nanos() as u64));
        let delay = self.profile.delay + jitter;
        if rng.random_range(0..100) < self.profile.straggler_percent { delay * STRAGGLER_FACTOR } else { delay }
    }

    /// Sends a packet. Returns its arrivals: none; one; several, if a stream delivers the packet in parts; or
    /// two, if the packet is duplicated.
    pub fn send(
        &mut self,
        now: Time,
        rng: &mut SmallRng,
        (from, to): (NodeId, NodeId),
        packet: Packet,
    ) -> Vec<Arrival> {
        let Packet { bytes, at_most_once } = packet;
        let is_cut = self.cuts.contains(&(from, to));
        let at = now + self.delay(rng);
        match self.profile.link_kind {
            LinkKind::Datagram => {
                let mut arrivals = Vec::new();
                if is_cut
                    && self.profile.late_on_cut_percent > 0
                    && rng.random_range(0..100) < self.profile.late_on_cut_percent
                {
                    let at = at + Duration::from_millis(rng.random_range(LATE_DELAY_MS));
                    arrivals.push(Arrival { at, generation: 0, bytes: bytes.clone() });
                }
                if !is_cut && rng.random_range(0..100) >= self.profile.loss_percent {
                    arrivals.push(Arrival { at, generation: 0, bytes: bytes.clone() });
                    if !at_most_once && rng.random_range(0..100) < self.profile.duplicate_percent {
                        arrivals.push(Arrival { at: now + self.delay(rng) * 3, generation: 0, bytes });
                    }
                }
                arrivals
            }
            LinkKind::Stream => {
                let link = self.links.entry((from, to)).or_default();
                if is_cut {
                    // The stream now lacks these bytes, so that the receiver could decode nothing after them.
                    link.lacks_bytes = true;
                    return Vec::new();
                }
                let at = at.max(link.last_arrival_time);
                link.last_arrival_time = at;
                let (head, tail) = match rng.random_range(0..8) {
                    0 => (bytes.slice(..bytes.len() / 3), bytes.slice(bytes.len() / 3..)),
                    _ => (bytes, Bytes::new()),
                };
                let arrival = |bytes| Arrival { at, generation: link.generation, bytes };
                [head, tail].into_iter().filter(|part| !part.is_empty()).map(arrival).collect()
            }
        }
    }

    /// Whether the link from `from` to `to` is cut.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether the stream from `from` to `to` lacks bytes that were sent during a cut, and the cut has ended, so that
    /// the stream must be dialed again.
    pub fn must_redial(&self, from: NodeId, to: NodeId) -> bool {
        let lacks_bytes = self.links.get(&(from, to)).is_some_and(|link| link.lacks_bytes);
        lacks_bytes && !self.cuts.contains(&(from, to))
    }
}
