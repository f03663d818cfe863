//! `drave bench --scenario failover`: every fault yields a measurement, and no acknowledged write is lost.

use support::{drave, run};

mod support;

#[test]
fn each_fault_is_measured_and_loses_nothing() {
    let words = ["bench", "--scenario", "failover", "--runs", "2", "--rate", "300", "--clients", "4", "-o", "json"];
    // The exit code is 1 if an acknowledged write is missing in the end, or applied twice.
    let said = run(&mut drave(&words));
    assert_eq!(said.code, Some(0), "{said:?}");
    let json = said.json();
    let faults = json["faults"].as_array().unwrap();
    let names: Vec<&str> = faults.iter().map(|fault| fault["fault"].as_str().unwrap()).collect();
    assert_eq!(names, ["kill", "freeze", "isolate", "term", "kill-follower"]);
    for fault in faults {
        let gaps: Vec<f64> = fault["gaps_ms"].as_array().unwrap().iter().map(|gap| gap.as_f64().unwrap()).collect();
        assert!(gaps.len() == 2 && gaps.iter().all(|gap| *gap > 0.0), "{fault}");
        assert!(fault["acknowledged"].as_u64().unwrap() > 0 && fault["refused"] == 0, "{fault}");
        assert!(fault["max_ms"].as_f64().unwrap() >= fault["p50_ms"].as_f64().unwrap(), "{fault}");
    }
    // Progress goes to standard error.
    assert!(said.err.contains("isolate 2/2: "), "{said:?}");
}

#[test]
fn bench_requires_either_verb_or_scenario() {
    let said = run(&mut drave(&["bench"]));
    assert_eq!(said.code, Some(2), "{said:?}");
    let said = run(&mut drave(&["bench", "put", "--runs", "3"]));
    assert!(said.code == Some(2) && said.err.contains("--scenario"), "{said:?}");
    let said = run(&mut drave(&["bench", "--scenario", "failover", "--runs", "0"]));
    assert_eq!(said.code, Some(2), "{said:?}");
}
