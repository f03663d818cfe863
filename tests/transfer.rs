//! A follower that is killed repeatedly while it receives a snapshot resumes where it was.
//!
//! `scripts/transfer.sh` runs this with a gigabyte (`DRAVE_TRANSFER_MIB`) and ten kills (`DRAVE_TRANSFER_KILLS`).

use drave::api::Status;
use std::time::{Duration, Instant};
use support::{Cluster, until};

mod support;

const MIB: u64 = 1 << 20;
/// Maximum number of bytes sent again after a kill: those in flight, and the leader's probes for the follower's offset.
const RESENT_PER_KILL_MAX: u64 = 6 * MIB;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Starts a cluster that takes snapshots only on request, and writes `mib` MiB of state. One follower has none of it,
/// is down, and needs a snapshot; returns its number as well.
fn cluster_with_lagging_follower(mib: u64) -> (Cluster, usize) {
    let mut cluster = Cluster::prepare(3);
    let words = ["--snapshot-log-bytes", "1TiB", "--snapshot-max-age", "1000h", "--trailing-bytes", "64KiB"];
    cluster.words = [&["--segment-size", "16MiB"], &words[..]].concat().into_iter().map(str::to_owned).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    let away = (cluster.leader() + 1) % 3;
    let had = cluster.status(away).unwrap().last;
    cluster.kill(away);
    let total = (mib << 10).to_string();
    let load = ["--dist", "seq", "--keys", &total, "--total", &total, "--value-size", "1024"];
    let more = ["--clients", "8", "--inflight", "32", "--warmup", "0s", "--duration", "10m", "--timeout", "60s"];
    let said = cluster.run(&[&["bench", "put", "--keep", "-o", "json"], &load[..], &more].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = cluster.run(&["snapshot", "take", "--timeout", "10m"]);
    assert_eq!(said.out.matches(" ok ").count(), 2, "{said:?}");
    for n in (0..3).filter(|n| *n != away) {
        let gone = || cluster.status(n).filter(|status| status.log.first > had + 1);
        until("the log is compacted", gone, || cluster.logs());
    }
    (cluster, away)
}

/// Status of the leader, if there is one.
fn leader_status(cluster: &Cluster) -> Option<Status> {
    cluster.leader_of(0..3).and_then(|leader| cluster.status(leader))
}

/// Bytes of the snapshot that the follower has, as the leader knows; `total` once it needs no snapshot any more.
fn received_bytes(cluster: &Cluster, away: usize, total: u64) -> Option<u64> {
    let leading = leader_status(cluster)?;
    let peer = leading.peers.iter().find(|peer| peer.node == away as u64 + 1)?;
    Some(if peer.stage == "stream" && peer.matched > 0 { total } else { peer.snapshot_has })
}

#[test]
fn repeatedly_killed_receiver_resumes_the_snapshot() {
    let (mib, kills) = (number("DRAVE_TRANSFER_MIB", 64), number("DRAVE_TRANSFER_KILLS", 3));
    let (mut cluster, away) = cluster_with_lagging_follower(mib);
    let total = leader_status(&cluster).unwrap().log.snapshot_bytes;
    assert!(total > mib * MIB, "the snapshot holds the whole state: {total}");
    let begun = Instant::now();
    cluster.spawn(away);
    let mut killed = Vec::new();
    for nth in 1..=kills {
        // Kills are spread evenly over the transfer.
        let far = total * nth / (kills + 1);
        let there = || received_bytes(&cluster, away, total).filter(|has| *has >= far);
        let had = until("more of the snapshot has arrived", there, || cluster.logs());
        if had == total {
            break;
        }
        cluster.kill(away);
        killed.push(had);
        cluster.spawn(away);
    }
    cluster.agree();
    let took: Duration = begun.elapsed();
    let others = (0..3).filter(|n| *n != away);
    let sent: u64 = others.map(|n| cluster.status(n).unwrap().log.shipped_bytes).sum();
    let received = cluster.status(away).unwrap().log.received_bytes;
    eprintln!(
        "a snapshot of {} MiB, {} kills at {:?} MiB: {} MiB sent, {:.1} % of them again; {:.1} s; the last run \
         received {} MiB",
        total / MIB,
        killed.len(),
        killed.iter().map(|had| had / MIB).collect::<Vec<_>>(),
        sent / MIB,
        (sent.saturating_sub(total)) as f64 * 100.0 / total as f64,
        took.as_secs_f64(),
        received / MIB,
    );
    assert!(!killed.is_empty(), "the transfer ended before the first kill");
    assert!(sent >= total, "{sent} of {total} bytes were sent");
    let again = sent - total;
    assert!(again <= killed.len() as u64 * RESENT_PER_KILL_MAX, "{again} bytes were sent again");
    if total >= 1 << 30 {
        assert_eq!(killed.len() as u64, kills);
        assert!(again * 10 < total, "more than a tenth was sent again: {again}");
    }
    // The last run received only what the runs before it lacked.
    let before = killed[killed.len() - 1].saturating_sub(RESENT_PER_KILL_MAX);
    assert!(received <= total - before, "{received} bytes received, and {before} were already there");
    cluster.expect_no_deaths();
}
