//! What an operator would want to know, as data: the core never logs.

use super::message::VoteKind;
use super::peer_class::Refused;
use crate::types::{Index, LogId, Membership, NodeId, Position, Term};
use std::fmt;
use std::time::Duration;

/// How loud a [`Note`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// One would like to know by tomorrow.
    Warn,
    /// Roles, membership, start and stop: a healthy day fits on a screen.
    Info,
    /// Single messages.
    Debug,
}

/// Why a node campaigns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// It has not heard from a leader for an election timeout (§5.2).
    Timeout,
    /// Its leader's connection closed.
    LinkClosed,
    /// The votes were split, or lost.
    Again,
    /// Its leader asked it to take over (thesis §3.10).
    Handover,
}

impl Reason {
    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Timeout => "timeout",
            Reason::LinkClosed => "link_closed",
            Reason::Again => "again",
            Reason::Handover => "transfer",
        }
    }
}

/// Why a leader leads no more, or a candidate campaigns no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepDown {
    /// A peer is in a higher term (§5.1).
    HigherTerm {
        /// The term.
        term: Term,
        /// The peer.
        from: NodeId,
    },
    /// The node that it handed over to campaigns (thesis §3.10).
    Transferred {
        /// That node.
        to: NodeId,
    },
    /// No majority of the voters answers (thesis §6.2).
    NoQuorum,
    /// A majority answers, and nothing commits with it.
    CommitStalled,
    /// Its disk does not answer.
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
            StepDown::Transferred { to } => write!(f, "{to} takes over, as it was asked to"),
            StepDown::NoQuorum => f.write_str("no majority of the voters is heard"),
            StepDown::CommitStalled => f.write_str("nothing commits with those that answer"),
            StepDown::DiskStalled => f.write_str("its disk does not answer"),
            StepDown::Removed => f.write_str("it is not a member any more"),
            StepDown::OlderCopy => f.write_str("it led an older copy of its directory"),
            StepDown::VotedForAnother => f.write_str("it voted for another"),
        }
    }
}

/// What an operator would want to know.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Note {
    /// This node asks whether it would be elected, or to be elected.
    Campaigns {
        /// For what it asks.
        ask: VoteKind,
        /// In which term.
        term: Term,
        /// Why.
        reason: Reason,
        /// The leader that was heard last, and how long ago; none if none was since the start.
        last_leader: Option<(NodeId, Duration)>,
    },
    /// This node leads.
    Leads {
        /// The term it leads.
        term: Term,
        /// Who voted for it.
        votes: Vec<NodeId>,
        /// How long the campaign took.
        after: Duration,
    },
    /// This node follows that leader.
    Follows {
        /// Whom.
        leader: NodeId,
        /// In which term.
        term: Term,
    },
    /// This node leads no more.
    StepsDown {
        /// The term it led.
        term: Term,
        /// Why.
        why: StepDown,
    },
    /// The log gave way to a snapshot, and begins anew behind it.
    Restarts {
        /// The last position it stands for.
        base: Position,
    },
    /// A follower needs what is no longer in the log.
    Ships {
        /// Whom the snapshot goes to.
        peer: NodeId,
    },
    /// A vote was given or denied.
    Votes {
        /// To whom.
        candidate: NodeId,
        /// For what.
        ask: VoteKind,
        /// In which term.
        term: Term,
        /// Nothing if it was granted, else why not.
        denied: Option<&'static str>,
    },
    /// Entries that were never committed gave way to a leader's (§5.3).
    Drops {
        /// The first of them.
        from: Index,
        /// What was the end of the log.
        last: Position,
    },
    /// A configuration is in force from this index on (§6).
    Configured {
        /// The index.
        index: Index,
        /// Who belongs.
        membership: Box<Membership>,
    },
    /// This node is no member from that index on.
    Outside {
        /// Whether its log has not come as far as is committed: it may be a member again by what follows.
        behind: bool,
        /// This node.
        me: NodeId,
        /// The index of the configuration without it.
        since: Index,
    },
    /// This leader hands over, and takes no new work meanwhile (thesis §3.10).
    HandsOver {
        /// To whom.
        to: NodeId,
    },
    /// It did not come to that: this leader goes on.
    KeepsLead {
        /// Who did not take over.
        to: NodeId,
    },
    /// A change of members is taken back, for those it would make voters do not answer.
    ChangeAborted {
        /// The index of the joint configuration.
        since: Index,
    },
    /// Someone who is no member any more was told so, or could not be.
    MemberRemoved {
        /// Who.
        peer: NodeId,
        /// Whether it knows.
        told: bool,
    },
    /// A follower does not answer.
    Silent {
        /// Who.
        peer: NodeId,
        /// For how long.
        since: Duration,
    },
    /// A follower answers again.
    FollowerRecovered {
        /// Who.
        peer: NodeId,
    },
    /// The disk has not answered for this long.
    DiskStands {
        /// The age of the oldest write.
        since: Duration,
    },
    /// A peer is not heard: it comes from another log, or from another disk.
    NotHeard {
        /// Who.
        peer: NodeId,
        /// Why not.
        why: Refused,
    },
    /// A founder that holds nothing waits for others of its list before a log begins.
    FoundingWaits {
        /// Those that have not answered.
        silent: Vec<NodeId>,
        /// For how long yet.
        left: Duration,
    },
    /// No log begins here, for one of the founders holds one.
    FoundingVetoed {
        /// Who holds it.
        holder: NodeId,
        /// Which.
        log: LogId,
    },
    /// This node was shown that it acknowledged more than it holds.
    HasLost {
        /// The end of its log.
        held: Position,
        /// What it acknowledged.
        promised: Position,
    },
    /// A follower of this leader has lost entries that it had acknowledged.
    LostAcknowledged {
        /// The follower.
        peer: NodeId,
        /// It holds everything up to here, at most.
        held: Index,
        /// It acknowledged everything up to here.
        upto: Index,
    },
    /// A peer said what no correct peer says; it was dropped.
    InvalidMessage {
        /// Who.
        peer: NodeId,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Note {
    /// How loud it is.
    pub fn level(&self) -> Level {
        match self {
            Note::Leads { .. } | Note::Follows { .. } | Note::Configured { .. } | Note::Drops { .. } => Level::Info,
            Note::Restarts { .. } | Note::Ships { .. } => Level::Info,
            Note::StepsDown { why: StepDown::Transferred { .. } | StepDown::Removed, .. } => Level::Info,
            Note::StepsDown { .. } | Note::Silent { .. } | Note::DiskStands { .. } | Note::InvalidMessage { .. } => {
                Level::Warn
            }
            Note::FollowerRecovered { .. } | Note::HandsOver { .. } | Note::MemberRemoved { .. } => Level::Info,
            Note::Outside { behind: true, .. } => Level::Info,
            Note::Outside { behind: false, .. } | Note::KeepsLead { .. } | Note::ChangeAborted { .. } => Level::Warn,
            Note::HasLost { .. } | Note::LostAcknowledged { .. } | Note::FoundingVetoed { .. } => Level::Warn,
            Note::FoundingWaits { .. } => Level::Info,
            Note::Campaigns { ask: VoteKind::Vote | VoteKind::Transfer, .. } => Level::Info,
            Note::Campaigns { .. } | Note::Votes { .. } | Note::NotHeard { .. } => Level::Debug,
        }
    }
}

impl Note {
    /// What there is to say of disks and logs that are not what they should be.
    fn identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::NotHeard { peer, why } => write!(f, "{peer} is not heard: {why}"),
            Note::FoundingWaits { silent, left } => {
                let silent: Vec<String> = silent.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "holds nothing, and waits for {} before a log begins: {:.0} s yet",
                    silent.join(", "),
                    left.as_secs_f64()
                )
            }
            Note::FoundingVetoed { holder, log } => write!(
                f,
                "{holder} holds log {log}, and this directory is empty: no log begins here. Bring back the directory \
                 that this node had; or, if that is lost, at a node of that log: drave member remove ID, and: drave \
                 member add ID=HOST:PORT, and start this one with --join"
            ),
            Note::HasLost { held, promised } => write!(
                f,
                "this node acknowledged everything up to {promised} and holds no more than {held}: its directory is an \
                 older copy, or its disk lost what it had synced. It votes only for logs that reach {promised}, and is \
                 sent what it lacks; check the disk"
            ),
            Note::LostAcknowledged { peer, held, upto } => write!(
                f,
                "{peer} has lost entries {}..{upto}, which it had acknowledged: its directory is an older copy, or its \
                 disk lost what it had synced; it is sent them again",
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
                    VoteKind::PreVote => write!(f, "asks whether it would be elected after term {term}: ")?,
                    VoteKind::Vote | VoteKind::Transfer => write!(f, "asks for votes in term {term}: ")?,
                }
                write_reason(f, *reason, *last_leader)
            }
            Note::Leads { term, votes, after } => {
                write!(f, "leads term {term} ({} votes, {} ms)", votes.len(), after.as_millis())
            }
            Note::Follows { leader, term } => write!(f, "follows {leader} in term {term}"),
            Note::StepsDown { term, why } => write!(f, "leads term {term} no more: {why}"),
            Note::Votes { candidate, ask, term, denied } => {
                let what = if *ask == VoteKind::PreVote { "pre-vote" } else { "vote" };
                match denied {
                    None => write!(f, "{what} for {candidate} in term {term}"),
                    Some(why) => write!(f, "no {what} for {candidate} in term {term}: {why}"),
                }
            }
            Note::Restarts { base } => write!(f, "holds a snapshot up to {base}; its log begins behind it"),
            Note::Ships { peer } => write!(f, "sends {peer} a snapshot: it needs what the log no longer holds"),
            Note::Drops { from, last } => write!(f, "drops {from}..{last}, never committed"),
            Note::Configured { index, membership } => write!(f, "{membership} from {index}"),
            Note::Outside { since, behind: true, .. } => {
                write!(f, "is no member since {since}, as far as its log goes yet")
            }
            Note::Outside { me, since, behind: false } => {
                let id = me.get();
                write!(
                    f,
                    "is no member any more since {since}, and is quiet from now on: stop it; or, to take it back as it \
                     is: drave member add {id}=HOST:PORT"
                )
            }
            Note::HandsOver { to } => write!(f, "hands over to {to}"),
            Note::KeepsLead { to } => write!(f, "{to} did not take over in time: leads on"),
            Note::ChangeAborted { since } => {
                write!(f, "takes back the change of {since}: those it would make voters do not answer")
            }
            Note::MemberRemoved { peer, told: true } => write!(f, "{peer} is no member any more, and knows"),
            Note::MemberRemoved { peer, told: false } => {
                write!(f, "{peer} is no member any more, and could not be told")
            }
            Note::Silent { peer, since } => write!(f, "{peer} silent for {:.1} s", since.as_secs_f64()),
            Note::FollowerRecovered { peer } => write!(f, "{peer} is back"),
            Note::DiskStands { since } => write!(f, "disk has not answered for {} ms", since.as_millis()),
            Note::NotHeard { .. }
            | Note::FoundingWaits { .. }
            | Note::FoundingVetoed { .. }
            | Note::HasLost { .. }
            | Note::LostAcknowledged { .. } => self.identity(f),
            Note::InvalidMessage { peer, what } => write!(f, "{peer} said what cannot be: {what}"),
        }
    }
}

/// Why a node campaigns, in words.
fn write_reason(f: &mut fmt::Formatter<'_>, reason: Reason, last_leader: Option<(NodeId, Duration)>) -> fmt::Result {
    let Some((leader, ago)) = last_leader else { return write!(f, "no leader was heard yet ({})", reason.name()) };
    let ms = ago.as_millis();
    match reason {
        Reason::Timeout => write!(f, "nothing was heard from {leader}, which led, for {ms} ms (timeout)"),
        Reason::LinkClosed => write!(f, "the connection with {leader}, which led, was closed (link_closed)"),
        Reason::Again => write!(f, "no vote has succeeded since {leader} was heard {ms} ms ago (again)"),
        Reason::Handover => write!(f, "{leader} hands over to this node (transfer)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn election_and_step_down_say_why() {
        let n2 = NodeId::new(2).unwrap();
        let says = |reason, last_leader| Note::Campaigns { ask: VoteKind::Vote, term: Term(5), reason, last_leader };
        let heard = Some((n2, Duration::from_millis(231)));
        let note = says(Reason::Timeout, heard);
        assert_eq!(note.level(), Level::Info);
        assert_eq!(
            note.to_string(),
            "asks for votes in term 5: nothing was heard from n2, which led, for 231 ms (timeout)"
        );
        assert_eq!(
            says(Reason::Timeout, None).to_string(),
            "asks for votes in term 5: no leader was heard yet (timeout)"
        );
        assert!(says(Reason::LinkClosed, heard).to_string().contains("the connection with n2, which led, was closed"));
        assert!(says(Reason::Handover, heard).to_string().contains("n2 hands over to this node"));
        let why = StepDown::HigherTerm { term: Term(6), from: n2 };
        let note = Note::StepsDown { term: Term(5), why };
        assert_eq!(note.to_string(), "leads term 5 no more: n2 is in the higher term 6");
    }
}
