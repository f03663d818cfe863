//! The assembled server: a node with its state machine, opened from a configuration, and run.

use super::boot::{self, RecoveredDirectory};
use super::error::ServerError;
use super::handle::Handle;
use super::listeners::Listeners;
use super::reloading::{CredentialReloader, log_validity};
use super::scrub_thread::spawn_scrub_thread;
use super::start_progress::{REPORT_INTERVAL, StartProgress};
use super::workers::{spawn_log_thread, spawn_snapshot_thread, spawn_space_watch};
use crate::config::Config;
use crate::disk::FsDisk;
use crate::disk::fs::DirectoryLock;
use crate::driver::deferred_drop::DeferredDrop;
use crate::driver::inbox::inbox;
use crate::driver::machine_runner::MachineRunner;
use crate::driver::reactor::{Clock, Options, Reactor, ReactorError};
use crate::gateway::http::gateway as http;
use crate::gateway::redis::gateway as redis;
use crate::machine::state_machine::StateMachine;
use crate::net::sockets::{EXTERNAL_SOURCE_TOKEN, Identity, Net};
use crate::scrub::pass::ScrubSource;
use crate::snapshot::Store;
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
    log_thread: JoinHandle<wal::Result<()>>,
    /// The thread that watches the disk space, and the sender whose drop ends it.
    space_watch: (Sender<Infallible>, JoinHandle<()>),
    signals: Option<Signals>,
    credential_reloader: CredentialReloader,
    handle: Handle,
    address: Option<SocketAddr>,
    gateways: Vec<(&'static str, SocketAddr)>,
    cluster: ClusterId,
    members: Membership,
    lock: DirectoryLock,
}

impl<M: StateMachine> Server<M> {
    /// Locks and recovers the data directory, and listens. The node votes and answers only while [`Server::run`] runs.
    pub fn open(config: Config, machine: M) -> Result<Server<M>, ServerError> {
        config.check()?;
        let node = config.id.get();
        let mut progress = StartProgress::begin(REPORT_INTERVAL, move |line| log::info!(node; "{line}"))?;
        // The address to listen on, unless only the recovered membership has it.
        let configured_address = config.listen.clone().or_else(|| config.peers.get(&config.id).cloned());
        boot::check_first_start(&config)?;
        let existing_lock = boot::lock_existing_directory(&config)?;
        let listeners = configured_address.as_deref().map(|address| Listeners::bind(&config, address)).transpose()?;
        let mut directory = boot::recover_directory(&config, existing_lock, &mut progress)?;
        let listen_address = configured_address.unwrap_or_else(|| directory.address().to_owned());
        let Listeners { native, redis, http } = match listeners {
            Some(listeners) => listeners,
            None => Listeners::bind(&config, &listen_address)?,
        };
        directory.count_start()?;
        let members = directory.membership().clone();
        let RecoveredDirectory { lock, identity, journal, wal_disk, recovered_log, store, snapshot, reserve, .. } =
            directory;
        let (in_memory, file_system) = (wal_disk.is_in_memory(), wal_disk.file_system_name());
        warn_of_unsafe_directory(&config, in_memory);
        let (clock, entry_count) = (Clock::start(), recovered_log.entries.len());
        let deferred_drop = DeferredDrop::start()?;
        let machine_kind = machine.kind();
        let (node, applier) = boot::build_node(
            &config,
            identity,
            recovered_log,
            (machine, snapshot),
            &deferred_drop,
            &mut progress,
            clock.now(),
        )?;
        if let Some(summary) = progress.end() {
            log::info!(node = config.id.get(); "{summary}; {entry_count} entries are in the log");
        }
        let mut net = Net::open(identity, native, config.peers.clone(), config.net_options(machine_kind))?;
        let gateways = open_gateways(&config, &mut net, redis, http)?;
        if config.listen.is_none() {
            net.set_default_listen_address(listen_address);
        }
        let (sender, inbox) = inbox(net.waker().clone());
        let scrub_queue = spawn_scrub_thread(scrub_source(&wal_disk, &store, &identity), sender.clone())?;
        let (writes, log_thread) = spawn_log_thread(journal, wal_disk, sender.clone(), config.log_busy_poll)?;
        let space_watch = spawn_space_watch(SpaceMonitor::new(reserve.clone(), config.segment_bytes), sender.clone())?;
        let signals = config.signals.then(|| watch_signals(&net)).transpose()?;
        let credential_reloader =
            CredentialReloader::start(config.credentials, config.net.keys.clone(), sender.clone(), config.id.get())?;
        log_validity(config.id.get(), config.net.keys.as_ref(), log::Level::Info);
        let address = net.address();
        let snapshot_jobs = spawn_snapshot_thread(SnapshotWorker::new(store, reserve), sender.clone())?;
        let machine = MachineRunner::new(applier, (identity.cluster, identity.node), snapshot_jobs, deferred_drop);
        let options = Options { in_memory, file_system, ..config.reactor };
        let reactor = Reactor::new(net, node, machine, (writes, scrub_queue), inbox, options, clock);
        Ok(Server {
            reactor,
            log_thread,
            space_watch,
            signals,
            credential_reloader,
            handle: Handle::new(sender),
            address,
            gateways,
            cluster: identity.cluster,
            members,
            lock,
        })
    }

    /// The membership found in the directory; empty for a node that has joined and has not received the log yet.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// A handle to the node, for other threads of this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The address on which the node listens for other nodes and native clients.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The gateways that are open: the kind of clients in words, and the address.
    pub fn gateways(&self) -> &[(&'static str, SocketAddr)] {
        &self.gateways
    }

    /// The id of the cluster, as recorded in the directory.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Runs the node until a signal or [`Handle::stop`] stops it, then finishes the requests in progress and syncs.
    pub fn run(self) -> Result<(), ServerError> {
        let Server { reactor, log_thread, space_watch, mut signals, credential_reloader, lock, .. } = self;
        let mut stop_requested = false;
        let reactor_result = reactor.run(move || {
            for signal in signals.iter_mut().flat_map(Signals::pending) {
                if signal == SIGHUP {
                    credential_reloader.request_reload();
                    continue;
                }
                if stop_requested {
                    // A second signal: exits at once, with the state that a crash would leave.
                    log::logger().flush();
                    std::process::exit(128 + signal);
                }
                stop_requested = true;
            }
            stop_requested
        });
        // No sender of writes is left: the log thread syncs and ends.
        let log_result = log_thread.join();
        let (watch_sender, watch_thread) = space_watch;
        drop(watch_sender);
        // The thread is joined, since nothing may write to the directory once another process has it.
        let _watch_result = watch_thread.join();
        drop(lock);
        run_result(reactor_result, log_result)
    }
}

/// Warns of a data directory that other users can access, or that is in memory.
fn warn_of_unsafe_directory(config: &Config, in_memory: bool) {
    let (node, path) = (config.id.get(), config.data.display());
    if let Some(mode) = boot::mode_open_to_others(&config.data) {
        log::warn!(
            node;
            "{path} has mode {mode:03o}: other users of this machine can access the data; chmod 700 {path}"
        );
    }
    if in_memory {
        log::warn!(node; "{path} is in memory (tmpfs): a power loss destroys all data");
    }
}

/// The result of a run. The log thread's error comes first: the reactor only knows that the thread ended.
fn run_result(
    reactor_result: Result<(), ReactorError>,
    log_result: thread::Result<wal::Result<()>>,
) -> Result<(), ServerError> {
    match log_result {
        Ok(Ok(())) => Ok(reactor_result?),
        Ok(Err(fault)) => Err(fault.into()),
        Err(_panicked) => Err(ServerError::Reactor(ReactorError::ThreadEnded("log"))),
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
    let mut gateways = Vec::new();
    if let Some(listener) = redis {
        let options = redis::Options { password: password.clone(), ..config.redis.clone() };
        gateways.push(("Redis clients", net.open_redis(listener, options)?));
    }
    if let Some(listener) = http {
        gateways.push(("HTTP clients", net.open_http(listener, http::Options { password: password.clone() })?));
    }
    for (clients, gateway_address) in &gateways {
        log::info!(node = config.id.get(); "listens for {clients} at {gateway_address}");
    }
    Ok(gateways)
}

/// The files that the scrub thread checks.
fn scrub_source(wal_disk: &FsDisk, store: &Store<FsDisk>, identity: &Identity) -> ScrubSource<FsDisk> {
    let (log_disk, snapshot_disk) = (wal_disk.clone(), store.disk().clone());
    ScrubSource { log_disk, snapshot_disk, cluster: identity.cluster, disk: identity.disk }
}

fn watch_signals(net: &Net) -> io::Result<Signals> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    net.registry().register(&mut signals, EXTERNAL_SOURCE_TOKEN, Interest::READABLE)?;
    Ok(signals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::Fault;

    #[test]
    fn log_thread_error_decides_exit_code() {
        let fault = || Fault::Full { file: "0000000002.wal".into() };
        let exit_code =
            |reactor_result, log_result| run_result(reactor_result, log_result).err().map(|error| error.exit_code());
        assert_eq!(exit_code(Ok(()), Ok(Ok(()))), None);
        // The reactor ended without an error, but the last sync of the log failed.
        assert_eq!(exit_code(Ok(()), Ok(Err(fault()))), Some(74));
        // The reactor only reports that the log thread has ended: the log thread's own error decides the exit code.
        assert_eq!(exit_code(Err(ReactorError::ThreadEnded("log")), Ok(Err(fault()))), Some(74));
        assert_eq!(exit_code(Err(ReactorError::ThreadEnded("log")), Err(Box::new("a bug"))), Some(70));
        assert_eq!(exit_code(Err(ReactorError::NodeFault(fault())), Ok(Ok(()))), Some(74));
    }
}
