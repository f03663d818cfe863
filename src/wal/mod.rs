//! The journal: one ordered stream of numbered writes, entries and hard state together.
//!
//! The *journal* writes, on the log thread; a *view* reads, on the reactor. Data shared between them is sent from one
//! to the other and is immutable. `wal-format.md` defines the file format.
//!
//! The idea: a Raft node promises in two ways, with entries and with its term and vote, and both promises are records
//! of *one* stream. So one sync makes both durable, in the order in which consensus made them. With a file for the hard
//! state beside the log, each election would cost a second sync, and a crash between the two syncs would leave a vote
//! in a term whose entries the log does not know, or entries of a term that the node never entered.
//!
//! # A write, from consensus to the disk
//!
//! ```text
//!   reactor                        log thread                             disk
//!   ───────                        ──────────                             ────
//!   View::push(write)
//!   ── Task::Write ──────────────▶ Journal::provide   room? else wait     (spare or reserve)
//!                                  Journal::append    frames, buffered    (piece, if 2 MiB wait)
//!      more writes gather ───────▶ Journal::append
//!                                  Journal::sync      1 batch header      write
//!                                                     2                   fdatasync
//!                                                     3 sync marker       write, not synced
//!   ◀── Report { durable, … } ────
//!   View::seal(sealed)             (idle) Journal::confirm                empty batch, fdatasync
//! ```
//!
//! 1. `provide` comes first, since a full disk must be known before a byte is written. A write that fails halfway
//!    leaves a partial batch, and the only safe answer to that is to stop the node.
//!
//! 2. `append` does not sync. While the disk syncs, further writes gather in the log thread's channel, and the next
//!    sync covers them all. This batching needs no timer: a slow disk makes larger batches by itself.
//!
//! 3. `sync` is the moment of truth. Its report carries the id of the last durable write, and consensus releases votes
//!    and acknowledgments that wait for that id (see `consensus/gate.rs`). Nothing else releases them.
//!
//! 4. The sync marker is written after the sync returned and before the report is sent. So after a kill, everything
//!    ever acknowledged is before the offset in the marker, and an unfinished batch behind it is certainly torn.
//!
//! # Segments
//!
//! ```text
//!   0000000001.wal         0000000002.wal         0000000003.wal            spare-0000000004-1.tmp
//!   ┌──────┬─────┬──────┐  ┌──────┬─────┬──────┐  ┌──────┬─────┬·······┐    ┌········┐
//!   │ open │ ... │ seal ├─▶│ open │ ... │ seal ├─▶│ open │ ... │ zeros │    │ zeros  │
//!   └──────┴─────┴──────┘  └──────┴─────┴──────┘  └──────┴─────┴·······┘    └········┘
//!     sealed, mapped         sealed, mapped         being written             prepared
//! ```
//!
//! Each segment opens with the state it inherits: term, vote, base, configuration and last position. Without that, the
//! first segment could never be removed, because it alone would hold a vote that was cast long ago. Each one ends with
//! a seal that names its successor, whose name was durable before. Without the seal, a log whose last file was deleted
//! would look like a shorter log that ended cleanly, and the node would acknowledge less than it once had.
//!
//! # Start
//!
//! ```text
//!   load     every byte by `pread`     a bad sector is damage with an offset, no SIGBUS
//!   replay   batches, oldest first     each as a whole or not at all
//!   classify the first bad byte        end | torn: cut it | corrupt: refuse, change nothing
//!   resume   zeros over the tail, write again what may be in the page cache only, sync, sync names
//! ```
//!
//! The disk is changed only after all of it was read and accepted. An operator who starts the wrong binary, in the
//! wrong directory or with the wrong id, has lost nothing.
//!
//! # Which file knows what
//!
//! | file | subject |
//! |---|---|
//! | `format` | bytes of segments, frames and records, as in `wal-format.md` |
//! | `segment` | the buffer of the batch that is being made |
//! | `journal`, `invariants` | the writer, and the laws that it checks after each call |
//! | `log_summary` | the state that a new segment inherits, the same for writer and recovery |
//! | `scan`, `batches`, `tail` | frames, batches, and the verdict on the end: one reader for recovery and tools |
//! | `load`, `parallel_checksum`, `recover`, `open` | a start, in this order |
//! | `inspect` | the same reading for `dump`, `diff` and `check`, which go on behind damage |
//! | `sync_marker` | evidence of syncs, outside of the log |
//! | `spare`, `ballast` | room for the next segment: prepared, and kept for the day when the disk is full |
//! | `view` | reads, on the reactor, without a system call |
//! | `identity` | whose directory it is |
//!
//! # What it does not do
//!
//! It does not repair. A damaged segment stops the node, since only the other members know what it held, and a journal
//! that cuts out damage by itself cannot tell a lost acknowledgment from garbage. It does not retry: see [`Journal`].
//! It does not compress or encrypt, so that every record can be read with a hex editor and `wal-format.md`. It knows no
//! commit index: which entries are committed follows from the logs of a majority, so Raft keeps that volatile (§5.2,
//! Figure 2).
//!
//! # When it fails
//!
//! | error | what the journal does | what the node does |
//! |---|---|---|
//! | no room for the next segment | nothing was written; it may be asked again | waits, steps down, serves no writes |
//! | a failed write or sync | rejects every further call | stops; the next start reads what is there |
//! | a sealed segment that cannot be read back | is not involved: [`View::seal`] returns it | stops |
//! | damage that a start finds | changes nothing | does not start |

pub mod ballast;
pub mod batches;
pub mod format;
pub mod identity;
pub mod inspect;
mod invariants;
pub mod journal;
pub mod load;
pub mod log_summary;
pub mod open;
pub mod options;
pub mod parallel_checksum;
pub mod recover;
pub mod report;
pub mod scan;
pub mod segment;
pub mod spare;
pub mod sync_marker;
pub mod tail;
pub mod task;
pub mod view;

#[cfg(test)]
mod tests;

pub use ballast::{Ballast, SpaceMonitor};
pub use journal::Journal;
pub use options::{Options, ReadMode, TailPolicy};
pub use recover::{EntrySummary, Recovered};
pub use report::{Fault, Report, Result, Sealed};
pub use spare::{Spare, SpareOrder};
pub use task::Task;
pub use view::View;
