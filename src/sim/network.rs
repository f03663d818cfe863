//! A network that drops, delays, duplicates and reorders messages, partitions nodes, and breaks links in the middle of
//! a frame.

use crate::types::{NodeId, Time};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The kind of links between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// Byte streams like TCP: in order, and nothing is lost except by a broken link, which both ends notice.
    Stream,
    /// Single messages that may be lost, duplicated and reordered: harsher than TCP ever is.
    Datagram,
}

/// The properties of a network.
#[derive(Clone, Debug)]
pub struct NetworkProfile {
    /// The kind of links.
    pub tier: Tier,
    /// The shortest delay of a message.
    pub delay: Duration,
    /// The largest additional delay, drawn for each message.
    pub jitter: Duration,
    /// How many of a hundred messages are lost (datagrams only).
    pub loss: u32,
    /// How many of a hundred messages arrive twice (datagrams only).
    pub doubling: u32,
    /// How many of a hundred messages take twenty times as long, and hold up the messages behind them on a stream.
    pub stragglers: u32,
    /// How many of a hundred messages on a cut link arrive late, when the link may have healed or either end restarted,
    /// instead of never (datagrams only).
    pub late: u32,
}

/// How many times as long as usual a straggler takes.
const STRAGGLER_TIMES: u32 = 20;

/// A network on which one message in twenty takes longer than this does not deliver heartbeats in time.
const TIMELY: Duration = Duration::from_millis(150);

impl NetworkProfile {
    /// Whether heartbeats arrive within the shortest election timeout.
    pub fn is_timely(&self) -> bool {
        self.stragglers == 0 || (self.delay + self.jitter) * STRAGGLER_TIMES <= TIMELY
    }
}

/// How late a message on a cut link arrives, in milliseconds.
const LATE_MS: std::ops::RangeInclusive<u64> = 100..=4000;

/// Bytes that arrive, and when.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The time of arrival.
    pub at: Time,
    /// The run of the link. Bytes of an earlier run than the latest are ignored.
    pub link: u64,
    /// A part of the stream, or one message.
    pub bytes: Bytes,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    run: u64,
    last: Time,
    broken: bool,
}

/// All links between the nodes; each is one-way.
#[derive(Clone, Debug)]
pub struct Network {
    weather: NetworkProfile,
    links: BTreeMap<(NodeId, NodeId), Link>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

/// The bytes of one send.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether the packet arrives at most once, whatever the network is like. Raft tolerates duplicated messages. But
    /// of a client's request that one node forwards to another, the second copy may be refused as "not applied" when
    /// the first is in the log: a real link never delivers anything twice.
    pub once: bool,
}

impl Network {
    /// A network with these properties, without cuts.
    pub fn new(weather: NetworkProfile) -> Network {
        Network { weather, links: BTreeMap::new(), cuts: BTreeSet::new() }
    }

    /// The kind of its links.
    pub fn tier(&self) -> Tier {
        self.weather.tier
    }

    /// Nothing passes from `from` to `to` from now on.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Ends all cuts, losses, duplicates and stragglers.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weather.loss = 0;
        self.weather.doubling = 0;
        self.weather.stragglers = 0;
    }

    /// Ends all cuts; the other properties stay.
    pub fn end_cuts(&mut self) {
        self.cuts.clear();
    }

    /// The current run of the link.
    pub fn run(&self, from: NodeId, to: NodeId) -> u64 {
        self.links.get(&(from, to)).map_or(0, |link| link.run)
    }

    /// Breaks the link: bytes in flight on it never arrive.
    pub fn break_link(&mut self, from: NodeId, to: NodeId) {
        let link = self.links.entry((from, to)).or_default();
        link.run += 1;
        link.broken = false;
    }

    /// Draws the delay of a message.
    pub fn delay(&self, rng: &mut SmallRng) -> Duration {
        let jitter = Duration::from_nanos(rng.random_range(0..=self.weather.jitter.as_nanos() as u64));
        let delay = self.weather.delay + jitter;
        if rng.random_range(0..100) < self.weather.stragglers { delay * STRAGGLER_TIMES } else { delay }
    }

    /// Sends a packet. Returns its arrivals: none, one, in parts, or twice unless it is `once`.
    pub fn send(&mut self, now: Time, rng: &mut SmallRng, (from, to): (NodeId, NodeId), said: Packet) -> Vec<Arrival> {
        let Packet { bytes, once } = said;
        let is_cut = self.cuts.contains(&(from, to));
        let at = now + self.delay(rng);
        match self.weather.tier {
            Tier::Datagram => {
                let mut arrivals = Vec::new();
                if is_cut && self.weather.late > 0 && rng.random_range(0..100) < self.weather.late {
                    let at = at + Duration::from_millis(rng.random_range(LATE_MS));
                    arrivals.push(Arrival { at, link: 0, bytes: bytes.clone() });
                }
                if !is_cut && rng.random_range(0..100) >= self.weather.loss {
                    arrivals.push(Arrival { at, link: 0, bytes: bytes.clone() });
                    if !once && rng.random_range(0..100) < self.weather.doubling {
                        arrivals.push(Arrival { at: now + self.delay(rng) * 3, link: 0, bytes });
                    }
                }
                arrivals
            }
            Tier::Stream => {
                let link = self.links.entry((from, to)).or_default();
                if is_cut {
                    // The stream now lacks bytes: nothing after them can ever be read.
                    link.broken = true;
                    return Vec::new();
                }
                let at = at.max(link.last);
                link.last = at;
                let (head, tail) = match rng.random_range(0..8) {
                    0 => (bytes.slice(..bytes.len() / 3), bytes.slice(bytes.len() / 3..)),
                    _ => (bytes, Bytes::new()),
                };
                let arrival = |bytes| Arrival { at, link: link.run, bytes };
                [head, tail].into_iter().filter(|part| !part.is_empty()).map(arrival).collect()
            }
        }
    }

    /// Whether nothing passes in that direction.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether the stream lacks bytes and must be dialed again, and can be.
    pub fn must_redial(&self, from: NodeId, to: NodeId) -> bool {
        let broken = self.links.get(&(from, to)).is_some_and(|link| link.broken);
        broken && !self.cuts.contains(&(from, to))
    }
}
