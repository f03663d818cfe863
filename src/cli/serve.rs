//! `drave serve`: runs one node.

use super::cluster::endpoint;
use super::failure::CliError;
use super::join;
use super::logging;
use super::open_files;
use super::settings;
use super::tls::Tls;
use crate::config::{BindAddress, Config};
use crate::machine::Kv;
use crate::net::credentials::CredentialFiles;
use crate::net::password::Password;
use crate::net::resp::gateway::Follower;
use crate::server::Server;
use crate::server::server::ServerError;
use crate::types::address::check_address;
use crate::types::{Membership, NodeId};
use crate::wal::{Fault, TailPolicy};
use bytesize::ByteSize;
use clap::{ArgMatches, Args, Command, ValueEnum};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Runs one node.
#[derive(Args, Debug)]
pub struct Serve {
    /// Which node this is: a number from 1, kept for life
    #[arg(long, env = "DRAVE_ID", value_parser = node, required_unless_present = "print_config")]
    id: Option<NodeId>,
    /// The founding members, all of them: 1=HOST:PORT,2=HOST:PORT,… A directory that is in use knows its
    /// members, and is only told where to look
    #[arg(long, env = "DRAVE_PEERS")]
    peers: Option<Peers>,
    /// A member of the cluster to join, if nobody founded it with this node: HOST:PORT,…
    #[arg(long, env = "DRAVE_JOIN", value_name = "ADDR", value_delimiter = ',', value_parser = endpoint, conflicts_with = "peers")]
    join: Vec<String>,
    /// When it joins, it stays a learner: it gets everything and has no vote
    #[arg(long, env = "DRAVE_LEARNER", requires = "join")]
    learner: bool,
    /// Where it keeps everything
    #[arg(long, env = "DRAVE_DATA", value_name = "DIR", required_unless_present = "print_config")]
    data: Option<PathBuf>,
    /// Where it listens, if not at its own entry in --peers
    #[arg(long, env = "DRAVE_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// Where Redis clients are let in; off for nowhere. On this machine alone, at the native port + 100,
    /// unless told otherwise
    #[arg(long, env = "DRAVE_RESP", value_name = "ADDR|off")]
    resp: Option<String>,
    /// Where Redis clients reach this node, if not where it listens: what MOVED and CLUSTER SLOTS tell them, on every node
    #[arg(long, env = "DRAVE_ADVERTISE_RESP", value_name = "HOST:PORT", value_parser = reachable)]
    advertise_resp: Option<String>,
    /// What a follower does with what only the leader can: pass it on, or say where the leader is, as clients of a
    /// Redis cluster expect
    #[arg(long, env = "DRAVE_RESP_FOLLOWER", value_enum, default_value_t = OnFollower::Forward)]
    resp_follower: OnFollower,
    /// Where HTTP clients are let in; off for nowhere. On this machine alone, at the native port + 200, unless
    /// told otherwise
    #[arg(long, env = "DRAVE_HTTP", value_name = "ADDR|off")]
    http: Option<String>,
    /// Holds the password that clients of the doors have to say; without it none is asked for
    #[arg(long, env = "DRAVE_PASSWORD_FILE", value_name = "PATH")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    tls: Tls,
    /// The cluster's name, if two clusters could have the same members
    #[arg(long, env = "DRAVE_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,
    /// How long without a leader before a node campaigns: drawn anew each time
    #[arg(long, env = "DRAVE_ELECTION_TIMEOUT", default_value = "150ms-300ms", value_name = "MIN-MAX")]
    election_timeout: Range,
    /// How often a leader says that it lives
    #[arg(long, env = "DRAVE_HEARTBEAT_INTERVAL", default_value = "50ms", value_parser = humantime::parse_duration)]
    heartbeat_interval: Duration,
    /// Begins a log although a founder of the list does not answer, or holds one: what that one holds is then in
    /// another log, and whatever was acknowledged there is not in this one
    #[arg(long, env = "DRAVE_FOUND_ANYWAY")]
    found_anyway: bool,
    /// How long founders wait for those of the list that do not answer, before a majority begins a log
    #[arg(long, env = "DRAVE_FOUNDING_WAIT", default_value = "5s", value_parser = humantime::parse_duration)]
    founding_wait: Duration,
    /// How large a segment of the journal is
    #[arg(long, env = "DRAVE_SEGMENT_SIZE", default_value = "64MiB", value_parser = size)]
    segment_size: ByteSize,
    /// How much room is kept aside for when the disk is full: a segment at least; 0B for none
    #[arg(long, env = "DRAVE_RESERVE", default_value = "64MiB", value_name = "SIZE", value_parser = size)]
    reserve: ByteSize,
    /// The largest command that is accepted
    #[arg(long, env = "DRAVE_MAX_ENTRY", default_value = "1MiB", value_parser = size)]
    max_entry: ByteSize,
    /// How much the log grows, at least, before a snapshot takes its place; and as much as the state is
    #[arg(long, env = "DRAVE_SNAPSHOT_LOG_BYTES", default_value = "64MiB", value_name = "SIZE", value_parser = size)]
    snapshot_log_bytes: ByteSize,
    /// A snapshot older than that is taken anew, if anything was written since
    #[arg(long, env = "DRAVE_SNAPSHOT_MAX_AGE", default_value = "1h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    snapshot_max_age: Duration,
    /// How much of the log is kept behind a snapshot, for followers that are a little behind
    #[arg(long, env = "DRAVE_TRAILING_BYTES", default_value = "16MiB", value_name = "SIZE", value_parser = size)]
    trailing_bytes: ByteSize,
    /// How long to finish what is under way when told to stop
    #[arg(long, env = "DRAVE_GRACE", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// How long to look for more work before sleeping, at most; 0s for never
    #[arg(long, env = "DRAVE_LOOK", default_value = "60us", value_parser = humantime::parse_duration)]
    look: Duration,
    /// Answers before anything is on a disk. A power loss may take everything
    #[arg(long, env = "DRAVE_UNSAFE_NO_FSYNC")]
    unsafe_no_fsync: bool,
    /// What a start does about a damaged last batch of the log that no proof shows to be an unfinished write, as
    /// power losses leave it
    #[arg(long, env = "DRAVE_ON_TORN_TAIL", value_enum, default_value = "cut")]
    on_torn_tail: OnTornTail,
    /// What is logged: error, warn, info, debug or trace. `drave log-level` changes it while the node runs; SIGUSR1 switches debug on, and off again
    #[arg(long, env = "DRAVE_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<log::LevelFilter>,
    /// The form of log lines
    #[arg(long, env = "DRAVE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: logging::Format,
    /// Shows every setting and where it comes from, and does nothing
    #[arg(long)]
    print_config: bool,
}

/// What a start does about a torn tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum OnTornTail {
    /// Cuts it off, and logs it.
    Cut,
    /// Does not start (exit code 5).
    Refuse,
}

/// What a follower's Redis door does with what only the leader can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum OnFollower {
    /// Passes it on.
    Forward,
    /// Says where the leader is.
    Moved,
}

/// The founding members: addresses by id.
#[derive(Clone, Debug)]
pub struct Peers(pub BTreeMap<NodeId, String>);

/// A range of durations: minimum, maximum.
#[derive(Clone, Copy, Debug)]
struct Range(Duration, Duration);

/// Parses a node's id from the command line.
pub fn node(text: &str) -> Result<NodeId, String> {
    text.parse().ok().and_then(NodeId::new).ok_or_else(|| "a node's id is a number from 1".into())
}

/// Accepts an address that other machines can reach, as far as the text alone shows.
fn reachable(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<ByteSize, String> {
    if text.ends_with(|last: char| last.is_ascii_digit()) {
        return Err("a size needs a unit: 64MiB".into());
    }
    text.parse()
}

impl Peers {
    /// How this list of founders differs from a membership, by id and by address. `None` if it does not, or if the
    /// membership is still empty.
    fn differ_from(&self, membership: &Membership) -> Option<String> {
        let members = &membership.members;
        if members.is_empty() {
            return None;
        }
        let mut differs = Vec::new();
        for (id, address) in &self.0 {
            match members.get(id) {
                None => differs.push(format!("{id} is no member")),
                Some(member) if member.address != *address => {
                    differs.push(format!("{id} is reached at {}, not {address}", member.address));
                }
                Some(_) => {}
            }
        }
        differs.extend(members.keys().filter(|id| !self.0.contains_key(id)).map(|id| format!("{id} is a member too")));
        (!differs.is_empty()).then(|| differs.join(", "))
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
            if peers.insert(node(id)?, address.to_owned()).is_some() {
                return Err(format!("node {id} is named twice"));
            }
        }
        Ok(Peers(peers))
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let duration = |text| humantime::parse_duration(text).map_err(|error| format!("{text:?}: {error}"));
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let (min, max) = (duration(min)?, duration(max)?);
        if min > max {
            return Err("the shorter one comes first: MIN-MAX".to_owned());
        }
        Ok(Range(min, max))
    }
}

/// Runs the node until it is stopped.
pub fn run(serve: Serve, matches: &ArgMatches) -> Result<(), CliError> {
    if serve.print_config {
        settings::print(&Serve::augment_args(Command::new("serve")), matches);
        return Ok(());
    }
    let (Some(node), Some(data)) = (serve.id, serve.data.as_deref()) else {
        return Err(CliError { what: "--id and --data are needed".to_owned(), code: 2 });
    };
    logging::start(serve.log_level, serve.log_format, node.get())?;
    log::info!(
        node = node.get();
        "drave {} ({}) starts in {}; settings: {}",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
        data.display(),
        settings::differing(&Serve::augment_args(Command::new("serve")), matches)
    );
    let mut config = configure(&serve, node, data);
    open_files::divide(&mut config.net)?;
    let password = serve.password_file.as_deref().map(Password::read).transpose();
    config.password = password.map_err(|what| CliError { what, code: 78 })?;
    config.credentials = CredentialFiles { keys: serve.tls.files.clone(), password: serve.password_file.clone() };
    secure(&mut config, &serve.tls)?;
    if !serve.join.is_empty() {
        join::join(&mut config, &serve.join, serve.learner)?;
    }
    let id = config.id.get();
    if !config.fsync {
        log::warn!(node = id; "--unsafe-no-fsync: nothing is on a disk when it is answered, and a power loss may take it");
    }
    let server = Server::open(config, Kv::new()).map_err(|error| ended(error, data))?;
    if let Some(differs) = serve.peers.as_ref().and_then(|peers| peers.differ_from(server.members())) {
        log::warn!(node = id; "--peers differs from the membership in {}: {differs}. The membership counts, and --peers only says where \
            else to look; drave member add, remove and update change it", data.display());
    }
    let address = server.address().map(|address| address.to_string()).unwrap_or_default();
    log::info!(node = id, cluster:% = server.cluster(), address; "serves");
    let native = server.address().map(|address| ("nodes and clients", address));
    if let Some(places) = exposed(native.iter().chain(server.doors())).filter(|_| !serve.tls.shows) {
        log::warn!(node = id; "others than this machine can reach it at {places}, and nothing is encrypted: see --tls-cert");
    }
    // Notifies a service manager that waits for readiness; without one this does nothing.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        log::warn!(node = id; "the service manager is not told: {error}");
    }
    server.run().map_err(|error| ended(error, data))?;
    log::info!(node = id; "stopped");
    logging::flush();
    Ok(())
}

/// The error that ended the node, with the directory if a file is damaged: the file's name alone is the same in every
/// directory.
fn ended(error: ServerError, data: &Path) -> CliError {
    let is_damaged = matches!(error, ServerError::Fault(Fault::Corrupt { .. }));
    let CliError { what, code } = error.into();
    CliError { what: if is_damaged { format!("in {}: {what}", data.display()) } else { what }, code }
}

/// The listening addresses that other machines can reach, each with the clients it serves; `None` if there are none.
fn exposed<'a>(places: impl Iterator<Item = &'a (&'static str, SocketAddr)>) -> Option<String> {
    let others = places.filter(|(_, address)| !address.ip().to_canonical().is_loopback());
    let words: Vec<String> = others.map(|(who, address)| format!("{address} ({who})")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Sets up encryption if keys are given. Peers then present certificates, so this node must present one too.
fn secure(config: &mut Config, tls: &Tls) -> Result<(), CliError> {
    if tls.keys.is_some() && !tls.shows {
        let what = "a node has to show a certificate where others do\n  beside --tls-ca: --tls-cert and --tls-key";
        return Err(CliError { what: what.to_owned(), code: 78 });
    }
    config.net.keys.clone_from(&tls.keys);
    Ok(())
}

fn configure(serve: &Serve, node: NodeId, data: &Path) -> Config {
    let mut config = Config::new(node, serve.peers.clone().map(|peers| peers.0).unwrap_or_default(), data);
    config.listen.clone_from(&serve.listen);
    config.cluster.clone_from(&serve.cluster);
    config.consensus.election_min = serve.election_timeout.0;
    config.consensus.election_max = serve.election_timeout.1;
    config.consensus.heartbeat = serve.heartbeat_interval;
    config.consensus.founding_wait = serve.founding_wait;
    config.consensus.found_anyway = serve.found_anyway;
    config.consensus.alone_wait = serve.election_timeout.1 * 2;
    config.segment_bytes = serve.segment_size.as_u64();
    config.reserve_bytes = serve.reserve.as_u64();
    config.torn_tail = match serve.on_torn_tail {
        OnTornTail::Cut => TailPolicy::Cut,
        OnTornTail::Refuse => TailPolicy::Refuse,
    };
    config.node.entry_bytes = serve.max_entry.as_u64();
    config.node.snapshot_log_bytes = serve.snapshot_log_bytes.as_u64();
    config.node.snapshot_max_age = serve.snapshot_max_age;
    config.node.trailing_bytes = serve.trailing_bytes.as_u64();
    config.reactor.grace = serve.grace;
    config.reactor.look = serve.look;
    config.log_busy_poll = serve.look;
    config.fsync = !serve.unsafe_no_fsync;
    config.signals = true;
    config.reactor.log_control = Some(logging::change_level);
    config.resp = doorway(serve.resp.as_deref());
    config.http = doorway(serve.http.as_deref());
    config.redis.advertised.clone_from(&serve.advertise_resp);
    config.redis.follower = match serve.resp_follower {
        OnFollower::Forward => Follower::Forward,
        OnFollower::Moved => Follower::Moved,
    };
    config
}

fn doorway(said: Option<&str>) -> BindAddress {
    match said {
        None => BindAddress::Loopback,
        Some("off") => BindAddress::Off,
        Some(address) => BindAddress::At(address.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_founders_that_is_not_the_membership_is_told_of_by_id_and_by_address() {
        let peers: Peers = "1=a:1,2=b:1".parse().unwrap();
        let membership = |text: &str| Membership::founding(text.parse::<Peers>().unwrap().0);
        assert_eq!(peers.differ_from(&Membership::default()), None);
        assert_eq!(peers.differ_from(&membership("1=a:1,2=b:1")), None);
        let told = peers.differ_from(&membership("1=a:2,3=c:1")).unwrap();
        assert_eq!(told, "n1 is reached at a:2, not a:1, n2 is no member, n3 is a member too");
    }

    #[test]
    fn election_timeouts_come_in_order() {
        let range = |text: &str| text.parse::<Range>().map(|Range(min, max)| (min.as_millis(), max.as_millis()));
        assert_eq!((range("50ms-100ms"), range("1s")), (Ok((50, 100)), Ok((1000, 1000))));
        assert!(range("100ms-50ms").is_err() && range("-").is_err());
    }

    #[test]
    fn a_place_that_others_can_reach_is_named() {
        let told = |places: &[&str]| {
            let who = ["nodes and clients", "Redis clients", "HTTP clients"];
            let places: Vec<_> = who.into_iter().zip(places.iter().map(|place| place.parse().unwrap())).collect();
            exposed(places.iter())
        };
        assert_eq!(told(&["127.0.0.1:7401", "[::1]:7501", "[::ffff:127.0.0.1]:7601"]), None);
        assert_eq!(told(&["10.0.0.1:7401", "127.0.0.1:7501"]).as_deref(), Some("10.0.0.1:7401 (nodes and clients)"));
        assert_eq!(
            told(&["127.0.0.1:7401", "0.0.0.0:7501", "[::]:7601"]).as_deref(),
            Some("0.0.0.0:7501 (Redis clients), [::]:7601 (HTTP clients)")
        );
    }
}
