//! A follower that is killed repeatedly while it receives a snapshot resumes the transfer instead of starting again.
//!
//! `scripts/transfer.sh` runs this with a gigabyte (`DRAVE_TRANSFER_MIB`) and ten kills (`DRAVE_TRANSFER_KILLS`).

use drave::api::Status;
use std::time::{Duration, Instant};
use support::{Cluster, wait_until};

mod support;

const MIB: u64 = 1 << 20;
/// Maximum number of bytes sent again after a kill: those in flight, and the leader's probes for the follower's offset.
const RESENT_PER_KILL_MAX: u64 = 6 * MIB;

fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Starts a cluster that takes snapshots only on request, and writes `state_mib` MiB of state. One follower is down
/// during these writes, and then needs a snapshot. Returns the number of this follower as well.
fn cluster_with_lagging_follower(state_mib: u64) -> (Cluster, usize) {
    let mut cluster = Cluster::prepare(3);
    let args = ["--snapshot-log-bytes", "1TiB", "--snapshot-max-age", "1000h", "--trailing-bytes", "64KiB"];
    cluster.extra_args = [&["--segment-size", "16MiB"], &args[..]].concat().into_iter().map(str::to_owned).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    let lagging_follower = (cluster.wait_for_leader() + 1) % 3;
    let last_index_before = cluster.status(lagging_follower).unwrap().last;
    cluster.kill(lagging_follower);
    let key_count = (state_mib << 10).to_string();
    let load_args = ["--dist", "seq", "--keys", &key_count, "--total", &key_count, "--value-size", "1024"];
    let more_args = ["--clients", "8", "--inflight", "32", "--warmup", "0s", "--duration", "10m", "--timeout", "60s"];
    let output = cluster.run(&[&["bench", "put", "--keep", "-o", "json"], &load_args[..], &more_args].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    let output = cluster.run(&["snapshot", "take", "--timeout", "10m"]);
    assert_eq!(output.out.matches(" ok ").count(), 2, "{output:?}");
    for n in (0..3).filter(|n| *n != lagging_follower) {
        let log_compacted = || cluster.status(n).filter(|status| status.log.first > last_index_before + 1);
        wait_until("the log is compacted", log_compacted, || cluster.logs());
    }
    (cluster, lagging_follower)
}

/// Status of the leader; `None` during an election, or if the leader does not answer.
fn leader_status(cluster: &Cluster) -> Option<Status> {
    cluster.leader_among(0..3).and_then(|leader| cluster.status(leader))
}

/// Bytes of the snapshot that the follower has, as far as the leader knows; `total` once the follower needs no snapshot
/// any more.
fn received_bytes(cluster: &Cluster, lagging_follower: usize, total: u64) -> Option<u64> {
    let leader = leader_status(cluster)?;
    let peer = leader.peers.iter().find(|peer| peer.node == lagging_follower as u64 + 1)?;
    Some(if peer.stage == "stream" && peer.matched > 0 { total } else { peer.snapshot_has })
}

#[test]
fn repeatedly_killed_receiver_resumes_the_snapshot() {
    let (state_mib, kills) = (env_number("DRAVE_TRANSFER_MIB", 64), env_number("DRAVE_TRANSFER_KILLS", 3));
    let (mut cluster, lagging_follower) = cluster_with_lagging_follower(state_mib);
    let total = leader_status(&cluster).unwrap().log.snapshot_bytes;
    assert!(total > state_mib * MIB, "the snapshot holds the whole state: {total}");
    let started = Instant::now();
    cluster.spawn(lagging_follower);
    let mut bytes_at_kills = Vec::new();
    for kill in 1..=kills {
        // Kills are spread evenly over the transfer.
        let threshold_bytes = total * kill / (kills + 1);
        let has_received = || received_bytes(&cluster, lagging_follower, total).filter(|has| *has >= threshold_bytes);
        let received_before = wait_until("more of the snapshot has arrived", has_received, || cluster.logs());
        if received_before == total {
            break;
        }
        cluster.kill(lagging_follower);
        bytes_at_kills.push(received_before);
        cluster.spawn(lagging_follower);
    }
    cluster.wait_for_convergence();
    let elapsed: Duration = started.elapsed();
    let senders = (0..3).filter(|n| *n != lagging_follower);
    let sent_bytes: u64 = senders.map(|n| cluster.status(n).unwrap().log.shipped_bytes).sum();
    let last_run_bytes = cluster.status(lagging_follower).unwrap().log.received_bytes;
    eprintln!(
        "a snapshot of {} MiB, {} kills at {:?} MiB: {} MiB sent, {:.1} % of them again; {:.1} s; the last run \
         received {} MiB",
        total / MIB,
        bytes_at_kills.len(),
        bytes_at_kills.iter().map(|received_before| received_before / MIB).collect::<Vec<_>>(),
        sent_bytes / MIB,
        (sent_bytes.saturating_sub(total)) as f64 * 100.0 / total as f64,
        elapsed.as_secs_f64(),
        last_run_bytes / MIB,
    );
    assert!(!bytes_at_kills.is_empty(), "the transfer ended before the first kill");
    assert!(sent_bytes >= total, "{sent_bytes} of {total} bytes were sent");
    let bytes_sent_again = sent_bytes - total;
    assert!(
        bytes_sent_again <= bytes_at_kills.len() as u64 * RESENT_PER_KILL_MAX,
        "{bytes_sent_again} bytes were sent again"
    );
    if total >= 1 << 30 {
        assert_eq!(bytes_at_kills.len() as u64, kills);
        assert!(
            bytes_sent_again * 10 < total,
            "more than a tenth of the snapshot was sent again: {bytes_sent_again} bytes"
        );
    }
    // The last run received only what the runs before it lacked.
    let bytes_received_before = bytes_at_kills[bytes_at_kills.len() - 1].saturating_sub(RESENT_PER_KILL_MAX);
    assert!(
        last_run_bytes <= total - bytes_received_before,
        "the last run received {last_run_bytes} bytes, although the follower already had {bytes_received_before} bytes"
    );
    cluster.expect_no_deaths();
}
