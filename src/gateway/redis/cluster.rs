//! `CLUSTER`: presents the cluster in the form of a Redis cluster.

use super::error::subcommand;
use super::gateway::{ClusterView, MemberAddress};
use crate::types::NodeId;
use crate::wire::resp::{CommandArgs, Writer};
use std::fmt::Write;

/// The number of slots in a Redis cluster. Here they form a single range, which belongs to the leader.
const SLOTS: u16 = 16_384;

/// `CLUSTER SLOTS|SHARDS|NODES|INFO|MYID|KEYSLOT key`
pub fn cluster(words: &CommandArgs, scene: &ClusterView, out: &mut Writer<'_>) -> Result<(), String> {
    match &words.at(1).to_ascii_uppercase()[..] {
        b"SLOTS" => slots(scene, out),
        b"SHARDS" => shards(scene, out),
        b"NODES" => out.bulk(nodes(scene).as_bytes()),
        b"INFO" => out.bulk(info(scene).as_bytes()),
        b"MYID" => out.bulk(name(scene, scene.node).as_bytes()),
        b"KEYSLOT" => out.integer(slot(words.at(2)).into()),
        _ => return Err(subcommand(words)),
    }
    Ok(())
}

/// A node's name, forty hexadecimal digits as in Redis: the cluster id and the node id.
pub fn name(scene: &ClusterView, node: NodeId) -> String {
    format!("{:016x}{:024x}", scene.cluster.0, node.get())
}

fn is_leader(scene: &ClusterView, place: &MemberAddress) -> bool {
    scene.leader == Some(place.node)
}

fn slots(scene: &ClusterView, out: &mut Writer<'_>) {
    out.array(1);
    out.array(2 + scene.places.len());
    out.integer(0);
    out.integer(i64::from(SLOTS) - 1);
    for place in &scene.places {
        out.array(3);
        out.bulk(place.host.as_bytes());
        out.integer(place.port.into());
        out.bulk(name(scene, place.node).as_bytes());
    }
}

fn shards(scene: &ClusterView, out: &mut Writer<'_>) {
    out.array(1);
    out.map(2);
    out.bulk(b"slots");
    out.array(2);
    out.integer(0);
    out.integer(i64::from(SLOTS) - 1);
    out.bulk(b"nodes");
    out.array(scene.places.len());
    for place in &scene.places {
        out.map(7);
        out.bulk(b"id");
        out.bulk(name(scene, place.node).as_bytes());
        out.bulk(b"port");
        out.integer(place.port.into());
        out.bulk(b"ip");
        out.bulk(place.host.as_bytes());
        out.bulk(b"endpoint");
        out.bulk(place.host.as_bytes());
        out.bulk(b"role");
        out.bulk(if is_leader(scene, place) { b"master" } else { b"replica" });
        out.bulk(b"replication-offset");
        out.integer(0);
        out.bulk(b"health");
        out.bulk(b"online");
    }
}

fn nodes(scene: &ClusterView) -> String {
    let leader = scene.leader.map_or("-".to_owned(), |leader| name(scene, leader));
    let mut text = String::new();
    for place in &scene.places {
        let (id, MemberAddress { host, port, bus, .. }) = (name(scene, place.node), place);
        let myself = if place.node == scene.node { "myself," } else { "" };
        let _memory_takes_it = match is_leader(scene, place) {
            true => writeln!(text, "{id} {host}:{port}@{bus} {myself}master - 0 0 1 connected 0-{}", SLOTS - 1),
            false => writeln!(text, "{id} {host}:{port}@{bus} {myself}slave {leader} 0 0 1 connected"),
        };
    }
    text
}

fn info(scene: &ClusterView) -> String {
    let state = if scene.leader.is_some() { "ok" } else { "fail" };
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{SLOTS}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{}\r\ncluster_size:1\r\n\
         cluster_current_epoch:1\r\ncluster_my_epoch:1\r\n",
        scene.places.len()
    )
}

/// The slot of a key: CRC-16 (XMODEM) of the key, or of its hash tag, the text in the first braces if not empty.
pub fn slot(key: &[u8]) -> u16 {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let behind = &key[open + 1..];
        behind.iter().position(|byte| *byte == b'}').filter(|length| *length > 0).map(|length| &behind[..length])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::slot;

    #[test]
    fn key_slots_equal_those_of_redis() {
        for (key, at) in [
            ("foo", 12182),
            ("bar", 5061),
            ("123456789", 12739),
            ("{user1000}.following", 3443),
            ("{user1000}.followers", 3443),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), at, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"foo{}{baz}"), "an empty hash tag is ignored");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }
}
