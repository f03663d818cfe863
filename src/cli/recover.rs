//! `drave recover`: what is left when a majority is gone for good.

use super::trouble::Trouble;
use crate::codec;
use crate::config::Config;
use crate::disk::FsDisk;
use crate::server::boot::{Booted, boot};
use crate::server::server::ServerError;
use crate::server::telling::{TELL_EVERY, Telling};
use crate::types::{
    HardState, Index, LogId, Member, Membership, NodeId, Payload, Position, Term, Vote, Write, WriteId,
};
use crate::wal::identity::Identity;
use crate::wal::{Fault, Recovered};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::PathBuf;

/// The term is raised by so much: by more than anybody who is thought to be gone can have raised it since, so that no
/// two leaders ever had the same.
const TERMS: u64 = 1_000_000;

/// Makes a cluster of one of a node that is stopped, when a majority of its voters is gone for good. What the others
/// had acknowledged and this one had not yet received is lost; what it had received and nobody had acknowledged
/// comes to be.
///
/// Exit code 1: nothing was changed, it is only said what would be.
#[derive(Args, Clone, Debug)]
pub struct Recover {
    /// The data directory of the node that goes on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Do it; without this it is only said what would be lost
    #[arg(long)]
    accept_data_loss: bool,
}

/// What a directory holds, as far as it matters here.
struct Holds {
    me: NodeId,
    last: Position,
    members: Membership,
}

/// `drave recover`.
pub fn run(args: &Recover) -> Result<(), Trouble> {
    let place = args.directory.display().to_string();
    let mut booted = open(args)?;
    let holds = Holds::of(booted.me.node, &booted.recovered);
    let others: Vec<String> = holds.members.ids().filter(|id| *id != holds.me).map(|id| id.to_string()).collect();
    let (me, last, others) = (holds.me, holds.last, others.join(", "));
    if holds.members.voters.len() == 1 && others.is_empty() {
        let what =
            format!("{place}: {me} is a cluster of its own already. Nothing was changed.\n  drave serve starts it");
        return Err(Trouble { what, code: 1 });
    }
    println!("{place}: {me} holds all up to {last}, the members are {}", holds.members);
    println!("lost for good: whatever {others} acknowledged beyond {last}");
    println!("comes to be: whatever {me} holds up to {last}, acknowledged or not");
    if !args.accept_data_loss {
        let what = "nothing was changed: --accept-data-loss does it\n  look first whether another directory holds more: \
                    drave diff DIR DIR …";
        return Err(Trouble { what: what.to_owned(), code: 1 });
    }
    let write = holds.alone(&booted);
    let done = booted.journal.append(&write).and_then(|()| booted.journal.sync());
    done.and_then(|_| booted.journal.confirm()).map_err(trouble)?;
    let term = write.hard_state.map_or(Term(0), |hard| hard.term);
    println!("done: {me} alone is the cluster, from {} on", Position::new(last.index.next(), term));
    println!("next: drave serve --id {} --data {place}", me.get());
    println!("then: others join with EMPTY directories; never start the old ones of {others} again");
    Ok(())
}

fn open(args: &Recover) -> Result<Booted, Trouble> {
    let disk = FsDisk::at(&args.directory)
        .map_err(|error| Trouble { what: format!("{}: {error}", args.directory.display()), code: 74 })?;
    let Some(owner) = Identity::read(&disk).map_err(trouble)? else {
        let what = format!("{} is no node's data directory. Nothing was changed.", args.directory.display());
        return Err(Trouble { what, code: 78 });
    };
    let config = Config::new(owner.node, BTreeMap::new(), &args.directory);
    let io = |error: std::io::Error| Trouble { what: format!("threads: {error}"), code: 74 };
    let mut telling = Telling::begin(TELL_EVERY, |line| eprintln!("{line}")).map_err(io)?;
    boot(&config, &mut telling).map_err(trouble)
}

fn trouble(fault: Fault) -> Trouble {
    ServerError::from(fault).into()
}

impl Holds {
    fn of(me: NodeId, recovered: &Recovered) -> Holds {
        let Recovered { base, heads, configurations, .. } = recovered;
        let behind = heads.last().map(|head| {
            let index = Index(base.position.index.0 + heads.len() as u64);
            Position::new(index, head.term)
        });
        let members = configurations.last().map_or(&base.membership, |(_, membership)| membership).clone();
        Holds { me, last: behind.unwrap_or(base.position), members }
    }

    /// The entries by which it is a cluster of its own: those that a leader would write which had all members removed
    /// but itself (§6), in a term that nobody else can have had.
    fn alone(&self, booted: &Booted) -> Write {
        let address = self.members.address(self.me).unwrap_or_default().to_owned();
        let mine = Member { disk: Some(booted.me.disk), ..Member::at(address) };
        let alone = Membership {
            members: BTreeMap::from([(self.me, mine.clone())]),
            voters: BTreeSet::from([self.me]),
            outgoing: BTreeSet::new(),
            level: self.members.level,
            // The log of the others may live on somewhere: from here on this is another one.
            log_id: Some(LogId(rand::random::<NonZeroU64>().get())),
            log_agreed: true,
        };
        let outgoing = self.members.all_voters().collect();
        let members = self.members.members.clone().into_iter().chain([(self.me, mine)]).collect();
        let (log_id, log_agreed) = (self.members.log_id, self.members.log_agreed);
        let joint = Membership { members, outgoing, log_id, log_agreed, ..alone.clone() };
        let payloads = [Payload::Noop, Payload::Membership(Box::new(joint)), Payload::Membership(Box::new(alone))];

        let term = Term(booted.recovered.hard_state.term.max(self.last.term).0 + TERMS);
        let mut index = self.last.index;
        let entries = payloads.map(|payload| {
            index = index.next();
            codec::entry(Position::new(index, term), booted.recovered.last_time, payload)
        });
        let vote = Some(Vote { node: self.me, disk: booted.me.disk });
        let hard_state = Some(HardState { term, vote, promised: Position::ZERO });
        Write { id: WriteId::ZERO.next(), hard_state, base: None, entries: entries.to_vec() }
    }
}
