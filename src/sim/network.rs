//! A network that drops, delays, doubles, reorders, partitions, and breaks links in the middle of a
//! frame.

use crate::types::{NodeId, Time};
use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the links between nodes are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// Byte streams, as TCP: in order, nothing lost but by a broken link, which both ends notice.
    Stream,
    /// Single messages, lost, doubled and overtaking one another: harsher than TCP ever is.
    Datagram,
}

/// How bad it is.
#[derive(Clone, Debug)]
pub struct NetworkProfile {
    /// What the links are like.
    pub tier: Tier,
    /// The shortest way of a message.
    pub delay: Duration,
    /// What may come on top of it, drawn for each message.
    pub jitter: Duration,
    /// How many of a hundred messages are lost (datagrams only).
    pub loss: u32,
    /// How many of a hundred come twice (datagrams only).
    pub doubling: u32,
    /// How many of a hundred take twenty times as long, and hold up what is behind them on a stream.
    pub stragglers: u32,
    /// How many of a hundred messages on a cut link arrive late, when the link may have healed or either end restarted,
    /// instead of never (datagrams only).
    pub late: u32,
}

/// So many times as long as others do some messages take.
const STRAGGLER_TIMES: u32 = 20;

/// A network on which one message in twenty takes longer than this is not one on which a leader is heard in time.
const TIMELY: Duration = Duration::from_millis(150);

impl NetworkProfile {
    /// Whether heartbeats arrive within the shortest election timeout.
    pub fn is_timely(&self) -> bool {
        self.stragglers == 0 || (self.delay + self.jitter) * STRAGGLER_TIMES <= TIMELY
    }
}

/// How late a message on a cut link arrives, at least and at most, in milliseconds.
const LATE_MS: std::ops::RangeInclusive<u64> = 100..=4000;

/// What arrives, and when.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When.
    pub at: Time,
    /// On which run of the link; what arrives on an earlier one than the latest is not heard.
    pub link: u64,
    /// Some bytes of the stream, or one message.
    pub bytes: Bytes,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    run: u64,
    last: Time,
    broken: bool,
}

/// All the links between the nodes, each one-way.
#[derive(Clone, Debug)]
pub struct Network {
    weather: NetworkProfile,
    links: BTreeMap<(NodeId, NodeId), Link>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

/// What is sent.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether it comes once or not at all, whatever the network is like. The consensus survives a message that comes
    /// twice. Of a client's request that one node passes on to another, the second copy may be refused, "not applied",
    /// when the first is in the log: no link of ours says anything twice.
    pub once: bool,
}

impl Network {
    /// A network of that kind, whole.
    pub fn new(weather: NetworkProfile) -> Network {
        Network { weather, links: BTreeMap::new(), cuts: BTreeSet::new() }
    }

    /// What its links are like.
    pub fn tier(&self) -> Tier {
        self.weather.tier
    }

    /// Nothing passes from one to the other from now on.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    /// Everything passes again, and nothing is lost or doubled any more.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weather.loss = 0;
        self.weather.doubling = 0;
        self.weather.stragglers = 0;
    }

    /// The cuts are mended, the weather stays.
    pub fn mend(&mut self) {
        self.cuts.clear();
    }

    /// The run of the link that is in use.
    pub fn run(&self, from: NodeId, to: NodeId) -> u64 {
        self.links.get(&(from, to)).map_or(0, |link| link.run)
    }

    /// The link breaks: what is on its way on it is never heard.
    pub fn break_link(&mut self, from: NodeId, to: NodeId) {
        let link = self.links.entry((from, to)).or_default();
        link.run += 1;
        link.broken = false;
    }

    /// How long a message takes just now.
    pub fn delay(&self, rng: &mut SmallRng) -> Duration {
        let jitter = Duration::from_nanos(rng.random_range(0..=self.weather.jitter.as_nanos() as u64));
        let delay = self.weather.delay + jitter;
        if rng.random_range(0..100) < self.weather.stragglers { delay * STRAGGLER_TIMES } else { delay }
    }

    /// Sends it: what arrives of it, perhaps nothing, perhaps in parts, perhaps twice unless it is said `once`.
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
                    // The stream now lacks something: nothing more can be heard on it, ever.
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

    /// Whether nothing passes that way.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Whether the stream lacks something and must be dialed anew, and can be.
    pub fn must_redial(&self, from: NodeId, to: NodeId) -> bool {
        let broken = self.links.get(&(from, to)).is_some_and(|link| link.broken);
        broken && !self.cuts.contains(&(from, to))
    }
}
