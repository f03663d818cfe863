//! The examples: each runs to its end, and its cluster does what it shows.
//!
//! They are compiled into this test, so that the test needs no other program to be built before it. `main` of each only
//! passes a port to `run`.

mod support;

use support::ports;

#[allow(dead_code, reason = "the test calls run")]
#[path = "../examples/leadership.rs"]
mod leadership;
#[allow(dead_code, reason = "the test calls run")]
#[path = "../examples/own_client.rs"]
mod own_client;
#[allow(dead_code, reason = "the test calls run")]
#[path = "../examples/three_nodes.rs"]
mod three_nodes;

#[test]
fn cluster_loses_its_leader_and_no_command() {
    assert_eq!(three_nodes::run(ports(3)).unwrap(), "10");
}

#[test]
fn client_of_another_state_machine_executes_and_queries() {
    let guests = own_client::run(ports(3)).unwrap();
    assert_eq!(guests, [Some("Ada".to_owned()), Some("Grace".to_owned()), None]);
}

#[test]
fn job_moves_to_the_next_leader() {
    let [first, second] = leadership::run(ports(3)).unwrap();
    assert_ne!(first, second);
}
