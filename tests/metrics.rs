//! `/metrics` as Prometheus and its tools read it, and the dashboard and the alerts built on it.

use openmetrics_parser::{MetricNumber, OpenMetricsType, OpenMetricsValue};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use support::{Cluster, WAIT_TIMEOUT, command_if_installed, reserve_ports, run, wait_until};

mod support;

const OPENMETRICS_HEADER: &str =
    "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";

/// Starts a cluster with an HTTP and a Redis gateway at each node.
fn start_cluster_with_gateways(nodes: u16) -> Cluster {
    let mut cluster = Cluster::prepare(nodes);
    let base_port = reserve_ports(2 * nodes);
    cluster.http_addresses = (base_port..base_port + nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    cluster.redis_addresses =
        (base_port + nodes..base_port + 2 * nodes).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..nodes.into()).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

/// Sends a request as it is, and returns everything that is received until the connection is closed.
fn send_raw(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Sends a request. Returns the head of the response and its body.
fn request(http_address: &str, method: &str, target: &str, fields: &str, body: &str) -> (String, String) {
    let length = body.len();
    let response = send_raw(
        http_address,
        &format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ),
    );
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn get_metrics(http_address: &str, fields: &str) -> (String, String) {
    let (head, body) = request(http_address, "GET", "/metrics", fields, "");
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap().to_owned();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    (content_type, body)
}

fn put(http_address: &str, key: &str, value: &str) {
    let (head, _) = request(http_address, "PUT", &format!("/kv/{key}"), "", value);
    assert!(head.starts_with("http/1.1 204"), "{head}");
}

/// A metric family: its type, and the labels and value of each sample.
type Family = (OpenMetricsType, Vec<(Vec<String>, OpenMetricsValue)>);

fn find_family(text: &str, family: &str) -> Option<Family> {
    let exposition = openmetrics_parser::openmetrics::parse_openmetrics(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let family = exposition.families.get(family)?;
    let samples = family.iter_samples().map(|sample| {
        let labels = sample.get_labelset().map(|set| set.iter_values().cloned().collect()).unwrap_or_default();
        (labels, sample.value.clone())
    });
    Some((family.family_type, samples.collect()))
}

fn as_number(value: &OpenMetricsValue) -> f64 {
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
    let cluster = start_cluster_with_gateways(3);
    let leader = cluster.wait_for_leader();
    let http_address = &cluster.http_addresses[leader];
    (0..20).for_each(|n| put(http_address, &n.to_string(), "v"));
    put(http_address, "short?ttl=1h", "v");
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0));
    // A write needs the response of one follower; the other follower may not have responded yet.
    let metrics = wait_until(
        "both followers have answered the leader",
        || {
            let metrics = get_metrics(http_address, OPENMETRICS_HEADER);
            let (_, round_trips) = find_family(&metrics.1, "drave_peer_round_trip_time_seconds")?;
            (round_trips.len() == 2).then_some(metrics)
        },
        || get_metrics(http_address, OPENMETRICS_HEADER).1,
    );
    let (kind, text) = metrics;
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert!(text.ends_with("\n# EOF\n"));
    let family_of =
        |name: &str| find_family(&text, &format!("drave_{name}")).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    for (name, kind, minimum) in [
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
        let (actual_kind, values) = family_of(name);
        assert!(
            actual_kind == kind && values.len() == 1,
            "{name} has the type {actual_kind:?} and the values {values:?}"
        );
        assert!(as_number(&values[0].1) >= minimum, "{name}: {values:?}");
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
        let (_, values) = family_of(name);
        assert_eq!(values.len(), labels, "{name}: {values:?}");
    }
    let http_connections = family_of("connections").1.into_iter().find(|(labels, _)| labels == &["http"]);
    assert!(as_number(&http_connections.unwrap().1) >= 1.0, "the connection of this request is counted");
    for (name, minimum) in [("process_cpu_seconds", 0.0), ("process_max_fds", 1.0), ("process_start_time_seconds", 1e9)]
    {
        let (_, values) = find_family(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        assert!(as_number(&values[0].1) >= minimum, "{name}: {values:?}");
    }
    let campaign_metrics =
        cluster.http_addresses.iter().map(|http_address| get_metrics(http_address, OPENMETRICS_HEADER).1);
    let campaign_metrics = campaign_metrics.filter_map(|text| Some(find_family(&text, "drave_elections")?.1.len()));
    assert!(campaign_metrics.sum::<usize>() > 0, "at least one node has counted an election");
}

/// The names of all samples in the plain text format. Asserts that the text obeys the definition of the format.
fn plain_text_names(text: &str) -> BTreeSet<String> {
    let (mut names_with_help, mut names_with_type, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut family = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help_text) = help.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!help_text.is_empty() && names_with_help.insert(name.to_owned()), "duplicate help: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(names_with_help.contains(name) && names_with_type.insert(name.to_owned()), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = (name.to_owned(), kind.to_owned());
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(
                suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0)),
                "{line} belongs to no family"
            );
            assert!(!series.contains('{') || series.ends_with('}'), "{line}");
            names.insert(name.to_owned());
        }
    }
    assert_eq!(names_with_help, names_with_type);
    names
}

/// Runs promtool with `input` on its standard input. Returns whether promtool succeeded, and its output; `None` if
/// promtool is not installed.
fn run_promtool(args: &[&str], input: &str) -> Option<(bool, String)> {
    let mut child = command_if_installed("promtool")?
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&printed).into_owned()))
}

#[test]
fn plain_text_metrics_pass_promtool() {
    let cluster = start_cluster_with_gateways(3);
    let http_address = &cluster.http_addresses[cluster.wait_for_leader()];
    put(http_address, "k", "v");
    assert_eq!(cluster.run(&["snapshot", "take"]).code, Some(0));
    for fields in ["", "Accept: */*\r\n", "Accept: text/plain;version=0.0.4\r\n", "Accept: text/html\r\n"] {
        let (kind, text) = get_metrics(http_address, fields);
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8", "{fields}");
        let names = plain_text_names(&text);
        for name in ["drave_requests_total", "drave_wal_fsync_duration_seconds_bucket", "process_cpu_seconds_total"] {
            assert!(names.contains(name), "no {name} in\n{text}");
        }
    }
    let (_, text) = get_metrics(http_address, "");
    if let Some((clean, output)) = run_promtool(&["check", "metrics"], &text) {
        assert!(clean && output.trim().is_empty(), "{output}");
    }
}

/// Value of a counter series in the plain text format.
fn counter_value(text: &str, series: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn requests_and_failures_are_counted_by_gateway() {
    let mut cluster = start_cluster_with_gateways(3);
    let leader = cluster.wait_for_leader();
    let (http_address, redis_address) =
        (cluster.http_addresses[leader].clone(), cluster.redis_addresses[leader].clone());
    put(&http_address, "k", "v");
    assert!(request(&http_address, "GET", "/kv/k", "", "").0.starts_with("http/1.1 200"));
    assert!(request(&http_address, "GET", "/nothing", "", "").0.starts_with("http/1.1 404"));
    assert!(request(&http_address, "GET", "/kv/k", "Origin: x\r\nIf-Match: *\r\n", "").0.starts_with("http/1.1 400"));
    assert_eq!(
        send_raw(&redis_address, "SET a 1\r\nGET a\r\nPING\r\nNOSUCH\r\nGET\r\nQUIT\r\n").matches("-ERR").count(),
        2
    );
    assert_eq!(cluster.run(&["put", "n", "1"]).code, Some(0));
    let (_, text) = get_metrics(&http_address, "");
    let expect_count = |name: &str, gateway: &str, label: &str, minimum: u64, maximum: u64| {
        let series = format!("drave_{name}_total{{gateway=\"{gateway}\"{label}}}");
        let count = counter_value(&text, &series).unwrap_or_else(|| panic!("no {series} in\n{text}"));
        assert!((minimum..=maximum).contains(&count), "{series} {count}");
    };
    expect_count("requests", "http", ",kind=\"write\"", 1, 1);
    expect_count("requests", "http", ",kind=\"read\"", 1, 1);
    expect_count("requests", "http", ",kind=\"other\"", 3, 3);
    expect_count("requests_failed", "http", ",kind=\"malformed\"", 1, 1);
    expect_count("requests_failed", "http", ",kind=\"unsupported\"", 1, 1);
    expect_count("requests", "redis", ",kind=\"write\"", 1, 1);
    expect_count("requests", "redis", ",kind=\"read\"", 1, 1);
    expect_count("requests", "redis", ",kind=\"other\"", 4, 4);
    expect_count("requests_failed", "redis", ",kind=\"malformed\"", 1, 1);
    expect_count("requests_failed", "redis", ",kind=\"unsupported\"", 1, 1);
    expect_count("clients_accepted", "redis", "", 1, 1);
    expect_count("requests", "native", ",kind=\"other\"", 1, 1000);
    // A node without a quorum rejects requests and counts them by reason.
    (0..3).filter(|n| *n != leader).for_each(|n| cluster.kill(n));
    let refusals_are_counted = || {
        let _any_response = request(&http_address, "PUT", "/kv/k", "", "w");
        let (_, text) = get_metrics(&http_address, "");
        counter_value(&text, "drave_requests_refused_total{gateway=\"http\",reason=\"no_leader\"}").filter(|n| *n > 0)
    };
    wait_until("the gateway refuses: no leader", refusals_are_counted, || cluster.logs());
}

#[test]
fn promtool_accepts_alerts_and_dashboard_queries() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let Some(mut promtool) = command_if_installed("promtool") else { return };
    let output = run(promtool.args(["check", "rules"]).arg(docs.join("alerts.yml")));
    assert_eq!(output.code, Some(0), "{output:?}");
    let dashboard = std::fs::read_to_string(docs.join("grafana.json")).unwrap();
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
    let output = run(command_if_installed("promtool").unwrap().args(["check", "rules"]).arg(file.path()));
    assert_eq!(output.code, Some(0), "{output:?}");
}
