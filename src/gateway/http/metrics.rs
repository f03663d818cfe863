//! Metrics for Prometheus, under the names that etcd established, in base units.
//!
//! The text is generated from the node's status at each request. Only figures of the process, such as its memory, are
//! read from the operating system.

use super::exposition::ExpositionFormat;
use crate::api::figures::{Buckets, GatewayCounters};
use crate::api::{RoleName, Status};
use crate::gateway::process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;

/// Divides a duration in nanoseconds to give seconds, the base unit of durations in metrics.
const NANOS_PER_SECOND: f64 = 1e9;
/// The type of the labels of exemplars, which the encoder requires. No metric has exemplars.
type NoLabels = [(&'static str, &'static str); 0];
/// The labels of a sample, as pairs of name and value.
type Labels = Vec<(&'static str, String)>;

/// Renders a status as metrics in the given format. `key_counts` is the number of keys and the number of keys with an
/// expiry; `None` if they are not known.
pub fn render(status: &Status, key_counts: Option<(u64, u64)>, format: ExpositionFormat) -> Result<String, fmt::Error> {
    let collector = |group| Box::new(StatusCollector { status: status.clone(), key_counts, format, group });
    let mut registry = Registry::with_prefix("drave");
    registry.register_collector(collector(MetricGroup::Node));
    // These metrics have the same names in every program, so they get no prefix.
    let mut common_registry = Registry::default();
    common_registry.register_collector(collector(MetricGroup::Process));
    let mut text = String::new();
    text::encode_registry(&mut text, &registry)?;
    text::encode_registry(&mut text, &common_registry)?;
    if format == ExpositionFormat::OpenMetrics {
        text::encode_eof(&mut text)?;
    }
    Ok(text)
}

/// Generates the metrics of one group from one status, when the registry encodes them.
#[derive(Debug)]
struct StatusCollector {
    status: Status,
    key_counts: Option<(u64, u64)>,
    format: ExpositionFormat,
    group: MetricGroup,
}

/// Which metrics a collector generates: a registry adds one prefix to all its metrics, so there are two groups.
#[derive(Clone, Copy, Debug)]
enum MetricGroup {
    /// Metrics of the node, with the prefix `drave_`.
    Node,
    /// Metrics that every program has, under the same names, without the prefix.
    Process,
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (status, mut out) = (&self.status, MetricsWriter { encoder, format: self.format });
        if matches!(self.group, MetricGroup::Process) {
            return write_common(status, &mut out);
        }
        write_cluster(status, &mut out)?;
        write_proposals(status, &mut out)?;
        write_state(status, self.key_counts, &mut out)?;
        write_disk(status, &mut out)?;
        write_versions(status, &mut out)?;
        write_snapshots(status, &mut out)?;
        write_scrub(status, &mut out)?;
        write_peers(status, &mut out)?;
        write_process(status, &mut out)?;
        write_gateways(status, &mut out)
    }
}

fn write_cluster(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    out.gauge("has_leader", "Whether this node knows a leader.", i64::from(status.leader.is_some()))?;
    out.gauge("is_leader", "Whether this node leads.", i64::from(is_leader(status)))?;
    out.gauge("term", "The current term of this node.", status.term as i64)?;
    let leader_changes = status.figures.leader_changes;
    out.counter("leader_changes_seen", "How often this node has learned of a new leader.", leader_changes)?;
    let elections = status.elections.iter().map(|(reason, count)| (vec![("reason", reason.clone())], *count));
    out.counters("elections", "Elections that this node started, by reason.", elections)?;
    let voters = status.members.iter().filter(|member| member.kind != "learner");
    out.gauge("voters", "Voters in the latest configuration that this node knows.", voters.clone().count() as i64)?;
    if is_leader(status) {
        let heard_count = voters.filter(|member| member.node == status.node || is_heard(status, member.node)).count();
        let help = "On a leader: voters heard within the longest election timeout, itself among them.";
        out.gauge("voters_heard", help, heard_count as i64)?;
    }
    let repair_help = "Whether this node is in repair: its log lacks entries that it acknowledged.";
    out.gauge("repair", repair_help, i64::from(status.repair.is_some()))?;
    // Without the end of the lost log, the number is not known.
    if let Some(missing) = status.repair.as_ref().map_or(Some(0), |repair| repair.missing) {
        out.gauge("repair_missing_entries", "Acknowledged entries that the log of this node lacks.", missing as i64)?;
    }
    out.gauge("sessions", "Sessions that are open.", status.sessions as i64)
}

fn is_leader(status: &Status) -> bool {
    status.role == RoleName::Leader
}

fn is_heard(status: &Status, node: u64) -> bool {
    let heard_ms = status.peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.heard_ms);
    heard_ms.is_some_and(|ms| ms as f64 <= status.timing.election_max_ms)
}

fn write_proposals(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let figures = &status.figures;
    out.counter("proposals_committed", "Entries that are committed, since the cluster began.", status.commit)?;
    out.counter("proposals_applied", "Entries that are applied here, since the cluster began.", status.applied)?;
    out.gauge("proposals_pending", "Proposals that wait to be applied.", figures.proposals_pending as i64)?;
    let failed_help = "Proposals that were refused, or whose outcome is unknown.";
    out.counter("proposals_failed", failed_help, figures.proposals_failed)?;
    out.gauge("commit_index", "The last index known to be committed.", status.commit as i64)?;
    out.gauge("applied_index", "The last index applied here.", status.applied as i64)?;
    let duplicates_help = "Commands that had been executed before, and were answered from memory.";
    out.counter("session_duplicates", duplicates_help, figures.session_duplicates)?;
    let commit_help = "On a leader: time from the proposal of a write until it was committed.";
    out.durations("commit_duration_seconds", commit_help, &figures.commit_ns)
}

/// Writes the metrics of the state machine's contents; the numbers of keys only if `key_counts` is known.
fn write_state(status: &Status, key_counts: Option<(u64, u64)>, out: &mut MetricsWriter<'_>) -> fmt::Result {
    if let Some((keys, with_expiry)) = key_counts {
        out.gauge("keys", "Keys in the state machine of this node.", keys as i64)?;
        out.gauge("keys_expiring", "Keys with an expiration time.", with_expiry as i64)?;
    }
    let entries_since_snapshot = status.applied.saturating_sub(status.log.snapshot);
    out.gauge("snapshot_behind_entries", "Entries applied since the newest snapshot.", entries_since_snapshot as i64)
}

fn write_disk(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let figures = &status.figures;
    out.durations("wal_fsync_duration_seconds", "Time that a sync of the journal took.", &figures.fsync_ns)?;
    out.counter("wal_write_bytes", "Bytes written to the journal.", status.disk.bytes)?;
    out.histogram("wal_batch_entries", "Entries that a sync made durable.", 1.0, &figures.batch_entries)?;
    let oldest_unsynced_seconds = status.disk.oldest_unsynced_ms as f64 / 1000.0;
    out.gauge("wal_oldest_unsynced_seconds", "Age of the oldest write that is not durable.", oldest_unsynced_seconds)?;
    let entry_count = (status.last + 1).saturating_sub(status.log.first);
    out.gauge("wal_kept_entries", "Entries that the log holds.", entry_count as i64)?;
    out.gauge("wal_kept_bytes", "Bytes of the entries that the log holds.", status.log.bytes as i64)?;
    let reclaimable_help = "Bytes of the log that a snapshot holds as well.";
    out.gauge("wal_reclaimable_bytes", reclaimable_help, status.log.reclaimable as i64)?;
    let fsync_help = "Whether acknowledged writes are durable: 0 under --unsafe-no-fsync.";
    out.gauge("wal_fsync_enabled", fsync_help, i64::from(status.fsync))?;
    if let Some(room) = status.disk.room {
        let help = "Bytes by which the log can still grow, about, with the free space of the disk.";
        out.gauge("disk_room_bytes", help, room)?;
    }
    out.gauge("disk_low_space", "Whether the disk has too little free space.", i64::from(status.low_space))
}

fn write_versions(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let versions = &status.versions;
    let protocol_help = "The newest version of the protocol that this node's program supports.";
    out.gauge("protocol_version_max", protocol_help, i64::from(versions.protocol_max))?;
    out.gauge("feature_level", "The feature level of the cluster.", i64::from(versions.feature_level))?;
    let level_help = "The highest feature level that this node's program knows.";
    out.gauge("feature_level_max", level_help, i64::from(versions.feature_level_max))
}

fn write_snapshots(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let log = &status.log;
    let duration_help = "Time from the freezing of the state for a snapshot until the snapshot file was durable.";
    out.durations("snapshot_duration_seconds", duration_help, &status.figures.snapshot_ns)?;
    if log.snapshot > 0 {
        out.gauge("snapshot_index", "The last index in the newest snapshot.", log.snapshot as i64)?;
        out.gauge("snapshot_bytes", "Bytes of the newest snapshot.", log.snapshot_bytes as i64)?;
        let age_help =
            "Time since the newest snapshot was taken or received, or was found at the start of the process.";
        out.gauge("snapshot_age_seconds", age_help, log.snapshot_age_ms as f64 / 1000.0)?;
    }
    let lacks_space_help = "Whether the last snapshot that was begun did not fit the disk.";
    out.gauge("snapshot_lacks_room", lacks_space_help, i64::from(log.lacks_room))?;
    let sent_help = "Bytes of snapshots sent to followers, those sent again counted again.";
    out.counter("snapshot_sent_bytes", sent_help, log.shipped_bytes)?;
    out.counter("snapshot_received_bytes", "Bytes of snapshots received from leaders.", log.received_bytes)
}

fn write_scrub(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let scrub = &status.scrub;
    if let Some(ms) = scrub.ended_ago_ms {
        let help = "Time since this node last checked all its files for damage.";
        out.gauge("scrub_age_seconds", help, ms as f64 / 1000.0)?;
    }
    out.counter("scrub_passes", "How often this node has begun to check all its files.", scrub.pass)?;
    out.counter("scrub_bytes", "Bytes of files checked for damage.", scrub.checked_bytes)?;
    let found_help = "Files found damaged while the node ran.";
    out.counter("damaged_files_found", found_help, scrub.found)?;
    let mended_help = "Damaged files that were replaced by a snapshot while the node ran.";
    out.counter("damaged_files_mended", mended_help, scrub.mended)?;
    let pending = scrub.findings.iter().filter(|finding| !finding.mended).count();
    out.gauge("damaged_files", "Damaged files that are not replaced yet.", pending as i64)
}

fn write_peers(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let peer_label = |node: u64| vec![("peer", node.to_string())];
    let per_peer = |value: fn(&crate::api::PeerStatus) -> u64| {
        status.peers.iter().map(move |peer_status| (peer_label(peer_status.node), value(peer_status) as i64))
    };
    let lag_help = "On a leader: entries that the peer does not hold durably, as far as it is known.";
    out.gauges("peer_match_lag_entries", lag_help, per_peer(|peer| peer.lag))?;
    let inflight_help = "On a leader: bytes sent to the peer that it has not acknowledged.";
    out.gauges("peer_inflight_bytes", inflight_help, per_peer(|peer| peer.inflight_bytes))?;
    let silent_seconds = status
        .peers
        .iter()
        .filter_map(|peer_status| Some((peer_label(peer_status.node), peer_status.heard_ms? as f64 / 1000.0)));
    out.gauges("peer_silent_seconds", "On a leader: time since the last message from the peer.", silent_seconds)?;
    let losses_help = "On a leader: how often the peer had lost entries that it had acknowledged.";
    out.counters(
        "peer_lost_acknowledged",
        losses_help,
        status.peers.iter().map(|peer_status| (peer_label(peer_status.node), peer_status.losses)),
    )?;
    let sent_bytes = status.figures.sent_bytes.iter().map(|(node, bytes)| (peer_label(*node), *bytes));
    out.counters("peer_sent_bytes", "Bytes written to the peer.", sent_bytes)?;
    out.round_trips(status)
}

fn write_process(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let turns_help = "Turns of the event loop. Other events wait during a turn.";
    out.durations("reactor_loop_duration_seconds", turns_help, &status.figures.turn_ns)?;
    let connections = &status.figures.connections;
    let connections = connections.iter().map(|(kind, count)| (vec![("door", kind.clone())], *count as i64));
    out.gauges("connections", "Open connections, by the interface that accepted them.", connections)?;
    let expiries = [("own", status.certificate_expires), ("authority", status.authority_expires)];
    let expiries = expiries
        .into_iter()
        .filter_map(|(certificate, at)| Some((vec![("certificate", certificate.to_owned())], at? as i64)));
    let expiry_help = "When a certificate ends to be valid: the node's own, or its authority's; in seconds since 1970.";
    out.gauges("certificate_expiry_timestamp_seconds", expiry_help, expiries)?;
    let version_sample = [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)];
    out.gauges("build_info", "The version of this program, as a label.", version_sample.into_iter())
}

fn write_gateways(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    let gateways = &status.figures.gateways;
    let per_gateway = |value: fn(&GatewayCounters) -> u64| {
        gateways.iter().map(move |(name, figures)| (vec![("gateway", name.clone())], value(figures)))
    };
    out.counters("clients_accepted", "Clients accepted, by gateway.", per_gateway(|figures| figures.accepted))?;
    let rejected_help = "Clients rejected because the maximum number was connected.";
    out.counters("clients_turned_away", rejected_help, per_gateway(|figures| figures.turned_away))?;
    let requests = gateways.iter().flat_map(|(name, figures)| {
        let kinds = [("write", figures.writes), ("read", figures.reads), ("other", figures.others)];
        kinds.map(|(kind, count)| (vec![("gateway", name.clone()), ("kind", kind.to_owned())], count))
    });
    out.counters("requests", "Requests received, by gateway and kind.", requests)?;
    let per_label = |label: &'static str, value: fn(&GatewayCounters) -> &BTreeMap<String, u64>| {
        let samples_of = move |(name, figures)| {
            let to_sample = move |(value, count): (&String, &u64)| {
                (vec![("gateway", String::clone(name)), (label, value.clone())], *count)
            };
            value(figures).iter().map(to_sample)
        };
        gateways.iter().flat_map(samples_of)
    };
    let refused_help = "Requests refused, of which nothing has happened, by gateway and reason.";
    out.counters("requests_refused", refused_help, per_label("reason", |figures| &figures.refused))?;
    let failed_help = "Requests that were wrong, or whose outcome is unknown, by gateway and kind.";
    out.counters("requests_failed", failed_help, per_label("kind", |figures| &figures.errors))
}

/// Writes the metrics that every program has, under the same names.
fn write_common(status: &Status, out: &mut MetricsWriter<'_>) -> fmt::Result {
    out.seconds("process_cpu_seconds", "Processor time used.", status.cpu_ns as f64 / NANOS_PER_SECOND)?;
    let process_sizes = [
        ("process_resident_memory_bytes", "Resident memory of the process in bytes.", process::resident_bytes()),
        ("process_virtual_memory_bytes", "Virtual memory of the process in bytes.", process::virtual_bytes()),
        ("process_open_fds", "Files and sockets that are open.", process::open_file_count()),
        ("process_max_fds", "How many files and sockets may be open.", process::open_file_limit()),
    ];
    for (name, help, size) in process_sizes {
        if let Some(size) = size {
            out.gauge(name, help, size)?;
        }
    }
    match process::start_time() {
        Some(at) => out.gauge("process_start_time_seconds", "Start time of the process, in seconds since 1970.", at),
        None => Ok(()),
    }
}

/// Writes one metric family after the other. A family without samples is omitted, because some parsers reject it.
struct MetricsWriter<'a> {
    encoder: DescriptorEncoder<'a>,
    format: ExpositionFormat,
}

impl MetricsWriter<'_> {
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

    /// Writes a counter family. In plain text the family has the name of its samples, with the suffix `_total`. In
    /// OpenMetrics the family lacks the suffix, and the encoder adds it to the samples.
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
        let plain = self.format == ExpositionFormat::Plain;
        let name = if plain { format!("{name}_total") } else { name.to_owned() };
        let mut family = self.encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let mut sample = family.encode_family(&labels)?;
            match plain {
                true => sample.encode_gauge(&value)?,
                false => sample.encode_counter::<NoLabels, _, u64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn durations(&mut self, name: &str, help: &str, histogram: &Buckets) -> fmt::Result {
        self.histogram(name, help, NANOS_PER_SECOND, histogram)
    }

    /// Writes a histogram, whose values are divided by `divisor`.
    fn histogram(&mut self, name: &str, help: &str, divisor: f64, histogram: &Buckets) -> fmt::Result {
        let (sum, buckets) = scale_buckets(histogram, divisor);
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
            let (sum, buckets) = scale_buckets(histogram, NANOS_PER_SECOND);
            let labels = [("peer", peer.to_string())];
            let mut sample = family.encode_family(&labels)?;
            sample.encode_histogram::<NoLabels>(sum, histogram.count(), &buckets, None)?;
        }
        Ok(())
    }
}

/// The sum and the buckets of a histogram, divided by `divisor`. The last bucket has no upper bound.
fn scale_buckets(histogram: &Buckets, divisor: f64) -> (f64, Vec<(f64, u64)>) {
    let bounds = histogram.bounds.iter().map(|bound| *bound as f64 / divisor).chain([f64::INFINITY]);
    (histogram.sum as f64 / divisor, bounds.zip(histogram.counts.iter().copied()).collect())
}

#[cfg(test)]
mod tests;
