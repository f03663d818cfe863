//! The text of traces: the line for an entry, a vote, a sync, a message, a note and the state of a node.

use super::cluster::Cluster;
use drave::consensus::Raft;
use drave::consensus::message::{Envelope, Message, VoteKind};
use drave::consensus::note::Note;
use drave::types::*;

/// The position of an entry and its content: `3@2 text`.
pub fn entry_text(entry: &Entry) -> String {
    let text = match &entry.payload {
        Payload::Noop => "no-op".to_owned(),
        Payload::Opaque(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Membership(membership) if membership.log_agreed => membership.to_string(),
        Payload::Membership(membership) => format!("{membership} (new log)"),
    };
    format!("{} {text}", entry.position)
}

/// The text of a vote that follows a term, such as `, vote n1`; empty without a vote.
pub fn vote_text(vote: Option<Vote>) -> String {
    vote.map_or(String::new(), |vote| format!(", vote {}", vote.node))
}

/// The text of a disk sync: the contents of the node's unsynced writes up to `upto`.
pub fn sync_text(cluster: &Cluster, node: NodeId, upto: WriteId) -> String {
    let mut written_texts = Vec::new();
    for write in cluster.hosts[&node].unsynced_writes.iter().filter(|write| write.id <= upto) {
        written_texts.extend(write.hard_state.map(|state| format!("term {}{}", state.term, vote_text(state.vote))));
        written_texts.extend(write.base.as_ref().map(|base| format!("snapshot {}", base.position)));
        written_texts.extend(write.entries.iter().map(|entry| entry.position.to_string()));
    }
    format!("  {node} disk   {}", written_texts.join(", "))
}

/// The text of a message with its sender, receiver and term.
pub fn envelope_text(envelope: &Envelope) -> String {
    let Envelope { from, to, term, message, .. } = envelope;
    let text = match message {
        Message::RequestVote { last, kind: VoteKind::PreVote } => format!("PreVote, log up to {last}"),
        Message::RequestVote { last, kind: VoteKind::Vote } => format!("RequestVote, log up to {last}"),
        Message::RequestVote { last, kind: VoteKind::Transfer } => format!("RequestVote (transfer), log up to {last}"),
        Message::RequestVoteResponse { granted, kind, .. } => {
            let message_name = if kind.is_real() { "RequestVoteResponse" } else { "PreVoteResponse" };
            format!("{message_name}, {}", if *granted { "granted" } else { "refused" })
        }
        Message::AppendEntries { prev, commit, probe_number, entries } => {
            let probe_suffix = if *probe_number > 0 { " (probe)" } else { "" };
            let entries: Vec<String> = entries.iter().map(entry_text).collect();
            let entries = if entries.is_empty() { "no entries".to_owned() } else { entries.join(", ") };
            format!("AppendEntries{probe_suffix} after {prev}: {entries}; commit {commit}")
        }
        Message::AppendResponse { matched } => format!("AppendResponse, matched {matched}"),
        Message::AppendRejected { index, hint, .. } => format!("AppendRejected at {index}, hint {hint}"),
        Message::Heartbeat { commit, round, .. } => format!("Heartbeat, round {}, commit {commit}", round.0),
        Message::HeartbeatResponse { round, matched_prefix, .. } => {
            format!("HeartbeatResponse, round {}, matches up to {matched_prefix}", round.0)
        }
        Message::Committed { upto } => format!("Committed, up to {upto}"),
        Message::InstallSnapshot(chunk) => format!("InstallSnapshot {}", chunk.snapshot),
        Message::InstallSnapshotResponse { snapshot, .. } => format!("InstallSnapshotResponse {snapshot}"),
        Message::ReadIndexRequest { .. } => "ReadIndexRequest".to_owned(),
        Message::ReadIndexResponse { index, .. } => format!("ReadIndexResponse, index {index}"),
        other => format!("{other:?}"),
    };
    format!("  {from} -> {to}  term {term}  {text}")
}

/// The text of a note, without times.
pub fn note_text(note: &Note) -> String {
    let id_list = |ids: &[NodeId]| ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    match note {
        Note::Campaigns { kind: VoteKind::PreVote, term, reason, .. } => {
            format!("requests pre-votes after term {term} ({})", reason.name())
        }
        Note::Campaigns { term, reason, .. } => format!("requests votes in term {term} ({})", reason.name()),
        Note::Leads { term, votes, .. } => format!("leads term {term} with votes of {}", id_list(votes)),
        Note::FollowerSilent { peer, .. } => format!("finds {peer} silent"),
        Note::DiskStalled { .. } => "finds that its disk does not respond".to_owned(),
        Note::FoundingWaits { silent_founders, .. } => {
            format!("waits for {} before it begins a log", id_list(silent_founders))
        }
        Note::ConfigurationInForce { index, membership } => format!("uses {membership} from {index}"),
        note => note.to_string(),
    }
}

/// The role, the term and the log of a node: the terms of its entries, the committed ones before the bar.
pub fn node_text(raft: &Raft) -> String {
    let (log, base) = (raft.log(), raft.log().base());
    let mut log_text = if base.index > Index::ZERO { format!(" (snapshot {base})") } else { String::new() };
    for index in base.index.0..=log.last().index.0 {
        if index > base.index.0 {
            log_text += &format!(" {}", log.term(Index(index)).unwrap());
        }
        log_text += if index == log.commit().0 { " |" } else { "" };
    }
    format!("{:<12}  term {}  log{log_text}", raft.role(), raft.term())
}
