//! The interface between a node and its state machine: one of the two parts of a node, with the disk, that an embedding
//! program can replace.

use crate::codec::Malformed;
use crate::types::{ClusterTime, Index, Term};
use bytes::Bytes;

/// The log entry of a command, passed to [`StateMachine::apply`]: the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The index of the entry that holds the command.
    pub index: Index,
    /// The term of the entry that holds the command. It grows with each leader, so a machine can tell an earlier
    /// leader's commands from the current leader's (for a fencing token, say).
    pub term: Term,
    /// The time of the entry that holds the command, by the cluster's clock: the time of the last call of
    /// [`StateMachine::advance`].
    pub time: ClusterTime,
    /// The feature level of the cluster at this entry. A command of a later level must be treated as one that the machine
    /// does not know: an older program on another node does not know it.
    pub feature_level: u16,
}

/// A deterministic state machine: the same commands in the same order yield the same state and the same answers on
/// every node. No clock, random number, address or hash-map order may influence it.
///
/// A machine sees each command once: client sessions filter duplicates before.
///
/// From time to time a snapshot of the state replaces the log. The state is *frozen* between two commands and
/// serialized chunk by chunk while further commands are applied. A node that restarts or is too far behind restores the
/// chunks in order, and continues with the commands after them.
pub trait StateMachine: Send + 'static {
    /// The kind of this state machine and the version of its commands, for example `kv 1`. Nodes and clients with
    /// another kind are rejected, so that this machine never interprets commands that it does not know. Empty turns the
    /// check off; at most [`MACHINE_KIND_BYTES_MAX`](crate::limits::MACHINE_KIND_BYTES_MAX) bytes.
    fn kind(&self) -> &'static str {
        ""
    }

    /// Applies a committed command and returns its answer. It cannot fail: a failure that is the same everywhere is an
    /// answer, and any other must panic. An answer has at most [`ANSWER_BYTES_MAX`](crate::limits::ANSWER_BYTES_MAX)
    /// bytes; a longer one is not sent, and the client learns only that its command was executed.
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes;

    /// Announces the commands that will be applied next, in this order. Changes nothing: a machine that is larger than
    /// the processor's caches may read the data of all these commands at once, and so wait for memory once instead of
    /// once for each command.
    fn prefetch(&self, _commands: &mut dyn Iterator<Item = &[u8]>) {}

    /// Sets the clock to the next entry's time, which is never earlier than that of previous entries. Called for every
    /// entry, before its command is applied. State that expires by the cluster's clock expires here; a command that
    /// sets a deadline in the past therefore takes effect until the next entry.
    fn advance(&mut self, _time: ClusterTime) {}

    /// Frees the memory of expired state. Called for an entry that has no command, only a time. Must leave answers and
    /// digest unchanged.
    fn expire_due(&mut self) {}

    /// The earliest deadline in the state; `None` if nothing expires. Without requests there are no entries, so the
    /// leader proposes an empty one at this time. A time in the past requests an entry at once.
    fn next_deadline(&self) -> Option<ClusterTime> {
        None
    }

    /// Whether that command can only free space, as a removal does: such a command is accepted even when the disk is
    /// low on space. The result depends on the command alone, since the leader calls this before it appends the
    /// command.
    fn frees_space(_command: &[u8]) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// The feature level that a command needs. The leader refuses a command of a later level than the cluster's, and calls
    /// this before it appends the command, so the result depends on the command alone.
    fn needed_level(_command: &[u8]) -> u16
    where
        Self: Sized,
    {
        1
    }

    /// Answers a query and changes nothing. The limit on answers in [`StateMachine::apply`] applies here too.
    ///
    /// `time` is the cluster's clock as this node knows it: never earlier than the last entry's, and later while
    /// nothing is written. It serves to compute remaining times to live, and not to decide whether state *has* expired,
    /// which only entries do: it is not the same on every node, and goes back a little when another node becomes
    /// leader.
    fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes;

    /// A digest of the state: equal on two nodes that applied the same commands. Called after every batch, so the
    /// machine should keep it up to date in [`StateMachine::apply`] instead of computing it here.
    fn digest(&self) -> u64;

    /// Freezes the current state; [`StateMachine::next_chunk`] serializes it while commands are applied. Must be fast
    /// however large the state is, since commands wait for it. Replaces a previously frozen state.
    fn freeze(&mut self);

    /// Serializes the next chunk of the frozen state, about `bytes` long: at most
    /// [`CHUNK_EXCESS_BYTES_MAX`](crate::limits::CHUNK_EXCESS_BYTES_MAX) longer, possibly shorter, even empty. `None`
    /// after the last chunk, which ends the snapshot, and if nothing is frozen.
    ///
    /// The concatenated chunks are the same on all nodes that froze the same state.
    fn next_chunk(&mut self, bytes: usize) -> Option<Bytes>;

    /// Discards the frozen state, if there is one.
    fn end_snapshot(&mut self);

    /// Returns a machine of this kind without any state, to restore a snapshot into.
    fn empty(&self) -> Self
    where
        Self: Sized;

    /// Restores the next chunk. The chunks arrive unchanged and in the order of their serialization; after the last one
    /// the state and the digest equal those of the frozen machine. Invalid bytes are an error and must not panic, since
    /// they come from a disk or another node.
    fn restore(&mut self, chunk: &[u8]) -> Result<(), Malformed>;

    /// Called after the last chunk, once the digest matches that of the frozen state. `time` is the time of the last
    /// entry in the snapshot. A machine that needs the time for its answers sets its clock here, and expires nothing:
    /// the frozen machine had not expired it either, and the next entry calls [`StateMachine::advance`].
    fn finish_restore(&mut self, _time: ClusterTime) {}
}
