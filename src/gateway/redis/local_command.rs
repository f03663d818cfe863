//! The commands that this node answers without the state machine.

/// A command that this node answers without the state machine, as executed by `local.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalCommand {
    /// `ASKING`: has no effect, and the reply is `+OK`.
    Asking,
    /// `PING [message]`
    Ping,
    /// `ECHO message`
    Echo,
    /// `SELECT 0`
    Select,
    /// `AUTH [user] password`
    Auth,
    /// `HELLO [version [AUTH user password] [SETNAME name]]`
    Hello,
    /// `CLIENT …`
    Client,
    /// `CONFIG …`
    Config,
    /// `COMMAND …`
    Command,
    /// `CLUSTER …`
    Cluster,
    /// `READONLY`
    ReadOnly,
    /// `READWRITE`
    ReadWrite,
}
