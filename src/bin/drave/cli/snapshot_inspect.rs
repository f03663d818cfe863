//! `drave snapshot inspect`: prints the header of a saved snapshot, and verifies all of it.

use super::saved_snapshot::{open_snapshot, restore_state};
use crate::output::outln;
use crate::remote::cluster::Output;
use crate::remote::failure::CliError;
use bytesize::ByteSize;
use clap::Args;
use drave::disk::Meter;
use drave::wal::identity::short_cluster_id;
use serde_json::json;
use std::path::PathBuf;

/// Describes a saved snapshot, reads all of it, and verifies it.
///
/// Exit code 5: the file is damaged.
#[derive(Args, Debug)]
pub struct InspectSnapshot {
    /// The file that snapshot save wrote
    file: PathBuf,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// `drave snapshot inspect`: exits with 5 if the file is damaged.
pub fn run(args: &InspectSnapshot) -> Result<(), CliError> {
    let snapshot = open_snapshot(&args.file, &Meter::default())?;
    let key_count = restore_state(&snapshot)?.map(|applier| applier.machine().len());
    let (header, bytes) = (snapshot.header(), snapshot.bytes().len() as u64);
    let (position, members) = (header.position, &header.membership);
    let log_id = members.log_id.map(|log| log.to_string());
    if args.output == Output::Json {
        let members_json = members.members.iter().map(|(id, member)| {
            let is_voter = members.voters.contains(id);
            json!({ "node": id.get(), "voter": is_voter, "address": member.address })
        });
        outln!(
            "{}",
            json!({
                "file": args.file, "intact": true, "cluster": short_cluster_id(header.cluster), "log": log_id,
                "node": header.node.get(), "index": position.index.0, "term": position.term.0,
                "time_ms": header.time.0, "members": members_json.collect::<Vec<_>>(),
                "sessions": header.sessions, "keys": key_count, "bytes": bytes,
                "digest": format!("{:016x}", header.digest),
            })
        );
        return Ok(());
    }
    let addresses: Vec<String> =
        members.members.iter().map(|(id, member)| format!("{id} at {}", member.address)).collect();
    outln!("file      {}", args.file.display());
    outln!("cluster   {} · log {}", short_cluster_id(header.cluster), log_id.as_deref().unwrap_or("-"));
    outln!("position  {position} · taken by {}", header.node);
    outln!("time      {} ms of the cluster's clock", header.time.0);
    outln!("members   {members} · {}", addresses.join(", "));
    outln!("sessions  {}", header.sessions);
    outln!(
        "keys      {}",
        key_count.map_or("not a state of the key-value machine".to_owned(), |key_count| key_count.to_string())
    );
    outln!("bytes     {bytes} ({})", ByteSize(bytes).display().iec());
    outln!("digest    {:016x}", header.digest);
    outln!(
        "intact    every checksum is right{}",
        if key_count.is_some() { ", and the state matches its digest" } else { "" }
    );
    Ok(())
}
