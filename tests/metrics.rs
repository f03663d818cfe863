//! `/metrics` as Prometheus and its tools read it, and the dashboard and the alerts built on it.

use openmetrics_parser::{MetricNumber, OpenMetricsType, OpenMetricsValue};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use support::{Cluster, PATIENCE, installed, ports, run, until};

mod support;

const OPENMETRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";

/// A cluster with HTTP and Redis gateways.
fn cluster(nodes: u16) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    let base = ports(2 * nodes);
    cluster.webs = (base..base + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.doors = (base + nodes..base + 2 * nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

/// Sends bytes, and reads until the connection is closed.
fn send_raw(address: &str, words: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// Sends a request. Returns the head of the response and its body.
fn ask(web: &str, method: &str, target: &str, fields: &str, body: &str) -> (String, String) {
    let length = body.len();
    let said = send_raw(
        web,
        &format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ),
    );
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn metrics(web: &str, fields: &str) -> (String, String) {
    let (head, body) = ask(web, "GET", "/metrics", fields, "");
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap().to_owned();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    (kind, body)
}

fn put(web: &str, key: &str, value: &str) {
    let (head, _) = ask(web, "PUT", &format!("/kv/{key}"), "", value);
    assert!(head.starts_with("http/1.1 204"), "{head}");
}

/// A metric family: its type, and the labels and value of each sample.
type Family = (OpenMetricsType, Vec<(Vec<String>, OpenMetricsValue)>);

fn sample(text: &str, family: &str) -> Option<Family> {
    let told = openmetrics_parser::openmetrics::parse_openmetrics(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let family = told.families.get(family)?;
    let all = family.iter_samples().map(|sample| {
        let labels = sample.get_labelset().map(|set| set.iter_values().cloned().collect()).unwrap_or_default();
        (labels, sample.value.clone())
    });
    Some((family.family_type, all.collect()))
}

fn number(value: &OpenMetricsValue) -> f64 {
    match value {
        OpenMetricsValue::Counter(counter) => counter.value.as_f64(),
        OpenMetricsValue::Gauge(MetricNumber::Int(number)) => *number as f64,
        OpenMetricsValue::Gauge(MetricNumber::Float(number)) => *number,
        OpenMetricsValue::Histogram(histogram) => histogram.count.unwrap() as f64,
        other => panic!("{other:?}"),
    }
}

#[test]
fn metrics_are_valid_openmetrics() {
    let cluster = cluster(3);
    let leader = cluster.leader();
    let web = &cluster.webs[leader];
    (0..20).for_each(|n| put(web, &n.to_string(), "v"));
    put(web, "short?ttl=1h", "v");
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0));
    // A write needs one of the two followers; the other one may not have responded yet.
    let told = until(
        "both followers have answered the leader",
        || {
            let told = metrics(web, OPENMETRICS);
            let (_, answered) = sample(&told.1, "drave_peer_round_trip_time_seconds")?;
            (answered.len() == 2).then_some(told)
        },
        || metrics(web, OPENMETRICS).1,
    );
    let (kind, text) = told;
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert!(text.ends_with("\n# EOF\n"));
    let all = |name: &str| sample(&text, &format!("drave_{name}")).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    for (name, kind, least) in [
        ("has_leader", OpenMetricsType::Gauge, 1.0),
        ("is_leader", OpenMetricsType::Gauge, 1.0),
        ("leader_changes_seen", OpenMetricsType::Counter, 1.0),
        ("proposals_committed", OpenMetricsType::Counter, 20.0),
        ("proposals_applied", OpenMetricsType::Counter, 20.0),
        ("proposals_pending", OpenMetricsType::Gauge, 0.0),
        ("proposals_failed", OpenMetricsType::Counter, 0.0),
        ("wal_fsync_duration_seconds", OpenMetricsType::Histogram, 1.0),
        ("wal_write_bytes", OpenMetricsType::Counter, 1000.0),
        ("commit_duration_seconds", OpenMetricsType::Histogram, 1.0),
        ("wal_batch_entries", OpenMetricsType::Histogram, 1.0),
        ("wal_oldest_unsynced_seconds", OpenMetricsType::Gauge, 0.0),
        ("wal_fsync_enabled", OpenMetricsType::Gauge, 1.0),
        ("term", OpenMetricsType::Gauge, 1.0),
        ("commit_index", OpenMetricsType::Gauge, 20.0),
        ("applied_index", OpenMetricsType::Gauge, 20.0),
        ("sessions", OpenMetricsType::Gauge, 0.0),
        ("session_duplicates", OpenMetricsType::Counter, 0.0),
        ("snapshot_duration_seconds", OpenMetricsType::Histogram, 1.0),
        ("reactor_loop_duration_seconds", OpenMetricsType::Histogram, 1.0),
        ("build_info", OpenMetricsType::Gauge, 1.0),
        ("keys", OpenMetricsType::Gauge, 21.0),
        ("keys_expiring", OpenMetricsType::Gauge, 1.0),
        ("voters", OpenMetricsType::Gauge, 3.0),
        ("voters_heard", OpenMetricsType::Gauge, 1.0),
        ("wal_kept_entries", OpenMetricsType::Gauge, 0.0),
        ("wal_kept_bytes", OpenMetricsType::Gauge, 0.0),
        ("disk_room_bytes", OpenMetricsType::Gauge, 1.0),
        ("snapshot_index", OpenMetricsType::Gauge, 20.0),
        ("snapshot_bytes", OpenMetricsType::Gauge, 1.0),
        ("snapshot_age_seconds", OpenMetricsType::Gauge, 0.0),
        ("snapshot_behind_entries", OpenMetricsType::Gauge, 0.0),
        ("snapshot_lacks_room", OpenMetricsType::Gauge, 0.0),
        ("snapshot_sent_bytes", OpenMetricsType::Counter, 0.0),
        ("snapshot_received_bytes", OpenMetricsType::Counter, 0.0),
    ] {
        let (told, values) = all(name);
        assert!(told == kind && values.len() == 1, "{name}: {told:?}, {values:?}");
        assert!(number(&values[0].1) >= least, "{name}: {values:?}");
    }
    for (name, labels) in [
        ("peer_round_trip_time_seconds", 2),
        ("peer_sent_bytes", 2),
        ("peer_match_lag_entries", 2),
        ("peer_inflight_bytes", 2),
        ("peer_silent_seconds", 2),
        ("connections", 5),
        ("clients_accepted", 3),
        ("clients_turned_away", 3),
        ("requests", 9),
    ] {
        let (_, values) = all(name);
        assert_eq!(values.len(), labels, "{name}: {values:?}");
    }
    let http = all("connections").1.into_iter().find(|(labels, _)| labels == &["http"]);
    assert!(number(&http.unwrap().1) >= 1.0, "at least this connection");
    for (name, least) in [("process_cpu_seconds", 0.0), ("process_max_fds", 1.0), ("process_start_time_seconds", 1e9)] {
        let (_, values) = sample(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        assert!(number(&values[0].1) >= least, "{name}: {values:?}");
    }
    let reasons = cluster.webs.iter().map(|web| metrics(web, OPENMETRICS).1);
    let reasons = reasons.filter_map(|text| Some(sample(&text, "drave_elections")?.1.len()));
    assert!(reasons.sum::<usize>() > 0, "at least one node campaigned");
}

/// The names of all samples in the plain text format, and their families. It is as strict as the format's definition.
fn plain_text_names(text: &str) -> BTreeSet<String> {
    let (mut helped, mut typed, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut family = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!words.is_empty() && helped.insert(name.to_owned()), "duplicate help: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name) && typed.insert(name.to_owned()), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = (name.to_owned(), kind.to_owned());
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let ends: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(ends.iter().any(|end| name == format!("{}{end}", family.0)), "{line} belongs to no family");
            assert!(!series.contains('{') || series.ends_with('}'), "{line}");
            names.insert(name.to_owned());
        }
    }
    assert_eq!(helped, typed);
    names
}

/// Runs promtool with `input`, if it is installed.
fn promtool(words: &[&str], input: &str) -> Option<(bool, String)> {
    let mut child = installed("promtool")?
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn plain_text_metrics_pass_promtool() {
    let cluster = cluster(3);
    let web = &cluster.webs[cluster.leader()];
    put(web, "k", "v");
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0));
    for fields in ["", "Accept: */*\r\n", "Accept: text/plain;version=0.0.4\r\n", "Accept: text/html\r\n"] {
        let (kind, text) = metrics(web, fields);
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8", "{fields}");
        let names = plain_text_names(&text);
        for name in ["drave_requests_total", "drave_wal_fsync_duration_seconds_bucket", "process_cpu_seconds_total"] {
            assert!(names.contains(name), "no {name} in\n{text}");
        }
    }
    let (_, text) = metrics(web, "");
    if let Some((clean, said)) = promtool(&["check", "metrics"], &text) {
        assert!(clean && said.trim().is_empty(), "{said}");
    }
}

/// Value of a counter series in the plain text format.
fn counter_value(text: &str, series: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn requests_and_failures_are_counted_by_gateway() {
    let mut cluster = cluster(3);
    let leader = cluster.leader();
    let (web, door) = (cluster.webs[leader].clone(), cluster.doors[leader].clone());
    put(&web, "k", "v");
    assert!(ask(&web, "GET", "/kv/k", "", "").0.starts_with("http/1.1 200"));
    assert!(ask(&web, "GET", "/nothing", "", "").0.starts_with("http/1.1 404"));
    assert!(ask(&web, "GET", "/kv/k", "Origin: x\r\nIf-Match: *\r\n", "").0.starts_with("http/1.1 400"));
    assert_eq!(send_raw(&door, "SET a 1\r\nGET a\r\nPING\r\nNOSUCH\r\nGET\r\nQUIT\r\n").matches("-ERR").count(), 2);
    assert_eq!(cluster.run(&["put", "n", "1"]).code, Some(0));
    let (_, text) = metrics(&web, "");
    let is = |name: &str, gateway: &str, label: &str, least: u64, most: u64| {
        let series = format!("drave_{name}_total{{gateway=\"{gateway}\"{label}}}");
        let count = counter_value(&text, &series).unwrap_or_else(|| panic!("no {series} in\n{text}"));
        assert!((least..=most).contains(&count), "{series} {count}");
    };
    is("requests", "http", ",kind=\"write\"", 1, 1);
    is("requests", "http", ",kind=\"read\"", 1, 1);
    is("requests", "http", ",kind=\"other\"", 3, 3);
    is("requests_failed", "http", ",kind=\"malformed\"", 1, 1);
    is("requests_failed", "http", ",kind=\"unsupported\"", 1, 1);
    is("requests", "redis", ",kind=\"write\"", 1, 1);
    is("requests", "redis", ",kind=\"read\"", 1, 1);
    is("requests", "redis", ",kind=\"other\"", 4, 4);
    is("requests_failed", "redis", ",kind=\"malformed\"", 1, 1);
    is("requests_failed", "redis", ",kind=\"unsupported\"", 1, 1);
    is("clients_accepted", "redis", "", 1, 1);
    is("requests", "native", ",kind=\"other\"", 1, 1000);
    // A node without a quorum rejects requests and counts them by reason.
    (0..3).filter(|n| *n != leader).for_each(|n| cluster.kill(n));
    let refused = || {
        let _either_way = ask(&web, "PUT", "/kv/k", "", "w");
        let (_, text) = metrics(&web, "");
        counter_value(&text, "drave_requests_refused_total{gateway=\"http\",reason=\"no_leader\"}").filter(|n| *n > 0)
    };
    until("the gateway refuses: no leader", refused, || cluster.logs());
}

#[test]
fn promtool_accepts_alerts_and_dashboard_queries() {
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let Some(mut promtool) = installed("promtool") else { return };
    let said = run(promtool.args(["check", "rules"]).arg(place.join("alerts.yml")));
    assert_eq!(said.code, Some(0), "{said:?}");
    let dashboard = std::fs::read_to_string(place.join("grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    // JSON is valid YAML, so the rules are JSON. Grafana's variables are replaced by a value.
    let rules = targets.enumerate().map(|(n, target)| {
        let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        serde_json::json!({ "record": format!("query:{n}"), "expr": query })
    });
    let rules: Vec<_> = rules.collect();
    assert!(rules.len() > 30);
    let file = tempfile::NamedTempFile::new().unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(file.path(), groups.to_string()).unwrap();
    let said = run(installed("promtool").unwrap().args(["check", "rules"]).arg(file.path()));
    assert_eq!(said.code, Some(0), "{said:?}");
}
