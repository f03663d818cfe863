//! Events for the operator, as data: the core never logs.

use super::message::VoteKind;
use super::peer_class::Refused;
use crate::types::{Index, LogId, Membership, NodeId, Position, Term};
use std::fmt;
use std::time::Duration;

/// The log level of a [`Note`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Needs attention, but can wait until tomorrow.
    Warn,
    /// Roles, membership, start and stop: a healthy day fits on a screen.
    Info,
    /// Single messages.
    Debug,
}

/// Why a node campaigns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// It received nothing from a leader for an election timeout (§5.2).
    Timeout,
    /// Its leader's connection closed.
    LinkClosed,
    /// The votes were split, or lost.
    Retry,
    /// Its leader transfers the leadership to it (thesis §3.10).
    Transfer,
}

impl Reason {
    /// The name of the reason in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Timeout => "timeout",
            Reason::LinkClosed => "link_closed",
            Reason::Retry => "again",
            Reason::Transfer => "transfer",
        }
    }
}

/// Why a leader or a candidate stepped down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepDown {
    /// A peer is in a higher term (§5.1).
    HigherTerm {
        /// The term.
        term: Term,
        /// The peer.
        from: NodeId,
    },
    /// The target of its leadership transfer campaigns (thesis §3.10).
    Transferred {
        /// The target.
        to: NodeId,
    },
    /// No majority of the voters responds (thesis §6.2).
    NoQuorum,
    /// A majority responds, but nothing commits.
    CommitStalled,
    /// Its disk does not respond.
    DiskStalled,
    /// The configuration without it is committed (§6).
    Removed,
    /// It leads on an older copy of its directory.
    OlderCopy,
    /// It voted for another candidate.
    VotedForAnother,
}

impl fmt::Display for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepDown::HigherTerm { term, from } => write!(f, "{from} is in the higher term {term}"),
            StepDown::Transferred { to } => write!(f, "{to} takes over, as requested"),
            StepDown::NoQuorum => f.write_str("no majority of the voters responds"),
            StepDown::CommitStalled => f.write_str("no entry commits with the voters that respond"),
            StepDown::DiskStalled => f.write_str("its disk does not respond"),
            StepDown::Removed => f.write_str("it is no longer a member"),
            StepDown::OlderCopy => f.write_str("its directory is an older copy"),
            StepDown::VotedForAnother => f.write_str("it voted for another candidate"),
        }
    }
}

/// An event for the operator.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Note {
    /// This node requests pre-votes or votes.
    Campaigns {
        /// The kind of vote.
        ask: VoteKind,
        /// The term of the node.
        term: Term,
        /// The reason for the campaign.
        reason: Reason,
        /// The last known leader, and the time since its last message; none if there was no leader since the start.
        last_leader: Option<(NodeId, Duration)>,
    },
    /// This node became leader.
    Leads {
        /// The term it leads.
        term: Term,
        /// The voters that granted their vote.
        votes: Vec<NodeId>,
        /// How long the campaign took.
        after: Duration,
    },
    /// This node follows that leader.
    Follows {
        /// The leader.
        leader: NodeId,
        /// The term.
        term: Term,
    },
    /// This node stepped down as leader.
    StepsDown {
        /// The term it led.
        term: Term,
        /// The reason.
        why: StepDown,
    },
    /// A snapshot replaced the log, which restarts after it.
    LogRestarted {
        /// The last position that the snapshot covers.
        base: Position,
    },
    /// A follower is sent a snapshot: the entries it needs are no longer in the log.
    SendsSnapshot {
        /// The follower.
        peer: NodeId,
    },
    /// A vote was granted or rejected.
    Votes {
        /// The candidate.
        candidate: NodeId,
        /// The kind of vote.
        ask: VoteKind,
        /// The term.
        term: Term,
        /// Why it was rejected; none if it was granted.
        denied: Option<&'static str>,
    },
    /// Uncommitted entries were truncated: they conflict with a leader's (§5.3).
    Truncated {
        /// The first truncated index.
        from: Index,
        /// The end of the log before.
        last: Position,
    },
    /// A configuration is in force from this index on (§6).
    Configured {
        /// The index.
        index: Index,
        /// The configuration.
        membership: Box<Membership>,
    },
    /// This node is not a member from that index on.
    Outside {
        /// Whether the log has not reached the leader's commit index: a later entry may add the node again.
        behind: bool,
        /// This node's id.
        me: NodeId,
        /// The index of the configuration that does not list this node.
        since: Index,
    },
    /// This leader transfers the leadership, and rejects new work meanwhile (thesis §3.10).
    TransferStarted {
        /// The target.
        to: NodeId,
    },
    /// The leadership transfer failed: this leader goes on.
    TransferTimedOut {
        /// The target that did not take over.
        to: NodeId,
    },
    /// A membership change was reverted, because its new voters do not respond.
    ChangeAborted {
        /// The index of the joint configuration.
        since: Index,
    },
    /// A removed member was dropped.
    MemberRemoved {
        /// The former member.
        peer: NodeId,
        /// Whether it knows that it was removed.
        told: bool,
    },
    /// A follower does not respond.
    Silent {
        /// The follower.
        peer: NodeId,
        /// The time since its last message.
        since: Duration,
    },
    /// A follower responds again.
    FollowerRecovered {
        /// The follower.
        peer: NodeId,
    },
    /// The disk has not responded for this long.
    DiskStalled {
        /// The age of the oldest write.
        since: Duration,
    },
    /// Messages of a peer are rejected: it belongs to another log, or comes with another disk.
    PeerRejected {
        /// The peer.
        peer: NodeId,
        /// The reason.
        why: Refused,
    },
    /// A founder with an empty log waits for other founders before a log begins.
    FoundingWaits {
        /// The founders that have not answered.
        silent: Vec<NodeId>,
        /// How much longer it waits.
        left: Duration,
    },
    /// No log begins here, because one of the founders holds a log.
    FoundingVetoed {
        /// The founder that holds it.
        holder: NodeId,
        /// Its log id.
        log: LogId,
    },
    /// A peer proved that this node acknowledged more than it holds.
    LossDetected {
        /// The end of its log.
        held: Position,
        /// The position that it acknowledged.
        promised: Position,
    },
    /// A follower of this leader has lost entries that it had acknowledged.
    LostAcknowledged {
        /// The follower.
        peer: NodeId,
        /// It holds no entry after this index.
        held: Index,
        /// It acknowledged everything up to here.
        upto: Index,
    },
    /// A peer sent a message that no correct peer sends; it was dropped.
    InvalidMessage {
        /// The peer.
        peer: NodeId,
        /// What is wrong with the message.
        what: &'static str,
    },
}

impl Note {
    /// The log level.
    pub fn level(&self) -> Level {
        match self {
            Note::Leads { .. } | Note::Follows { .. } | Note::Configured { .. } | Note::Truncated { .. } => Level::Info,
            Note::LogRestarted { .. } | Note::SendsSnapshot { .. } => Level::Info,
            Note::StepsDown { why: StepDown::Transferred { .. } | StepDown::Removed, .. } => Level::Info,
            Note::StepsDown { .. } | Note::Silent { .. } | Note::DiskStalled { .. } | Note::InvalidMessage { .. } => {
                Level::Warn
            }
            Note::FollowerRecovered { .. } | Note::TransferStarted { .. } | Note::MemberRemoved { .. } => Level::Info,
            Note::Outside { behind: true, .. } => Level::Info,
            Note::Outside { behind: false, .. } | Note::TransferTimedOut { .. } | Note::ChangeAborted { .. } => {
                Level::Warn
            }
            Note::LossDetected { .. } | Note::LostAcknowledged { .. } | Note::FoundingVetoed { .. } => Level::Warn,
            Note::FoundingWaits { .. } => Level::Info,
            Note::Campaigns { ask: VoteKind::Vote | VoteKind::Transfer, .. } => Level::Info,
            Note::Campaigns { .. } | Note::Votes { .. } | Note::PeerRejected { .. } => Level::Debug,
        }
    }
}

impl Note {
    /// Writes the notes on disks and logs.
    fn identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::PeerRejected { peer, why } => write!(f, "messages of {peer} are rejected: {why}"),
            Note::FoundingWaits { silent, left } => {
                let silent: Vec<String> = silent.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "has an empty log, and waits for {} before it begins one: {:.0} s left",
                    silent.join(", "),
                    left.as_secs_f64()
                )
            }
            Note::FoundingVetoed { holder, log } => write!(
                f,
                "{holder} holds log {log}, and this directory is empty: this node begins no log. Restore the directory \
                 that this node had; or, if it is lost, run at a node of that log: drave member remove ID, and: drave \
                 member add ID=HOST:PORT, and start this one with --join"
            ),
            Note::LossDetected { held, promised } => write!(
                f,
                "this node acknowledged everything up to {promised}, and its log ends at {held}: its directory is an \
                 older copy, or its disk has lost synced writes. It votes only for logs that reach {promised}, and \
                 receives the missing entries again; check the disk"
            ),
            Note::LostAcknowledged { peer, held, upto } => write!(
                f,
                "{peer} has lost entries {}..{upto}, which it had acknowledged: its directory is an older copy, or its \
                 disk has lost synced writes; they are sent again",
                held.next()
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Campaigns { ask, term, reason, last_leader } => {
                match ask {
                    VoteKind::PreVote => write!(f, "requests pre-votes after term {term}: ")?,
                    VoteKind::Vote | VoteKind::Transfer => write!(f, "requests votes in term {term}: ")?,
                }
                write_reason(f, *reason, *last_leader)
            }
            Note::Leads { term, votes, after } => {
                write!(f, "leads term {term} ({} votes, {} ms)", votes.len(), after.as_millis())
            }
            Note::Follows { leader, term } => write!(f, "follows {leader} in term {term}"),
            Note::StepsDown { term, why } => write!(f, "steps down as leader of term {term}: {why}"),
            Note::Votes { candidate, ask, term, denied } => {
                let what = if *ask == VoteKind::PreVote { "pre-vote" } else { "vote" };
                match denied {
                    None => write!(f, "{what} for {candidate} in term {term}"),
                    Some(why) => write!(f, "no {what} for {candidate} in term {term}: {why}"),
                }
            }
            Note::LogRestarted { base } => write!(f, "holds a snapshot up to {base}; its log starts after it"),
            Note::SendsSnapshot { peer } => {
                write!(f, "sends {peer} a snapshot: it needs entries that the log no longer holds")
            }
            Note::Truncated { from, last } => write!(f, "truncates uncommitted entries {from}..{last}"),
            Note::Configured { index, membership } => write!(f, "{membership} from {index}"),
            Note::Outside { since, behind: true, .. } => {
                write!(f, "is not a member since {since}, according to its log so far")
            }
            Note::Outside { me, since, behind: false } => {
                let id = me.get();
                write!(
                    f,
                    "is no longer a member since {since}, and is passive from now on: stop it; or, to add it again as \
                     it is: drave member add {id}=HOST:PORT"
                )
            }
            Note::TransferStarted { to } => write!(f, "transfers the leadership to {to}"),
            Note::TransferTimedOut { to } => write!(f, "{to} did not take over in time: this node remains leader"),
            Note::ChangeAborted { since } => {
                write!(f, "reverts the membership change at {since}: its new voters do not respond")
            }
            Note::MemberRemoved { peer, told: true } => {
                write!(f, "{peer} is no longer a member, and has been notified")
            }
            Note::MemberRemoved { peer, told: false } => {
                write!(f, "{peer} is no longer a member, and could not be notified")
            }
            Note::Silent { peer, since } => write!(f, "{peer} silent for {:.1} s", since.as_secs_f64()),
            Note::FollowerRecovered { peer } => write!(f, "{peer} responds again"),
            Note::DiskStalled { since } => write!(f, "disk has not responded for {} ms", since.as_millis()),
            Note::PeerRejected { .. }
            | Note::FoundingWaits { .. }
            | Note::FoundingVetoed { .. }
            | Note::LossDetected { .. }
            | Note::LostAcknowledged { .. } => self.identity(f),
            Note::InvalidMessage { peer, what } => write!(f, "{peer} sent an invalid message: {what}"),
        }
    }
}

/// Writes the reason for a campaign.
fn write_reason(f: &mut fmt::Formatter<'_>, reason: Reason, last_leader: Option<(NodeId, Duration)>) -> fmt::Result {
    let Some((leader, ago)) = last_leader else { return write!(f, "no leader is known yet ({})", reason.name()) };
    let ms = ago.as_millis();
    match reason {
        Reason::Timeout => write!(f, "nothing was received from leader {leader} for {ms} ms (timeout)"),
        Reason::LinkClosed => write!(f, "the connection to leader {leader} was closed (link_closed)"),
        Reason::Retry => {
            write!(f, "no election has succeeded since the last message of leader {leader}, {ms} ms ago (again)")
        }
        Reason::Transfer => write!(f, "leader {leader} transfers the leadership to this node (transfer)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_and_step_down_log_the_reason() {
        let n2 = NodeId::new(2).unwrap();
        let says = |reason, last_leader| Note::Campaigns { ask: VoteKind::Vote, term: Term(5), reason, last_leader };
        let heard = Some((n2, Duration::from_millis(231)));
        let note = says(Reason::Timeout, heard);
        assert_eq!(note.level(), Level::Info);
        assert_eq!(
            note.to_string(),
            "requests votes in term 5: nothing was received from leader n2 for 231 ms (timeout)"
        );
        assert_eq!(
            says(Reason::Timeout, None).to_string(),
            "requests votes in term 5: no leader is known yet (timeout)"
        );
        assert!(says(Reason::LinkClosed, heard).to_string().contains("the connection to leader n2 was closed"));
        assert!(says(Reason::Transfer, heard).to_string().contains("leader n2 transfers the leadership to this node"));
        let why = StepDown::HigherTerm { term: Term(6), from: n2 };
        let note = Note::StepsDown { term: Term(5), why };
        assert_eq!(note.to_string(), "steps down as leader of term 5: n2 is in the higher term 6");
    }
}
