//! One of the two places where worlds differ: what committed commands are applied to.

use crate::codec::Malformed;
use crate::types::{ClusterTime, Index, Term};
use bytes::Bytes;

/// What a command may know besides itself: the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The index of the entry that holds the command.
    pub index: Index,
    /// The term of that entry: it grows with each leader, so a machine can tell an earlier leader's commands from those
    /// of the one that leads now (a fencing token, say).
    pub term: Term,
    /// The cluster's clock in that entry.
    pub time: ClusterTime,
}

/// A deterministic machine: the same commands in the same order leave the same state and give the
/// same answers, on every node. No clock, chance, address or order of a hash map may enter it.
///
/// Exactly-once is not its concern: sessions stand around it, and each command reaches it once.
///
/// A log is not kept for ever: now and then the state takes its place. It is *frozen* between two
/// commands and told piece by piece while commands go on; a node that comes back, or one that was
/// away for too long, takes the pieces in, in order, and goes on with the commands behind them.
pub trait StateMachine: Send + 'static {
    /// Which machine this is, and the version of its commands: `kv 1`. Nodes and clients that name another are refused,
    /// rather than have this one make what it can of commands that it does not know. Empty if that is not to be
    /// checked; at most [`MACHINE_BYTES_MAX`](crate::limits::MACHINE_BYTES_MAX) bytes.
    fn kind(&self) -> &'static str {
        ""
    }

    /// Applies a committed command and answers it. Cannot fail: what fails the same everywhere is
    /// an answer, and what does not must panic. An answer has at most
    /// [`ANSWER_BYTES_MAX`](crate::limits::ANSWER_BYTES_MAX) bytes; a longer one is not told, and the
    /// client learns only that its command was executed.
    fn apply(&mut self, context: &Context, command: &[u8]) -> Bytes;

    /// These commands will be applied next, in this order. Changes nothing: a machine that is larger
    /// than the processor's caches may look at what they concern, for all of them at once, and so wait
    /// for memory once and not for each.
    fn prefetch(&self, _commands: &mut dyn Iterator<Item = &[u8]>) {}

    /// The next entry is of that time, which is never earlier than that of those before. Said of every entry,
    /// before anything that it holds is applied: what ends by the cluster's clock, ends here. What a command
    /// makes that ends at the time of its own entry, or before it, is still there until the next entry.
    fn advance(&mut self, _time: ClusterTime) {}

    /// An entry has come that holds no command, only time: there is a moment to clear up what has ended.
    /// Must leave answers and digest as they are.
    fn expire_due(&mut self) {}

    /// By when an entry should come even if nobody asks for anything, for something to end: a leader sees to
    /// it. A time that is past already asks for one at once.
    fn due(&self) -> Option<ClusterTime> {
        None
    }

    /// Whether that command only ever frees room, as a removal does: it is let through when the disk has
    /// too little for others. A word on the command alone: it is asked before anything is applied.
    fn frees(_command: &[u8]) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// Answers a question and changes nothing. What is said of answers in [`StateMachine::apply`]
    /// holds here too.
    ///
    /// `time` is the cluster's clock as this node knows it: never earlier than the last entry's, and while nobody
    /// writes anything later, for how long something has left. It is not the same on every node, and goes back a
    /// little when another node leads: whether something *has* ended is decided by entries alone.
    fn query(&self, time: ClusterTime, query: &[u8]) -> Bytes;

    /// A digest of the state: equal on two nodes that applied the same commands. Asked after every
    /// batch, so it must be quick: keep it up to date while applying.
    fn digest(&self) -> u64;

    /// Freezes the state as it is now; [`StateMachine::next_chunk`] serializes it while commands go on. Must be quick
    /// however large the state is: commands wait for it. A state that was frozen before is forgotten.
    fn freeze(&mut self);

    /// The next chunk of the frozen state, about `bytes` long: never more than
    /// [`PIECE_EXCESS_MAX`](crate::limits::PIECE_EXCESS_MAX) longer, perhaps shorter, even empty. `None` behind the
    /// last chunk, which ends the snapshot; or if nothing is frozen.
    ///
    /// The chunks put together are the same on all nodes that froze the same state.
    fn next_chunk(&mut self, bytes: usize) -> Option<Bytes>;

    /// Forgets what was frozen, if anything is.
    fn end_snapshot(&mut self);

    /// A machine of this kind to which nothing has been applied, to take in a snapshot.
    fn empty(&self) -> Self
    where
        Self: Sized;

    /// Takes in the next piece. Pieces come as they were told, each whole, in order; when all have
    /// come, the machine is as the frozen one was, and so is its digest. Bytes that are not a piece
    /// are an error, and nothing worse: they come from a disk or another node.
    fn restore(&mut self, piece: &[u8]) -> Result<(), Malformed>;

    /// All pieces have come, and the digest is that of the frozen state. The last entry before the snapshot was
    /// of that time. A machine that keeps the time for its answers sets it here, and ends nothing: the frozen
    /// machine had not ended it either, and the next entry brings [`StateMachine::advance`].
    fn resume(&mut self, _time: ClusterTime) {}
}
