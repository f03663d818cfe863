//! Metrics of a status with every field set. Alerts and the dashboard use no other metrics.

use super::*;
use crate::api::{MemberStatus, PeerStatus};
use serde_json::Value;
use std::collections::BTreeSet;

/// A leader's status with every field set.
fn full_status() -> Status {
    let mut figures = crate::api::figures::Counters::default();
    let gateway = GatewayCounters {
        refused: [("busy".to_owned(), 2)].into(),
        errors: [("malformed".to_owned(), 3)].into(),
        ..GatewayCounters::default()
    };
    figures.gateways.insert("redis".into(), gateway);
    figures.connections.insert("redis".into(), 1);
    figures.sent_bytes.insert(2, 7);
    figures.round_trip_ns.insert(2, Buckets::of_durations());
    let durations = [&mut figures.commit_ns, &mut figures.fsync_ns, &mut figures.snapshot_ns, &mut figures.turn_ns];
    durations.into_iter().for_each(|durations| *durations = Buckets::of_durations());
    figures.batch_entries = Buckets::of_counts();
    let mut status = Status { node: 1, role: RoleName::Leader, figures, ..Status::default() };
    let voter = |node| MemberStatus { node, kind: "voter".into(), ..MemberStatus::default() };
    status.members = [1, 2, 3].map(voter).into();
    status.peers =
        [(2, 5), (3, 5000)].map(|(node, ms)| PeerStatus { node, heard_ms: Some(ms), ..PeerStatus::default() }).into();
    status.timing.election_max_ms = 300.0;
    status.elections.insert("timeout".into(), 1);
    status.certificate_expires = Some(1_900_000_000);
    status.disk.room = Some(1 << 30);
    (status.log.snapshot, status.log.snapshot_age_ms) = (7, 1500);
    status.cpu_ns = 1_250_000_000;
    status
}

/// The names of all samples in a text of metrics, without their labels.
fn sample_names(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[test]
fn both_formats_contain_the_same_samples() {
    let [plain, open] = [ExpositionFormat::Plain, ExpositionFormat::OpenMetrics]
        .map(|format| render(&full_status(), Some((3, 1)), format).unwrap());
    assert_eq!(sample_names(&plain), sample_names(&open));
    assert!(!plain.contains("# EOF") && open.ends_with("\n# EOF\n"));
    assert!(plain.contains("# TYPE drave_requests_total counter") && open.contains("# TYPE drave_requests counter"));
    for sample in [
        "drave_requests_refused_total{gateway=\"redis\",reason=\"busy\"} 2",
        "drave_requests_failed_total{gateway=\"redis\",kind=\"malformed\"} 3",
        "drave_voters 3",
        "drave_voters_heard 2",
        "drave_keys 3",
        "drave_snapshot_age_seconds 1.5",
        "process_cpu_seconds_total 1.25",
    ] {
        assert!(
            [&plain, &open].iter().all(|text| text.lines().any(|line| line == sample)),
            "no sample {sample} in\n{plain}"
        );
    }
}

/// The names of the metrics in a query: those of the node, and those that every program has.
fn metric_names_in(query: &str) -> Vec<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("drave_") || word.starts_with("process_")).collect()
}

/// Asserts that the metrics in these queries exist.
fn expect_metrics_exist(queries: &[String]) {
    let text = render(&full_status(), Some((3, 1)), ExpositionFormat::Plain).unwrap();
    let existing_names = sample_names(&text);
    // Where the system does not provide figures of the process, they are omitted.
    let may_be_missing = |name: &str| cfg!(not(target_os = "linux")) && name.starts_with("process_");
    for name in queries.iter().flat_map(|query| metric_names_in(query)).filter(|name| !may_be_missing(name)) {
        assert!(existing_names.contains(name), "no metric {name} in\n{text}");
    }
}

#[test]
fn every_alert_uses_existing_metrics() {
    let alerts = include_str!("../../../../docs/alerts.yml");
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 15);
    for rule in &rules {
        for key in ["expr: ", "labels: { severity: ", "annotations:", "summary: \"", "advice: \""] {
            assert_eq!(rule.matches(key).count(), 1, "the rule has {key:?} not exactly once: {rule}");
        }
        assert!(rule.contains("severity: warning }") || rule.contains("severity: critical }"), "{rule}");
    }
    let queries = rules.iter().filter_map(|rule| rule.split("expr: ").nth(1)?.lines().next());
    let queries: Vec<String> = queries.map(str::to_owned).collect();
    assert!(queries.iter().all(|query| !metric_names_in(query).is_empty()));
    expect_metrics_exist(&queries);
}

#[test]
fn every_dashboard_panel_uses_existing_metrics() {
    let dashboard: Value = serde_json::from_str(include_str!("../../../../docs/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = Vec::new();
    let mut positions = BTreeSet::new();
    for panel in panels {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{panel}");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        assert!(positions.insert(panel["gridPos"].to_string()), "two panels at the same position: {panel}");
        queries.extend(targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()));
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    queries.extend(variables.iter().filter_map(|variable| variable["definition"].as_str()).map(str::to_owned));
    assert!(queries.len() > 30, "{queries:?}");
    expect_metrics_exist(&queries);
}
