//! `CLUSTER`: presents the cluster in the form of a Redis cluster.

use super::error::unknown_subcommand;
use super::gateway::{ClusterView, MemberAddress};
use crate::types::NodeId;
use crate::wire::resp::{CommandArgs, ReplyWriter};
use std::fmt::Write;

/// The number of hash slots in a Redis cluster. Here they form a single range, which belongs to the leader.
const SLOT_COUNT: u16 = 16_384;

/// `CLUSTER SLOTS|SHARDS|NODES|INFO|MYID|KEYSLOT key`
pub fn handle_cluster(args: &CommandArgs, cluster_view: &ClusterView, out: &mut ReplyWriter<'_>) -> Result<(), String> {
    match &args.at(1).to_ascii_uppercase()[..] {
        b"SLOTS" => write_slots(cluster_view, out),
        b"SHARDS" => write_shards(cluster_view, out),
        b"NODES" => out.bulk(nodes_text(cluster_view).as_bytes()),
        b"INFO" => out.bulk(info_text(cluster_view).as_bytes()),
        b"MYID" => out.bulk(node_name(cluster_view, cluster_view.node).as_bytes()),
        b"KEYSLOT" => out.integer(key_slot(args.at(2)).into()),
        _ => return Err(unknown_subcommand(args)),
    }
    Ok(())
}

/// The name of a node, forty hexadecimal digits as in Redis: 16 of the cluster id and 24 of the node id.
pub fn node_name(cluster_view: &ClusterView, node: NodeId) -> String {
    format!("{:016x}{:024x}", cluster_view.cluster.0, node.get())
}

fn is_leader(cluster_view: &ClusterView, member: &MemberAddress) -> bool {
    cluster_view.leader == Some(member.node)
}

fn write_slots(cluster_view: &ClusterView, out: &mut ReplyWriter<'_>) {
    out.array(1);
    out.array(2 + cluster_view.members.len());
    out.integer(0);
    out.integer(i64::from(SLOT_COUNT) - 1);
    for member in &cluster_view.members {
        out.array(3);
        out.bulk(member.host.as_bytes());
        out.integer(member.port.into());
        out.bulk(node_name(cluster_view, member.node).as_bytes());
    }
}

fn write_shards(cluster_view: &ClusterView, out: &mut ReplyWriter<'_>) {
    out.array(1);
    out.map(2);
    out.bulk(b"slots");
    out.array(2);
    out.integer(0);
    out.integer(i64::from(SLOT_COUNT) - 1);
    out.bulk(b"nodes");
    out.array(cluster_view.members.len());
    for member in &cluster_view.members {
        out.map(7);
        out.bulk(b"id");
        out.bulk(node_name(cluster_view, member.node).as_bytes());
        out.bulk(b"port");
        out.integer(member.port.into());
        out.bulk(b"ip");
        out.bulk(member.host.as_bytes());
        out.bulk(b"endpoint");
        out.bulk(member.host.as_bytes());
        out.bulk(b"role");
        out.bulk(if is_leader(cluster_view, member) { b"master" } else { b"replica" });
        out.bulk(b"replication-offset");
        out.integer(0);
        out.bulk(b"health");
        out.bulk(b"online");
    }
}

fn nodes_text(cluster_view: &ClusterView) -> String {
    let leader_name = cluster_view.leader.map_or("-".to_owned(), |leader| node_name(cluster_view, leader));
    let mut text = String::new();
    for member in &cluster_view.members {
        let (id, MemberAddress { host, port, bus_port, .. }) = (node_name(cluster_view, member.node), member);
        let myself_flag = if member.node == cluster_view.node { "myself," } else { "" };
        let _infallible = match is_leader(cluster_view, member) {
            true => {
                writeln!(
                    text,
                    "{id} {host}:{port}@{bus_port} {myself_flag}master - 0 0 1 connected 0-{}",
                    SLOT_COUNT - 1
                )
            }
            false => writeln!(text, "{id} {host}:{port}@{bus_port} {myself_flag}slave {leader_name} 0 0 1 connected"),
        };
    }
    text
}

fn info_text(cluster_view: &ClusterView) -> String {
    let state = if cluster_view.leader.is_some() { "ok" } else { "fail" };
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOT_COUNT}\r\ncluster_slots_ok:{SLOT_COUNT}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\n\
         cluster_current_epoch:1\r\ncluster_my_epoch:1\r\n",
        cluster_view.members.len()
    )
}

/// The hash slot of a key, as in Redis: CRC-16 (XMODEM) of the key, or of its hash tag. The hash tag is the text in the
/// first pair of braces, unless it is empty.
pub fn key_slot(key: &[u8]) -> u16 {
    let brace_position = key.iter().position(|byte| *byte == b'{');
    let hash_tag = brace_position.and_then(|brace_position| {
        let after_brace = &key[brace_position + 1..];
        after_brace
            .iter()
            .position(|byte| *byte == b'}')
            .filter(|length| *length > 0)
            .map(|length| &after_brace[..length])
    });
    let crc = hash_tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOT_COUNT
}

#[cfg(test)]
mod tests {
    use super::key_slot;

    #[test]
    fn key_slots_equal_those_of_redis() {
        for (key, expected_slot) in [
            ("foo", 12182),
            ("bar", 5061),
            ("123456789", 12739),
            ("{user1000}.following", 3443),
            ("{user1000}.followers", 3443),
            ("", 0),
        ] {
            assert_eq!(key_slot(key.as_bytes()), expected_slot, "{key}");
        }
        assert_ne!(key_slot(b"foo{}{bar}"), key_slot(b"foo{}{baz}"), "an empty hash tag is ignored");
        assert_eq!(key_slot(b"foo{{bar}}zap"), key_slot(b"{bar"));
    }
}
