//! The arguments of `drave bench --scenario`.

use clap::{Args, ValueEnum};

/// The arguments of the failover scenario.
#[derive(Args, Clone, Debug)]
pub struct FailoverScenario {
    /// Run a cluster of its own and inject faults into it; --rate, --clients, --inflight and -o apply
    #[arg(long, value_enum)]
    pub scenario: Option<Scenario>,
    /// Number of runs of each fault (scenario)
    #[arg(long, default_value_t = 10, requires = "scenario", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub runs: u64,
    /// The fault to inject (scenario)
    #[arg(long, value_enum, default_value_t = FailoverFault::All, requires = "scenario")]
    pub fault: FailoverFault,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// A node fails and recovers.
    Failover,
}

/// The fault to inject into the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FailoverFault {
    /// kill -9 of the leader.
    Kill,
    /// SIGSTOP of the leader, until writes flow again.
    Freeze,
    /// The leader is cut off from nodes and clients, until writes flow again.
    Isolate,
    /// SIGTERM of the leader.
    #[value(name = "term")]
    Sigterm,
    /// kill -9 of a follower.
    KillFollower,
    /// All faults, one after the other.
    All,
}

impl FailoverFault {
    pub(super) fn single_faults(self) -> Vec<FailoverFault> {
        match self {
            FailoverFault::All => vec![
                FailoverFault::Kill,
                FailoverFault::Freeze,
                FailoverFault::Isolate,
                FailoverFault::Sigterm,
                FailoverFault::KillFollower,
            ],
            one => vec![one],
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            FailoverFault::Kill => "kill",
            FailoverFault::Freeze => "freeze",
            FailoverFault::Isolate => "isolate",
            FailoverFault::Sigterm => "term",
            FailoverFault::KillFollower => "kill-follower",
            FailoverFault::All => "all",
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            FailoverFault::Kill => "kill -9 of the leader",
            FailoverFault::Freeze => "SIGSTOP of the leader",
            FailoverFault::Isolate => "the leader is cut off from nodes and clients",
            FailoverFault::Sigterm => "SIGTERM of the leader",
            FailoverFault::KillFollower => "kill -9 of a follower",
            FailoverFault::All => "everything",
        }
    }
}
