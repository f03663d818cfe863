//! Request counts of each gateway, for metrics. They belong to one thread and need no lock.

use crate::api::figures::{Failure, GatewayFigures, RequestError};
use crate::api::{Reply, Request};
use crate::pipeline::Tally;
use std::collections::BTreeMap;

/// An interface for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gateway {
    /// drave's own protocol.
    Native,
    /// The Redis gateway.
    Redis,
    /// The HTTP gateway.
    Http,
}

impl Gateway {
    const ALL: [Gateway; 3] = [Gateway::Native, Gateway::Redis, Gateway::Http];

    /// Its label in metrics.
    fn name(self) -> &'static str {
        match self {
            Gateway::Native => "native",
            Gateway::Redis => "redis",
            Gateway::Http => "http",
        }
    }
}

/// Counts of one gateway. The keys of the maps are names of enum variants, so there are few.
#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    turned_away: u64,
    requests: u64,
    writes: u64,
    reads: u64,
    refused: BTreeMap<&'static str, u64>,
    errors: BTreeMap<&'static str, u64>,
}

/// Counts of all gateways since the start.
#[derive(Debug, Default)]
pub struct Counting {
    counts: [Counts; Gateway::ALL.len()],
}

impl Counting {
    fn counts_of(&mut self, gateway: Gateway) -> &mut Counts {
        &mut self.counts[gateway as usize]
    }

    /// Counts an accepted client.
    pub fn accepted(&mut self, gateway: Gateway) {
        self.counts_of(gateway).accepted += 1;
    }

    /// Counts a client that was rejected because there are too many.
    pub fn turned_away(&mut self, gateway: Gateway) {
        self.counts_of(gateway).turned_away += 1;
    }

    /// Adds the counts of a gateway connection since they were last collected.
    pub fn add(&mut self, gateway: Gateway, tally: Tally) {
        let counts = self.counts_of(gateway);
        counts.requests += u64::from(tally.requests);
        counts.writes += u64::from(tally.writes);
        counts.reads += u64::from(tally.reads);
        tally.failures.into_iter().for_each(|failure| counts.failed(failure));
    }

    /// Counts a request of a native client.
    pub fn asked(&mut self, request: &Request) {
        let counts = self.counts_of(Gateway::Native);
        counts.requests += 1;
        match request {
            Request::Propose { .. } => counts.writes += 1,
            Request::Query { .. } => counts.reads += 1,
            Request::Status
            | Request::Snapshot
            | Request::ReadSnapshot { .. }
            | Request::Change { .. }
            | Request::Transfer { .. }
            | Request::LogLevel(_) => {}
        }
    }

    /// Counts the reply to a native client, if it is a failure.
    pub fn answered(&mut self, reply: &Reply) {
        match reply {
            Reply::Refused(refusal) => self.counts_of(Gateway::Native).failed(Failure::Refused(refusal.name())),
            Reply::Unknown => self.counts_of(Gateway::Native).failed(Failure::Wrong(RequestError::UnknownOutcome)),
            _ => {}
        }
    }

    /// Counts a malformed message of a native client.
    pub fn malformed(&mut self) {
        self.counts_of(Gateway::Native).failed(Failure::Wrong(RequestError::Malformed));
    }

    /// How many clients that gateway has accepted.
    pub fn clients(&self, gateway: Gateway) -> u64 {
        self.counts[gateway as usize].accepted
    }

    /// How many requests that gateway has received.
    pub fn requests(&self, gateway: Gateway) -> u64 {
        self.counts[gateway as usize].requests
    }

    /// All counts, by gateway.
    pub fn figures(&self) -> BTreeMap<String, GatewayFigures> {
        let named = |counts: &BTreeMap<&str, u64>| counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let of = |counts: &Counts| GatewayFigures {
            accepted: counts.accepted,
            turned_away: counts.turned_away,
            writes: counts.writes,
            reads: counts.reads,
            others: counts.requests.saturating_sub(counts.writes + counts.reads),
            refused: named(&counts.refused),
            errors: named(&counts.errors),
        };
        Gateway::ALL.iter().zip(&self.counts).map(|(gateway, counts)| (gateway.name().to_owned(), of(counts))).collect()
    }
}

impl Counts {
    fn failed(&mut self, failure: Failure) {
        let count = match failure {
            Failure::Refused(reason) => self.refused.entry(reason),
            Failure::Wrong(kind) => self.errors.entry(kind.name()),
        };
        *count.or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Refusal;

    #[test]
    fn requests_are_counted_by_kind_and_failures_by_name() {
        let mut counting = Counting::default();
        counting.asked(&Request::Propose { op: Default::default() });
        counting.asked(&Request::Status);
        counting.answered(&Reply::Refused(Refusal::Busy));
        counting.answered(&Reply::Unknown);
        let failures = vec![Failure::Refused("stopping"), Failure::Wrong(RequestError::Malformed)];
        counting.add(Gateway::Redis, Tally { requests: 5, writes: 1, reads: 2, failures });
        let told = counting.figures();
        let native = &told["native"];
        assert_eq!((native.writes, native.reads, native.others), (1, 0, 1));
        assert_eq!((native.refused["busy"], native.errors["unknown_outcome"]), (1, 1));
        let redis = &told["redis"];
        assert_eq!((redis.writes, redis.reads, redis.others), (1, 2, 2));
        assert_eq!((redis.refused["stopping"], redis.errors["malformed"]), (1, 1));
        assert_eq!(told["http"], GatewayFigures::default());
    }
}
