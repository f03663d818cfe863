//! The names of the commands that are answered without the state machine.

/// A command that is answered without the state machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalCommand {
    /// A command whose only effect is the reply `+OK`.
    Ok,
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
