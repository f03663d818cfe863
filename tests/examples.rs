//! Runs each example to its end, and checks its result.
//!
//! The examples are compiled into this test, so that no other program has to be built first. The `main` of each example
//! only passes a port to its `run`.

mod support;

use support::reserve_ports;

#[allow(dead_code, reason = "the test calls `run` instead of `main`")]
#[path = "../examples/leadership.rs"]
mod leadership;
#[allow(dead_code, reason = "the test calls `run` instead of `main`")]
#[path = "../examples/own_client.rs"]
mod own_client;
#[allow(dead_code, reason = "the test calls `run` instead of `main`")]
#[path = "../examples/three_nodes.rs"]
mod three_nodes;

#[test]
fn leader_crash_loses_no_command() {
    assert_eq!(three_nodes::run(reserve_ports(3)).unwrap(), "10");
}

#[test]
fn client_of_another_state_machine_executes_and_queries() {
    let guests = own_client::run(reserve_ports(3)).unwrap();
    assert_eq!(guests, [Some("Ada".to_owned()), Some("Grace".to_owned()), None]);
}

#[test]
fn job_moves_to_the_next_leader() {
    let [first, second] = leadership::run(reserve_ports(3)).unwrap();
    assert_ne!(first, second);
}
