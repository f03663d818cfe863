//! `drave bench --scenario failover`: every fault yields a measurement, and no acknowledged write is lost.

use support::{drave_command, run};

mod support;

#[test]
fn failover_bench_measures_each_fault_without_lost_writes() {
    let args = ["bench", "--scenario", "failover", "--runs", "2", "--rate", "300", "--clients", "4", "-o", "json"];
    // The exit code is 1 if an acknowledged write is missing in the end, or applied twice.
    let output = run(&mut drave_command(&args));
    assert_eq!(output.code, Some(0), "{output:?}");
    let bench_result = output.json();
    let fault_reports = bench_result["faults"].as_array().unwrap();
    let fault_names: Vec<&str> = fault_reports.iter().map(|report| report["fault"].as_str().unwrap()).collect();
    assert_eq!(fault_names, ["kill", "freeze", "isolate", "term", "kill-follower"]);
    for report in fault_reports {
        let gaps_ms: Vec<f64> = report["gaps_ms"].as_array().unwrap().iter().map(|gap| gap.as_f64().unwrap()).collect();
        assert!(gaps_ms.len() == 2 && gaps_ms.iter().all(|gap| *gap > 0.0), "{report}");
        assert!(report["acknowledged"].as_u64().unwrap() > 0 && report["refused"] == 0, "{report}");
        assert!(report["max_ms"].as_f64().unwrap() >= report["p50_ms"].as_f64().unwrap(), "{report}");
    }
    // Progress goes to standard error.
    assert!(output.err.contains("isolate 2/2: "), "{output:?}");
}

#[test]
fn bench_requires_either_verb_or_scenario() {
    let output = run(&mut drave_command(&["bench"]));
    assert_eq!(output.code, Some(2), "{output:?}");
    let output = run(&mut drave_command(&["bench", "put", "--runs", "3"]));
    assert!(output.code == Some(2) && output.err.contains("--scenario"), "{output:?}");
    let output = run(&mut drave_command(&["bench", "--scenario", "failover", "--runs", "0"]));
    assert_eq!(output.code, Some(2), "{output:?}");
}
