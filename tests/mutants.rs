//! Each mutant breaks one safety rule on purpose. The simulator must detect the violation; this test prints the first
//! seed that does.

use drave::sim::network::LinkKind;
use drave::sim::operator_profile::OperatorProfile;
use drave::sim::scenario::FaultWeights;
use drave::sim::{Scenario, run};
use drave::types::{Mutant, Mutants};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Maximum number of seeds per mutant. If no seed reveals a mutant, the checks have a gap.
const SEEDS_PER_MUTANT_MAX: u64 = 400;

/// Changes a generated scenario so that the broken rule matters. Without these changes, some violations would need
/// thousands of seeds.
fn tune_scenario(mutant: Mutant, scenario: &mut Scenario) {
    match mutant {
        Mutant::ReadWithoutRound | Mutant::ReadAnyRound => {
            // The violation needs a leader that is paused or partitioned, and a client that reads from this leader when
            // it resumes.
            scenario.nodes = 3;
            scenario.fault_weights = FaultWeights { pause: 10, partition: 10, one_way: 5, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(300);
            scenario.network.link_kind = LinkKind::Datagram;
            scenario.network.loss_percent = 0;
            scenario.load.clients = 4;
            scenario.load.read_percent = 60;
            scenario.load.keys = 1;
            scenario.load.think_time_max = Duration::from_millis(10);
            scenario.load.reply_timeout = Duration::from_millis(100);
            scenario.load.followers_forward = false;
        }
        Mutant::CountVotesTwice => {
            // The violation needs votes that are delayed for as long as an election takes.
            scenario.nodes = 5;
            scenario.network.link_kind = LinkKind::Datagram;
            scenario.network.jitter = Duration::from_millis(120);
            scenario.network.duplicate_percent = 30;
            scenario.fault_weights = FaultWeights { kill: 10, pause: 10, partition: 10, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(300);
        }
        Mutant::ReuseNumbers => {
            // The violation needs processes that restart while responses still wait for a slow disk or for a quorum.
            scenario.nodes = 3;
            scenario.network.link_kind = LinkKind::Stream;
            scenario.sync_range = (Duration::from_millis(20), Duration::from_millis(60));
            scenario.fault_weights = FaultWeights { kill: 10, partition: 5, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(200);
            scenario.load.clients = 4;
            scenario.load.outstanding_max = 4;
            scenario.load.think_time_max = Duration::from_millis(10);
            scenario.load.read_percent = 20;
            scenario.load.followers_forward = true;
        }
        Mutant::ShipOneTooLate | Mutant::IgnoreSnapshots => {
            // The violation needs logs that are compacted at once, and nodes that are down until the entries they lack
            // are compacted.
            scenario.nodes = 3;
            scenario.fault_weights = FaultWeights { kill: 10, power: 5, rot: 2, ..FaultWeights::default() };
            scenario.node.snapshot_log_bytes = 400;
            scenario.node.trailing_bytes = 0;
            scenario.node.log_hold_bytes = 1 << 30;
            scenario.node.chunk_bytes = 400;
            scenario.load.clients = 4;
        }
        Mutant::KeepDamagedLog | Mutant::MendBeforeSnapshot => {
            // The violation needs damage in the log of running nodes that check their files, and no snapshot that is due
            // for another reason.
            scenario.nodes = 3;
            scenario.fault_weights = FaultWeights { rot_running: 20, kill: 1, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(300);
            scenario.segment_bytes = 8 << 10;
            scenario.node.scrub_interval = Some(Duration::from_millis(500));
            (scenario.node.snapshot_log_bytes, scenario.node.trailing_bytes) = (u64::MAX, 5000);
            scenario.node.snapshot_max_age = Duration::from_secs(3600);
            scenario.load.clients = 4;
            scenario.load.read_percent = 10;
            scenario.load.think_time_max = Duration::from_millis(10);
        }
        Mutant::SkipSnapshotVerify | Mutant::ResendDamagedSnapshot => {
            // The violation needs compacted logs and nodes that are down, as for `IgnoreSnapshots`, and also flipped
            // bits in snapshots that are written, received or published.
            scenario.nodes = 3;
            scenario.fault_weights = FaultWeights { kill: 4, pause: 10, rot_snapshot: 20, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(200);
            scenario.node.snapshot_log_bytes = 400;
            scenario.node.trailing_bytes = 0;
            scenario.node.log_hold_bytes = 0;
            scenario.node.chunk_bytes = 400;
            scenario.load.clients = 4;
            scenario.load.read_percent = 10;
        }
        Mutant::CompactedIsConflict => {
            // The violation needs compacted logs and nodes that are down, as for `IgnoreSnapshots`, and also delayed
            // and duplicated messages.
            scenario.nodes = 3;
            scenario.network.link_kind = LinkKind::Datagram;
            scenario.network.jitter = Duration::from_millis(100);
            scenario.network.duplicate_percent = 30;
            scenario.node.snapshot_log_bytes = 400;
            scenario.node.trailing_bytes = 0;
            scenario.load.clients = 4;
            scenario.load.think_time_max = Duration::from_millis(10);
            scenario.load.read_percent = 10;
        }
        Mutant::IgnoreLost => {
            // The violation needs a follower that restarts on an older copy of its disk, and no other fault for a
            // while.
            scenario.nodes = 3;
            scenario.fault_weights = FaultWeights { older_copy: 10, kill: 1, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(700);
            scenario.fault_phase_duration = Duration::from_secs(20);
            scenario.stops_clients_first = false;
            scenario.network.link_kind = LinkKind::Stream;
            scenario.node.snapshot_log_bytes = u64::MAX;
            scenario.node.snapshot_max_age = Duration::from_secs(3600);
            scenario.load.clients = 4;
            scenario.load.read_percent = 10;
            scenario.load.think_time_max = Duration::from_millis(10);
        }
        Mutant::AnswerWithAnyEntries => {
            // The violation needs damaged nodes without a leader, and logs that differ.
            scenario.nodes = 3;
            (scenario.repairs_journals, scenario.slow_disk) = (true, None);
            scenario.damage_pairs_only();
            (scenario.fault_weights.kill, scenario.fault_weights.partition) = (10, 20);
            scenario.node.snapshot_log_bytes = u64::MAX;
            scenario.fault_interval = Duration::from_millis(200);
            scenario.load.clients = 4;
            scenario.load.read_percent = 10;
            scenario.load.think_time_max = Duration::from_millis(10);
        }
        Mutant::ReadNamesLaterEntry => {
            // The violation is noticed by clients with connections, which check the applied index in the reply to a
            // read.
            scenario.nodes = 3;
            (scenario.load.call_clients, scenario.load.mux_clients) = (2, 1);
            scenario.load.read_percent = 60;
        }
        Mutant::RaiseUnannounced | Mutant::SendUnnegotiated | Mutant::WriteUnknownLevel => {
            // The violation needs machines of two versions, whose connections are ordered.
            scenario.nodes = 3;
            scenario.mixes_versions = true;
            scenario.network.link_kind = LinkKind::Stream;
            scenario.network.loss_percent = 0;
        }
        Mutant::ExecuteEarly | Mutant::StoreOutOfOrder | Mutant::ExecuteGivenUp => {
            // The violation needs connections whose requests are lost at each change of leader, and clients with a
            // short timeout.
            scenario.nodes = 3;
            scenario.pipelines = 2;
            scenario.batching_percent = 60;
            scenario.network.delay = Duration::from_millis(5);
            scenario.fault_weights =
                FaultWeights { kill: 10, pause: 10, partition: 10, reset: 10, ..FaultWeights::default() };
            scenario.fault_interval = Duration::from_millis(300);
        }
        _ => tune_membership_scenario(mutant, scenario),
    }
}

/// Like [`tune_scenario`], for the rules of membership changes: sets an operator whose changes mostly attempt to
/// violate them.
fn tune_membership_scenario(mutant: Mutant, scenario: &mut Scenario) {
    let ms = Duration::from_millis;
    let base_profile = |reply_timeout_ms| OperatorProfile {
        interval: Some(ms(20)),
        reply_timeout: ms(reply_timeout_ms),
        ..OperatorProfile::default()
    };
    match mutant {
        Mutant::NoAmnesiaGuard => {
            // The violation needs a voter that loses its disk while another voter is partitioned and lacks entries:
            // then only one disk holds these entries.
            (scenario.nodes, scenario.spare_machines) = (3, 0);
            scenario.fault_weights = FaultWeights { partition: 10, pause: 6, kill: 4, ..FaultWeights::default() };
            scenario.fault_interval = ms(300);
            scenario.operator = OperatorProfile { interval: Some(ms(60)), wipes_max: 1, ..base_profile(2000) };
            (scenario.load.clients, scenario.load.think_time_max, scenario.load.read_percent) = (4, ms(10), 0);
        }
        Mutant::ChangeBeforeNoop | Mutant::StackChanges => {
            // The violation needs slow disks, so that many entries are in flight for long, and an operator that does
            // not wait for responses.
            (scenario.nodes, scenario.spare_machines) = (5, 2);
            scenario.fault_weights = FaultWeights { kill: 10, pause: 5, ..FaultWeights::default() };
            scenario.fault_interval = ms(300);
            scenario.sync_range = (ms(20), ms(60));
            scenario.operator = OperatorProfile { forced_percent: 100, arbitrary_voters: true, ..base_profile(30) };
        }
        Mutant::KeepDroppedConfig | Mutant::KeepStaleConfig => {
            // The violation needs leaders that are partitioned and append a change that reaches no other node.
            (scenario.nodes, scenario.spare_machines) = (5, 2);
            scenario.fault_weights = FaultWeights { partition: 10, one_way: 5, pause: 3, ..FaultWeights::default() };
            scenario.fault_interval = ms(200);
            scenario.operator = OperatorProfile { forced_percent: 100, arbitrary_voters: true, ..base_profile(50) };
            if mutant == Mutant::KeepStaleConfig {
                (scenario.node.snapshot_log_bytes, scenario.node.trailing_bytes, scenario.node.log_hold_bytes) =
                    (400, 0, 0);
                (scenario.load.clients, scenario.load.think_time_max) = (4, ms(10));
            }
        }
        Mutant::HandoverBypassesVote => {
            // The violation needs messages that are delayed for as long as an election takes, and leaders that die
            // after a leadership transfer.
            (scenario.nodes, scenario.spare_machines) = (5, 0);
            scenario.network.link_kind = LinkKind::Datagram;
            scenario.network.jitter = ms(150);
            scenario.fault_weights = FaultWeights { kill: 10, pause: 10, partition: 5, ..FaultWeights::default() };
            scenario.fault_interval = ms(200);
            scenario.operator = OperatorProfile { transfers_leadership: true, ..base_profile(50) };
        }
        Mutant::CampaignOnlyIfListed => {
            // The violation needs two nodes, one of which is removed. Power losses decide at random which entries are
            // on which disk.
            (scenario.nodes, scenario.spare_machines) = (2, 1);
            scenario.fault_phase_duration = ms(4000);
            scenario.fault_weights = FaultWeights { power: 10, kill: 5, one_way: 5, ..FaultWeights::default() };
            scenario.fault_interval = ms(200);
            scenario.operator = OperatorProfile { forced_percent: 50, ..base_profile(100) };
        }
        Mutant::VoteUnnamed => {
            // The violation needs a cluster that one node founded and that then grew. The founder loses its disk, is
            // added again, and is partitioned while it slowly receives the old log.
            (scenario.nodes, scenario.spare_machines, scenario.pipelines) = (1, 2, 0);
            scenario.fault_weights = FaultWeights { partition: 10, kill: 2, ..FaultWeights::default() };
            (scenario.fault_interval, scenario.fault_phase_duration) = (ms(300), ms(30_000));
            scenario.operator = OperatorProfile { interval: Some(ms(400)), wipes_max: 3, ..base_profile(400) };
            (scenario.load.clients, scenario.load.think_time_max, scenario.load.read_percent) = (2, ms(50), 0);
            slow_down_catch_up(scenario);
            (scenario.sync_range, scenario.network.delay) = ((ms(20), ms(60)), ms(5));
        }
        Mutant::DeafToLeaders => {
            // The violation needs members that lose their disks, are added again and lead, while other nodes join and
            // receive the old log.
            (scenario.nodes, scenario.spare_machines) = (3, 4);
            scenario.fault_weights = FaultWeights { kill: 5, ..FaultWeights::default() };
            (scenario.fault_interval, scenario.fault_phase_duration, scenario.stops_clients_first) =
                (ms(2000), ms(30_000), false);
            scenario.operator = OperatorProfile { interval: Some(ms(300)), wipes_max: 3, ..base_profile(400) };
            (scenario.load.clients, scenario.load.think_time_max, scenario.load.read_percent) = (2, ms(100), 10);
            (scenario.apply_delay_max, scenario.slow_disk) = (Duration::ZERO, None);
            slow_down_catch_up(scenario);
        }
        Mutant::NeverTakeBack => {
            // The violation needs nodes that become voters although their logs lag behind. Some nodes are lost for
            // good, but none during a change.
            (scenario.nodes, scenario.spare_machines) = (3, 4);
            scenario.fault_weights = FaultWeights { rot: 20, ..FaultWeights::default() };
            scenario.fault_interval = ms(300);
            scenario.operator = OperatorProfile {
                interval: Some(ms(60)),
                forced_percent: 100,
                arbitrary_voters: true,
                ..base_profile(300)
            };
            (scenario.load.clients, scenario.load.think_time_max) = (4, ms(10));
        }
        _ => {}
    }
}

/// Makes followers that lack many entries receive them one entry at a time.
fn slow_down_catch_up(scenario: &mut Scenario) {
    (scenario.append_bytes, scenario.window_bytes) = (512, 512);
    (scenario.node.snapshot_log_bytes, scenario.node.snapshot_max_age) = (u64::MAX, Duration::from_secs(3600));
    (scenario.network.straggler_percent, scenario.network.jitter) = (0, Duration::ZERO);
    // No keys expire: the history checker does not allow for the clock drift of so long a run.
    scenario.load.expiring_value_percent = 0;
}

/// Whether the mutant breaks a rule of membership changes, and so matters only where members change.
fn breaks_membership_rule(mutant: Mutant) -> bool {
    matches!(
        mutant,
        Mutant::ConfigAtCommit
            | Mutant::ChangeWithoutJoint
            | Mutant::ChangeBeforeNoop
            | Mutant::StackChanges
            | Mutant::JointByNewHalf
            | Mutant::KeepStaleConfig
            | Mutant::LearnersCount
            | Mutant::NoAmnesiaGuard
            | Mutant::KeepDroppedConfig
            | Mutant::HandoverBypassesVote
            | Mutant::NeverTakeBack
            | Mutant::CampaignOnlyIfListed
            | Mutant::VoteUnnamed
            | Mutant::CountAnyDisk
            | Mutant::DeafToLeaders
    )
}

/// Whether this violation is the one that must reveal the mutant. For `IgnoreLost`, the violation must be that the
/// follower makes no progress.
fn is_expected_violation(mutant: Mutant, description: &str) -> bool {
    mutant != Mutant::IgnoreLost || description.starts_with("no progress")
}

/// The first seed that catches the mutant, and the violation. If the same scenario fails without the mutant too, the
/// violation has another cause, and the returned text says so.
fn find_catching_seed(mutant: Mutant) -> Option<(u64, String)> {
    (0..SEEDS_PER_MUTANT_MAX).find_map(|seed| {
        let draw_scenario =
            if breaks_membership_rule(mutant) { Scenario::draw_basic_with_operator } else { Scenario::draw_basic };
        let mut scenario = draw_scenario(seed, Duration::from_secs(10));
        tune_scenario(mutant, &mut scenario);
        let unbroken_scenario = scenario.clone();
        scenario.mutants = Mutants::only(mutant);
        let violation =
            run(scenario, None).err().filter(|violation| is_expected_violation(mutant, &violation.description))?;
        if let Err(violation) = run(unbroken_scenario, None) {
            return Some((seed, format!("THE SCENARIO ALSO FAILS WITHOUT THE MUTANT: {}", violation.description)));
        }
        Some((seed, violation.description))
    })
}

/// Mutants that this test does not try: their violations are too rare in simulated runs, they cause elections but no
/// lost data, or they do not affect the simulator's state machine. `tests/core/paper.rs`, `tests/core/voters.rs`,
/// `tests/regressions.rs`, `src/apply/applier/tests.rs` and, for the sending of snapshots,
/// `src/node/snapshot_sender/tests.rs` break each of these in a test of its own. (`tests/core/members.rs` also has such
/// a test for each rule of membership changes.)
const MUTANTS_TESTED_ELSEWHERE: &[Mutant] = &[
    Mutant::NoPreVote,
    Mutant::CountStaleVotes,
    Mutant::AckUnmatched,
    Mutant::InstallOldSnapshots,
    Mutant::DamagedIsEmpty,
    Mutant::CompactUnderShip,
    Mutant::SendSnapshotsAgain,
    Mutant::KeepConflictingLog,
    Mutant::HoldForTheSilent,
    Mutant::VoteForAnyDisk,
    Mutant::CountAnyDisk,
    Mutant::CountBeforeNamed,
    Mutant::NeverYield,
    Mutant::ServeBeforeAgreed,
    Mutant::HearAnyLog,
    Mutant::HideUnagreedLog,
    Mutant::TimeFromEntriesAlone,
    Mutant::IgnoreVotersTime,
    Mutant::PromoteUnnamed,
    Mutant::FoundOverHolder,
    Mutant::ForgetPromised,
    Mutant::FeedBeforePromise,
    Mutant::IgnoreReminders,
    Mutant::AdvanceTimeBeforeDigest,
];

/// All mutants that are not tested elsewhere, or the one named by `DRAVE_MUTANT`.
fn mutants_to_catch() -> Vec<Mutant> {
    let selected_name = std::env::var("DRAVE_MUTANT").ok();
    let is_selected = |mutant: &Mutant| selected_name.as_deref().is_none_or(|name| name == mutant.name());
    Mutant::ALL
        .iter()
        .copied()
        .filter(|mutant| !MUTANTS_TESTED_ELSEWHERE.contains(mutant) && is_selected(mutant))
        .collect()
}

/// The result of the search for a seed that catches a mutant, in one line.
fn describe_search(search_result: &Option<(u64, String)>) -> String {
    match search_result {
        Some((seed, violation)) => {
            let violation: String = violation.lines().next().unwrap_or_default().chars().take(90).collect();
            format!("caught by seed {seed:>4}: {violation}")
        }
        None => format!("NOT caught in {SEEDS_PER_MUTANT_MAX} seeds"),
    }
}

/// The mutants include the bugs qdrant#1235 and etcd#10951 (`no-amnesia-guard`): a voter that came back with an empty
/// disk was counted, which loses a committed entry or a vote. Also cowsql e514f78f and etcd-io/raft#442
/// (`ack-snapshot-before-sync`): a snapshot was acknowledged before it was durable.
#[test]
fn every_mutant_is_caught() {
    // Mutants often make a node panic, as expected. Their backtraces would only hide the results.
    std::panic::set_hook(Box::new(|_| {}));
    let next_mutant = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let catch_mutants = || {
        while let Some(mutant) = mutants_to_catch().get(next_mutant.fetch_add(1, Ordering::Relaxed)) {
            let search_result = find_catching_seed(*mutant);
            println!("{:<28} {}", mutant.name(), describe_search(&search_result));
            results.lock().unwrap().push((*mutant, search_result));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(catch_mutants);
        scope.spawn(catch_mutants);
    });
    let _panic_hook = std::panic::take_hook();
    let mut results = results.into_inner().unwrap();
    results.sort();
    let missed_names: Vec<&str> =
        results.iter().filter(|(_, search_result)| search_result.is_none()).map(|(m, _)| m.name()).collect();
    assert!(missed_names.is_empty(), "no seed reveals these mutants: {missed_names:?}");
    let fails_without_mutant = |(_, search_result): &&(Mutant, Option<(u64, String)>)| {
        search_result.as_ref().is_some_and(|(_, description)| description.starts_with("THE SCENARIO ALSO FAILS"))
    };
    assert!(!results.iter().any(|result| fails_without_mutant(&result)), "a scenario fails without its mutant");
}
