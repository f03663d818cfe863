//! `drave recover`: makes a new cluster of one surviving node when a majority is lost for good.

use crate::output::outln;
use crate::remote::failure::CliError;
use clap::Args;
use drave::apply::Applier;
use drave::config::Config;
use drave::disk::FsDisk;
use drave::inspect::directory::{Directory, Owner};
use drave::machine::Kv;
use drave::server::ServerError;
use drave::server::boot::{RecoveredDirectory, boot};
use drave::server::new_cluster::{
    FirstMember, NewCluster, begin_replacement, finish_replacement, is_replacement_pending, write_new_cluster,
};
use drave::server::start_progress::{REPORT_INTERVAL, StartProgress};
use drave::snapshotting::Restore;
use drave::types::{Index, Membership, NodeId, Position};
use drave::wal::identity::{Identity, short};
use drave::wal::{Fault, Recovered};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The size of a batch of entries read from the log.
const BATCH_BYTES: u64 = 4 << 20;

/// Makes a new cluster of one stopped node, when a majority of its cluster's voters is lost for good. Entries that
/// other nodes acknowledged and this node had not received are lost; entries that it had received become committed,
/// even if no quorum acknowledged them. The new cluster has a new id, and its index begins far ahead of the former
/// one: nodes of the former cluster exchange no messages with it. The former directory is kept inside the directory,
/// as before-recover.
///
/// Exit code 1: nothing was changed; the output shows what would be lost.
#[derive(Args, Clone, Debug)]
pub struct Recover {
    /// The data directory of the surviving node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Only restores the directory's missing identity, from the headers of its segments
    #[arg(long, conflicts_with = "accept_data_loss")]
    identity: bool,
    /// Makes the new cluster; without this option the command only prints what would be lost
    #[arg(long)]
    accept_data_loss: bool,
}

/// The contents of a directory that matter here.
struct DirectorySummary {
    me: NodeId,
    last: Position,
    members: Membership,
}

/// `drave recover`.
pub fn run(args: &Recover) -> Result<(), CliError> {
    let place = args.directory.display().to_string();
    if args.identity {
        return restore_identity(args);
    }
    if is_replacement_pending(&args.directory) {
        return finish(args, None);
    }
    let mut telling = StartProgress::begin(REPORT_INTERVAL, |line| eprintln!("{line}"))
        .map_err(|error| io_trouble("cannot start a thread", &error))?;
    let booted = open(args, &mut telling)?;
    let holds = DirectorySummary::of(booted.me.node, &booted.recovered);
    let others: Vec<String> = holds.members.ids().filter(|id| *id != holds.me).map(|id| id.to_string()).collect();
    let (me, last, others) = (holds.me, holds.last, others.join(", "));
    if holds.members.voters.len() == 1 && others.is_empty() {
        let what =
            format!("{place}: {me} is a cluster of its own already. Nothing was changed.\n  drave serve starts it");
        return Err(CliError { what, code: 1 });
    }
    outln!("{place}: {me} holds all up to {last}, the members are {}", holds.members);
    outln!("lost for good: all that {others} acknowledged after {last}");
    outln!("becomes committed: all that {me} holds up to {last}, acknowledged or not");
    if !args.accept_data_loss {
        return Err(needs_acceptance("  first check whether another directory holds more: drave diff DIR DIR …"));
    }
    let new = holds.write_recovered_cluster(args, &booted, &mut telling)?;
    finish(args, Some((&booted, new)))?;
    outln!("then: other nodes join with EMPTY directories; the old ones of {others} belong to the former cluster");
    Ok(())
}

/// Writes a missing identity again: node, cluster and disk are in the header of each segment.
fn restore_identity(args: &Recover) -> Result<(), CliError> {
    let place = args.directory.display().to_string();
    let refused = |what: String| CliError { what: format!("{place}: {what}\n  nothing was changed"), code: 1 };
    if is_replacement_pending(&args.directory) {
        return Err(refused("an earlier recovery was interrupted: --accept-data-loss finishes it".to_owned()));
    }
    let disk = FsDisk::at(&args.directory).map_err(|error| io_trouble(&place, &error))?;
    let lock = disk.lock("LOCK").map_err(|error| io_trouble(&place, &error))?;
    let _held =
        lock.ok_or_else(|| refused("in use by another process: a node runs there; stop it first".to_owned()))?;
    if let Some(owner) = Identity::read(&disk).map_err(trouble)? {
        return Err(refused(format!("{}, and nothing is missing", owner.owner("it"))));
    }
    let held = Directory::read(&args.directory)?;
    if let Some(damage) = held.damage.first() {
        return Err(refused(format!("its owner is uncertain: {damage}")));
    }
    let Some(owner) = held.owner else { return Err(refused("no segment names its owner".to_owned())) };
    let log = held.membership().and_then(Membership::agreed_log);
    let Owner { node, cluster, disk: own, .. } = owner;
    // The number of its starts is unknown: peers may once mistake it for an older copy.
    Identity { node, cluster, disk: own, founded: true, log, starts: 0 }.write(&disk).map_err(trouble)?;
    outln!("done: {place} belongs to {node} of cluster {}, disk {own}", short(cluster));
    outln!("next: drave serve --id {} --data {place}", node.get());
    Ok(())
}

fn needs_acceptance(advice: &str) -> CliError {
    CliError { what: format!("nothing was changed: --accept-data-loss makes the new cluster\n{advice}"), code: 1 }
}

/// Replaces the former cluster by the new one, which is complete. `new` is `None` if a crash interrupted an earlier
/// attempt.
fn finish(args: &Recover, new: Option<(&RecoveredDirectory, NewCluster)>) -> Result<(), CliError> {
    let place = args.directory.display().to_string();
    let disk = FsDisk::at(&args.directory).map_err(|error| io_trouble(&place, &error))?;
    let lock = match new {
        // The lock is held since the directory was opened.
        Some(_) => None,
        None if !args.accept_data_loss => {
            return Err(needs_acceptance(&format!(
                "  an earlier recovery of {place} was interrupted; this finishes it"
            )));
        }
        None => Some(disk.lock("LOCK").map_err(|error| io_trouble(&place, &error))?.ok_or_else(|| CliError {
            what: format!("{place} is in use by another process: a node runs there; stop it first"),
            code: 78,
        })?),
    };
    let aside = finish_replacement(&args.directory).map_err(trouble)?;
    let Some(owner) = Identity::read(&disk).map_err(trouble)? else {
        return Err(CliError { what: format!("{place} has no identity: a bug"), code: 70 });
    };
    drop(lock);
    let (me, cluster) = (owner.node, short(owner.cluster));
    let from = new.map_or(String::new(), |(_, new)| format!(", from {} on", new.position));
    outln!("done: {me} alone is a new cluster: {cluster}{from}");
    if let Some(aside) = aside {
        outln!("kept: the former directory, in {}", aside.display());
    }
    outln!("next: drave serve --id {} --data {place}", me.get());
    Ok(())
}

fn open(args: &Recover, telling: &mut StartProgress) -> Result<RecoveredDirectory, CliError> {
    let disk =
        FsDisk::at(&args.directory).map_err(|error| io_trouble(&args.directory.display().to_string(), &error))?;
    let Some(owner) = Identity::read(&disk).map_err(trouble)? else {
        let what = format!("{} is not a node's data directory. Nothing was changed.", args.directory.display());
        return Err(CliError { what, code: 78 });
    };
    let config = Config::new(owner.node, BTreeMap::new(), &args.directory);
    boot(&config, None, telling).map_err(trouble)
}

fn io_trouble(what: &str, error: &std::io::Error) -> CliError {
    CliError { what: format!("{what}: {error}"), code: 74 }
}

fn trouble(fault: Fault) -> CliError {
    ServerError::from(fault).into()
}

impl DirectorySummary {
    fn of(me: NodeId, recovered: &Recovered) -> DirectorySummary {
        let Recovered { base, heads, configurations, .. } = recovered;
        let behind = heads.last().map(|head| {
            let index = Index(base.position.index.0 + heads.len() as u64);
            Position::new(index, head.term)
        });
        let members = configurations.last().map_or(&base.membership, |(_, membership)| membership).clone();
        DirectorySummary { me, last: behind.unwrap_or(base.position), members }
    }

    /// Writes the new cluster beside the contents of the directory: the state as of its last entry, committed or not.
    fn write_recovered_cluster(
        &self,
        args: &Recover,
        booted: &RecoveredDirectory,
        telling: &mut StartProgress,
    ) -> Result<NewCluster, CliError> {
        let mut applier = self.state(booted, telling)?;
        let directory = begin_replacement(&args.directory).map_err(trouble)?;
        let first = FirstMember {
            node: self.me,
            address: self.members.address(self.me).unwrap_or_default().to_owned(),
            level: self.members.level,
        };
        let after = Position::new(self.last.index, booted.recovered.hard_state.term.max(self.last.term));
        write_new_cluster(&mut applier, after, &directory, &first).map_err(|fault| {
            // The partial directory is useless, and takes space that an operator may be freeing.
            let _removed_by_the_next_attempt_otherwise = std::fs::remove_dir_all(&directory);
            trouble(fault)
        })
    }

    /// Builds the state as of the last entry.
    fn state(&self, booted: &RecoveredDirectory, telling: &mut StartProgress) -> Result<Applier<Kv>, CliError> {
        let mut applier = Applier::new(Kv::new());
        if let Some(snapshot) = booted.snapshot.clone() {
            let meter = telling.stage("snapshot read");
            applier = Restore::begin(&applier, snapshot).all(&meter).map_err(trouble)?.0;
        }
        let meter = telling.stage("log applied");
        meter.expect(self.last.index.0 - applier.applied().0);
        while applier.applied() < self.last.index {
            let range = applier.applied().next()..=self.last.index;
            let entries = booted.recovered.view.entries(range, BATCH_BYTES).map_err(trouble)?;
            if entries.is_empty() {
                let what = format!("the log lacks the entry after {}", applier.position());
                return Err(CliError { what, code: 5 });
            }
            applier.apply(&entries);
            meter.advance(entries.len() as u64);
        }
        Ok(applier)
    }
}
