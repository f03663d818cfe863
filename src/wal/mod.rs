//! The journal: one ordered stream of numbered writes, entries and hard state together.
//!
//! The *journal* writes, on the log thread; a *view* reads, on the reactor. The two share only immutable data, which
//! one sends to the other. `wal-format.md` defines the file format.
//!
//! A Raft node must make two things durable before it answers: entries, and its term and vote. Both are records of
//! *one* stream. So one sync makes both durable, in the order in which consensus made them. With a file for the hard
//! state beside the log, each election would cost a second sync, and a crash between the two syncs would leave a vote
//! in a term whose entries the log does not know, or entries of a term that the node never entered.
//!
//! # A write, from consensus to the disk
//!
//! ```text
//!   reactor                        log thread                                disk
//!   ───────                        ──────────                                ────
//!   View::push(write)
//!   ── Task::Write ──────────────▶ Journal::reserve_room  waits if full      (spare or reserve)
//!                                  Journal::append        frames, buffered   (piece, above 2 MiB)
//!      more writes gather ───────▶ Journal::append
//!                                  Journal::sync          1 batch header     write
//!                                                         2                  fdatasync
//!                                                         3 sync marker      write, not synced
//!   ◀── Report { last_durable, … }
//!   View::add_sealed(sealed)       Journal::confirm_sync  when idle          empty batch, fdatasync
//! ```
//!
//! 1. `reserve_room` comes first, since a full disk must be detected before a byte is written. A write that fails
//!    halfway leaves a partial batch, after which the node must stop.
//!
//! 2. `append` does not sync. While the disk syncs, further writes gather in the log thread's channel, and the next
//!    sync covers them all. This batching needs no timer: a slow disk makes larger batches by itself.
//!
//! 3. `sync` returns a report with the id of the last durable write. Consensus then sends the votes and acknowledgments
//!    that wait for that id (see `consensus/gate.rs`), and only then.
//!
//! 4. The sync marker is written after the sync returned and before the report is sent. So after a kill, everything
//!    ever acknowledged is before the offset in the marker, and an unfinished batch after that offset is certainly
//!    torn.
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
//! Each segment begins with the state that it inherits: term, vote, base, configuration and last position. Otherwise
//! the first segment could never be removed, because it alone might hold the latest vote. Each segment ends with a seal
//! that names its successor, whose name was durable before. Without the seal, a log whose last file was deleted would
//! look like a shorter log that ended cleanly, and the node would start with fewer entries than it had acknowledged.
//!
//! # Start
//!
//! ```text
//!   load     every byte by `pread`     a bad sector is damage with an offset, no SIGBUS
//!   replay   batches, oldest first     each as a whole or not at all
//!   classify the first bad byte        end | torn: cut off | corrupt: no start, no change
//!   resume   zeros over the tail, unsynced bytes written again, file and directory synced
//! ```
//!
//! The disk is changed only after the whole log was read and accepted. So nothing is lost if an operator starts the
//! wrong binary, or starts it in the wrong directory or with the wrong id.
//!
//! # Modules
//!
//! | module | subject |
//! |---|---|
//! | `format` | bytes of segments, frames and records, as in `wal-format.md` |
//! | `segment` | the buffer of the next batch |
//! | `journal`, `release`, `invariants` | the writer, and the invariants that it checks after each call |
//! | `log_summary` | the state that a new segment inherits, the same for writer and recovery |
//! | `scan`, `batches`, `tail` | frames, batches, and the verdict on the end, for recovery and tools |
//! | `load`, `parallel_checksum`, `recover`, `open` | the steps of a start, in this order |
//! | `newer_format` | refuses files and records of a later version, before any repair |
//! | `inspect` | the reader of `dump`, `diff` and `check`, which continues after damage |
//! | `sync_marker` | evidence of syncs, outside of the log |
//! | `spare`, `ballast` | the file of the next segment, and disk space that is kept for a full disk |
//! | `view` | reads, on the reactor, without a system call |
//! | `identity`, `identity_recovery` | the owner of a data directory, and how a lost identity file is restored |
//! | `repair`, `log_start`, `read_positions` | the shorter log that a damaged journal leaves, and where it begins |
//!
//! # What the journal does not do
//!
//! The journal restores no entry: a repair only shortens a damaged log, and records durably how far the log had reached
//! ([`repair`]). The lost entries come from the other members. For damage in a segment that is sealed and applied, the
//! node has the state: it takes a snapshot and releases the segment (`node/node/damage.rs`). The journal does not retry:
//! see [`Journal`]. It does not compress or encrypt, so that every record can be read with a hex editor and
//! `wal-format.md`. It stores
//! no commit index: the logs of a majority determine the committed entries, so the index is volatile in Raft (Figure
//! 2).
//!
//! # Failures
//!
//! | error | what the journal does | what the node does |
//! |---|---|---|
//! | no space for the next segment | writes nothing; the caller may retry | waits, steps down, serves no writes |
//! | a failed write or sync | rejects every further call | stops; the next start reads what is on the disk |
//! | a sealed segment that cannot be read back | nothing: [`View::add_sealed`] returns the error | stops |
//! | damage in a sealed segment, found later | nothing: [`View::entries`] returns the error | releases the segment behind a snapshot |
//! | damage that a start finds | is repaired if other voters exist; otherwise changes nothing | starts without the lost entries, or does not start |

pub mod ballast;
pub mod batches;
pub mod format;
pub mod identity;
pub mod identity_recovery;
pub mod inspect;
mod invariants;
pub mod journal;
pub mod kept_entries;
pub mod load;
mod log_start;
pub mod log_summary;
pub mod newer_format;
pub mod open;
pub mod options;
pub mod parallel_checksum;
mod read_positions;
pub mod recover;
mod release;
pub mod repair;
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
pub use recover::RecoveredLog;
pub use report::{EntrySummary, Fault, Report, Result, SealedSegment};
pub use spare::{Spare, SpareOrder};
pub use task::Task;
pub use view::View;
