//! Each safety rule, broken on purpose. The simulator must notice, and this test prints the first seed that does.

use drave::sim::governance::Governance;
use drave::sim::network::Tier;
use drave::sim::scenario::FaultWeights;
use drave::sim::{Scenario, run};
use drave::types::{Mutant, Mutants};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Maximum number of seeds per mutant. A mutant that needs more shows a gap in the checks.
const SEEDS: u64 = 400;

/// Changes a generated scenario so that the broken rule matters: the rarer ones would need thousands of seeds
/// otherwise.
fn focus(mutant: Mutant, scenario: &mut Scenario) {
    match mutant {
        Mutant::ReadWithoutRound | Mutant::ReadAnyRound => {
            // A leader that is paused or partitioned, and a client that reads from it when it resumes.
            scenario.nodes = 3;
            scenario.troubles = FaultWeights { pause: 10, partition: 10, one_way: 5, ..FaultWeights::default() };
            scenario.every = Duration::from_millis(300);
            scenario.weather.tier = Tier::Datagram;
            scenario.weather.loss = 0;
            scenario.load.clients = 4;
            scenario.load.reads = 60;
            scenario.load.keys = 1;
            scenario.load.think = Duration::from_millis(10);
            scenario.load.patience = Duration::from_millis(100);
            scenario.load.forward = false;
        }
        Mutant::CountVotesTwice => {
            // Votes that are delayed for as long as an election takes.
            scenario.nodes = 5;
            scenario.weather.tier = Tier::Datagram;
            scenario.weather.jitter = Duration::from_millis(120);
            scenario.weather.doubling = 30;
            scenario.troubles = FaultWeights { kill: 10, pause: 10, partition: 10, ..FaultWeights::default() };
            scenario.every = Duration::from_millis(300);
        }
        Mutant::ReuseNumbers => {
            // Processes that restart at once, while responses still wait for a slow disk or for a quorum.
            scenario.nodes = 3;
            scenario.weather.tier = Tier::Stream;
            scenario.sync = (Duration::from_millis(20), Duration::from_millis(60));
            scenario.troubles = FaultWeights { kill: 10, partition: 5, ..FaultWeights::default() };
            scenario.every = Duration::from_millis(200);
            scenario.load.clients = 4;
            scenario.load.outstanding = 4;
            scenario.load.think = Duration::from_millis(10);
            scenario.load.reads = 20;
            scenario.load.forward = true;
        }
        Mutant::ShipOneTooLate | Mutant::IgnoreSnapshots => {
            // Logs that are compacted at once, and nodes that are down for longer than the log reaches back.
            scenario.nodes = 3;
            scenario.troubles = FaultWeights { kill: 10, power: 5, rot: 2, ..FaultWeights::default() };
            scenario.node.snapshot_log_bytes = 400;
            scenario.node.trailing_bytes = 0;
            scenario.node.hold_bytes = 1 << 30;
            scenario.node.chunk_bytes = 400;
            scenario.load.clients = 4;
        }
        Mutant::SkipSnapshotVerify | Mutant::ResendDamagedSnapshot => {
            // The same, with flipped bits in snapshots while they are written, received or published.
            scenario.nodes = 3;
            scenario.troubles = FaultWeights { kill: 4, pause: 10, rot_snapshot: 20, ..FaultWeights::default() };
            scenario.every = Duration::from_millis(200);
            scenario.node.snapshot_log_bytes = 400;
            scenario.node.trailing_bytes = 0;
            scenario.node.hold_bytes = 0;
            scenario.node.chunk_bytes = 400;
            scenario.load.clients = 4;
            scenario.load.reads = 10;
        }
        Mutant::CompactedIsConflict => {
            // The same, with delayed and duplicated messages.
            scenario.nodes = 3;
            scenario.weather.tier = Tier::Datagram;
            scenario.weather.jitter = Duration::from_millis(100);
            scenario.weather.doubling = 30;
            scenario.node.snapshot_log_bytes = 400;
            scenario.node.trailing_bytes = 0;
            scenario.load.clients = 4;
            scenario.load.think = Duration::from_millis(10);
            scenario.load.reads = 10;
        }
        Mutant::IgnoreLost => {
            // A follower comes back with an older copy of its disk, and no other fault happens for a while.
            scenario.nodes = 3;
            scenario.troubles = FaultWeights { older: 10, kill: 1, ..FaultWeights::default() };
            scenario.every = Duration::from_millis(700);
            scenario.storm = Duration::from_secs(20);
            scenario.quiet = false;
            scenario.weather.tier = Tier::Stream;
            scenario.node.snapshot_log_bytes = u64::MAX;
            scenario.node.snapshot_max_age = Duration::from_secs(3600);
            scenario.load.clients = 4;
            scenario.load.reads = 10;
            scenario.load.think = Duration::from_millis(10);
        }
        Mutant::ReadNamesLaterEntry => {
            // Clients whose responses name the entry they were read at.
            scenario.nodes = 3;
            (scenario.load.callers, scenario.load.muxes) = (2, 1);
            scenario.load.reads = 60;
        }
        Mutant::ExecuteEarly | Mutant::StoreOutOfOrder | Mutant::ExecuteGivenUp => {
            // Connections whose requests are lost at each change of leader, and clients with a short timeout.
            scenario.nodes = 3;
            scenario.pipelines = 2;
            scenario.batching = 60;
            scenario.weather.delay = Duration::from_millis(5);
            scenario.troubles =
                FaultWeights { kill: 10, pause: 10, partition: 10, reset: 10, ..FaultWeights::default() };
            scenario.every = Duration::from_millis(300);
        }
        _ => focus_members(mutant, scenario),
    }
}

/// The same for the rules of membership changes: an operator that mostly attempts to break them.
fn focus_members(mutant: Mutant, scenario: &mut Scenario) {
    let ms = Duration::from_millis;
    let asks = |patience| Governance { every: Some(ms(20)), patience: ms(patience), ..Governance::default() };
    match mutant {
        Mutant::NoAmnesiaGuard => {
            // A voter loses its disk while another is partitioned and lacks the entries that only those two would have
            // held.
            (scenario.nodes, scenario.spares) = (3, 0);
            scenario.troubles = FaultWeights { partition: 10, pause: 6, kill: 4, ..FaultWeights::default() };
            scenario.every = ms(300);
            scenario.governance = Governance { every: Some(ms(60)), wipes: 1, ..asks(2000) };
            (scenario.load.clients, scenario.load.think, scenario.load.reads) = (4, ms(10), 0);
        }
        Mutant::ChangeBeforeNoop | Mutant::StackChanges => {
            // Slow disks, so that much is in flight for long, and an operator that does not wait for responses.
            (scenario.nodes, scenario.spares) = (5, 2);
            scenario.troubles = FaultWeights { kill: 10, pause: 5, ..FaultWeights::default() };
            scenario.every = ms(300);
            scenario.sync = (ms(20), ms(60));
            scenario.governance = Governance { forced: 100, at_will: true, ..asks(30) };
        }
        Mutant::KeepDroppedConfig | Mutant::KeepStaleConfig => {
            // Leaders that are partitioned with a change that reaches no other node.
            (scenario.nodes, scenario.spares) = (5, 2);
            scenario.troubles = FaultWeights { partition: 10, one_way: 5, pause: 3, ..FaultWeights::default() };
            scenario.every = ms(200);
            scenario.governance = Governance { forced: 100, at_will: true, ..asks(50) };
            if mutant == Mutant::KeepStaleConfig {
                (scenario.node.snapshot_log_bytes, scenario.node.trailing_bytes, scenario.node.hold_bytes) =
                    (400, 0, 0);
                (scenario.load.clients, scenario.load.think) = (4, ms(10));
            }
        }
        Mutant::HandoverBypassesVote => {
            // Messages that are delayed for as long as an election takes, and leaders that die after a leadership
            // transfer.
            (scenario.nodes, scenario.spares) = (5, 0);
            scenario.weather.tier = Tier::Datagram;
            scenario.weather.jitter = ms(150);
            scenario.troubles = FaultWeights { kill: 10, pause: 10, partition: 5, ..FaultWeights::default() };
            scenario.every = ms(200);
            scenario.governance = Governance { transfers: true, ..asks(50) };
        }
        Mutant::CampaignOnlyIfListed => {
            // Two nodes, one of which is removed; which entries are on which disk is left to chance.
            (scenario.nodes, scenario.spares) = (2, 1);
            scenario.storm = ms(4000);
            scenario.troubles = FaultWeights { power: 10, kill: 5, one_way: 5, ..FaultWeights::default() };
            scenario.every = ms(200);
            scenario.governance = Governance { forced: 50, ..asks(100) };
        }
        Mutant::VoteUnnamed => {
            // A cluster that one node founded and that grew. The founder loses its disk, is added again, and is
            // partitioned while it slowly reads the old log.
            (scenario.nodes, scenario.spares, scenario.pipelines) = (1, 2, 0);
            scenario.troubles = FaultWeights { partition: 10, kill: 2, ..FaultWeights::default() };
            (scenario.every, scenario.storm) = (ms(300), ms(30_000));
            scenario.governance = Governance { every: Some(ms(400)), wipes: 3, ..asks(400) };
            (scenario.load.clients, scenario.load.think, scenario.load.reads) = (2, ms(50), 0);
            catch_up_slowly(scenario);
            (scenario.sync, scenario.weather.delay) = ((ms(20), ms(60)), ms(5));
        }
        Mutant::DeafToLeaders => {
            // Members lose their disks, are added again and lead, while other nodes join and read the old log.
            (scenario.nodes, scenario.spares) = (3, 4);
            scenario.troubles = FaultWeights { kill: 5, ..FaultWeights::default() };
            (scenario.every, scenario.storm, scenario.quiet) = (ms(2000), ms(30_000), false);
            scenario.governance = Governance { every: Some(ms(300)), wipes: 3, ..asks(400) };
            (scenario.load.clients, scenario.load.think, scenario.load.reads) = (2, ms(100), 10);
            (scenario.apply, scenario.slow_disk) = (Duration::ZERO, None);
            catch_up_slowly(scenario);
        }
        Mutant::NeverTakeBack => {
            // Nodes are made voters in any state. Some are lost for good, but none in the middle of a change.
            (scenario.nodes, scenario.spares) = (3, 4);
            scenario.troubles = FaultWeights { rot: 20, ..FaultWeights::default() };
            scenario.every = ms(300);
            scenario.governance = Governance { every: Some(ms(60)), forced: 100, at_will: true, ..asks(300) };
            (scenario.load.clients, scenario.load.think) = (4, ms(10));
        }
        _ => {}
    }
}

/// Followers that lack much of the log receive it entry by entry, one message at a time.
fn catch_up_slowly(scenario: &mut Scenario) {
    (scenario.append_bytes, scenario.window_bytes) = (512, 512);
    (scenario.node.snapshot_log_bytes, scenario.node.snapshot_max_age) = (u64::MAX, Duration::from_secs(3600));
    (scenario.weather.stragglers, scenario.weather.jitter) = (0, Duration::ZERO);
    // No keys that expire: the history checker does not allow for the clock drift of so long a storm.
    scenario.load.mortal = 0;
}

/// Whether the mutant breaks a rule of membership changes, and so matters only where members change.
fn of_members(mutant: Mutant) -> bool {
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

/// Whether this violation is the one that must reveal the mutant. For `IgnoreLost` the calm after the storm must show
/// the starving follower; a violation during the storm is not enough.
fn is_noticed(mutant: Mutant, what: &str) -> bool {
    mutant != Mutant::IgnoreLost || what.starts_with("no progress")
}

/// The first seed that catches the mutant, and the violation. The same scenario without the mutant must pass, or the
/// violation has another cause.
fn hunt(mutant: Mutant) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| {
        let draw = if of_members(mutant) { Scenario::draw_short_governed } else { Scenario::draw_short };
        let mut scenario = draw(seed, Duration::from_secs(10));
        focus(mutant, &mut scenario);
        let kept = scenario.clone();
        scenario.mutants = Mutants::only(mutant);
        let violation = run(scenario, None).err().filter(|violation| is_noticed(mutant, &violation.what))?;
        if let Err(violation) = run(kept, None) {
            return Some((seed, format!("WITHOUT MUTANT TOO: {}", violation.what)));
        }
        Some((seed, violation.what))
    })
}

/// Mutants that are too rare for storms, that cause unrest and no loss, or that do not affect the simulator's state
/// machine. `tests/core/paper.rs`, `tests/core/voters.rs`, `tests/regressions.rs`, `src/apply/applier/tests.rs` and,
/// for the sending of snapshots, `src/node/snapshot_sender/tests.rs` break each of these in a test of its own.
/// (`tests/core/members.rs` also has such a test for each rule of membership changes.)
const TESTED_ELSEWHERE: &[Mutant] = &[
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

/// All other mutants, or the one named by `DRAVE_MUTANT`.
fn hunted() -> Vec<Mutant> {
    let only = std::env::var("DRAVE_MUTANT").ok();
    let wanted = |mutant: &Mutant| only.as_deref().is_none_or(|name| name == mutant.name());
    Mutant::ALL.iter().copied().filter(|mutant| !TESTED_ELSEWHERE.contains(mutant) && wanted(mutant)).collect()
}

/// The result of a hunt, in one line.
fn describe(caught: &Option<(u64, String)>) -> String {
    match caught {
        Some((seed, what)) => {
            let what: String = what.lines().next().unwrap_or_default().chars().take(90).collect();
            format!("caught by seed {seed:>4}: {what}")
        }
        None => format!("NOT caught in {SEEDS} seeds"),
    }
}

/// Among them qdrant#1235 and etcd#10951 (`no-amnesia-guard`): a voter that came back with an empty disk was counted,
/// which loses a committed entry or a vote. Also cowsql e514f78f and etcd-io/raft#442 (`ack-snapshot-before-sync`): a
/// snapshot was acknowledged before it was durable.
#[test]
fn every_mutant_is_caught() {
    // Mutants panic often, as expected; their backtraces are of no use.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutant) = hunted().get(next.fetch_add(1, Ordering::Relaxed)) {
            let caught = hunt(*mutant);
            println!("{:<28} {}", mutant.name(), describe(&caught));
            found.lock().unwrap().push((*mutant, caught));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let _default = std::panic::take_hook();
    let mut found = found.into_inner().unwrap();
    found.sort();
    let missed: Vec<&str> = found.iter().filter(|(_, caught)| caught.is_none()).map(|(m, _)| m.name()).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
    let unbroken = |(_, caught): &&(Mutant, Option<(u64, String)>)| {
        caught.as_ref().is_some_and(|(_, what)| what.starts_with("WITHOUT MUTANT"))
    };
    assert!(!found.iter().any(|found| unbroken(&found)), "a scenario fails without its mutant");
}
