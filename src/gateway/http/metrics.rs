//! Metrics for Prometheus, under the names that etcd established, in base units.
//!
//! Nothing is counted here: the text is generated from the node's status at each request.

use super::exposition::ExpositionFormat;
use crate::api::figures::{Buckets, GatewayFigures};
use crate::api::{RoleName, Status};
use crate::gateway::process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;

const SECOND: f64 = 1e9;
/// The type of an exemplar's labels. There are no exemplars.
type NoLabels = [(&'static str, &'static str); 0];
/// The labels of a sample: names and values.
type Labels = Vec<(&'static str, String)>;

/// Formats a status as metrics in the given format. `keys` is the number of keys, and of those with an expiry, if
/// known.
pub fn tell(status: &Status, keys: Option<(u64, u64)>, form: ExpositionFormat) -> Result<String, fmt::Error> {
    let told = |what| Box::new(Metric { status: status.clone(), keys, form, what });
    let mut registry = Registry::with_prefix("drave");
    registry.register_collector(told(MetricSource::Node));
    // Metrics whose names are the same for every program, so without the prefix.
    let mut common = Registry::default();
    common.register_collector(told(MetricSource::Process));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    text::encode_registry(&mut text, &common)?;
    if form == ExpositionFormat::OpenMetrics {
        text::encode_eof(&mut text)?;
    }
    Ok(text)
}

/// A collector of metrics from one status.
#[derive(Debug)]
struct Metric {
    status: Status,
    keys: Option<(u64, u64)>,
    form: ExpositionFormat,
    what: MetricSource,
}

/// Which metrics a collector covers.
#[derive(Clone, Copy, Debug)]
enum MetricSource {
    Node,
    Process,
}

impl Collector for Metric {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, mut out) = (&self.status, Out { encoder, form: self.form });
        if matches!(self.what, MetricSource::Process) {
            return common(status, &mut out);
        }
        cluster(status, &mut out)?;
        proposals(status, &mut out)?;
        state(status, self.keys, &mut out)?;
        disk(status, &mut out)?;
        snapshots(status, &mut out)?;
        peers(status, &mut out)?;
        process(status, &mut out)?;
        gateways(status, &mut out)
    }
}

fn cluster(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    out.gauge("has_leader", "Whether this node sees a leader.", i64::from(status.leader.is_some()))?;
    out.gauge("is_leader", "Whether this node leads.", i64::from(leads(status)))?;
    out.gauge("term", "The term this node is in.", status.term as i64)?;
    let changes = status.figures.leader_changes;
    out.counter("leader_changes_seen", "How often this node has seen another leader than before.", changes)?;
    let elections = status.elections.iter().map(|(reason, count)| (vec![("reason", reason.clone())], *count));
    out.counters("elections", "Elections this node has begun, by what made it.", elections)?;
    let voters = status.members.iter().filter(|member| member.kind != "learner");
    out.gauge("voters", "Members that vote, as this node knows it.", voters.clone().count() as i64)?;
    if leads(status) {
        let heard = voters.filter(|member| member.node == status.node || is_heard(status, member.node)).count();
        let help = "On a leader: voters heard within the longest election timeout, itself among them.";
        out.gauge("voters_heard", help, heard as i64)?;
    }
    out.gauge("sessions", "Sessions that are open.", status.sessions as i64)
}

fn leads(status: &Status) -> bool {
    status.role == RoleName::Leader
}

fn is_heard(status: &Status, node: u64) -> bool {
    let heard = status.peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.heard_ms);
    heard.is_some_and(|ms| ms as f64 <= status.timing.election_max_ms)
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

/// Metrics of the state machine's contents, if they are known.
fn state(status: &Status, keys: Option<(u64, u64)>, out: &mut Out<'_>) -> fmt::Result {
    if let Some((keys, dated)) = keys {
        out.gauge("keys", "Keys there are on this node.", keys as i64)?;
        out.gauge("keys_expiring", "Keys that end by themselves.", dated as i64)?;
    }
    let behind = status.applied.saturating_sub(status.log.snapshot);
    out.gauge("snapshot_behind_entries", "Entries applied since the newest snapshot.", behind as i64)
}

fn disk(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let figures = &status.figures;
    out.durations("wal_fsync_duration_seconds", "Syncs of the journal.", &figures.fsync_ns)?;
    out.counter("wal_write_bytes", "Bytes written to the journal.", status.disk.bytes)?;
    out.histogram("wal_batch_entries", "Entries that a sync made durable.", 1.0, &figures.batch_entries)?;
    let oldest = status.disk.oldest_unsynced_ms as f64 / 1000.0;
    out.gauge("wal_oldest_unsynced_seconds", "Age of the oldest write that is not durable.", oldest)?;
    let entries = (status.last + 1).saturating_sub(status.log.first);
    out.gauge("wal_kept_entries", "Entries that the log holds.", entries as i64)?;
    out.gauge("wal_kept_bytes", "Bytes of the entries that the log holds.", status.log.bytes as i64)?;
    let reclaimable = "Bytes of the log that a snapshot holds as well.";
    out.gauge("wal_reclaimable_bytes", reclaimable, status.log.reclaimable as i64)?;
    let fsync = "Whether what is answered is durable: 0 under --unsafe-no-fsync.";
    out.gauge("wal_fsync_enabled", fsync, i64::from(status.fsync))?;
    if let Some(room) = status.disk.room {
        let help = "Bytes the log can still take, about, with all that is free on the disk.";
        out.gauge("disk_room_bytes", help, room)?;
    }
    out.gauge("disk_low_space", "Whether the disk has too little room.", i64::from(status.low_space))
}

fn snapshots(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let log = &status.log;
    let duration = "Snapshots of this node's state, from freezing it to the file being durable.";
    out.durations("snapshot_duration_seconds", duration, &status.figures.snapshot_ns)?;
    if log.snapshot > 0 {
        out.gauge("snapshot_index", "The last index in the newest snapshot.", log.snapshot as i64)?;
        out.gauge("snapshot_bytes", "Bytes of the newest snapshot.", log.snapshot_bytes as i64)?;
        let age = "Since the newest snapshot was taken or received, or was found at the start of the process.";
        out.gauge("snapshot_age_seconds", age, log.snapshot_age_ms as f64 / 1000.0)?;
    }
    let lacks = "Whether the last snapshot that was begun did not fit the disk.";
    out.gauge("snapshot_lacks_room", lacks, i64::from(log.lacks_room))?;
    let sent = "Bytes of snapshots sent to followers, those sent again counted again.";
    out.counter("snapshot_sent_bytes", sent, log.shipped_bytes)?;
    out.counter("snapshot_received_bytes", "Bytes of snapshots received from leaders.", log.received_bytes)
}

fn peers(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let peer = |node: u64| vec![("peer", node.to_string())];
    let all = |value: fn(&crate::api::PeerStatus) -> u64| {
        status.peers.iter().map(move |one| (peer(one.node), value(one) as i64))
    };
    let lag = "On a leader: entries that the peer does not hold durably, as far as it is known.";
    out.gauges("peer_match_lag_entries", lag, all(|peer| peer.lag))?;
    let inflight = "On a leader: bytes sent to the peer that it has not acknowledged.";
    out.gauges("peer_inflight_bytes", inflight, all(|peer| peer.inflight_bytes))?;
    let heard = status.peers.iter().filter_map(|one| Some((peer(one.node), one.heard_ms? as f64 / 1000.0)));
    out.gauges("peer_silent_seconds", "On a leader: since the peer was last heard.", heard)?;
    let losses = "On a leader: how often the peer had lost entries that it had acknowledged.";
    out.counters("peer_lost_acknowledged", losses, status.peers.iter().map(|one| (peer(one.node), one.losses)))?;
    let sent = status.figures.sent_bytes.iter().map(|(node, bytes)| (peer(*node), *bytes));
    out.counters("peer_sent_bytes", "Bytes written to the peer.", sent)?;
    out.round_trips(status)
}

fn process(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let turns = "Turns of the reactor: for so long nobody else was heard.";
    out.durations("reactor_loop_duration_seconds", turns, &status.figures.turn_ns)?;
    let connections = &status.figures.connections;
    let connections = connections.iter().map(|(door, count)| (vec![("door", door.clone())], *count as i64));
    out.gauges("connections", "Connections, by where they came in.", connections)?;
    let expiries = [("own", status.certificate_expires), ("authority", status.authority_expires)];
    let expiries =
        expiries.into_iter().filter_map(|(which, at)| Some((vec![("certificate", which.to_owned())], at? as i64)));
    let expiry = "When a certificate ends to be valid: the node's own, or its authority's; in seconds since 1970.";
    out.gauges("certificate_expiry_timestamp_seconds", expiry, expiries)?;
    let version = [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)];
    out.gauges("build_info", "Which version this is.", version.into_iter())
}

fn gateways(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    let all = &status.figures.gateways;
    let each = |value: fn(&GatewayFigures) -> u64| {
        all.iter().map(move |(name, figures)| (vec![("gateway", name.clone())], value(figures)))
    };
    out.counters("clients_accepted", "Clients let in, by gateway.", each(|figures| figures.accepted))?;
    let turned = "Clients turned away because as many were connected as may be.";
    out.counters("clients_turned_away", turned, each(|figures| figures.turned_away))?;
    let requests = all.iter().flat_map(|(name, figures)| {
        let kinds = [("write", figures.writes), ("read", figures.reads), ("other", figures.others)];
        kinds.map(|(kind, count)| (vec![("gateway", name.clone()), ("kind", kind.to_owned())], count))
    });
    out.counters("requests", "Requests that came in, by gateway and kind.", requests)?;
    let by = |label: &'static str, value: fn(&GatewayFigures) -> &BTreeMap<String, u64>| {
        let one = move |(name, figures)| {
            let labelled = move |(is, count): (&String, &u64)| {
                (vec![("gateway", String::clone(name)), (label, is.clone())], *count)
            };
            value(figures).iter().map(labelled)
        };
        all.iter().flat_map(one)
    };
    let refused = "Requests refused, of which nothing has happened, by gateway and reason.";
    out.counters("requests_refused", refused, by("reason", |figures| &figures.refused))?;
    let failed = "Requests that were wrong, or whose outcome is unknown, by gateway and kind.";
    out.counters("requests_failed", failed, by("kind", |figures| &figures.errors))
}

/// Metrics that every program has, under the same names.
fn common(status: &Status, out: &mut Out<'_>) -> fmt::Result {
    out.seconds("process_cpu_seconds", "Processor time used.", status.cpu_ns as f64 / SECOND)?;
    let sizes = [
        ("process_resident_memory_bytes", "Memory the process has.", process::resident()),
        ("process_virtual_memory_bytes", "Addresses the process has.", process::addressed()),
        ("process_open_fds", "Files and sockets that are open.", process::open_files()),
        ("process_max_fds", "How many files and sockets may be open.", process::open_files_max()),
    ];
    for (name, help, size) in sizes {
        if let Some(size) = size {
            out.gauge(name, help, size)?;
        }
    }
    match process::started() {
        Some(at) => out.gauge("process_start_time_seconds", "When it was started, in seconds since 1970.", at),
        None => Ok(()),
    }
}

/// Writes one family after the other. A family without samples is omitted, because some parsers fail on it.
struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
    form: ExpositionFormat,
}

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(Labels::new(), value)].into_iter())
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.counters(name, help, [(Labels::new(), value)].into_iter())
    }

    /// A counter. In plain text the family has the name of its samples, which ends in `_total`. In OpenMetrics it lacks
    /// the suffix, and the encoder adds it to the samples.
    fn counters<V: EncodeGaugeValue + EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let plain = self.form == ExpositionFormat::Plain;
        let name = if plain { format!("{name}_total") } else { name.to_owned() };
        let mut family = self.encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let mut one = family.encode_family(&labels)?;
            match plain {
                true => one.encode_gauge(&value)?,
                false => one.encode_counter::<NoLabels, _, u64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, histogram: &Buckets) -> fmt::Result {
        self.histogram(name, help, SECOND, histogram)
    }

    /// A histogram whose values are divided by `unit`.
    fn histogram(&mut self, name: &str, help: &str, unit: f64, histogram: &Buckets) -> fmt::Result {
        let (sum, buckets) = buckets(histogram, unit);
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        family.encode_histogram::<NoLabels>(sum, histogram.count(), &buckets, None)
    }

    fn round_trips(&mut self, status: &Status) -> fmt::Result {
        if status.figures.round_trip_ns.is_empty() {
            return Ok(());
        }
        let (name, help) = ("peer_round_trip_time_seconds", "On a leader: from a heartbeat to its answer.");
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (peer, histogram) in &status.figures.round_trip_ns {
            let (sum, buckets) = buckets(histogram, SECOND);
            let labels = [("peer", peer.to_string())];
            let mut one = family.encode_family(&labels)?;
            one.encode_histogram::<NoLabels>(sum, histogram.count(), &buckets, None)?;
        }
        Ok(())
    }
}

/// The sum and the buckets of a histogram, divided by `unit`.
fn buckets(histogram: &Buckets, unit: f64) -> (f64, Vec<(f64, u64)>) {
    let bounds = histogram.bounds.iter().map(|bound| *bound as f64 / unit).chain([f64::INFINITY]);
    (histogram.sum as f64 / unit, bounds.zip(histogram.counts.iter().copied()).collect())
}

#[cfg(test)]
mod tests;
