//! `drave member` lists and changes the cluster's members; `drave transfer` transfers leadership.

use crate::output::outln;
use crate::remote::cluster::{Cluster, Output, ms_since};
use crate::remote::failure::CliError;
use crate::remote::poll::poll;
use clap::{Args, Subcommand};
use drave::api::{PeerStatus, Refusal, RoleName, Status};
use drave::client::{ClientError, Tried};
use drave::types::{Change, Membership, NodeId, PendingRole, Position};
use serde_json::json;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Instant;

/// Lists the members of the cluster, and changes them.
#[derive(Args, Debug)]
pub struct Member {
    #[command(subcommand)]
    what: MemberCommand,
}

#[derive(Subcommand, Debug)]
enum MemberCommand {
    /// Lists the members: voters, learners, and how many failures they tolerate
    List(List),
    /// Adds a node: a learner first, and a voter by itself once it has caught up
    Add(Add),
    /// Removes a voter or learner, even the leader
    Remove(MemberArgs),
    /// Makes a learner a voter now
    Promote(MemberArgs),
    /// Replaces a voter by a new node, in one change, once the new node has caught up
    Replace(Replace),
    /// Changes a member's address
    Update(Update),
    /// Makes exactly these members the voters, in one change; voters that are not named are removed
    Voters(Voters),
    /// Aborts the membership change in progress
    Abort(List),
}

/// What takes nothing but a cluster.
#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args, Debug)]
struct Add {
    /// The node's id and address: ID=HOST:PORT
    member: MemberSpec,
    /// Keeps it a learner: it receives all entries and does not vote
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args, Debug)]
struct MemberArgs {
    /// The node's id
    id: Id,
    /// Applies the change even if it may stop the cluster
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args, Debug)]
struct Replace {
    /// The id of the voter to remove
    old: Id,
    /// The new node's id and address: ID=HOST:PORT
    new: MemberSpec,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args, Debug)]
struct Update {
    /// The member's id and new address: ID=HOST:PORT
    member: MemberSpec,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Args, Debug)]
struct Voters {
    /// The ids of the voters: ID,ID,…
    #[arg(value_delimiter = ',', required = true)]
    ids: Vec<Id>,
    /// Applies the change even if it may stop the cluster
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Transfers leadership to another node.
#[derive(Args, Debug)]
pub struct Transfer {
    /// The id of the node to lead; default: the best transfer target
    id: Option<Id>,
    #[command(flatten)]
    cluster: Cluster,
}

/// A node's id, as `3` or `n3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Id(NodeId);

/// A node's id and address, as `ID=HOST:PORT`.
#[derive(Clone, Debug)]
struct MemberSpec {
    id: NodeId,
    address: String,
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Id, String> {
        let number = text.strip_prefix('n').unwrap_or(text);
        let id = number.parse().ok().and_then(NodeId::new);
        id.map(Id).ok_or_else(|| "a node's id is a number from 1".to_owned())
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
        Ok(MemberSpec { id: id.parse::<Id>()?.0, address: address.to_owned() })
    }
}

/// `drave member …`: exits with 1 if the change is rejected, 3 if nothing was changed because there is no leader, 4 if
/// the outcome is unknown.
pub fn run(args: &Member) -> Result<(), CliError> {
    match &args.what {
        MemberCommand::List(args) => list(&args.cluster),
        MemberCommand::Add(Add { member: MemberSpec { id, address }, learner, cluster }) => {
            let prospect = if *learner { PendingRole::Stays } else { PendingRole::Promote };
            let change = Change::Add { id: *id, address: address.clone(), disk: None, prospect };
            let then = if *learner { "stays a learner" } else { "becomes a voter by itself once it has caught up" };
            let start = format!(
                "start it, if it does not run: drave serve --id {} --join {} --data DIR",
                id.get(),
                another(cluster, address)
            );
            execute_change(cluster, &change, false, &format!("{id} is a learner and {then} · {start}"))
        }
        MemberCommand::Remove(MemberArgs { id: Id(id), force, cluster }) => {
            let done = format!(
                "{id} is not a member any more · stop it; this directory or an empty one can rejoin under its id \
                 after: drave member add"
            );
            execute_change(cluster, &Change::Remove(*id), *force, &done)
        }
        MemberCommand::Promote(MemberArgs { id: Id(id), force, cluster }) => {
            execute_change(cluster, &Change::Promote(*id), *force, &format!("{id} is a voter"))
        }
        MemberCommand::Replace(Replace { old: Id(old), new: MemberSpec { id, address }, cluster }) => {
            let prospect = PendingRole::Replace(*old);
            let change = Change::Add { id: *id, address: address.clone(), disk: None, prospect };
            let start = format!(
                "start it, if it does not run: drave serve --id {} --join {} --data DIR",
                id.get(),
                another(cluster, address)
            );
            let done = format!("{id} is a learner and replaces {old} once it has caught up · {start}");
            execute_change(cluster, &change, false, &done)
        }
        MemberCommand::Update(Update { member: MemberSpec { id, address }, cluster }) => {
            let change = Change::Move { id: *id, address: address.clone() };
            execute_change(cluster, &change, false, &format!("{id} is reached at {address}"))
        }
        MemberCommand::Voters(Voters { ids, force, cluster }) => {
            let named = ids;
            let ids: BTreeSet<NodeId> = named.iter().map(|Id(id)| *id).collect();
            if ids.len() < named.len() {
                let what = "a voter is named twice\n  name each once: drave member voters ID,ID,…";
                return Err(CliError { what: what.to_owned(), code: 2 });
            }
            execute_change(cluster, &Change::Voters(ids), *force, "these are the voters")
        }
        MemberCommand::Abort(args) => execute_change(&args.cluster, &Change::Abort, false, "the change is aborted"),
    }
}

/// An endpoint other than `but`: a node cannot join through itself.
fn another<'a>(cluster: &'a Cluster, but: &str) -> &'a str {
    cluster.endpoints.iter().find(|endpoint| *endpoint != but).map_or("HOST:PORT", String::as_str)
}

fn execute_change(cluster: &Cluster, change: &Change, force: bool, done: &str) -> Result<(), CliError> {
    let began = Instant::now();
    let position = cluster.client().change(change, force).map_err(|error| explain(cluster, error))?;
    report(cluster, position, ms_since(began), done);
    Ok(())
}

fn report(cluster: &Cluster, position: Position, ms: f64, done: &str) {
    if cluster.json() {
        outln!("{}", json!({ "ok": true, "index": position.index.0, "term": position.term.0, "ms": ms, "what": done }));
    } else {
        outln!("ok {position} ({ms} ms) {done}");
    }
}

fn explain(cluster: &Cluster, error: ClientError) -> CliError {
    let advice = match &error {
        ClientError::Rejected(Refusal::UnsafeChange { .. }) => "nothing was changed · --force overrides this",
        ClientError::Rejected(_) => "nothing was changed · see: drave member list",
        ClientError::Unknown(Tried { refusal: Some(Refusal::InvalidChange { .. }), .. }) => {
            "an earlier attempt of this command may have succeeded · see: drave member list"
        }
        ClientError::Unknown(_) => "the change may still be applied · see: drave member list",
        _ => return cluster.explain(error),
    };
    CliError { what: format!("{error}\n  {advice}"), code: error.exit_code() }
}

/// `drave transfer`: exits with 1 if the transfer did not happen.
pub fn transfer(args: &Transfer) -> Result<(), CliError> {
    let began = Instant::now();
    let to = args.cluster.client().transfer(args.id.map(|Id(id)| id)).map_err(|error| explain(&args.cluster, error))?;
    let ms = ms_since(began);
    if args.cluster.json() {
        outln!("{}", json!({ "ok": true, "leader": to.get(), "ms": ms }));
    } else {
        outln!("{to} leads ({ms} ms)");
    }
    Ok(())
}

/// Lists the members as the leader knows them; without a leader, as the best-informed node that answers last knew them.
fn list(cluster: &Cluster) -> Result<(), CliError> {
    let asked = poll(cluster);
    let answered: Vec<&Status> = asked.iter().filter_map(|asked| asked.status.as_ref().ok()).collect();
    let rank = |status: &&&Status| (status.role == RoleName::Leader, status.term, status.commit);
    let Some(best) = answered.iter().max_by_key(rank).copied() else {
        return Err(cluster.no_answer_error());
    };
    if cluster.output == Output::Json {
        outln!(
            "{}",
            json!({
                "leader": best.leader, "members": members_json(best, &answered), "summary": summary(best),
                "uncounted": uncounted_voters(best).into_iter().map(|(node, why)| json!({ "node": node, "why": why }))
                    .collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }
    outln!("{:<5} {:<9} {:<12} {:>9} {:>7}  {:<21} {:<16}", "ID", "KIND", "ROLE", "MATCH", "LAG", "ADDRESS", "DISK");
    for member in &best.members {
        let (role, matched, lag) = replication_state(member.node, best, &answered);
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
    outln!("{}", summary(best));
    for (node, why) in uncounted_voters(best) {
        outln!("n{node} does not count: {why}");
    }
    if best.role != RoleName::Leader {
        outln!("no node that answers leads: this is the last state known to n{}", best.node);
    }
    Ok(())
}

/// A member's role, match index and lag, as far as they are known.
fn replication_state(node: u64, best: &Status, answered: &[&Status]) -> (String, String, String) {
    let own = answered.iter().find(|status| status.node == node);
    let peer = best.peers.iter().find(|peer| peer.node == node);
    let heard = peer.is_some_and(is_heard);
    let role = match (own, node == best.node || heard) {
        (Some(status), _) => status.role.to_string(),
        (None, true) => "-".to_owned(),
        (None, false) => "silent".to_owned(),
    };
    match peer {
        Some(peer) => (role, peer.matched.to_string(), peer.lag.to_string()),
        None if node == best.node => (role, best.durable.to_string(), (best.last - best.durable).to_string()),
        None => (role, "-".to_owned(), "-".to_owned()),
    }
}

fn members_json(best: &Status, answered: &[&Status]) -> Vec<serde_json::Value> {
    let member = |member: &drave::api::MemberStatus| {
        let (role, matched, lag) = replication_state(member.node, best, answered);
        json!({
            "node": member.node, "kind": member.kind, "role": role, "address": member.address, "disk": member.disk,
            "prospect": member.prospect, "match": matched.parse::<u64>().ok(), "lag": lag.parse::<u64>().ok(),
        })
    };
    best.members.iter().map(member).collect()
}

/// Whether the leader heard from that peer within the last second.
fn is_heard(peer: &PeerStatus) -> bool {
    peer.heard_ms.is_some_and(|ms| ms < 1000)
}

/// The voters that the leader cannot count on at present, each with the reason. Empty if `leader` does not lead, since
/// only a leader knows.
fn uncounted_voters(leader: &Status) -> Vec<(u64, String)> {
    if leader.role != RoleName::Leader {
        return Vec::new();
    }
    let votes = |node: u64| leader.members.iter().any(|member| member.node == node && member.kind != "learner");
    let why = |peer: &PeerStatus| match (is_heard(peer), peer.uncounted.as_str()) {
        (true, "") => None,
        (false, "") => Some("it is silent".to_owned()),
        (_, why) => Some(why.to_owned()),
    };
    leader.peers.iter().filter(|peer| votes(peer.node)).filter_map(|peer| Some((peer.node, why(peer)?))).collect()
}

/// The number of voters, the quorum, and how many further failures the cluster tolerates, without the voters in
/// `uncounted_voters`. An even number of voters tolerates no more failures than one voter fewer.
fn summary(status: &Status) -> String {
    let missing = uncounted_voters(status);
    let of = |kinds: &[&str]| status.members.iter().filter(|m| kinds.contains(&m.kind.as_str())).count();
    let half = |kinds: &[&str]| {
        let voters = of(kinds);
        let is_missing = |node: u64| missing.iter().any(|(missing, _)| *missing == node);
        let gone = status.members.iter().filter(|m| kinds.contains(&m.kind.as_str()) && is_missing(m.node)).count();
        let quorum = Membership::majority_of(voters);
        if gone > 0 {
            let available = voters - gone;
            let failures = match available.saturating_sub(quorum) {
                0 => "no further failure".to_owned(),
                1 => "1 further failure".to_owned(),
                n => format!("{n} further failures"),
            };
            return format!("voters {voters}, {available} of them available · quorum {quorum} · tolerates {failures}");
        }
        let tolerates = voters - quorum.min(voters);
        let failures = if tolerates == 1 { "1 failure".to_owned() } else { format!("{tolerates} failures") };
        let even = match voters {
            0 => String::new(),
            2 => " (as 1 voter does)".to_owned(),
            n if n.is_multiple_of(2) => format!(" (as {} voters do)", n - 1),
            _ => String::new(),
        };
        format!("voters {voters} · quorum {quorum} · tolerates {failures}{even}")
    };
    let learners = match of(&["learner"]) {
        0 => String::new(),
        n => format!(" · learners {n}"),
    };
    let joint = of(&["incoming"]) + of(&["outgoing"]) > 0;
    if joint {
        let (new, old) = (half(&["voter", "incoming"]), half(&["voter", "outgoing"]));
        return format!("changing: from {old}, to {new}: both majorities are needed{learners}");
    }
    format!("{}{learners}", half(&["voter"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drave::api::MemberStatus;

    fn of(kinds: &[&str]) -> Status {
        let member = |(kind, node): (&&str, u64)| MemberStatus { node, kind: (*kind).to_owned(), ..Default::default() };
        let members: Vec<MemberStatus> = kinds.iter().zip(1..).map(member).collect();
        let empty = json!({
            "node": 1, "cluster": "", "role": "leader", "term": 1, "leader": 1, "commit": 0, "applied": 0, "last": 0,
            "durable": 0, "digest": "", "sessions": 0, "membership": "", "peers": [], "fsync": true, "cpu_ns": 0,
            "uptime_ms": 0, "version": "", "elections": {},
            "disk": { "syncs": 0, "entries": 0, "bytes": 0, "sync_p50_us": 0.0, "sync_p99_us": 0.0, "sync_max_us": 0.0,
                      "oldest_unsynced_ms": 0 },
            "stages": { "queue_us": 0.0, "fsync_us": 0.0, "replicate_us": 0.0, "apply_us": 0.0 },
        });
        Status { members, ..serde_json::from_value(empty).unwrap() }
    }

    #[test]
    fn summary_compares_even_voter_counts_with_one_voter_fewer() {
        assert_eq!(summary(&of(&["voter"])), "voters 1 · quorum 1 · tolerates 0 failures");
        assert_eq!(summary(&of(&["voter"; 3])), "voters 3 · quorum 2 · tolerates 1 failure");
        assert_eq!(summary(&of(&["voter"; 4])), "voters 4 · quorum 3 · tolerates 1 failure (as 3 voters do)");
        assert_eq!(summary(&of(&["voter"; 2])), "voters 2 · quorum 2 · tolerates 0 failures (as 1 voter does)");
        let joint = summary(&of(&["voter", "outgoing", "voter", "incoming", "learner"]));
        assert!(joint.contains("both majorities") && joint.ends_with("learners 1"), "{joint}");
    }

    #[test]
    fn tolerated_failures_exclude_silent_and_uncounted_voters() {
        let peer = |node, heard_ms, uncounted: &str| PeerStatus {
            node,
            heard_ms: Some(heard_ms),
            uncounted: uncounted.to_owned(),
            ..PeerStatus::default()
        };
        let with = |kinds: &[&str], peers: Vec<PeerStatus>| Status { peers, ..of(kinds) };
        let all = with(&["voter"; 3], vec![peer(2, 20, ""), peer(3, 20, "")]);
        assert_eq!(summary(&all), "voters 3 · quorum 2 · tolerates 1 failure");
        let silent = with(&["voter"; 3], vec![peer(2, 20, ""), peer(3, 9000, "")]);
        assert_eq!(summary(&silent), "voters 3, 2 of them available · quorum 2 · tolerates no further failure");
        assert_eq!(uncounted_voters(&silent), [(3, "it is silent".to_owned())]);
        let disk = with(&["voter"; 5], vec![peer(2, 20, "x"), peer(3, 20, ""), peer(4, 20, ""), peer(5, 20, "")]);
        assert_eq!(summary(&disk), "voters 5, 4 of them available · quorum 3 · tolerates 1 further failure");
        assert_eq!(uncounted_voters(&disk), [(2, "x".to_owned())]);
        let learner = with(&["voter", "learner"], vec![peer(2, 9000, "")]);
        assert_eq!(summary(&learner), "voters 1 · quorum 1 · tolerates 0 failures · learners 1");
        let nobody_knows = Status { role: RoleName::Follower, ..silent };
        assert_eq!(summary(&nobody_knows), "voters 3 · quorum 2 · tolerates 1 failure");
    }

    #[test]
    fn member_spec_parses_or_is_rejected() {
        let place: MemberSpec = "4=host:7404".parse().unwrap();
        assert_eq!((place.id.get(), place.address.as_str()), (4, "host:7404"));
        for bad in ["4", "0=h:1", "x=h:1", "4=h", "4=h:x", "4=:1"] {
            assert!(bad.parse::<MemberSpec>().is_err(), "{bad}");
        }
        assert_eq!("n3".parse::<Id>().unwrap().0.get(), 3);
    }
}
