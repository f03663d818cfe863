//! How the node is, as figures for Prometheus: under the names that etcd made known, in base units.
//!
//! Nothing is counted here. What the node knows of itself is put into words when somebody asks.

use crate::api::figures::Buckets;
use crate::api::{RoleName, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// What the text is: OpenMetrics, which Prometheus asks for first.
pub const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const SECOND: f64 = 1e9;
/// Exemplars are what has these labels; there are none.
type NoLabels = [(&'static str, &'static str); 0];

/// That status as the text of an exposition.
pub fn tell(status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("drave");
    registry.register_collector(Box::new(Told(status.clone())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// What is told.
#[derive(Debug)]
struct Told(Status);

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, mut out) = (&self.0, Out(encoder));
        cluster(status, &mut out)?;
        proposals(status, &mut out)?;
        disk(status, &mut out)?;
        peers(status, &mut out)?;
        process(status, &mut out)
    }
}

fn cluster(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    out.gauge("has_leader", "Whether this node sees a leader.", i64::from(status.leader.is_some()))?;
    out.gauge("is_leader", "Whether this node leads.", i64::from(status.role == RoleName::Leader))?;
    out.gauge("term", "The term this node is in.", status.term as i64)?;
    let changes = status.figures.leader_changes;
    out.counter("leader_changes_seen", "How often this node has seen another leader than before.", changes)?;
    let elections = status.elections.iter().map(|(reason, count)| (reason.clone(), *count));
    out.counters("elections", "Elections this node has begun, by what made it.", "reason", elections)?;
    out.gauge("sessions", "Sessions that are open.", status.sessions as i64)
}

fn proposals(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let figures = &status.figures;
    out.counter("proposals_committed", "Entries that are committed, since the cluster began.", status.commit)?;
    out.counter("proposals_applied", "Entries that are applied here, since the cluster began.", status.applied)?;
    out.gauge("proposals_pending", "Proposals that wait to be applied.", figures.proposals_pending as i64)?;
    let failed = "Proposals that were turned away, or whose fate is unknown.";
    out.counter("proposals_failed", failed, figures.proposals_failed)?;
    out.gauge("commit_index", "The last index known to be committed.", status.commit as i64)?;
    out.gauge("applied_index", "The last index applied here.", status.applied as i64)?;
    let duplicates = "Commands that had been executed before, and were answered from memory.";
    out.counter("session_duplicates", duplicates, figures.session_duplicates)?;
    let commit = "From the first proposal of a write to its being committed, on a leader.";
    out.durations("commit_duration_seconds", commit, &figures.commit_ns)
}

fn disk(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let figures = &status.figures;
    out.durations("wal_fsync_duration_seconds", "Syncs of the journal.", &figures.fsync_ns)?;
    out.counter("wal_write_bytes", "Bytes written to the journal.", status.disk.bytes)?;
    out.histogram("wal_batch_entries", "Entries that a sync made durable.", 1.0, &figures.batch_entries)?;
    let oldest = status.disk.oldest_unsynced_ms as f64 / 1000.0;
    out.gauge("wal_oldest_unsynced_seconds", "Age of the oldest write that is not durable.", oldest)?;
    let reclaimable = "Bytes of the log that a snapshot holds as well.";
    out.gauge("wal_reclaimable_bytes", reclaimable, status.log.reclaimable as i64)?;
    let fsync = "Whether what is answered is durable: 0 under --unsafe-no-fsync.";
    out.gauge("wal_fsync_enabled", fsync, i64::from(status.fsync))?;
    out.gauge("disk_low_space", "Whether the disk has too little room.", i64::from(status.low_space))?;
    let snapshot = "Snapshots of this node's state, from freezing it to the file being durable.";
    out.durations("snapshot_duration_seconds", snapshot, &figures.snapshot_ns)
}

fn peers(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let all = |value: fn(&crate::api::PeerStatus) -> u64| {
        status.peers.iter().map(move |peer| (peer.node.to_string(), value(peer) as i64))
    };
    let lag = "On a leader: entries that the peer does not hold durably, as far as it is known.";
    out.gauges("peer_match_lag_entries", lag, "peer", all(|peer| peer.lag))?;
    let inflight = "On a leader: bytes sent to the peer that it has not acknowledged.";
    out.gauges("peer_inflight_bytes", inflight, "peer", all(|peer| peer.inflight_bytes))?;
    let losses = "On a leader: how often the peer had lost entries that it had acknowledged.";
    out.counters(
        "peer_lost_acknowledged",
        losses,
        "peer",
        status.peers.iter().map(|p| (p.node.to_string(), p.losses)),
    )?;
    let sent = status.figures.sent_bytes.iter().map(|(peer, bytes)| (peer.to_string(), *bytes));
    out.counters("peer_sent_bytes", "Bytes written to the peer.", "peer", sent)?;
    out.round_trips(status)
}

fn process(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let turns = "Turns of the reactor: for so long nobody else was heard.";
    out.durations("reactor_loop_duration_seconds", turns, &status.figures.turn_ns)?;
    let connections = status.figures.connections.iter().map(|(door, count)| (door.clone(), *count as i64));
    out.gauges("connections", "Connections, by where they came in.", "door", connections)?;
    let expiries = [("own", status.certificate_expires), ("authority", status.authority_expires)];
    let expiries = expiries.into_iter().filter_map(|(which, at)| Some((which.to_owned(), at? as i64)));
    let expiry = "When a certificate ends to be valid: the node's own, or its authority's; in seconds since 1970.";
    out.gauges("certificate_expiry_timestamp_seconds", expiry, "certificate", expiries)?;
    let version = [(env!("CARGO_PKG_VERSION").to_owned(), 1)];
    out.gauges("build_info", "Which version this is.", "version", version.into_iter())
}

/// Says one family after the other; one of which there is nothing to say, not at all: some who read it stumble there.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (String, i64)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (is, value) in values {
            family.encode_family(&[(label, is)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut counter = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter.encode_counter::<NoLabels, _, u64>(&value, None)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (is, value) in values {
            family.encode_family(&[(label, is)])?.encode_counter::<NoLabels, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, histogram: &Buckets) -> fmt::Result {
        self.histogram(name, help, SECOND, histogram)
    }

    /// A histogram, in units of so many of what it counts.
    fn histogram(&mut self, name: &str, help: &str, unit: f64, histogram: &Buckets) -> fmt::Result {
        let (sum, buckets) = buckets(histogram, unit);
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabels>(sum, histogram.count(), &buckets, None)
    }

    fn round_trips(&mut self, status: &Status) -> fmt::Result {
        if status.figures.round_trip_ns.is_empty() {
            return Ok(());
        }
        let (name, help) = ("peer_round_trip_time_seconds", "On a leader: from a heartbeat to its answer.");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (peer, histogram) in &status.figures.round_trip_ns {
            let (sum, buckets) = buckets(histogram, SECOND);
            let labels = [("peer", peer.to_string())];
            let mut one = family.encode_family(&labels)?;
            one.encode_histogram::<NoLabels>(sum, histogram.count(), &buckets, None)?;
        }
        Ok(())
    }
}

/// The sum and the buckets, in units of so many.
fn buckets(histogram: &Buckets, unit: f64) -> (f64, Vec<(f64, u64)>) {
    let bounds = histogram.bounds.iter().map(|bound| *bound as f64 / unit).chain([f64::INFINITY]);
    (histogram.sum as f64 / unit, bounds.zip(histogram.counts.iter().copied()).collect())
}
