//! `drave member` lists and changes the cluster's members; `drave transfer` transfers leadership.

use crate::output::outln;
use crate::remote::cluster::{ClusterArgs, Output, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use clap::{Args, Subcommand};
use drave::api::{PeerStatus, Refusal, RoleName, Status};
use drave::client::{ClientError, FailedAttempts};
use drave::types::{Change, Membership, NodeId, PendingRole, Position};
use serde_json::json;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Instant;

/// Lists the members of the cluster, and changes them.
#[derive(Args, Debug)]
pub struct Member {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand, Debug)]
enum MemberCommand {
    /// Lists the members: voters, learners, and how many failures they tolerate
    List(ClusterOnlyArgs),
    /// Adds a node: a learner first, and a voter by itself once it has caught up
    Add(AddArgs),
    /// Removes a voter or learner, even the leader
    Remove(MemberIdArgs),
    /// Makes a learner a voter now
    Promote(MemberIdArgs),
    /// Replaces a voter by a new node, in one change, once the new node has caught up
    Replace(ReplaceArgs),
    /// Changes a member's address
    Update(UpdateArgs),
    /// Makes exactly these members the voters, in one change; voters that are not named are removed
    Voters(VotersArgs),
    /// Aborts the membership change in progress
    Abort(ClusterOnlyArgs),
}

/// The arguments of a subcommand that needs only the cluster.
#[derive(Args, Debug)]
struct ClusterOnlyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// The node's id and address: ID=HOST:PORT
    member: MemberSpec,
    /// Keeps it a learner: it receives all entries and does not vote
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
struct MemberIdArgs {
    /// The node's id
    id: NodeIdArg,
    /// Applies the change even if it may stop the cluster
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
struct ReplaceArgs {
    /// The id of the voter to remove
    old: NodeIdArg,
    /// The new node's id and address: ID=HOST:PORT
    new: MemberSpec,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
struct UpdateArgs {
    /// The member's id and new address: ID=HOST:PORT
    member: MemberSpec,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Args, Debug)]
struct VotersArgs {
    /// The ids of the voters: ID,ID,…
    #[arg(value_delimiter = ',', required = true)]
    ids: Vec<NodeIdArg>,
    /// Applies the change even if it may stop the cluster
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Transfers leadership to another node.
#[derive(Args, Debug)]
pub struct Transfer {
    /// The id of the node to lead; default: the best transfer target
    id: Option<NodeIdArg>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A node's id, as `3` or `n3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NodeIdArg(NodeId);

/// A node's id and address, as `ID=HOST:PORT`.
#[derive(Clone, Debug)]
struct MemberSpec {
    id: NodeId,
    address: String,
}

impl FromStr for NodeIdArg {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeIdArg, String> {
        let number = text.strip_prefix('n').unwrap_or(text);
        let id = number.parse().ok().and_then(NodeId::new);
        id.map(NodeIdArg).ok_or_else(|| "a node's id is a number from 1".to_owned())
    }
}

impl FromStr for MemberSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<MemberSpec, String> {
        let Some((id, address)) = text.split_once('=') else { return Err(format!("{text:?} is not ID=HOST:PORT")) };
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) || address.len() > drave::limits::ADDRESS_BYTES_MAX {
            return Err(format!("an address is HOST:PORT, not {address:?}"));
        }
        Ok(MemberSpec { id: id.parse::<NodeIdArg>()?.0, address: address.to_owned() })
    }
}

/// `drave member …`: exits with 1 if the change is rejected, 3 if nothing was changed because there is no leader, 4 if
/// the outcome is unknown.
pub fn run(args: &Member) -> Result<(), CliError> {
    match &args.command {
        MemberCommand::List(args) => list_members(&args.cluster),
        MemberCommand::Add(AddArgs { member: MemberSpec { id, address }, learner, cluster }) => {
            let pending_role = if *learner { PendingRole::Unchanged } else { PendingRole::Promote };
            let change = Change::Add { id: *id, address: address.clone(), disk: None, pending_role };
            let outcome = if *learner { "stays a learner" } else { "becomes a voter by itself once it has caught up" };
            let start_hint = format!(
                "start it, if it does not run: drave serve --id {} --join {} --data DIR",
                id.get(),
                endpoint_to_join(cluster, address)
            );
            execute_change(cluster, &change, false, &format!("{id} is a learner and {outcome} · {start_hint}"))
        }
        MemberCommand::Remove(MemberIdArgs { id: NodeIdArg(id), force, cluster }) => {
            let message = format!(
                "{id} is not a member any more · stop it; this directory or an empty one can rejoin under its id \
                 after: drave member add"
            );
            execute_change(cluster, &Change::Remove(*id), *force, &message)
        }
        MemberCommand::Promote(MemberIdArgs { id: NodeIdArg(id), force, cluster }) => {
            execute_change(cluster, &Change::Promote(*id), *force, &format!("{id} is a voter"))
        }
        MemberCommand::Replace(ReplaceArgs { old: NodeIdArg(old), new: MemberSpec { id, address }, cluster }) => {
            let pending_role = PendingRole::Replace(*old);
            let change = Change::Add { id: *id, address: address.clone(), disk: None, pending_role };
            let start_hint = format!(
                "start it, if it does not run: drave serve --id {} --join {} --data DIR",
                id.get(),
                endpoint_to_join(cluster, address)
            );
            let message = format!("{id} is a learner and replaces {old} once it has caught up · {start_hint}");
            execute_change(cluster, &change, false, &message)
        }
        MemberCommand::Update(UpdateArgs { member: MemberSpec { id, address }, cluster }) => {
            let change = Change::SetAddress { id: *id, address: address.clone() };
            execute_change(cluster, &change, false, &format!("{id} is reached at {address}"))
        }
        MemberCommand::Voters(VotersArgs { ids, force, cluster }) => {
            let listed_ids = ids;
            let ids: BTreeSet<NodeId> = listed_ids.iter().map(|NodeIdArg(id)| *id).collect();
            if ids.len() < listed_ids.len() {
                let message = "a voter is named twice\n  name each once: drave member voters ID,ID,…";
                return Err(CliError { message: message.to_owned(), code: 2 });
            }
            execute_change(cluster, &Change::SetVoters(ids), *force, "these are the voters")
        }
        MemberCommand::Abort(args) => execute_change(&args.cluster, &Change::Abort, false, "the change is aborted"),
    }
}

/// An endpoint other than `excluded`, for a command line with `--join`: a node cannot join through itself.
fn endpoint_to_join<'a>(cluster: &'a ClusterArgs, excluded: &str) -> &'a str {
    cluster.endpoints.iter().find(|endpoint| *endpoint != excluded).map_or("HOST:PORT", String::as_str)
}

fn execute_change(cluster: &ClusterArgs, change: &Change, force: bool, message: &str) -> Result<(), CliError> {
    let began = Instant::now();
    let position = cluster.client().change(change, force).map_err(|error| explain_change_error(cluster, error))?;
    print_change(cluster, position, ms_since(began), message);
    Ok(())
}

/// Prints a change that was made, and how long it took.
pub(super) fn print_change(cluster: &ClusterArgs, position: Position, ms: f64, message: &str) {
    if cluster.prints_json() {
        outln!(
            "{}",
            json!({ "ok": true, "index": position.index.0, "term": position.term.0, "ms": ms, "what": message })
        );
    } else {
        outln!("ok {position} ({ms} ms) {message}");
    }
}

/// The error of a membership change, with advice.
pub(super) fn explain_change_error(cluster: &ClusterArgs, error: ClientError) -> CliError {
    let advice = match &error {
        ClientError::Rejected(Refusal::UnsafeChange { .. }) => "nothing was changed · --force overrides this",
        ClientError::Rejected(_) => "nothing was changed · see: drave member list",
        ClientError::Unknown(FailedAttempts { refusal: Some(Refusal::InvalidChange { .. }), .. }) => {
            "an earlier attempt of this command may have succeeded · see: drave member list"
        }
        ClientError::Unknown(_) => "the change may still be applied · see: drave member list",
        _ => return cluster.explain_error(error),
    };
    CliError { message: format!("{error}\n  {advice}"), code: error.exit_code() }
}

/// `drave transfer`: exits with 1 if the transfer did not happen.
pub fn transfer(args: &Transfer) -> Result<(), CliError> {
    let began = Instant::now();
    let leader = args
        .cluster
        .client()
        .transfer_leadership(args.id.map(|NodeIdArg(id)| id))
        .map_err(|error| explain_change_error(&args.cluster, error))?;
    let ms = ms_since(began);
    if args.cluster.prints_json() {
        outln!("{}", json!({ "ok": true, "leader": leader.get(), "ms": ms }));
    } else {
        outln!("{leader} leads ({ms} ms)");
    }
    Ok(())
}

/// Lists the members as the leader knows them; without a leader, as the node with the highest term and commit index
/// last knew them.
fn list_members(cluster: &ClusterArgs) -> Result<(), CliError> {
    let results = poll(cluster);
    let statuses: Vec<&Status> = results.iter().filter_map(|result| result.status.as_ref().ok()).collect();
    let rank = |status: &&&Status| (status.role == RoleName::Leader, status.term, status.commit);
    let Some(best_status) = statuses.iter().max_by_key(rank).copied() else {
        return Err(cluster.no_answer_error());
    };
    if cluster.output == Output::Json {
        outln!(
            "{}",
            json!({
                "leader": best_status.leader, "members": members_json(best_status, &statuses),
                "summary": summarize_voters(best_status),
                "uncounted": uncounted_voters(best_status).into_iter()
                    .map(|(node, reason)| json!({ "node": node, "why": reason })).collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }
    outln!("{:<5} {:<9} {:<12} {:>9} {:>7}  {:<21} {:<16}", "ID", "KIND", "ROLE", "MATCH", "LAG", "ADDRESS", "DISK");
    for member in &best_status.members {
        let (role, matched, lag) = role_match_and_lag(member.node, best_status, &statuses);
        let disk = if member.disk.is_empty() { "-" } else { &member.disk };
        let row = format!(
            "{:<5} {:<9} {role:<12} {matched:>9} {lag:>7}  {:<21} {disk:<16} {}",
            format!("n{}", member.node),
            member.kind,
            member.address,
            member.prospect,
        );
        outln!("{}", row.trim_end());
    }
    outln!("{}", summarize_voters(best_status));
    for (node, reason) in uncounted_voters(best_status) {
        outln!("n{node} does not count for a quorum: {reason}");
    }
    if best_status.role != RoleName::Leader {
        outln!("no node that answers leads: this is the last state known to n{}", best_status.node);
    }
    Ok(())
}

/// The role, match index and lag of a member as text; `-` for each that is unknown.
fn role_match_and_lag(node: u64, best_status: &Status, statuses: &[&Status]) -> (String, String, String) {
    let own_status = statuses.iter().find(|status| status.node == node);
    let peer = best_status.peers.iter().find(|peer| peer.node == node);
    let is_peer_responsive = peer.is_some_and(is_responsive);
    let role = match (own_status, node == best_status.node || is_peer_responsive) {
        (Some(status), _) => status.role.to_string(),
        (None, true) => "-".to_owned(),
        (None, false) => "silent".to_owned(),
    };
    match peer {
        Some(peer) => (role, peer.matched.to_string(), peer.lag.to_string()),
        None if node == best_status.node => {
            (role, best_status.durable.to_string(), (best_status.last - best_status.durable).to_string())
        }
        None => (role, "-".to_owned(), "-".to_owned()),
    }
}

fn members_json(best_status: &Status, statuses: &[&Status]) -> Vec<serde_json::Value> {
    let member_json = |member: &drave::api::MemberStatus| {
        let (role, matched, lag) = role_match_and_lag(member.node, best_status, statuses);
        json!({
            "node": member.node, "kind": member.kind, "role": role, "address": member.address, "disk": member.disk,
            "prospect": member.prospect, "match": matched.parse::<u64>().ok(), "lag": lag.parse::<u64>().ok(),
        })
    };
    best_status.members.iter().map(member_json).collect()
}

/// Whether the leader received a message from the peer within the last second.
fn is_responsive(peer: &PeerStatus) -> bool {
    peer.heard_ms.is_some_and(|ms| ms < 1000)
}

/// The voters that do not contribute to a quorum at present, each with the reason. Empty if the status is not that of a
/// leader: only a leader knows them.
fn uncounted_voters(leader: &Status) -> Vec<(u64, String)> {
    if leader.role != RoleName::Leader {
        return Vec::new();
    }
    let is_voter = |node: u64| leader.members.iter().any(|member| member.node == node && member.kind != "learner");
    let reason = |peer: &PeerStatus| match (is_responsive(peer), peer.uncounted.as_str()) {
        (true, "") => None,
        (false, "") => Some("it is silent".to_owned()),
        (_, reason) => Some(reason.to_owned()),
    };
    leader.peers.iter().filter(|peer| is_voter(peer.node)).filter_map(|peer| Some((peer.node, reason(peer)?))).collect()
}

/// The number of voters, the quorum, and how many further failures the cluster tolerates. The voters of
/// [`uncounted_voters`] count as failed. An even number of voters tolerates no more failures than one voter
/// fewer.
fn summarize_voters(status: &Status) -> String {
    let uncounted = uncounted_voters(status);
    let count_members_of = |kinds: &[&str]| status.members.iter().filter(|m| kinds.contains(&m.kind.as_str())).count();
    let summarize_majority = |kinds: &[&str]| {
        let voter_count = count_members_of(kinds);
        let is_uncounted = |node: u64| uncounted.iter().any(|(uncounted, _)| *uncounted == node);
        let uncounted_count =
            status.members.iter().filter(|m| kinds.contains(&m.kind.as_str()) && is_uncounted(m.node)).count();
        let quorum = Membership::majority_of(voter_count);
        if uncounted_count > 0 {
            let available_count = voter_count - uncounted_count;
            let failures_text = match available_count.saturating_sub(quorum) {
                0 => "no further failure".to_owned(),
                1 => "1 further failure".to_owned(),
                n => format!("{n} further failures"),
            };
            return format!(
                "voters {voter_count}, {available_count} of them available · quorum {quorum} · \
                 tolerates {failures_text}"
            );
        }
        let tolerated_failures = voter_count - quorum.min(voter_count);
        let failures_text =
            if tolerated_failures == 1 { "1 failure".to_owned() } else { format!("{tolerated_failures} failures") };
        let even_count_note = match voter_count {
            0 => String::new(),
            2 => " (as 1 voter does)".to_owned(),
            n if n.is_multiple_of(2) => format!(" (as {} voters do)", n - 1),
            _ => String::new(),
        };
        format!("voters {voter_count} · quorum {quorum} · tolerates {failures_text}{even_count_note}")
    };
    let learners_text = match count_members_of(&["learner"]) {
        0 => String::new(),
        n => format!(" · learners {n}"),
    };
    let is_joint = count_members_of(&["incoming"]) + count_members_of(&["outgoing"]) > 0;
    if is_joint {
        let (new, old) = (summarize_majority(&["voter", "incoming"]), summarize_majority(&["voter", "outgoing"]));
        return format!("changing: from {old}, to {new}: both majorities are needed{learners_text}");
    }
    format!("{}{learners_text}", summarize_majority(&["voter"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drave::api::MemberStatus;

    fn status_with_members(kinds: &[&str]) -> Status {
        let member = |(kind, node): (&&str, u64)| MemberStatus { node, kind: (*kind).to_owned(), ..Default::default() };
        let members: Vec<MemberStatus> = kinds.iter().zip(1..).map(member).collect();
        let empty_status = json!({
            "node": 1, "cluster": "", "role": "leader", "term": 1, "leader": 1, "commit": 0, "applied": 0, "last": 0,
            "durable": 0, "digest": "", "sessions": 0, "membership": "", "peers": [], "fsync": true, "cpu_ns": 0,
            "uptime_ms": 0, "version": "", "elections": {},
            "disk": { "syncs": 0, "entries": 0, "bytes": 0, "sync_p50_us": 0.0, "sync_p99_us": 0.0, "sync_max_us": 0.0,
                      "oldest_unsynced_ms": 0 },
            "stages": { "queue_us": 0.0, "fsync_us": 0.0, "replicate_us": 0.0, "apply_us": 0.0 },
        });
        Status { members, ..serde_json::from_value(empty_status).unwrap() }
    }

    #[test]
    fn summary_compares_even_voter_counts_with_one_voter_fewer() {
        assert_eq!(summarize_voters(&status_with_members(&["voter"])), "voters 1 · quorum 1 · tolerates 0 failures");
        assert_eq!(summarize_voters(&status_with_members(&["voter"; 3])), "voters 3 · quorum 2 · tolerates 1 failure");
        assert_eq!(
            summarize_voters(&status_with_members(&["voter"; 4])),
            "voters 4 · quorum 3 · tolerates 1 failure (as 3 voters do)"
        );
        assert_eq!(
            summarize_voters(&status_with_members(&["voter"; 2])),
            "voters 2 · quorum 2 · tolerates 0 failures (as 1 voter does)"
        );
        let joint_summary =
            summarize_voters(&status_with_members(&["voter", "outgoing", "voter", "incoming", "learner"]));
        assert!(joint_summary.contains("both majorities") && joint_summary.ends_with("learners 1"), "{joint_summary}");
    }

    #[test]
    fn tolerated_failures_exclude_silent_and_uncounted_voters() {
        let peer = |node, heard_ms, uncounted: &str| PeerStatus {
            node,
            heard_ms: Some(heard_ms),
            uncounted: uncounted.to_owned(),
            ..PeerStatus::default()
        };
        let status_with_peers = |kinds: &[&str], peers: Vec<PeerStatus>| Status { peers, ..status_with_members(kinds) };
        let healthy_status = status_with_peers(&["voter"; 3], vec![peer(2, 20, ""), peer(3, 20, "")]);
        assert_eq!(summarize_voters(&healthy_status), "voters 3 · quorum 2 · tolerates 1 failure");
        let silent_voter_status = status_with_peers(&["voter"; 3], vec![peer(2, 20, ""), peer(3, 9000, "")]);
        assert_eq!(
            summarize_voters(&silent_voter_status),
            "voters 3, 2 of them available · quorum 2 · tolerates no further failure"
        );
        assert_eq!(uncounted_voters(&silent_voter_status), [(3, "it is silent".to_owned())]);
        let uncounted_voter_status =
            status_with_peers(&["voter"; 5], vec![peer(2, 20, "x"), peer(3, 20, ""), peer(4, 20, ""), peer(5, 20, "")]);
        assert_eq!(
            summarize_voters(&uncounted_voter_status),
            "voters 5, 4 of them available · quorum 3 · tolerates 1 further failure"
        );
        assert_eq!(uncounted_voters(&uncounted_voter_status), [(2, "x".to_owned())]);
        let silent_learner_status = status_with_peers(&["voter", "learner"], vec![peer(2, 9000, "")]);
        assert_eq!(summarize_voters(&silent_learner_status), "voters 1 · quorum 1 · tolerates 0 failures · learners 1");
        let follower_status = Status { role: RoleName::Follower, ..silent_voter_status };
        assert_eq!(summarize_voters(&follower_status), "voters 3 · quorum 2 · tolerates 1 failure");
    }

    #[test]
    fn member_spec_needs_a_nonzero_id_a_host_and_a_port() {
        let spec: MemberSpec = "4=host:7404".parse().unwrap();
        assert_eq!((spec.id.get(), spec.address.as_str()), (4, "host:7404"));
        for bad in ["4", "0=h:1", "x=h:1", "4=h", "4=h:x", "4=:1"] {
            assert!(bad.parse::<MemberSpec>().is_err(), "{bad}");
        }
        assert_eq!("n3".parse::<NodeIdArg>().unwrap().0.get(), 3);
    }
}
