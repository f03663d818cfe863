//! Executes the commands that this node answers without the state machine.

use super::cluster;
use super::error::{QUOTED_BYTES_MAX, unknown_subcommand};
use super::gateway::{ClusterView, Options};
use super::glob;
use super::local_command::LocalCommand;
use super::table;
use crate::codec::parse_integer;
use crate::limits::ENTRY_BYTES_MAX;
use crate::wire::resp::{CommandArgs, ReplyWriter, RespVersion};
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// The version of Redis that the gateway reports. Clients ask for it, and adapt to it.
pub const REDIS_VERSION: &str = "7.2.0";
/// Maximum length of a client's name in bytes.
const CLIENT_NAME_BYTES_MAX: usize = 256;

/// The settings of a client, which its commands change.
#[derive(Clone, Debug, Default)]
pub struct ClientState {
    /// The number that `CLIENT ID` and `HELLO` report; unique on this node.
    pub id: i64,
    /// The protocol version of replies: RESP2 until `HELLO 3`.
    pub version: RespVersion,
    /// Whether the client has presented the password, or none is required.
    pub is_authenticated: bool,
    /// The name set by `CLIENT SETNAME` or `HELLO`; empty without one.
    pub name: Bytes,
    /// Whether reads are answered from the state that this node has applied, which may be stale: after `READONLY`,
    /// until `READWRITE`.
    pub reads_locally: bool,
}

impl LocalCommand {
    /// Whether a client may use the command before it has presented the password.
    pub fn is_allowed_unauthenticated(self) -> bool {
        matches!(self, LocalCommand::Auth | LocalCommand::Hello)
    }

    /// Checks the subcommand of a command that has subcommands, and its number of arguments. Returns the error in
    /// Redis's words. `COMMAND` is valid without a subcommand too.
    pub fn check_subcommand(self, args: &CommandArgs) -> Result<(), String> {
        let subcommands: &[(&str, Range<usize>)] = match self {
            LocalCommand::Client => &[("getname", 2..3), ("id", 2..3), ("setinfo", 4..5), ("setname", 3..4)],
            LocalCommand::Cluster => {
                &[("info", 2..3), ("keyslot", 3..4), ("myid", 2..3), ("nodes", 2..3), ("shards", 2..3), ("slots", 2..3)]
            }
            LocalCommand::Command if args.len() > 1 => &[("count", 2..3)],
            LocalCommand::Config => &[("get", 3..usize::MAX)],
            _ => return Ok(()),
        };
        match subcommands.iter().find(|(name, _)| args.at(1).eq_ignore_ascii_case(name.as_bytes())) {
            Some((_, arg_counts)) if arg_counts.contains(&args.len()) => Ok(()),
            Some((name, _)) => {
                let command = String::from_utf8_lossy(args.at(0)).to_lowercase();
                Err(format!("ERR wrong number of arguments for '{command}|{name}' command"))
            }
            None => Err(unknown_subcommand(args)),
        }
    }

    /// Executes the command, which may change the settings of the client, and returns the reply. After a change of the
    /// protocol version, the reply is in the new version.
    pub fn execute(
        self,
        args: &CommandArgs,
        client: &mut ClientState,
        options: &Options,
        cluster_view: &dyn Fn() -> ClusterView,
    ) -> BytesMut {
        let mut reply = BytesMut::new();
        let result = self.try_execute(args, client, options, cluster_view, &mut reply);
        if let Err(error) = result {
            reply.clear();
            ReplyWriter::new(&mut reply, client.version).error(&error);
        }
        reply
    }

    fn try_execute(
        self,
        args: &CommandArgs,
        client: &mut ClientState,
        options: &Options,
        cluster_view: &dyn Fn() -> ClusterView,
        reply: &mut BytesMut,
    ) -> Result<(), String> {
        if self == LocalCommand::Hello {
            return handle_hello(args, client, options, cluster_view, reply);
        }
        let mut out = ReplyWriter::new(reply, client.version);
        match self {
            LocalCommand::Asking => out.simple_string("OK"),
            LocalCommand::Ping => match args.len() {
                1 => out.simple_string("PONG"),
                2 => out.bulk(args.at(1)),
                _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
            },
            LocalCommand::Echo => out.bulk(args.at(1)),
            LocalCommand::Select => match parse_integer(args.at(1)) {
                Some(0) => out.simple_string("OK"),
                Some(_) => return Err("ERR DB index is out of range".into()),
                None => return Err("ERR value is not an integer or out of range".into()),
            },
            LocalCommand::Auth => {
                handle_auth(args, client, options)?;
                out.simple_string("OK");
            }
            LocalCommand::Client => handle_client(args, client, &mut out)?,
            LocalCommand::Config => handle_config(args, &cluster_view(), &mut out),
            LocalCommand::Command if args.len() == 1 => table::put_command_table(&mut out),
            LocalCommand::Command => out.integer(table::COMMANDS.len() as i64),
            LocalCommand::Cluster => cluster::handle_cluster(args, &cluster_view(), &mut out)?,
            LocalCommand::ReadOnly | LocalCommand::ReadWrite => {
                client.reads_locally = self == LocalCommand::ReadOnly;
                out.simple_string("OK");
            }
            LocalCommand::Hello => {}
        }
        Ok(())
    }
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// `AUTH [user] password`
fn handle_auth(args: &CommandArgs, client: &mut ClientState, options: &Options) -> Result<(), String> {
    match args.len() {
        2 if options.password.is_none() => {
            Err("ERR AUTH <password> called without any password configured for the default user. Are you \
                        sure your configuration is correct?"
                .into())
        }
        2 => authenticate(b"default", args.at(1), client, options),
        3 => authenticate(args.at(1), args.at(2), client, options),
        _ => Err("ERR syntax error".into()),
    }
}

/// Checks a user name and a password, and marks the client as authenticated. The only user is `default`.
fn authenticate(user: &[u8], password: &[u8], client: &mut ClientState, options: &Options) -> Result<(), String> {
    // Without a configured password, the default user accepts any password.
    let is_correct = options.password.as_ref().is_none_or(|expected| expected.matches(password));
    if user != b"default" || !is_correct {
        return Err(WRONG_PASSWORD.into());
    }
    client.is_authenticated = true;
    Ok(())
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`
fn handle_hello(
    args: &CommandArgs,
    client: &mut ClientState,
    options: &Options,
    cluster_view: &dyn Fn() -> ClusterView,
    reply: &mut BytesMut,
) -> Result<(), String> {
    let version = match args.len() {
        1 => client.version,
        _ => match parse_integer(args.at(1)) {
            Some(2) => RespVersion::Resp2,
            Some(3) => RespVersion::Resp3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        },
    };
    let (mut at, mut name) = (2, None);
    while at < args.len() {
        let args_left = args.len() - at - 1;
        match &args.at(at).to_ascii_uppercase()[..] {
            b"AUTH" if args_left >= 2 => {
                authenticate(args.at(at + 1), args.at(at + 2), client, options)?;
                at += 3;
            }
            b"SETNAME" if args_left >= 1 => {
                name = Some(check_client_name(args.at(at + 1))?);
                at += 2;
            }
            option => {
                let quoted_option = &option[..option.len().min(QUOTED_BYTES_MAX)];
                return Err(format!("ERR Syntax error in HELLO option '{}'", quoted_option.escape_ascii()));
            }
        }
    }
    if !client.is_authenticated {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> \
                    AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
                    version at the same time"
            .into());
    }
    client.version = version;
    client.name = name.unwrap_or(std::mem::take(&mut client.name));
    let mut out = ReplyWriter::new(reply, version);
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(REDIS_VERSION.as_bytes());
    out.bulk(b"proto");
    out.integer(if version == RespVersion::Resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.integer(client.id);
    out.bulk(b"mode");
    out.bulk(b"standalone");
    out.bulk(b"role");
    out.bulk(if cluster_view().is_master() { b"master" } else { b"replica" });
    out.bulk(b"modules");
    out.array(0);
    Ok(())
}

fn check_client_name(name: &[u8]) -> Result<Bytes, String> {
    if name.len() > CLIENT_NAME_BYTES_MAX || !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
    }
    Ok(Bytes::copy_from_slice(name))
}

/// `CLIENT GETNAME|ID|SETINFO|SETNAME`
fn handle_client(args: &CommandArgs, client: &mut ClientState, out: &mut ReplyWriter<'_>) -> Result<(), String> {
    match &args.at(1).to_ascii_uppercase()[..] {
        b"SETINFO" => out.simple_string("OK"),
        b"SETNAME" => {
            client.name = check_client_name(args.at(2))?;
            out.simple_string("OK");
        }
        b"GETNAME" => out.bulk_or_nil(Some(&client.name[..]).filter(|name| !name.is_empty())),
        b"ID" => out.integer(client.id),
        _ => return Err(unknown_subcommand(args)),
    }
    Ok(())
}

/// The settings of Redis that clients read with `CONFIG GET` when they connect, with the values that apply here.
fn config_settings(cluster_view: &ClusterView) -> [(&'static str, String); 14] {
    [
        ("appendfsync", "always".into()),
        ("appendonly", "yes".into()),
        ("cluster-enabled", "yes".into()),
        ("databases", "1".into()),
        ("maxclients", cluster_view.clients_max.to_string()),
        ("maxmemory", "0".into()),
        ("maxmemory-policy", "noeviction".into()),
        ("notify-keyspace-events", String::new()),
        ("port", cluster_view.port.to_string()),
        ("proto-max-bulk-len", ENTRY_BYTES_MAX.to_string()),
        ("replica-read-only", "yes".into()),
        ("save", String::new()),
        ("slave-read-only", "yes".into()),
        ("timeout", "0".into()),
    ]
}

/// `CONFIG GET pattern …`
fn handle_config(args: &CommandArgs, cluster_view: &ClusterView, out: &mut ReplyWriter<'_>) {
    let is_requested =
        |name: &str| args.args_from(2).any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let matching_settings: Vec<_> =
        config_settings(cluster_view).into_iter().filter(|(name, _)| is_requested(name)).collect();
    out.map(matching_settings.len());
    for (name, value) in matching_settings {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
}
