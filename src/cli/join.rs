//! `drave serve --join`: how a node that nobody founded comes to belong to a cluster.

use super::trouble::Trouble;
use crate::api::Status;
use crate::client::{Client, Options};
use crate::config::{Config, Joined};
use crate::types::{Change, ClusterId, DiskId, NodeId, Prospect};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How long a cluster is looked for.
const LOOK_FOR: Duration = Duration::from_secs(30);
/// How long who belongs already waits to learn where the others are: it may know that itself.
const LOOK_AGAIN_FOR: Duration = Duration::from_secs(2);
/// How long to pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Finds the cluster at those endpoints, and becomes a learner of it, unless somebody made this node one
/// already. A directory that is in use only learns where to look.
pub fn join(config: &mut Config, endpoints: &[String], learner: bool) -> Result<(), Trouble> {
    let in_use = config.data.join(crate::wal::identity::NAME).exists();
    let looked = look(config, endpoints, if in_use { LOOK_AGAIN_FOR } else { LOOK_FOR });
    let status = match looked {
        Ok(status) => status,
        Err(_) if in_use => return Ok(()),
        Err(trouble) => return Err(trouble),
    };
    let places = status.members.iter().filter_map(|m| Some((NodeId::new(m.node)?, m.address.clone())));
    config.peers.extend(places.collect::<BTreeMap<_, _>>());
    if in_use {
        return Ok(());
    }
    let disk = DiskId(rand::random::<NonZeroU64>().get());
    become_member(config, endpoints, &status, disk, learner)?;
    let cluster = u64::from_str_radix(&status.cluster, 16)
        .map_err(|_| Trouble { what: format!("{:?} is no cluster's name", status.cluster), code: 70 })?;
    config.joins = Some(Joined { cluster: ClusterId(cluster), disk });
    Ok(())
}

/// How the cluster is, as whoever of those answers first knows.
fn look(config: &Config, endpoints: &[String], patience: Duration) -> Result<Status, Trouble> {
    let began = Instant::now();
    let client = Client::with(
        endpoints.to_vec(),
        Options { timeout: Duration::from_secs(1), keys: config.net.keys.clone(), ..Options::default() },
    );
    let mut told = Duration::ZERO;
    loop {
        for endpoint in endpoints {
            if let Ok(status) = client.status(endpoint)
                && !status.members.is_empty()
            {
                return Ok(status);
            }
        }
        let took = began.elapsed();
        if took >= patience {
            let tried = endpoints.join(", ");
            let what = format!(
                "no member of a cluster answers\n  tried {tried} for {} s · nothing was changed",
                took.as_secs()
            );
            return Err(Trouble { what, code: 3 });
        }
        if took >= told + Duration::from_secs(1) {
            told = took;
            log::info!(node = config.id.get(); "looks for a cluster to join, for {} s", took.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

fn become_member(
    config: &mut Config,
    endpoints: &[String],
    status: &Status,
    disk: DiskId,
    learner: bool,
) -> Result<(), Trouble> {
    let id = config.id;
    let refused = |what: String, advice: String| Err(Trouble { what: format!("{what}\n  {advice}"), code: 78 });
    if let Some(member) = status.members.iter().find(|member| member.node == id.get()) {
        if !member.disk.is_empty() || member.kind != "learner" {
            let known = if member.disk.is_empty() { "of the founders" } else { "known by another disk" };
            let n = id.get();
            return refused(
                format!("{id} is {known}, and this directory is empty: it would have forgotten what it promised"),
                format!(
                    "bring back the directory it had; or: drave member remove {n}, drave member add {n}=HOST:PORT, and this again"
                ),
            );
        }
        config.listen.get_or_insert_with(|| member.address.clone());
        return Ok(());
    }
    let Some(address) = config.listen.clone() else {
        let n = id.get();
        return refused(
            format!("{id} is not a member yet, and where others reach it was not said"),
            format!("say --listen HOST:PORT, or first: drave member add {n}=HOST:PORT · nothing was changed"),
        );
    };
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    if ["", "0.0.0.0", "[::]"].contains(&host) {
        return refused(
            format!("others cannot reach {id} at {address}"),
            format!("first: drave member add {}=HOST:PORT, and this again · nothing was changed", id.get()),
        );
    }
    let prospect = if learner { Prospect::Stays } else { Prospect::Rises };
    let change = Change::Add { id, address, disk: Some(disk), prospect };
    let everyone = status.members.iter().map(|member| member.address.clone());
    let endpoints: Vec<String> = endpoints.iter().cloned().chain(everyone).collect();
    let options = Options { timeout: LOOK_FOR, keys: config.net.keys.clone(), ..Options::default() };
    match Client::with(endpoints, options).change(&change, false) {
        Ok(position) => log::info!(node = id.get(); "is a learner since {position}"),
        Err(error) => {
            let what = format!("{id} could not join: {error}\n  see: drave member list");
            return Err(Trouble { what, code: error.exit_code() });
        }
    }
    Ok(())
}
