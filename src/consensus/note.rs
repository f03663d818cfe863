//! Notes: events that the driver logs for the operator. The core itself writes no log lines.

use super::message::VoteKind;
use super::peer_class::PeerRejection;
use crate::types::{Index, LogId, Membership, NodeId, Position, Term};
use std::fmt;
use std::time::Duration;

/// The level at which the driver logs a [`Note`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Events that need attention, but not at once.
    Warn,
    /// Changes of roles and membership, which are rare in a healthy cluster.
    Info,
    /// Events of single messages, such as votes.
    Debug,
}

/// The event that made a node campaign.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CampaignReason {
    /// The node received no message of a leader for an election timeout (§5.2).
    Timeout,
    /// The connection to the leader closed.
    LinkClosed,
    /// The last campaign had no winner: the votes were split, or lost.
    Retry,
    /// The leader transfers the leadership to this node (thesis §3.10).
    Transfer,
}

impl CampaignReason {
    /// The name of the reason in metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            CampaignReason::Timeout => "timeout",
            CampaignReason::LinkClosed => "link_closed",
            CampaignReason::Retry => "again",
            CampaignReason::Transfer => "transfer",
        }
    }
}

/// Why a leader or a candidate stepped down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepDownReason {
    /// A peer is in a higher term (§5.1).
    HigherTerm {
        /// The peer's term.
        term: Term,
        /// The peer that sent the message of that term.
        from: NodeId,
    },
    /// The target of the leadership transfer campaigns (thesis §3.10).
    Transferred {
        /// The voter that takes over the leadership.
        to: NodeId,
    },
    /// No quorum of the voters responds to the leader (thesis §6.2).
    NoQuorum,
    /// A quorum responds, but no entry commits.
    CommitStalled,
    /// A write on this node's disk does not complete.
    DiskStalled,
    /// The configuration that removes this node is committed (§6).
    Removed,
    /// A claim that a peer recorded shows that this node runs on an older copy of its directory.
    OlderCopy,
    /// This candidate voted for another candidate during its pre-vote.
    VotedForAnother,
}

impl fmt::Display for StepDownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepDownReason::HigherTerm { term, from } => write!(f, "{from} is in the higher term {term}"),
            StepDownReason::Transferred { to } => write!(f, "{to} takes over, as requested"),
            StepDownReason::NoQuorum => f.write_str("no majority of the voters responds"),
            StepDownReason::CommitStalled => f.write_str("no entry commits with the voters that respond"),
            StepDownReason::DiskStalled => f.write_str("its disk does not respond"),
            StepDownReason::Removed => f.write_str("it is no longer a member"),
            StepDownReason::OlderCopy => f.write_str("its directory is an older copy"),
            StepDownReason::VotedForAnother => f.write_str("it voted for another candidate"),
        }
    }
}

/// An event that the driver logs for the operator. The subject of the text is this node, unless a peer is named.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Note {
    /// This node requests pre-votes or votes.
    Campaigns {
        /// Whether pre-votes or votes are requested.
        kind: VoteKind,
        /// The term of the node; a pre-vote is for the next one.
        term: Term,
        /// The event that started the campaign.
        reason: CampaignReason,
        /// The last known leader, and the time since its last message; `None` if no leader was known since this process
        /// started.
        last_leader: Option<(NodeId, Duration)>,
    },
    /// This node became leader.
    Leads {
        /// The term that the node leads.
        term: Term,
        /// The voters that elected the node, itself included.
        votes: Vec<NodeId>,
        /// The duration of the campaign, from its first pre-vote.
        campaign_time: Duration,
    },
    /// This node recognized a leader.
    Follows {
        /// The leader that the node follows now.
        leader: NodeId,
        /// The term of the leader.
        term: Term,
    },
    /// This node stepped down as leader.
    StepsDown {
        /// The term that the node led.
        term: Term,
        /// The cause of the step down.
        why: StepDownReason,
    },
    /// A snapshot replaced the log, which now starts after the last position of the snapshot.
    LogRestarted {
        /// The last position that the snapshot covers.
        base: Position,
    },
    /// This leader sends a snapshot to a follower that needs compacted entries.
    SendsSnapshot {
        /// The follower that receives the snapshot.
        peer: NodeId,
    },
    /// This node granted a vote or pre-vote, or rejected the candidate.
    VoteAnswered {
        /// The node that requested the vote.
        candidate: NodeId,
        /// Whether a pre-vote or a vote was requested.
        kind: VoteKind,
        /// The term of the vote request.
        term: Term,
        /// Why the candidate was rejected; `None` if the vote was granted.
        rejection: Option<&'static str>,
    },
    /// Uncommitted entries were truncated: they conflict with a leader's (§5.3).
    LogTruncated {
        /// The first truncated index.
        from: Index,
        /// The end of the log before the truncation.
        last: Position,
    },
    /// Another configuration is in force: it was appended, or a truncation or a snapshot brought it into force (§6).
    ConfigurationInForce {
        /// The index from which the configuration is in force.
        index: Index,
        /// The configuration: members, voters, and the outgoing voters if it is joint.
        membership: Box<Membership>,
    },
    /// A configuration in this node's log removes it from the cluster.
    NotMember {
        /// Whether this node's log ends before the leader's commit index: a later entry may add the node again.
        log_is_behind: bool,
        /// The id of this node, for the command that adds it again.
        node: NodeId,
        /// The index of the configuration that does not list this node.
        configuration_index: Index,
    },
    /// This leader transfers the leadership, and rejects new work meanwhile (thesis §3.10).
    TransferStarted {
        /// The voter that is to take over the leadership.
        to: NodeId,
    },
    /// The leadership transfer failed: this node remains leader.
    TransferTimedOut {
        /// The target that did not take over the leadership in time.
        to: NodeId,
    },
    /// A membership change was reverted, because its new voters do not respond.
    ChangeAborted {
        /// The index of the joint configuration.
        configuration_index: Index,
    },
    /// This leader stopped replicating to a removed member.
    MemberRemoved {
        /// The member that was removed.
        peer: NodeId,
        /// Whether the former member has acknowledged the configuration without it.
        notified: bool,
    },
    /// A follower has not responded for the longest election timeout.
    FollowerSilent {
        /// The follower that is silent.
        peer: NodeId,
        /// The time since the follower's last message.
        silence: Duration,
    },
    /// A silent follower responds again.
    FollowerRecovered {
        /// The follower that responded.
        peer: NodeId,
    },
    /// A write on this node's disk has not completed for the shortest election timeout.
    DiskStalled {
        /// The age of the oldest write that is not durable.
        write_age: Duration,
    },
    /// Messages of a peer are rejected: the peer belongs to another log, or has another disk than the one recorded for
    /// it.
    PeerRejected {
        /// The sender of the rejected messages.
        peer: NodeId,
        /// Why the messages are rejected.
        why: PeerRejection,
    },
    /// A founder with an empty log waits for other founders before a log begins.
    FoundingWaits {
        /// The founders that have not answered.
        silent_founders: Vec<NodeId>,
        /// The time left to wait. After that a majority may begin a log.
        wait_left: Duration,
    },
    /// No log begins here, because one of the founders holds a log.
    FoundingVetoed {
        /// The founder that holds a log.
        holder: NodeId,
        /// The id of the log that the founder holds.
        log: LogId,
    },
    /// A peer proved that this node acknowledged entries that it no longer holds.
    LossDetected {
        /// The end of this node's log.
        log_end: Position,
        /// The position up to which this node acknowledged entries.
        acknowledged: Position,
    },
    /// A follower of this leader has lost entries that it had acknowledged.
    LostAcknowledged {
        /// The follower that lost entries.
        peer: NodeId,
        /// The last index that the follower may still hold.
        last_held: Index,
        /// The last index that the follower had acknowledged.
        upto: Index,
    },
    /// This node has appended entries that it had lost, without a leader.
    LostEntriesAppended {
        /// The end of the log before.
        after: Position,
        /// The end of the log now.
        end: Position,
        /// The position up to which this node acknowledged entries.
        promised: Position,
    },
    /// The log of this node reaches its promised position again.
    RepairFinished {
        /// The end of this node's log.
        last: Position,
        /// The number of entries received since the repair began.
        entry_count: u64,
        /// The leader, which sent the last of them.
        from: Option<NodeId>,
        /// The duration of the repair.
        duration: Duration,
    },
    /// A peer sent a message that no correct peer sends. The message was dropped.
    InvalidMessage {
        /// The sender of the message.
        peer: NodeId,
        /// What is wrong with the message.
        error: &'static str,
    },
}

impl Note {
    /// The level at which the driver logs the note.
    pub fn level(&self) -> Level {
        match self {
            Note::Leads { .. }
            | Note::Follows { .. }
            | Note::ConfigurationInForce { .. }
            | Note::LogTruncated { .. } => Level::Info,
            Note::LogRestarted { .. } | Note::SendsSnapshot { .. } => Level::Info,
            Note::StepsDown { why: StepDownReason::Transferred { .. } | StepDownReason::Removed, .. } => Level::Info,
            Note::StepsDown { .. }
            | Note::FollowerSilent { .. }
            | Note::DiskStalled { .. }
            | Note::InvalidMessage { .. } => Level::Warn,
            Note::FollowerRecovered { .. }
            | Note::TransferStarted { .. }
            | Note::MemberRemoved { .. }
            | Note::RepairFinished { .. } => Level::Info,
            Note::NotMember { log_is_behind: true, .. } => Level::Info,
            Note::NotMember { log_is_behind: false, .. }
            | Note::TransferTimedOut { .. }
            | Note::ChangeAborted { .. } => Level::Warn,
            Note::LossDetected { .. } | Note::LostAcknowledged { .. } | Note::FoundingVetoed { .. } => Level::Warn,
            Note::FoundingWaits { .. } | Note::LostEntriesAppended { .. } => Level::Info,
            Note::Campaigns { kind: VoteKind::Vote | VoteKind::Transfer, .. } => Level::Info,
            Note::Campaigns { .. } | Note::VoteAnswered { .. } | Note::PeerRejected { .. } => Level::Debug,
        }
    }
}

impl Note {
    /// Writes the text of a note that concerns disk ids, log ids or lost entries, for `Display`.
    fn fmt_identity_or_loss(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::PeerRejected { peer, why } => write!(f, "messages of {peer} are rejected: {why}"),
            Note::FoundingWaits { silent_founders, wait_left } => {
                let silent_names: Vec<String> = silent_founders.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "has an empty log, and waits for {} before it begins one: {:.0} s left",
                    silent_names.join(", "),
                    wait_left.as_secs_f64()
                )
            }
            Note::FoundingVetoed { holder, log } => write!(
                f,
                "{holder} holds log {log}, and this directory is empty: this node begins no log. Restore the directory \
                 that this node had; or, if it is lost, run at a node of that log: drave member remove ID, and: drave \
                 member add ID=HOST:PORT, and start this one with --join"
            ),
            Note::LostEntriesAppended { after, end, promised } => write!(
                f,
                "got lost entries {} to {} back without a leader; its log must reach {promised}",
                after.index.next(),
                end.index
            ),
            Note::LossDetected { log_end, acknowledged } => write!(
                f,
                "this node acknowledged everything up to {acknowledged}, and its log ends at {log_end}: its directory \
                 is an older copy, or its disk has lost synced writes. It votes only for logs that reach \
                 {acknowledged}, and receives the missing entries again; check the disk"
            ),
            Note::LostAcknowledged { peer, last_held, upto } => write!(
                f,
                "{peer} has lost entries {}..{upto}, which it had acknowledged: its directory is an older copy, or its \
                 disk has lost synced writes; they are sent again",
                last_held.next()
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Campaigns { kind, term, reason, last_leader } => {
                match kind {
                    VoteKind::PreVote => write!(f, "requests pre-votes after term {term}: ")?,
                    VoteKind::Vote | VoteKind::Transfer => write!(f, "requests votes in term {term}: ")?,
                }
                write_campaign_reason(f, *reason, *last_leader)
            }
            Note::Leads { term, votes, campaign_time } => {
                write!(f, "leads term {term} ({} votes, {} ms)", votes.len(), campaign_time.as_millis())
            }
            Note::Follows { leader, term } => write!(f, "follows {leader} in term {term}"),
            Note::StepsDown { term, why } => write!(f, "steps down as leader of term {term}: {why}"),
            Note::VoteAnswered { candidate, kind, term, rejection } => {
                let vote_name = if *kind == VoteKind::PreVote { "pre-vote" } else { "vote" };
                match rejection {
                    None => write!(f, "{vote_name} for {candidate} in term {term}"),
                    Some(why) => write!(f, "no {vote_name} for {candidate} in term {term}: {why}"),
                }
            }
            Note::LogRestarted { base } => write!(f, "holds a snapshot up to {base}; its log starts after it"),
            Note::SendsSnapshot { peer } => {
                write!(f, "sends {peer} a snapshot: it needs entries that the log no longer holds")
            }
            Note::LogTruncated { from, last } => write!(f, "truncates uncommitted entries {from}..{last}"),
            Note::ConfigurationInForce { index, membership } => write!(f, "{membership} from {index}"),
            Note::NotMember { configuration_index, log_is_behind: true, .. } => {
                write!(f, "is not a member since {configuration_index}, according to its log so far")
            }
            Note::NotMember { node, configuration_index, log_is_behind: false } => {
                let id = node.get();
                write!(
                    f,
                    "is no longer a member since {configuration_index}, and is passive from now on: stop it; or, to \
                     add it again as it is: drave member add {id}=HOST:PORT"
                )
            }
            Note::TransferStarted { to } => write!(f, "transfers the leadership to {to}"),
            Note::TransferTimedOut { to } => write!(f, "{to} did not take over in time: this node remains leader"),
            Note::ChangeAborted { configuration_index } => {
                write!(f, "reverts the membership change at {configuration_index}: its new voters do not respond")
            }
            Note::MemberRemoved { peer, notified: true } => {
                write!(f, "{peer} is no longer a member, and has been notified")
            }
            Note::MemberRemoved { peer, notified: false } => {
                write!(f, "{peer} is no longer a member, and could not be notified")
            }
            Note::FollowerSilent { peer, silence } => write!(f, "{peer} silent for {:.1} s", silence.as_secs_f64()),
            Note::FollowerRecovered { peer } => write!(f, "{peer} responds again"),
            Note::DiskStalled { write_age } => write!(f, "disk has not responded for {} ms", write_age.as_millis()),
            Note::PeerRejected { .. }
            | Note::FoundingWaits { .. }
            | Note::FoundingVetoed { .. }
            | Note::LossDetected { .. }
            | Note::LostEntriesAppended { .. }
            | Note::LostAcknowledged { .. } => self.fmt_identity_or_loss(f),
            Note::RepairFinished { last, entry_count, from, duration } => {
                let seconds = duration.as_secs_f64();
                write!(
                    f,
                    "repair finished: the log reaches {last} again, after {seconds:.1} s; {entry_count} entries"
                )?;
                from.map_or(Ok(()), |leader| write!(f, " from {leader}"))
            }
            Note::InvalidMessage { peer, error } => write!(f, "{peer} sent an invalid message: {error}"),
        }
    }
}

/// Writes the reason for a campaign, with the last known leader.
fn write_campaign_reason(
    f: &mut fmt::Formatter<'_>,
    reason: CampaignReason,
    last_leader: Option<(NodeId, Duration)>,
) -> fmt::Result {
    let Some((leader, ago)) = last_leader else { return write!(f, "no leader is known yet ({})", reason.name()) };
    let silence_ms = ago.as_millis();
    match reason {
        CampaignReason::Timeout => write!(f, "nothing was received from leader {leader} for {silence_ms} ms (timeout)"),
        CampaignReason::LinkClosed => write!(f, "the connection to leader {leader} was closed (link_closed)"),
        CampaignReason::Retry => {
            write!(
                f,
                "no election has succeeded since the last message of leader {leader}, {silence_ms} ms ago (again)"
            )
        }
        CampaignReason::Transfer => write!(f, "leader {leader} transfers the leadership to this node (transfer)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_and_step_down_log_the_reason() {
        let n2 = NodeId::new(2).unwrap();
        let campaign_note =
            |reason, last_leader| Note::Campaigns { kind: VoteKind::Vote, term: Term(5), reason, last_leader };
        let last_contact = Some((n2, Duration::from_millis(231)));
        let note = campaign_note(CampaignReason::Timeout, last_contact);
        assert_eq!(note.level(), Level::Info);
        assert_eq!(
            note.to_string(),
            "requests votes in term 5: nothing was received from leader n2 for 231 ms (timeout)"
        );
        assert_eq!(
            campaign_note(CampaignReason::Timeout, None).to_string(),
            "requests votes in term 5: no leader is known yet (timeout)"
        );
        assert!(
            campaign_note(CampaignReason::LinkClosed, last_contact)
                .to_string()
                .contains("the connection to leader n2 was closed")
        );
        assert!(
            campaign_note(CampaignReason::Transfer, last_contact)
                .to_string()
                .contains("leader n2 transfers the leadership to this node")
        );
        let why = StepDownReason::HigherTerm { term: Term(6), from: n2 };
        let note = Note::StepsDown { term: Term(5), why };
        assert_eq!(note.to_string(), "steps down as leader of term 5: n2 is in the higher term 6");
    }
}
