//! Commands that are answered without the state machine.

use super::cluster;
use super::error::{SHOWN, subcommand};
use super::gateway::{ClusterView, Options};
use super::glob;
use super::local_command::LocalCommand;
use super::table;
use crate::codec::integer;
use crate::limits::ENTRY_BYTES_MAX;
use crate::wire::resp::{CommandArgs, Version, Writer};
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// The version of Redis whose commands these are. Clients request it and adapt to it.
pub const REDIS_VERSION: &str = "7.2.0";
/// Maximum length of a client's name.
const NAME_MAX: usize = 256;

/// The state of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientState {
    /// Its number on this node.
    pub id: i64,
    /// Its protocol version.
    pub version: Version,
    /// Whether it is authenticated, or no password is required.
    pub known: bool,
    /// The name that it has set.
    pub name: Bytes,
    /// Whether it reads the state that this node has applied (`READONLY`).
    pub reads_locally: bool,
}

impl LocalCommand {
    /// Whether it is allowed before authentication.
    pub fn is_for_strangers(self) -> bool {
        matches!(self, LocalCommand::Auth | LocalCommand::Hello)
    }

    /// Checks the subcommand, for commands that have one, and its number of arguments. Returns the error in Redis's
    /// words. `COMMAND` is also valid without a subcommand.
    pub fn check(self, words: &CommandArgs) -> Result<(), String> {
        let known: &[(&str, Range<usize>)] = match self {
            LocalCommand::Client => &[("getname", 2..3), ("id", 2..3), ("setinfo", 4..5), ("setname", 3..4)],
            LocalCommand::Cluster => {
                &[("info", 2..3), ("keyslot", 3..4), ("myid", 2..3), ("nodes", 2..3), ("shards", 2..3), ("slots", 2..3)]
            }
            LocalCommand::Command if words.len() > 1 => &[("count", 2..3)],
            LocalCommand::Config => &[("get", 3..usize::MAX)],
            _ => return Ok(()),
        };
        match known.iter().find(|(name, _)| words.at(1).eq_ignore_ascii_case(name.as_bytes())) {
            Some((_, takes)) if takes.contains(&words.len()) => Ok(()),
            Some((name, _)) => {
                let command = String::from_utf8_lossy(words.at(0)).to_lowercase();
                Err(format!("ERR wrong number of arguments for '{command}|{name}' command"))
            }
            None => Err(subcommand(words)),
        }
    }

    /// Executes the command, which may change the state of the client, and returns the reply. A change of the protocol
    /// version affects the reply too.
    pub fn answer(
        self,
        words: &CommandArgs,
        guest: &mut ClientState,
        options: &Options,
        scene: &dyn Fn() -> ClusterView,
    ) -> BytesMut {
        let mut reply = BytesMut::new();
        let outcome = self.try_to(words, guest, options, scene, &mut reply);
        if let Err(error) = outcome {
            reply.clear();
            Writer::new(&mut reply, guest.version).error(&error);
        }
        reply
    }

    fn try_to(
        self,
        words: &CommandArgs,
        guest: &mut ClientState,
        options: &Options,
        scene: &dyn Fn() -> ClusterView,
        reply: &mut BytesMut,
    ) -> Result<(), String> {
        if self == LocalCommand::Hello {
            return hello(words, guest, options, scene, reply);
        }
        let mut out = Writer::new(reply, guest.version);
        match self {
            LocalCommand::Ok => out.line("OK"),
            LocalCommand::Ping => match words.len() {
                1 => out.line("PONG"),
                2 => out.bulk(words.at(1)),
                _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
            },
            LocalCommand::Echo => out.bulk(words.at(1)),
            LocalCommand::Select => match integer(words.at(1)) {
                Some(0) => out.line("OK"),
                Some(_) => return Err("ERR DB index is out of range".into()),
                None => return Err("ERR value is not an integer or out of range".into()),
            },
            LocalCommand::Auth => {
                auth(words, guest, options)?;
                out.line("OK");
            }
            LocalCommand::Client => client(words, guest, &mut out)?,
            LocalCommand::Config => config(words, &scene(), &mut out),
            LocalCommand::Command if words.len() == 1 => table::put_table(&mut out),
            LocalCommand::Command => out.integer(table::COMMANDS.len() as i64),
            LocalCommand::Cluster => cluster::cluster(words, &scene(), &mut out)?,
            LocalCommand::ReadOnly | LocalCommand::ReadWrite => {
                guest.reads_locally = self == LocalCommand::ReadOnly;
                out.line("OK");
            }
            LocalCommand::Hello => {}
        }
        Ok(())
    }
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn auth(words: &CommandArgs, guest: &mut ClientState, options: &Options) -> Result<(), String> {
    match words.len() {
        2 if options.password.is_none() => {
            Err("ERR AUTH <password> called without any password configured for the default user. Are you \
                        sure your configuration is correct?"
                .into())
        }
        2 => admit(b"default", words.at(1), guest, options),
        3 => admit(words.at(1), words.at(2), guest, options),
        _ => Err("ERR syntax error".into()),
    }
}

fn admit(user: &[u8], password: &[u8], guest: &mut ClientState, options: &Options) -> Result<(), String> {
    // Without a configured password, the default user accepts any password.
    let right = options.password.as_ref().is_none_or(|known| known.is(password));
    if user != b"default" || !right {
        return Err(WRONG_PASSWORD.into());
    }
    guest.known = true;
    Ok(())
}

fn hello(
    words: &CommandArgs,
    guest: &mut ClientState,
    options: &Options,
    scene: &dyn Fn() -> ClusterView,
    reply: &mut BytesMut,
) -> Result<(), String> {
    let version = match words.len() {
        1 => guest.version,
        _ => match integer(words.at(1)) {
            Some(2) => Version::Two,
            Some(3) => Version::Three,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        },
    };
    let (mut at, mut name) = (2, None);
    while at < words.len() {
        let left = words.len() - at - 1;
        match &words.at(at).to_ascii_uppercase()[..] {
            b"AUTH" if left >= 2 => {
                admit(words.at(at + 1), words.at(at + 2), guest, options)?;
                at += 3;
            }
            b"SETNAME" if left >= 1 => {
                name = Some(named(words.at(at + 1))?);
                at += 2;
            }
            other => {
                let shown = &other[..other.len().min(SHOWN)];
                return Err(format!("ERR Syntax error in HELLO option '{}'", shown.escape_ascii()));
            }
        }
    }
    if !guest.known {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> \
                    AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
                    version at the same time"
            .into());
    }
    guest.version = version;
    guest.name = name.unwrap_or(std::mem::take(&mut guest.name));
    let mut out = Writer::new(reply, version);
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(REDIS_VERSION.as_bytes());
    out.bulk(b"proto");
    out.integer(if version == Version::Three { 3 } else { 2 });
    out.bulk(b"id");
    out.integer(guest.id);
    out.bulk(b"mode");
    out.bulk(b"standalone");
    out.bulk(b"role");
    out.bulk(if scene().is_master() { b"master" } else { b"replica" });
    out.bulk(b"modules");
    out.array(0);
    Ok(())
}

fn named(name: &[u8]) -> Result<Bytes, String> {
    if name.len() > NAME_MAX || !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.".into());
    }
    Ok(Bytes::copy_from_slice(name))
}

fn client(words: &CommandArgs, guest: &mut ClientState, out: &mut Writer<'_>) -> Result<(), String> {
    match &words.at(1).to_ascii_uppercase()[..] {
        b"SETINFO" => out.line("OK"),
        b"SETNAME" => {
            guest.name = named(words.at(2))?;
            out.line("OK");
        }
        b"GETNAME" => out.option(Some(&guest.name[..]).filter(|name| !name.is_empty())),
        b"ID" => out.integer(guest.id),
        _ => return Err(subcommand(words)),
    }
    Ok(())
}

/// The configuration settings that clients read at startup, with their equivalents here.
fn settings(scene: &ClusterView) -> [(&'static str, String); 14] {
    [
        ("appendfsync", "always".into()),
        ("appendonly", "yes".into()),
        ("cluster-enabled", "yes".into()),
        ("databases", "1".into()),
        ("maxclients", scene.clients_max.to_string()),
        ("maxmemory", "0".into()),
        ("maxmemory-policy", "noeviction".into()),
        ("notify-keyspace-events", String::new()),
        ("port", scene.port.to_string()),
        ("proto-max-bulk-len", ENTRY_BYTES_MAX.to_string()),
        ("replica-read-only", "yes".into()),
        ("save", String::new()),
        ("slave-read-only", "yes".into()),
        ("timeout", "0".into()),
    ]
}

fn config(words: &CommandArgs, scene: &ClusterView, out: &mut Writer<'_>) {
    let asked = |name: &str| words.from(2).any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<_> = settings(scene).into_iter().filter(|(name, _)| asked(name)).collect();
    out.map(found.len());
    for (name, value) in found {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
}
