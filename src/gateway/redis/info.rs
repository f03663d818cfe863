//! `INFO`: the node in Redis's fields, and its own fields in the section `Raft`.
//!
//! A field is included if it holds for this node and clients or exporters read it. Each name occurs once, since many of
//! them read all sections into one map.

use super::cluster::name;
use super::gateway::{ClusterView, MemberAddress};
use super::local::REDIS_VERSION;
use crate::api::Status;
use crate::gateway::process;
use crate::wire::resp::CommandArgs;

/// The number of keys, and of those with an expiry.
pub type Keyspace = (u64, u64);

/// `INFO [section …]`: all sections, or those named.
pub fn render(words: &CommandArgs, scene: &ClusterView, status: &Status, keys: Keyspace) -> String {
    let asked: Vec<String> = words.from(1).map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
    let all = asked.is_empty() || asked.iter().any(|name| ["all", "default", "everything"].contains(&&name[..]));
    let sections = [
        ("Server", server(scene, status)),
        ("Clients", clients(scene)),
        ("Memory", memory()),
        ("Persistence", persistence()),
        ("Stats", stats(scene)),
        ("Replication", replication(scene, status)),
        ("CPU", cpu()),
        ("Cluster", "cluster_enabled:1\r\n".to_owned()),
        ("Keyspace", keyspace(keys)),
        ("Raft", raft(scene, status)),
    ];
    let wanted = sections.iter().filter(|(name, _)| all || asked.iter().any(|one| name.eq_ignore_ascii_case(one)));
    wanted.map(|(name, lines)| format!("# {name}\r\n{lines}")).collect::<Vec<_>>().join("\r\n")
}

fn server(scene: &ClusterView, status: &Status) -> String {
    let seconds = status.uptime_ms / 1000;
    format!(
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\ndrave_version:{}\r\nos:{}\r\narch_bits:{}\r\n\
         process_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{seconds}\r\nuptime_in_days:{}\r\n",
        status.version,
        std::env::consts::OS,
        usize::BITS,
        std::process::id(),
        name(scene, scene.node),
        scene.port,
        seconds / 86_400,
    )
}

fn clients(scene: &ClusterView) -> String {
    // No command blocks a client.
    format!("connected_clients:{}\r\nblocked_clients:0\r\nmaxclients:{}\r\n", scene.clients, scene.clients_max)
}

fn persistence() -> String {
    "loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:1\r\naof_rewrite_in_progress:0\r\n".to_owned()
}

fn stats(scene: &ClusterView) -> String {
    format!("total_connections_received:{}\r\ntotal_commands_processed:{}\r\n", scene.accepted, scene.commands)
}

fn replication(scene: &ClusterView, status: &Status) -> String {
    let offset = format!("master_replid:{}\r\nmaster_repl_offset:{}\r\n", "0".repeat(40), status.applied);
    if scene.is_master() {
        return format!("role:master\r\nconnected_slaves:{}\r\n{offset}", scene.places.len().saturating_sub(1));
    }
    let leader = scene.places.iter().find(|place| scene.leader == Some(place.node));
    let (host, port) = leader.map_or(("", 0), |MemberAddress { host, port, .. }| (host, *port));
    let link = if leader.is_some() { "up" } else { "down" };
    format!(
        "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link}\r\n\
         master_sync_in_progress:0\r\nslave_repl_offset:{}\r\nslave_read_only:1\r\nconnected_slaves:0\r\n{offset}",
        status.applied,
    )
}

fn keyspace((keys, dated): Keyspace) -> String {
    if keys == 0 { String::new() } else { format!("db0:keys={keys},expires={dated},avg_ttl=0\r\n") }
}

fn raft(scene: &ClusterView, status: &Status) -> String {
    format!(
        "node_id:{}\r\nraft_role:{}\r\nleader_id:{}\r\ncurrent_term:{}\r\ncommit_index:{}\r\nlast_applied_index:{}\r\n\
         last_log_index:{}\r\nnum_sessions:{}\r\nnum_voting_nodes:{}\r\ncluster:{}\r\n",
        status.node,
        status.role,
        status.leader.map_or("-1".to_owned(), |leader| leader.to_string()),
        status.term,
        status.commit,
        status.applied,
        status.last,
        status.sessions,
        scene.voters,
        status.cluster,
    )
}

fn memory() -> String {
    let resident = process::resident().unwrap_or(0);
    format!("used_memory:{resident}\r\nused_memory_rss:{resident}\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n")
}

/// The processor time of this process; empty if the system does not provide it.
fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may contain spaces. In the fields after it, user time is the twelfth, in
    // hundredths.
    let fields: Vec<&str> =
        text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / 100.0);
    match (seconds(12), seconds(11)) {
        (Some(sys), Some(user)) => format!("used_cpu_sys:{sys:.6}\r\nused_cpu_user:{user:.6}\r\n"),
        _ => String::new(),
    }
}
