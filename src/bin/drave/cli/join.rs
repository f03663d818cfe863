//! `drave serve --join`: makes a node that is not a founder a member of a cluster.

use crate::remote::failure::CliError;
use drave::api::Status;
use drave::client::{Client, ClientError, Options};
use drave::config::{Config, JoinTarget};
use drave::disk::FsDisk;
use drave::disk::fs::SyncMode;
use drave::server::ServerError;
use drave::server::boot::check_unused;
use drave::server::listeners::Listeners;
use drave::types::address::check_address;
use drave::types::{Change, ClusterId, DiskId, NodeId, PendingRole};
use drave::wal::Fault;
use drave::wal::identity::{Identity, short_cluster_id};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How long a new node tries to find a member that answers.
const FIND_MEMBER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node that is a member already tries to refresh the members' addresses. Afterwards it starts with those in
/// its directory.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts to find a member that answers.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Finds the cluster at the endpoints, and becomes a learner of it, unless this node was added already. For a
/// directory that is in use, only the members' addresses are added to the peers.
///
/// The directory and the listen addresses are checked before any request changes the cluster. The identity is written
/// before the cluster learns the disk id, so that a retry after an interruption continues the same join.
pub fn join(config: &mut Config, endpoints: &[String], learner: bool) -> Result<(), CliError> {
    let directory = FsDisk::open_or_create(&config.data, SyncMode::Executed).map_err(|error| {
        let message = format!(
            "cannot create {}: {error}\n  nothing was changed · name another directory: --data",
            config.data.display()
        );
        CliError { message, code: 78 }
    })?;
    let identity = match Identity::read(&directory) {
        Ok(Some(identity)) => {
            identity.check_owner(&config.data.display().to_string(), config.id).map_err(ServerError::from)?;
            Some(identity)
        }
        read => match read.and_then(|_missing| check_unused(&config.data)) {
            Ok(()) => None,
            // The directory is in use. The start restores its identity, or refuses.
            Err(Fault::Corrupt { .. }) if config.repair => return Ok(()),
            Err(fault) => return Err(ServerError::from(fault).into()),
        },
    };
    let is_directory_in_use = identity.is_some_and(|identity| identity.journal_created);
    let status_result =
        find_cluster(config, endpoints, if is_directory_in_use { REFRESH_TIMEOUT } else { FIND_MEMBER_TIMEOUT });
    let status = match status_result {
        Ok(status) => status,
        Err(_) if is_directory_in_use => return Ok(()),
        Err(error) => return Err(error),
    };
    add_member_addresses(config, &status);
    if is_directory_in_use {
        return Ok(());
    }
    let (level, known_level) = (status.versions.feature_level, config.versions.feature_level_max);
    if level > known_level {
        return reject_join(
            format!("the cluster has feature level {level}, and this program knows up to {known_level}"),
            "start the newer program, as the other nodes run it · nothing was changed",
        );
    }
    let cluster_number = u64::from_str_radix(&status.cluster, 16)
        .map_err(|_| CliError { message: format!("{:?} is not a cluster id", status.cluster), code: 70 })?;
    let cluster = ClusterId(cluster_number);
    if let Some(foreign_identity) = identity.filter(|identity| identity.cluster != cluster) {
        let message = format!(
            "{}; the cluster that answers is {}\n  nothing was changed · an empty directory joins any cluster: --data",
            foreign_identity.describe_owner(&config.data.display().to_string()),
            short_cluster_id(cluster)
        );
        return Err(CliError { message, code: 78 });
    }
    let disk = identity.map_or_else(|| DiskId(rand::random::<NonZeroU64>().get()), |identity| identity.disk);
    let is_member = check_member(config, &status, disk)?;
    let listen = config.listen.clone().unwrap_or_default();
    // Binds the listeners as a check, and closes them: the server binds them again when it starts.
    drop(Listeners::bind(config, &listen)?);
    let new_identity = Identity { node: config.id, cluster, disk, journal_created: false, log: None, starts: 0 };
    if identity.is_none() {
        new_identity.write(&directory).map_err(ServerError::from)?;
    }
    if !is_member {
        add_as_learner(config, endpoints, &status, disk, learner)?;
    }
    config.join = Some(JoinTarget { cluster, disk });
    Ok(())
}

/// Adds the members' addresses to the peers. An address that is invalid, or that another peer has, is skipped: the node
/// can start without it.
fn add_member_addresses(config: &mut Config, status: &Status) {
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

/// Polls the endpoints until one answers with a list of members; returns its status.
fn find_cluster(config: &Config, endpoints: &[String], timeout: Duration) -> Result<Status, CliError> {
    let began = Instant::now();
    let client = Client::with_options(
        endpoints.to_vec(),
        Options { timeout: Duration::from_secs(1), keys: config.net.keys.clone(), ..Options::default() },
    );
    let mut elapsed_at_last_report = Duration::ZERO;
    loop {
        for endpoint in endpoints {
            if let Ok(status) = client.status(endpoint)
                && !status.members.is_empty()
            {
                return Ok(status);
            }
        }
        let elapsed = began.elapsed();
        if elapsed >= timeout {
            let tried_endpoints = endpoints.join(", ");
            let message = format!(
                "no member of a cluster answers\n  tried {tried_endpoints} for {} s · nothing was changed",
                elapsed.as_secs()
            );
            return Err(CliError { message, code: 3 });
        }
        if elapsed >= elapsed_at_last_report + Duration::from_secs(1) {
            elapsed_at_last_report = elapsed;
            log::info!(node = config.id.get(); "no member has answered for {} s; still trying to join", elapsed.as_secs());
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

/// An error with advice and the exit code of a configuration error.
fn reject_join<T>(message: String, advice: &str) -> Result<T, CliError> {
    Err(CliError { message: format!("{message}\n  {advice}"), code: 78 })
}

/// Whether the cluster lists this node already: with this disk id, or as a learner that has no disk id yet. Sets an
/// unset listen address to the member's address. Returns an error if the node cannot join.
fn check_member(config: &mut Config, status: &Status, disk: DiskId) -> Result<bool, CliError> {
    let (id, n) = (config.id, config.id.get());
    if let Some(member) = status.members.iter().find(|member| member.node == n) {
        let is_own_disk = member.disk == disk.to_string();
        if !is_own_disk && (!member.disk.is_empty() || member.kind != "learner") {
            let member_kind = if member.disk.is_empty() { "a founder" } else { "a member with another disk" };
            return reject_join(
                format!("{id} is {member_kind}, and this directory is empty: it lacks the votes and entries of {id}"),
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
        return reject_join(
            format!("{id} is not a member yet, and its address is unknown"),
            &format!("give --listen HOST:PORT, or first: drave member add {n}=HOST:PORT · nothing was changed"),
        );
    };
    if let Err(error) = check_address(&address) {
        return reject_join(
            format!("other nodes cannot reach {id} at {address}: {error}"),
            &format!("first: drave member add {n}=HOST:PORT, then this command again · nothing was changed"),
        );
    }
    if let Some(other) = status.members.iter().find(|member| member.address == address) {
        return reject_join(
            format!("n{} has the address {address} already", other.node),
            "each member needs an address of its own: --listen · nothing was changed",
        );
    }
    Ok(false)
}

/// Adds this node to the cluster as a learner, which is promoted later unless `learner` is set. If the outcome of the
/// request is unknown, checks whether the cluster has added this node.
fn add_as_learner(
    config: &Config,
    endpoints: &[String],
    status: &Status,
    disk: DiskId,
    learner: bool,
) -> Result<(), CliError> {
    let (id, address) = (config.id, config.listen.clone().unwrap_or_default());
    let pending_role = if learner { PendingRole::Unchanged } else { PendingRole::Promote };
    let change = Change::Add { id, address, disk: Some(disk), pending_role };
    let member_addresses = status.members.iter().map(|member| member.address.clone());
    let endpoints: Vec<String> = endpoints.iter().cloned().chain(member_addresses).collect();
    let options = Options { timeout: FIND_MEMBER_TIMEOUT, keys: config.net.keys.clone(), ..Options::default() };
    let error = match Client::with_options(endpoints.clone(), options).change(&change, false) {
        Ok(position) => {
            log::info!(node = id.get(); "joined as a learner at {position}");
            return Ok(());
        }
        Err(error) => error,
    };
    if !matches!(error, ClientError::Unknown(_)) {
        let message = format!("{id} could not join: {error}\n  see: drave member list");
        return Err(CliError { message, code: error.exit_code() });
    }
    // If this node is now a member with this disk id, the request succeeded and only its response was lost.
    let disk = disk.to_string();
    let lists_this_node =
        |status: &Status| status.members.iter().any(|member| member.node == id.get() && member.disk == disk);
    if find_cluster(config, &endpoints, REFRESH_TIMEOUT).is_ok_and(|status| lists_this_node(&status)) {
        log::info!(node = id.get(); "joined as a learner: an earlier attempt succeeded");
        return Ok(());
    }
    let message = format!("outcome unknown: {id} may have joined: {error}\n  run the same command again to continue");
    Err(CliError { message, code: 75 })
}
