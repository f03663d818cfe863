//! Counts of clients and requests by protocol, for metrics. Only the event loop counts, so the counts need no lock.

use crate::api::figures::{Failure, GatewayCounters, RequestError};
use crate::api::{Reply, Request};
use crate::pipeline::RequestTally;
use std::collections::BTreeMap;

/// A protocol that clients use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientProtocol {
    /// drave's own protocol, on the native port.
    Native,
    /// The Redis protocol, on the port of the Redis gateway.
    Redis,
    /// HTTP, on the port of the HTTP gateway.
    Http,
}

impl ClientProtocol {
    const ALL: [ClientProtocol; 3] = [ClientProtocol::Native, ClientProtocol::Redis, ClientProtocol::Http];

    /// The value of the label `gateway` in metrics.
    fn name(self) -> &'static str {
        match self {
            ClientProtocol::Native => "native",
            ClientProtocol::Redis => "redis",
            ClientProtocol::Http => "http",
        }
    }
}

/// The counts of one protocol since the start of the process. The keys of the maps are names of enum variants, so the
/// maps stay small.
#[derive(Debug, Default)]
struct ProtocolCounts {
    clients_accepted: u64,
    clients_rejected: u64,
    requests: u64,
    writes: u64,
    reads: u64,
    refusals_by_reason: BTreeMap<&'static str, u64>,
    errors_by_kind: BTreeMap<&'static str, u64>,
}

/// The counts of all protocols since the start of the process.
#[derive(Debug, Default)]
pub struct ProtocolCounters {
    counts: [ProtocolCounts; ClientProtocol::ALL.len()],
}

impl ProtocolCounters {
    fn counts_mut(&mut self, protocol: ClientProtocol) -> &mut ProtocolCounts {
        &mut self.counts[protocol as usize]
    }

    /// Counts an accepted client. In a protocol with a handshake, a client is accepted after the handshake.
    pub fn count_accepted_client(&mut self, protocol: ClientProtocol) {
        self.counts_mut(protocol).clients_accepted += 1;
    }

    /// Counts a client that was rejected because the maximum number of clients was connected.
    pub fn count_rejected_client(&mut self, protocol: ClientProtocol) {
        self.counts_mut(protocol).clients_rejected += 1;
    }

    /// Adds the counts that a gateway connection has collected since its last call of `take_tally`.
    pub fn add_tally(&mut self, protocol: ClientProtocol, tally: RequestTally) {
        let counts = self.counts_mut(protocol);
        counts.requests += u64::from(tally.requests);
        counts.writes += u64::from(tally.writes);
        counts.reads += u64::from(tally.reads);
        tally.failures.into_iter().for_each(|failure| counts.count_failure(failure));
    }

    /// Counts a request of a native client, as a write, a read, or neither.
    pub fn count_request(&mut self, request: &Request) {
        let counts = self.counts_mut(ClientProtocol::Native);
        counts.requests += 1;
        match request {
            Request::Propose { .. } => counts.writes += 1,
            Request::Query { .. } => counts.reads += 1,
            Request::Status
            | Request::Snapshot
            | Request::ReadSnapshot { .. }
            | Request::Change { .. }
            | Request::Transfer { .. }
            | Request::LogLevel(_)
            | Request::Scrub => {}
        }
    }

    /// Counts the reply to a native client, if it is a failure.
    pub fn count_reply_failure(&mut self, reply: &Reply) {
        match reply {
            Reply::Refused(refusal) => {
                self.counts_mut(ClientProtocol::Native).count_failure(Failure::Refused(refusal.name()))
            }
            Reply::Unknown => {
                self.counts_mut(ClientProtocol::Native).count_failure(Failure::Error(RequestError::UnknownOutcome))
            }
            _ => {}
        }
    }

    /// Counts a malformed message of a native client.
    pub fn count_malformed_message(&mut self) {
        self.counts_mut(ClientProtocol::Native).count_failure(Failure::Error(RequestError::Malformed));
    }

    /// The number of clients accepted since the start of the process, including those that have disconnected.
    pub fn accepted_clients(&self, protocol: ClientProtocol) -> u64 {
        self.counts[protocol as usize].clients_accepted
    }

    /// The number of requests received since the start of the process, including failed ones.
    pub fn received_requests(&self, protocol: ClientProtocol) -> u64 {
        self.counts[protocol as usize].requests
    }

    /// The counts of each protocol, by its label.
    pub fn figures(&self) -> BTreeMap<String, GatewayCounters> {
        let owned_counts =
            |counts: &BTreeMap<&str, u64>| counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let to_figures = |counts: &ProtocolCounts| GatewayCounters {
            accepted: counts.clients_accepted,
            turned_away: counts.clients_rejected,
            writes: counts.writes,
            reads: counts.reads,
            others: counts.requests.saturating_sub(counts.writes + counts.reads),
            refused: owned_counts(&counts.refusals_by_reason),
            errors: owned_counts(&counts.errors_by_kind),
        };
        ClientProtocol::ALL
            .iter()
            .zip(&self.counts)
            .map(|(protocol, counts)| (protocol.name().to_owned(), to_figures(counts)))
            .collect()
    }
}

impl ProtocolCounts {
    fn count_failure(&mut self, failure: Failure) {
        let count = match failure {
            Failure::Refused(reason) => self.refusals_by_reason.entry(reason),
            Failure::Error(kind) => self.errors_by_kind.entry(kind.name()),
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
        let mut counters = ProtocolCounters::default();
        counters.count_request(&Request::Propose { op: Default::default() });
        counters.count_request(&Request::Status);
        counters.count_reply_failure(&Reply::Refused(Refusal::Busy));
        counters.count_reply_failure(&Reply::Unknown);
        let failures = vec![Failure::Refused("stopping"), Failure::Error(RequestError::Malformed)];
        counters.add_tally(ClientProtocol::Redis, RequestTally { requests: 5, writes: 1, reads: 2, failures });
        let figures = counters.figures();
        let native = &figures["native"];
        assert_eq!((native.writes, native.reads, native.others), (1, 0, 1));
        assert_eq!((native.refused["busy"], native.errors["unknown_outcome"]), (1, 1));
        let redis = &figures["redis"];
        assert_eq!((redis.writes, redis.reads, redis.others), (1, 2, 2));
        assert_eq!((redis.refused["stopping"], redis.errors["malformed"]), (1, 1));
        assert_eq!(figures["http"], GatewayCounters::default());
    }
}
