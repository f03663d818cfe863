//! A node, assembled: open it, take a handle, run it.

use super::boot::{self, RecoveredDirectory};
use super::error::ServerError;
use super::handle::Handle;
use super::listeners::Listeners;
use super::reloading::{Reloader, tell_validity};
use super::start_progress::{REPORT_INTERVAL, StartProgress};
use super::workers::{spawn_log, spawn_snapshot_thread, spawn_watch};
use crate::config::Config;
use crate::disk::fs::Lock;
use crate::driver::applying::Applying;
use crate::driver::deferred_drop::DeferredDrop;
use crate::driver::inbox::inbox;
use crate::driver::reactor::{Broken, Clock, Options, Reactor};
use crate::gateway::http::gateway as http;
use crate::gateway::redis::gateway as redis;
use crate::machine::state_machine::StateMachine;
use crate::net::sockets::{FREE, Net};
use crate::snapshotting::SnapshotWorker;
use crate::types::{ClusterId, Membership};
use crate::wal::{self, SpaceMonitor};
use mio::Interest;
use mio::net::TcpListener;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

/// A node with a state machine, ready to run.
pub struct Server<M> {
    reactor: Reactor<M>,
    log: JoinHandle<wal::Result<()>>,
    /// The disk watcher runs as long as the sender is held.
    watch: (Sender<Infallible>, JoinHandle<()>),
    signals: Option<Signals>,
    reloader: Reloader,
    handle: Handle,
    address: Option<SocketAddr>,
    doors: Vec<(&'static str, SocketAddr)>,
    cluster: ClusterId,
    members: Membership,
    lock: Lock,
}

impl<M: StateMachine> Server<M> {
    /// Locks and recovers the data directory, and listens. The node takes part once it runs.
    pub fn open(config: Config, machine: M) -> Result<Server<M>, ServerError> {
        config.check()?;
        let node = config.id.get();
        let mut telling = StartProgress::begin(REPORT_INTERVAL, move |line| log::info!(node; "{line}"))?;
        // The address to listen on, unless only the recovered membership has it.
        let named = config.listen.clone().or_else(|| config.peers.get(&config.id).cloned());
        boot::check_first_start(&config)?;
        let locked = boot::lock_existing(&config)?;
        let bound = named.as_deref().map(|place| Listeners::bind(&config, place)).transpose()?;
        let mut booted = boot::boot(&config, locked, &mut telling)?;
        let own = booted.address().to_owned();
        let listen = named.unwrap_or_else(|| own.clone());
        let Listeners { native, redis, http } = match bound {
            Some(bound) => bound,
            None => Listeners::bind(&config, &listen)?,
        };
        booted.count_start()?;
        let members = booted.membership().clone();
        let RecoveredDirectory { lock, me, journal, disk, recovered, store, snapshot, reserve, .. } = booted;
        let (in_memory, file_system) = (disk.is_in_memory(), disk.file_system());
        if let Some(mode) = boot::open_to_others(&config.data) {
            let place = config.data.display();
            log::warn!(node = config.id.get(); "{place} has mode {mode:03o}: other users of this machine can access the data; chmod 700 {place}");
        }
        if in_memory {
            let place = config.data.display();
            log::warn!(node = config.id.get(); "{place} is in memory (tmpfs): a power loss destroys all data");
        }
        let clock = Clock::start();
        let entries = recovered.heads.len();
        let deferred_drop = DeferredDrop::start()?;
        let kind = machine.kind();
        let begins = (machine, snapshot);
        let (node, applier) = boot::node(&config, me, recovered, begins, &deferred_drop, &mut telling, clock.now())?;
        if let Some(told) = telling.end() {
            log::info!(node = config.id.get(); "{told}; {entries} entries are in the log");
        }
        let net_options = crate::net::options::Options { machine: kind, ..config.net.clone() };
        let mut net = Net::open(me, native, config.peers.clone(), net_options)?;
        let doors = open_gateways(&config, &mut net, redis, http)?;
        if config.listen.is_none() {
            net.set_inferred_address(listen);
        }
        let (post, inbox) = inbox(net.waker().clone());
        let (writes, log) = spawn_log(journal, disk, post.clone(), config.log_busy_poll)?;
        let watch = spawn_watch(SpaceMonitor::new(reserve.clone(), config.segment_bytes), post.clone())?;
        let signals = config.signals.then(|| watch_signals(&net)).transpose()?;
        let reloader = Reloader::start(config.credentials, config.net.keys.clone(), post.clone(), config.id.get())?;
        tell_validity(config.id.get(), config.net.keys.as_ref(), log::Level::Info);
        let address = net.address();
        for (who, door) in &doors {
            log::info!(node = config.id.get(); "listens for {who} at {door}");
        }
        let snapshot_jobs = spawn_snapshot_thread(SnapshotWorker::new(store, reserve), post.clone())?;
        let machine = Applying::new(applier, (me.cluster, me.node), snapshot_jobs, deferred_drop);
        let options = Options { in_memory, file_system, ..config.reactor };
        let reactor = Reactor::new(net, node, machine, writes, inbox, options, clock);
        Ok(Server {
            reactor,
            log,
            watch,
            signals,
            reloader,
            handle: Handle::new(post),
            address,
            doors,
            cluster: me.cluster,
            members,
            lock,
        })
    }

    /// The membership in the directory at its opening; empty for a node that has joined and received none yet.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// A handle to the node, for other threads of this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The address that it listens on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The gateways that are open: the kind of clients in words, and the address.
    pub fn doors(&self) -> &[(&'static str, SocketAddr)] {
        &self.doors
    }

    /// The cluster of this node.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Runs until it is told to stop, then finishes the requests in progress and syncs.
    pub fn run(self) -> Result<(), ServerError> {
        let Server { reactor, log, watch, mut signals, reloader, lock, .. } = self;
        let mut told = false;
        let ended = reactor.run(move || {
            for signal in signals.iter_mut().flat_map(Signals::pending) {
                if signal == SIGHUP {
                    reloader.ask();
                    continue;
                }
                if told {
                    // A second signal: exits at once, with the state that a crash would leave.
                    log::logger().flush();
                    std::process::exit(128 + signal);
                }
                told = true;
            }
            told
        });
        // No sender of writes is left: the log thread syncs and ends.
        let synced = log.join();
        let (held, watch) = watch;
        drop(held);
        // Nothing may write to the directory once another process has it. The thread ends with its channel.
        let _ended = watch.join();
        drop(lock);
        verdict(ended, synced)
    }
}

/// The result of a run. The log thread's error comes first: the reactor only knows that the thread ended.
fn verdict(ended: Result<(), Broken>, synced: thread::Result<wal::Result<()>>) -> Result<(), ServerError> {
    match synced {
        Ok(Ok(())) => Ok(ended?),
        Ok(Err(fault)) => Err(fault.into()),
        Err(_panicked) => Err(ServerError::Broken(Broken::Gone("log"))),
    }
}

/// Opens the gateways for which listeners are bound; returns for each the kind of clients in words, and the address.
fn open_gateways(
    config: &Config,
    net: &mut Net,
    redis: Option<TcpListener>,
    http: Option<TcpListener>,
) -> io::Result<Vec<(&'static str, SocketAddr)>> {
    let password = &config.password;
    let mut doors = Vec::new();
    if let Some(listener) = redis {
        let options = redis::Options { password: password.clone(), ..config.redis.clone() };
        doors.push(("Redis clients", net.open_redis(listener, options)?));
    }
    if let Some(listener) = http {
        doors.push(("HTTP clients", net.open_http(listener, http::Options { password: password.clone() })?));
    }
    Ok(doors)
}

fn watch_signals(net: &Net) -> io::Result<Signals> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    net.registry().register(&mut signals, FREE, Interest::READABLE)?;
    Ok(signals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Fault;

    #[test]
    fn log_thread_error_decides_exit_code() {
        let fault = || Fault::Full { file: "0000000002.wal".into() };
        let code = |ended, synced| verdict(ended, synced).err().map(|error| error.exit_code());
        assert_eq!(code(Ok(()), Ok(Ok(()))), None);
        // Only the last sync failed.
        assert_eq!(code(Ok(()), Ok(Err(fault()))), Some(74));
        // The reactor found the thread gone, however it noticed.
        assert_eq!(code(Err(Broken::Gone("log")), Ok(Err(fault()))), Some(74));
        assert_eq!(code(Err(Broken::Gone("log")), Err(Box::new("a bug"))), Some(70));
        assert_eq!(code(Err(Broken::Fault(fault())), Ok(Ok(()))), Some(74));
    }
}
