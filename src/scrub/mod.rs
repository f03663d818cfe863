//! Scrubbing: reads files that nothing else reads, and checks every byte, so that damage is found while an intact copy
//! exists.
//!
//! ```text
//!   node (decides when)          scrub thread                                node (decides what to do)
//!   Action::Scrub(order)  ────▶  ScrubPass::step, one file after the other
//!                                  sealed segments, oldest first
//!                                  the newest snapshot
//!                                ScrubReport::FileChecked, … PassEnded  ────▶  Event::Scrub
//! ```
//!
//! A pass reads from the disk, not from the page cache: pages of the cache were good when they were read, whatever the
//! disk holds now. It checks with the readers that a start uses (`wal::batches`, `snapshot::verify`), so that a start
//! finds no damage that a pass has missed.
//!
//! A segment may be released and recycled while it is read. Its name is then gone, and names of segments are not used
//! again: damage counts only if the file still has its name after it was read.

pub mod pass;
pub mod report;
mod segment;
mod throttled_file;

pub use pass::ScrubPass;
pub use report::{ScrubDamage, ScrubOrder, ScrubPace, ScrubReport, ScrubbedFile};
