//! `drave serve`: runs one node.

use super::join;
use super::logging;
use super::open_files;
use super::settings;
use crate::remote::cluster::parse_endpoint;
use crate::remote::failure::CliError;
use crate::remote::tls::Tls;
use bytesize::ByteSize;
use clap::{ArgMatches, Args, Command, ValueEnum};
use drave::config::{BindAddress, Config};
use drave::gateway::password::Password;
use drave::gateway::redis::gateway::FollowerPolicy;
use drave::machine::Kv;
use drave::net::credentials::CredentialFiles;
use drave::server::Server;
use drave::server::ServerError;
use drave::types::address::check_address;
use drave::types::{Membership, NodeId};
use drave::wal::{Fault, TailPolicy};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Runs one node.
#[derive(Args, Debug)]
pub struct Serve {
    /// The node's id: a number from 1, which the node keeps for life
    #[arg(long, env = "DRAVE_ID", value_parser = parse_node_id, required_unless_present = "print_config")]
    id: Option<NodeId>,
    /// All founding members: 1=HOST:PORT,2=HOST:PORT,… A data directory in use has its own membership, and this only
    /// adds addresses to dial
    #[arg(long, env = "DRAVE_PEERS")]
    peers: Option<Peers>,
    /// Members of the cluster to join, if this node is not a founder: HOST:PORT,…
    #[arg(long, env = "DRAVE_JOIN", value_name = "ADDR", value_delimiter = ',', value_parser = parse_endpoint, conflicts_with = "peers")]
    join: Vec<String>,
    /// Joins as a permanent learner: receives all entries and does not vote
    #[arg(long, env = "DRAVE_LEARNER", requires = "join")]
    learner: bool,
    /// The data directory
    #[arg(long, env = "DRAVE_DATA", value_name = "DIR", required_unless_present = "print_config")]
    data: Option<PathBuf>,
    /// The listen address for nodes and native clients; default: this node's own entry in --peers
    #[arg(long, env = "DRAVE_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// The listen address for Redis clients, or off; default: loopback only, at the native port + 100
    #[arg(long = "resp", env = "DRAVE_RESP", value_name = "ADDR|off")]
    resp_address: Option<String>,
    /// The address at which Redis clients reach this node, if not its listen address: every node reports it in MOVED
    /// and CLUSTER SLOTS
    #[arg(long, env = "DRAVE_ADVERTISE_RESP", value_name = "HOST:PORT", value_parser = parse_reachable_address)]
    advertise_resp: Option<String>,
    /// How a follower handles Redis commands that need the leader: forward them, or redirect the client with MOVED, as
    /// clients of a Redis cluster expect
    #[arg(long, env = "DRAVE_RESP_FOLLOWER", value_enum, default_value_t = RespFollowerMode::Forward)]
    resp_follower: RespFollowerMode,
    /// The listen address for HTTP clients, or off; default: loopback only, at the native port + 200
    #[arg(long = "http", env = "DRAVE_HTTP", value_name = "ADDR|off")]
    http_address: Option<String>,
    /// A file with the password that Redis and HTTP clients must give; default: no password
    #[arg(long, env = "DRAVE_PASSWORD_FILE", value_name = "PATH")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    tls: Tls,
    /// The cluster's name, to distinguish two clusters with the same members
    #[arg(long = "cluster", env = "DRAVE_CLUSTER", value_name = "NAME")]
    cluster_name: Option<String>,
    /// How long a node waits for a leader before it campaigns: random within this range each time
    #[arg(long, env = "DRAVE_ELECTION_TIMEOUT", default_value = "150ms-300ms", value_name = "MIN-MAX")]
    election_timeout: DurationRange,
    /// The interval of the leader's heartbeats
    #[arg(long, env = "DRAVE_HEARTBEAT_INTERVAL", default_value = "50ms", value_parser = humantime::parse_duration)]
    heartbeat_interval: Duration,
    /// Begins a log although a founder in --peers does not answer, or has a log already: that log stays separate, and
    /// the writes acknowledged there are not in this one
    #[arg(long = "found-anyway", env = "DRAVE_FOUND_ANYWAY")]
    force_founding: bool,
    /// How long founders wait for a silent founder before a majority begins a log
    #[arg(long, env = "DRAVE_FOUNDING_WAIT", default_value = "5s", value_parser = humantime::parse_duration)]
    founding_wait: Duration,
    /// The size of a journal segment
    #[arg(long, env = "DRAVE_SEGMENT_SIZE", default_value = "64MiB", value_parser = parse_size)]
    segment_size: ByteSize,
    /// The disk space to keep in reserve for a full disk: at least one segment; 0B for none
    #[arg(long = "reserve", env = "DRAVE_RESERVE", default_value = "64MiB")]
    #[arg(value_name = "SIZE", value_parser = parse_size)]
    disk_reserve: ByteSize,
    /// The size of the largest command that is accepted
    #[arg(long, env = "DRAVE_MAX_ENTRY", default_value = "1MiB", value_parser = parse_size)]
    max_entry: ByteSize,
    /// The size of the log at which a snapshot is taken, or the size of the state if that is larger
    #[arg(long, env = "DRAVE_SNAPSHOT_LOG_BYTES", default_value = "64MiB", value_name = "SIZE", value_parser = parse_size)]
    snapshot_log_bytes: ByteSize,
    /// The age at which a snapshot is replaced by a new one, if anything was written since
    #[arg(long, env = "DRAVE_SNAPSHOT_MAX_AGE", default_value = "1h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    snapshot_max_age: Duration,
    /// How much of the log before a snapshot to keep, for followers that lag a little
    #[arg(long, env = "DRAVE_TRAILING_BYTES", default_value = "16MiB", value_name = "SIZE", value_parser = parse_size)]
    trailing_bytes: ByteSize,
    /// The time between two checks of all files for damage; off for checks by `drave scrub` only
    #[arg(long, env = "DRAVE_SCRUB_INTERVAL", default_value = "7d", value_name = "DURATION|off")]
    scrub_interval: ScrubInterval,
    /// How long a stopping node may take to finish the work in progress
    #[arg(long = "grace", env = "DRAVE_GRACE", default_value = "5s")]
    #[arg(value_name = "GRACE", value_parser = humantime::parse_duration)]
    shutdown_grace: Duration,
    /// How long a thread busy-polls for more work before it sleeps, at most; 0s for never
    #[arg(long = "look", env = "DRAVE_LOOK", default_value = "60us")]
    #[arg(value_name = "LOOK", value_parser = humantime::parse_duration)]
    busy_poll: Duration,
    /// Acknowledges writes before they are on disk: a power loss may lose everything
    #[arg(long, env = "DRAVE_UNSAFE_NO_FSYNC")]
    unsafe_no_fsync: bool,
    /// How a start handles a damaged last batch of the log, if it cannot be proven to be a write that a power loss left
    /// unfinished
    #[arg(long, env = "DRAVE_ON_TORN_TAIL", value_enum, default_value = "cut")]
    on_torn_tail: TornTailMode,
    /// Stops with exit code 5 if the log is damaged, instead of getting the lost entries from the other members
    #[arg(long, env = "DRAVE_NO_REPAIR")]
    no_repair: bool,
    /// The log level: error, warn, info, debug or trace. `drave log-level` changes it while the node runs; SIGUSR1
    /// switches debug on, and off again
    #[arg(long, env = "DRAVE_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<log::LevelFilter>,
    /// The format of log lines
    #[arg(long, env = "DRAVE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: logging::LogFormat,
    /// Prints every setting and its source, and exits
    #[arg(long)]
    print_config: bool,
}

/// How a start handles a torn tail of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum TornTailMode {
    /// Truncates the torn tail, and logs that.
    Cut,
    /// Refuses to start (exit code 5).
    Refuse,
}

/// How a follower handles Redis commands that only the leader can execute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum RespFollowerMode {
    /// Forwards such a command to the leader.
    Forward,
    /// Answers MOVED with the leader's address.
    Moved,
}

/// The addresses of the founding members by id.
#[derive(Clone, Debug)]
pub struct Peers(pub BTreeMap<NodeId, String>);

/// A range of durations: the minimum and the maximum, both inclusive.
#[derive(Clone, Copy, Debug)]
struct DurationRange(Duration, Duration);

/// The time between two checks of all files; `None` for `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ScrubInterval(Option<Duration>);

impl FromStr for ScrubInterval {
    type Err = String;

    fn from_str(text: &str) -> Result<ScrubInterval, String> {
        match humantime::parse_duration(text) {
            _ if text == "off" => Ok(ScrubInterval(None)),
            Ok(Duration::ZERO) => Err("the interval is a duration such as 7d, or off".to_owned()),
            Ok(interval) => Ok(ScrubInterval(Some(interval))),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Parses a node's id: a number from 1.
pub fn parse_node_id(text: &str) -> Result<NodeId, String> {
    text.parse().ok().and_then(NodeId::new).ok_or_else(|| "a node's id is a number from 1".into())
}

/// Parses an address; rejects one that other machines cannot reach, such as 0.0.0.0, as far as the text alone shows.
fn parse_reachable_address(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses a size in bytes; rejects a number without a unit.
fn parse_size(text: &str) -> Result<ByteSize, String> {
    if text.ends_with(|last: char| last.is_ascii_digit()) {
        return Err("a size needs a unit: 64MiB".into());
    }
    text.parse()
}

impl Peers {
    /// The differences between these founders and a membership, by id and by address. `None` if there are none, or if
    /// the membership is still empty.
    fn describe_differences(&self, membership: &Membership) -> Option<String> {
        let members = &membership.members;
        if members.is_empty() {
            return None;
        }
        let mut address_differences = Vec::new();
        for (id, address) in &self.0 {
            match members.get(id) {
                None => address_differences.push(format!("{id} is not a member")),
                Some(member) if member.address != *address => {
                    address_differences.push(format!("{id} is reached at {}, not {address}", member.address));
                }
                Some(_) => {}
            }
        }
        address_differences
            .extend(members.keys().filter(|id| !self.0.contains_key(id)).map(|id| format!("{id} is a member too")));
        (!address_differences.is_empty()).then(|| address_differences.join(", "))
    }
}

impl FromStr for Peers {
    type Err = String;

    fn from_str(text: &str) -> Result<Peers, String> {
        let mut peers = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((id, address)) = part.split_once('=').map(|(id, address)| (id.trim(), address.trim())) else {
                return Err(format!("{part:?} is not ID=HOST:PORT"));
            };
            if peers.insert(parse_node_id(id)?, address.to_owned()).is_some() {
                return Err(format!("node {id} is named twice"));
            }
        }
        Ok(Peers(peers))
    }
}

impl FromStr for DurationRange {
    type Err = String;

    fn from_str(text: &str) -> Result<DurationRange, String> {
        let parse_duration = |text| humantime::parse_duration(text).map_err(|error| format!("{text:?}: {error}"));
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let (min, max) = (parse_duration(min)?, parse_duration(max)?);
        if min > max {
            return Err("the minimum comes first: MIN-MAX".to_owned());
        }
        Ok(DurationRange(min, max))
    }
}

/// `drave serve`: runs the node until a signal or an error stops it.
pub fn run(serve: Serve, matches: &ArgMatches) -> Result<(), CliError> {
    if serve.print_config {
        settings::print(&Serve::augment_args(Command::new("serve")), matches);
        return Ok(());
    }
    let (Some(node), Some(data)) = (serve.id, serve.data.as_deref()) else {
        return Err(CliError { message: "--id and --data are needed".to_owned(), code: 2 });
    };
    logging::start(serve.log_level, serve.log_format, node.get())?;
    log::info!(
        node = node.get();
        "drave {} ({}) starts in {}; settings: {}",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        data.display(),
        settings::format_given_settings(&Serve::augment_args(Command::new("serve")), matches)
    );
    let mut config = build_config(&serve, node, data);
    open_files::set_connection_limits(&mut config.net)?;
    let password = serve.password_file.as_deref().map(Password::read).transpose();
    config.password = password.map_err(|message| CliError { message, code: 78 })?;
    config.credentials = CredentialFiles { keys: serve.tls.files.clone(), password: serve.password_file.clone() };
    set_tls_keys(&mut config, &serve.tls)?;
    if !serve.join.is_empty() {
        join::join(&mut config, &serve.join, serve.learner)?;
    }
    let id = config.id.get();
    if !config.fsync {
        log::warn!(node = id; "--unsafe-no-fsync: writes are acknowledged before they are on disk, and a power loss \
            may lose them");
    }
    let server = Server::open(config, Kv::new()).map_err(|error| explain_server_error(error, data))?;
    if let Some(differences) = serve.peers.as_ref().and_then(|peers| peers.describe_differences(server.members())) {
        log::warn!(node = id; "--peers differs from the membership in {}: {differences}. The membership applies, \
            and --peers only adds addresses to dial; drave member add, remove and update change it", data.display());
    }
    let address = server.address().map(|address| address.to_string()).unwrap_or_default();
    log::info!(node = id, cluster:% = server.cluster(), address; "serves");
    let native_clients_and_address = server.address().map(|address| ("nodes and clients", address));
    if let Some(addresses) = exposed_addresses(native_clients_and_address.iter().chain(server.gateways()))
        .filter(|_| !serve.tls.has_certificate)
    {
        log::warn!(node = id; "{addresses}: reachable from other hosts without TLS; see --tls-cert");
    }
    // Notifies a service manager that waits for readiness; without a service manager the call does nothing.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        log::warn!(node = id; "cannot notify the service manager: {error}");
    }
    server.run().map_err(|error| explain_run_error(error, data, !serve.no_repair))?;
    log::info!(node = id; "stopped");
    logging::flush();
    Ok(())
}

/// The error that ended a running node. If it can repair the damage at its next start, the exit code is 75 and not 5, so
/// that a service manager starts it again.
fn explain_run_error(error: ServerError, data: &Path, repairs: bool) -> CliError {
    match error {
        ServerError::Fault(Fault::Corrupt { file, offset, description, lost, .. }) if repairs => CliError {
            message: format!(
                "in {}: {file}: byte {offset}: {description}; affected entries: {lost}\n  start the node again: it sets \
                 the damaged files aside, and gets these entries from the other members",
                data.display()
            ),
            code: 75,
        },
        error => explain_server_error(error, data),
    }
}

/// The error that ended the node. If a file is damaged, the text names the directory: the same file name exists in the
/// directory of every node.
fn explain_server_error(error: ServerError, data: &Path) -> CliError {
    let is_damaged = matches!(error, ServerError::Fault(Fault::Corrupt { .. }));
    let CliError { message, code } = error.into();
    CliError { message: if is_damaged { format!("in {}: {message}", data.display()) } else { message }, code }
}

/// The listen addresses that other machines can reach, each with the kind of its clients; `None` if there are none.
fn exposed_addresses<'a>(addresses: impl Iterator<Item = &'a (&'static str, SocketAddr)>) -> Option<String> {
    let exposed_listeners = addresses.filter(|(_, address)| !address.ip().to_canonical().is_loopback());
    let texts: Vec<String> = exposed_listeners.map(|(clients, address)| format!("{address} ({clients})")).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Enables TLS if keys are given. Peers then verify the certificate of this node, so the node must have one.
fn set_tls_keys(config: &mut Config, tls: &Tls) -> Result<(), CliError> {
    if tls.keys.is_some() && !tls.has_certificate {
        let message = "a node with --tls-ca needs a certificate of its own\n  give also: --tls-cert and --tls-key";
        return Err(CliError { message: message.to_owned(), code: 78 });
    }
    config.net.keys.clone_from(&tls.keys);
    Ok(())
}

/// The configuration of the node: the options of the command line, and the handling of signals and log levels.
fn build_config(serve: &Serve, node: NodeId, data: &Path) -> Config {
    let mut config = Config::new(node, serve.peers.clone().map(|peers| peers.0).unwrap_or_default(), data);
    config.listen.clone_from(&serve.listen);
    #[cfg(feature = "next-version")]
    if std::env::var_os("DRAVE_NEXT_VERSION").is_some() {
        config.versions = drave::types::Versions::NEXT;
    }
    config.cluster.clone_from(&serve.cluster_name);
    config.consensus.election_min = serve.election_timeout.0;
    config.consensus.election_max = serve.election_timeout.1;
    config.consensus.heartbeat = serve.heartbeat_interval;
    config.consensus.founding_wait = serve.founding_wait;
    config.consensus.force_founding = serve.force_founding;
    config.consensus.sole_founder_wait = serve.election_timeout.1 * 2;
    config.segment_bytes = serve.segment_size.as_u64();
    config.reserve_bytes = serve.disk_reserve.as_u64();
    config.torn_tail = match serve.on_torn_tail {
        TornTailMode::Cut => TailPolicy::Cut,
        TornTailMode::Refuse => TailPolicy::Refuse,
    };
    config.repair = !serve.no_repair;
    config.node.op_bytes_max = serve.max_entry.as_u64();
    config.node.snapshot_log_bytes = serve.snapshot_log_bytes.as_u64();
    config.node.snapshot_max_age = serve.snapshot_max_age;
    config.node.scrub_interval = serve.scrub_interval.0;
    config.node.trailing_bytes = serve.trailing_bytes.as_u64();
    config.reactor.stop_grace_period = serve.shutdown_grace;
    config.reactor.busy_poll = serve.busy_poll;
    config.log_busy_poll = serve.busy_poll;
    config.fsync = !serve.unsafe_no_fsync;
    config.signals = true;
    config.reactor.log_control = Some(logging::change_level);
    config.resp = bind_address(serve.resp_address.as_deref());
    config.http = bind_address(serve.http_address.as_deref());
    config.redis.advertised_address.clone_from(&serve.advertise_resp);
    config.redis.follower_policy = match serve.resp_follower {
        RespFollowerMode::Forward => FollowerPolicy::Forward,
        RespFollowerMode::Moved => FollowerPolicy::Moved,
    };
    config
}

/// The bind address that an option selects: loopback without the option, none with `off`.
fn bind_address(option: Option<&str>) -> BindAddress {
    match option {
        None => BindAddress::Loopback,
        Some("off") => BindAddress::Off,
        Some(address) => BindAddress::At(address.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_differ_from_membership_are_reported() {
        let peers: Peers = "1=a:1,2=b:1".parse().unwrap();
        let membership = |text: &str| Membership::founding(text.parse::<Peers>().unwrap().0);
        assert_eq!(peers.describe_differences(&Membership::default()), None);
        assert_eq!(peers.describe_differences(&membership("1=a:1,2=b:1")), None);
        let differences = peers.describe_differences(&membership("1=a:2,3=c:1")).unwrap();
        assert_eq!(differences, "n1 is reached at a:2, not a:1, n2 is not a member, n3 is a member too");
    }

    #[test]
    fn scrub_interval_is_a_duration_or_off() {
        let parse = |text: &str| text.parse::<ScrubInterval>().map(|ScrubInterval(interval)| interval);
        assert_eq!((parse("off"), parse("90s")), (Ok(None), Ok(Some(Duration::from_secs(90)))));
        assert!(parse("0s").is_err() && parse("never").is_err());
    }

    #[test]
    fn election_timeout_range_must_be_ordered() {
        let parse_range_ms = |text: &str| {
            text.parse::<DurationRange>().map(|DurationRange(min, max)| (min.as_millis(), max.as_millis()))
        };
        assert_eq!((parse_range_ms("50ms-100ms"), parse_range_ms("1s")), (Ok((50, 100)), Ok((1000, 1000))));
        assert!(parse_range_ms("100ms-50ms").is_err() && parse_range_ms("-").is_err());
    }

    #[test]
    fn addresses_reachable_from_other_hosts_are_named() {
        let exposed = |addresses: &[&str]| {
            let client_kinds = ["nodes and clients", "Redis clients", "HTTP clients"];
            let addresses: Vec<_> =
                client_kinds.into_iter().zip(addresses.iter().map(|address| address.parse().unwrap())).collect();
            exposed_addresses(addresses.iter())
        };
        assert_eq!(exposed(&["127.0.0.1:7401", "[::1]:7501", "[::ffff:127.0.0.1]:7601"]), None);
        assert_eq!(exposed(&["10.0.0.1:7401", "127.0.0.1:7501"]).as_deref(), Some("10.0.0.1:7401 (nodes and clients)"));
        assert_eq!(
            exposed(&["127.0.0.1:7401", "0.0.0.0:7501", "[::]:7601"]).as_deref(),
            Some("0.0.0.0:7501 (Redis clients), [::]:7601 (HTTP clients)")
        );
    }
}
