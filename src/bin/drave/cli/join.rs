//! `drave serve --join`: makes a node that is not a founder a member of a cluster.

use crate::remote::failure::CliError;
use drave::api::Status;
use drave::client::{Client, ClientError, Options};
use drave::config::{Config, Joined};
use drave::disk::FsDisk;
use drave::disk::fs::Syncs;
use drave::server::ServerError;
use drave::server::boot::check_unused;
use drave::server::listeners::Listeners;
use drave::types::address::check_address;
use drave::types::{Change, ClusterId, DiskId, NodeId, PendingRole};
use drave::wal::identity::{Identity, short};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How long to look for a cluster.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node that is already a member waits to learn the members' addresses: it may know them itself.
const LOOK_AGAIN_FOR: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Finds the cluster at the endpoints, and becomes a learner of it, unless this node was added already. A directory
/// that is in use only learns the members' addresses.
///
/// Everything that can be rejected is rejected before any request to change the cluster: the directory and the listen
/// addresses. The identity is written before the cluster learns the disk id, so that retrying an interrupted join is
/// the same join.
pub fn join(config: &mut Config, endpoints: &[String], learner: bool) -> Result<(), CliError> {
    let directory = FsDisk::make(&config.data, Syncs::Real).map_err(|error| {
        let what = format!(
            "cannot create {}: {error}\n  nothing was changed · name another directory: --data",
            config.data.display()
        );
        CliError { what, code: 78 }
    })?;
    let known = Identity::read(&directory).map_err(ServerError::from)?;
    match &known {
        Some(known) => known.check(&config.data.display().to_string(), config.id).map_err(ServerError::from)?,
        None => check_unused(&config.data).map_err(ServerError::from)?,
    }
    let in_use = known.is_some_and(|known| known.founded);
    let looked = find_cluster(config, endpoints, if in_use { LOOK_AGAIN_FOR } else { FIND_TIMEOUT });
    let status = match looked {
        Ok(status) => status,
        Err(_) if in_use => return Ok(()),
        Err(trouble) => return Err(trouble),
    };
    learn_places(config, &status);
    if in_use {
        return Ok(());
    }
    let number = u64::from_str_radix(&status.cluster, 16)
        .map_err(|_| CliError { what: format!("{:?} is not a cluster id", status.cluster), code: 70 })?;
    let cluster = ClusterId(number);
    if let Some(other) = known.filter(|known| known.cluster != cluster) {
        let what = format!(
            "{}; the cluster that answers is {}\n  nothing was changed · an empty directory joins any cluster: --data",
            other.owner(&config.data.display().to_string()),
            short(cluster)
        );
        return Err(CliError { what, code: 78 });
    }
    let disk = known.map_or_else(|| DiskId(rand::random::<NonZeroU64>().get()), |known| known.disk);
    let is_member = check_member(config, &status, disk)?;
    let listen = config.listen.clone().unwrap_or_default();
    // Binds the listeners as a check, and closes them: the server binds them again in a moment.
    drop(Listeners::bind(config, &listen)?);
    let own = Identity { node: config.id, cluster, disk, founded: false, log: None, starts: 0 };
    if known.is_none() {
        own.write(&directory).map_err(ServerError::from)?;
    }
    if !is_member {
        become_member(config, endpoints, &status, disk, learner)?;
    }
    config.join = Some(Joined { cluster, disk });
    Ok(())
}

/// Adds the members' addresses to the peers. An address that is invalid, or that another peer has, is skipped: it is no
/// reason not to start.
fn learn_places(config: &mut Config, status: &Status) {
    for member in &status.members {
        let is_known = config.peers.values().any(|address| *address == member.address);
        if let Some(node) = NodeId::new(member.node)
            && !is_known
            && check_address(&member.address).is_ok()
        {
            config.peers.insert(node, member.address.clone());
        }
    }
}

/// The status from the first endpoint that answers and knows members.
fn find_cluster(config: &Config, endpoints: &[String], patience: Duration) -> Result<Status, CliError> {
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
            return Err(CliError { what, code: 3 });
        }
        if took >= told + Duration::from_secs(1) {
            told = took;
            log::info!(node = config.id.get(); "no member has answered for {} s; still trying to join", took.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}

fn refused<T>(what: String, advice: &str) -> Result<T, CliError> {
    Err(CliError { what: format!("{what}\n  {advice}"), code: 78 })
}

/// Whether this node is a member already, with this disk or with none yet. Also sets the listen address if it is unset.
/// Returns an error if the node cannot join.
fn check_member(config: &mut Config, status: &Status, disk: DiskId) -> Result<bool, CliError> {
    let (id, n) = (config.id, config.id.get());
    if let Some(member) = status.members.iter().find(|member| member.node == n) {
        let is_ours = member.disk == disk.to_string();
        if !is_ours && (!member.disk.is_empty() || member.kind != "learner") {
            let known = if member.disk.is_empty() { "a founder" } else { "a member with another disk" };
            return refused(
                format!("{id} is {known}, and this directory is empty: it lacks the votes and entries of {id}"),
                &format!(
                    "restore its former directory; or: drave member remove {n}, drave member add {n}=HOST:PORT, and \
                     this command again"
                ),
            );
        }
        config.listen.get_or_insert_with(|| member.address.clone());
        return Ok(true);
    }
    let Some(address) = config.listen.clone() else {
        return refused(
            format!("{id} is not a member yet, and its address is unknown"),
            &format!("give --listen HOST:PORT, or first: drave member add {n}=HOST:PORT · nothing was changed"),
        );
    };
    if let Err(error) = check_address(&address) {
        return refused(
            format!("other nodes cannot reach {id} at {address}: {error}"),
            &format!("first: drave member add {n}=HOST:PORT, then this command again · nothing was changed"),
        );
    }
    if let Some(other) = status.members.iter().find(|member| member.address == address) {
        return refused(
            format!("n{} has the address {address} already", other.node),
            "each member needs an address of its own: --listen · nothing was changed",
        );
    }
    Ok(false)
}

/// Adds this node to the cluster as a learner.
fn become_member(
    config: &Config,
    endpoints: &[String],
    status: &Status,
    disk: DiskId,
    learner: bool,
) -> Result<(), CliError> {
    let (id, address) = (config.id, config.listen.clone().unwrap_or_default());
    let prospect = if learner { PendingRole::Stays } else { PendingRole::Promote };
    let change = Change::Add { id, address, disk: Some(disk), prospect };
    let everyone = status.members.iter().map(|member| member.address.clone());
    let endpoints: Vec<String> = endpoints.iter().cloned().chain(everyone).collect();
    let options = Options { timeout: FIND_TIMEOUT, keys: config.net.keys.clone(), ..Options::default() };
    let error = match Client::with(endpoints.clone(), options).change(&change, false) {
        Ok(position) => {
            log::info!(node = id.get(); "joined as a learner at {position}");
            return Ok(());
        }
        Err(error) => error,
    };
    if !matches!(error, ClientError::Unknown(_)) {
        let what = format!("{id} could not join: {error}\n  see: drave member list");
        return Err(CliError { what, code: error.exit_code() });
    }
    // If this node is now a member with this disk id, only the response was lost, not the request.
    let disk = disk.to_string();
    let is_ours = |status: &Status| status.members.iter().any(|member| member.node == id.get() && member.disk == disk);
    if find_cluster(config, &endpoints, LOOK_AGAIN_FOR).is_ok_and(|status| is_ours(&status)) {
        log::info!(node = id.get(); "joined as a learner: an earlier attempt succeeded");
        return Ok(());
    }
    let what = format!("outcome unknown: {id} may have joined: {error}\n  run the same command again to continue");
    Err(CliError { what, code: 75 })
}
