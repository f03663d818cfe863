//! The text of `INFO`: figures of the node under Redis's names, and figures of Raft in a section of its own.
//!
//! A field of Redis is included if it applies to this node, and clients or exporters read it. Each name occurs once,
//! since many clients and exporters read all sections into one map.

use super::cluster::node_name;
use super::gateway::{ClusterView, MemberAddress};
use super::local::REDIS_VERSION;
use crate::api::Status;
use crate::gateway::process;
use crate::wire::resp::CommandArgs;

/// The number of keys, and the number of keys with an expiry.
pub type KeyCounts = (u64, u64);

/// `INFO [section …]`: renders all sections, or the named ones.
pub fn render(args: &CommandArgs, cluster_view: &ClusterView, status: &Status, key_counts: KeyCounts) -> String {
    let requested: Vec<String> = args.args_from(1).map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
    let wants_all_sections =
        requested.is_empty() || requested.iter().any(|name| ["all", "default", "everything"].contains(&&name[..]));
    let sections = [
        ("Server", server_section(cluster_view, status)),
        ("Clients", clients_section(cluster_view)),
        ("Memory", memory_section()),
        ("Persistence", persistence_section()),
        ("Stats", stats_section(cluster_view)),
        ("Replication", replication_section(cluster_view, status)),
        ("CPU", cpu_section()),
        ("Cluster", "cluster_enabled:1\r\n".to_owned()),
        ("Keyspace", keyspace_section(key_counts)),
        ("Raft", raft_section(cluster_view, status)),
    ];
    let selected_sections = sections
        .iter()
        .filter(|(name, _)| wants_all_sections || requested.iter().any(|section| name.eq_ignore_ascii_case(section)));
    selected_sections.map(|(name, lines)| format!("# {name}\r\n{lines}")).collect::<Vec<_>>().join("\r\n")
}

fn server_section(cluster_view: &ClusterView, status: &Status) -> String {
    let uptime_seconds = status.uptime_ms / 1000;
    format!(
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\ndrave_version:{}\r\nos:{}\r\narch_bits:{}\r\n\
         process_id:{}\r\nrun_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime_seconds}\r\nuptime_in_days:{}\r\n",
        status.version,
        std::env::consts::OS,
        usize::BITS,
        std::process::id(),
        node_name(cluster_view, cluster_view.node),
        cluster_view.port,
        uptime_seconds / 86_400,
    )
}

fn clients_section(cluster_view: &ClusterView) -> String {
    // `blocked_clients` is always 0, because no command blocks a client.
    format!(
        "connected_clients:{}\r\nblocked_clients:0\r\nmaxclients:{}\r\n",
        cluster_view.client_count, cluster_view.clients_max
    )
}

fn persistence_section() -> String {
    "loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:1\r\naof_rewrite_in_progress:0\r\n".to_owned()
}

fn stats_section(cluster_view: &ClusterView) -> String {
    format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
        cluster_view.accepted_clients, cluster_view.received_commands
    )
}

fn replication_section(cluster_view: &ClusterView, status: &Status) -> String {
    let offset_info = format!("master_replid:{}\r\nmaster_repl_offset:{}\r\n", "0".repeat(40), status.applied);
    if cluster_view.is_master() {
        return format!(
            "role:master\r\nconnected_slaves:{}\r\n{offset_info}",
            cluster_view.members.len().saturating_sub(1)
        );
    }
    let leader = cluster_view.members.iter().find(|member| cluster_view.leader == Some(member.node));
    let (host, port) = leader.map_or(("", 0), |MemberAddress { host, port, .. }| (host, *port));
    let link_state = if leader.is_some() { "up" } else { "down" };
    format!(
        "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{link_state}\r\n\
         master_sync_in_progress:0\r\nslave_repl_offset:{}\r\nslave_read_only:1\r\nconnected_slaves:0\r\n{offset_info}",
        status.applied,
    )
}

fn keyspace_section((keys, with_expiry): KeyCounts) -> String {
    if keys == 0 { String::new() } else { format!("db0:keys={keys},expires={with_expiry},avg_ttl=0\r\n") }
}

fn raft_section(cluster_view: &ClusterView, status: &Status) -> String {
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
        cluster_view.voter_count,
        status.cluster,
    )
}

fn memory_section() -> String {
    let resident_bytes = process::resident_bytes().unwrap_or(0);
    format!(
        "used_memory:{resident_bytes}\r\nused_memory_rss:{resident_bytes}\r\nmaxmemory:0\r\n\
         maxmemory_policy:noeviction\r\n"
    )
}

/// The processor time of this process; empty if the system does not provide it.
fn cpu_section() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the program's name in parentheses, may contain spaces. Of the fields after it, the twelfth is
    // user time and the next one system time, in hundredths of a second.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / 100.0);
    match (seconds(12), seconds(11)) {
        (Some(sys), Some(user)) => format!("used_cpu_sys:{sys:.6}\r\nused_cpu_user:{user:.6}\r\n"),
        _ => String::new(),
    }
}
