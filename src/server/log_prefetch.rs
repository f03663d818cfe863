//! Prefetches the log that must be applied at start, on a separate thread: while the event loop applies one batch,
//! the next batch is read from the mapped files, checked, and decoded into entries.

use crate::node::prefetch::Prefetch;
use crate::types::{Entry, Index};
use crate::wal::view::View;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use std::{iter, thread, vec};

/// How many batches are sent as one group: waking a thread costs more than reading a batch.
const BATCHES_PER_GROUP: usize = 8;
/// How many groups of [`BATCHES_PER_GROUP`] batches are read ahead, so that neither thread waits for the other at each
/// group.
const GROUPS_READ_AHEAD_MAX: usize = 2;
/// How long the event loop waits for a group before it reads the log by itself: heartbeats wait meanwhile.
const GROUP_WAIT_MAX: Duration = Duration::from_millis(20);
/// The fewest entries to apply for which a thread is started: reading fewer is as fast without one.
const PREFETCH_ENTRIES_MIN: u64 = 10_000;

/// Starts a thread that reads the entries of mapped segments after `applied`, in batches of about `batch_bytes` bytes.
/// Returns an empty prefetch if the entries are not worth a thread. The thread ends at the end of the log, at the first
/// entry that cannot be read (the node reads it again and handles the error), and when the prefetch is dropped.
pub fn prefetch_log(view: &View, applied: Index, batch_bytes: u64) -> Prefetch {
    let view = view.without_memory();
    let Some(range) = view.readable_range() else { return Prefetch::default() };
    let range = applied.next().max(*range.start())..=*range.end();
    if range.end().0.saturating_sub(applied.0) < PREFETCH_ENTRIES_MIN || *range.start() != applied.next() {
        return Prefetch::default();
    }
    let (sender, groups) = sync_channel(GROUPS_READ_AHEAD_MAX);
    let read_ahead = move || {
        let mut batches = batches(view, range, batch_bytes);
        loop {
            let group: Vec<_> = batches.by_ref().take(BATCHES_PER_GROUP).collect();
            if group.is_empty() || sender.send(group).is_err() {
                return;
            }
        }
    };
    match thread::Builder::new().name("drave-reads".to_owned()).spawn(read_ahead) {
        Ok(_ends_by_itself) => Prefetch::new(PrefetchedBatches { groups, current_group: Vec::new().into_iter() }),
        Err(_) => Prefetch::default(),
    }
}

/// Reads the entries of `range`, in batches of about `batch_bytes` bytes, up to the first entry that cannot be read.
fn batches(view: View, range: RangeInclusive<Index>, batch_bytes: u64) -> impl Iterator<Item = Vec<Entry>> {
    let mut next = *range.start();
    iter::from_fn(move || {
        let entries = (next <= *range.end()).then(|| view.entries(next..=*range.end(), batch_bytes))?.ok()?;
        next = entries.last()?.position.index.next();
        Some(entries)
    })
}

/// The event loop's side of the prefetch: yields the batches of one group after the other.
struct PrefetchedBatches {
    groups: Receiver<Vec<Vec<Entry>>>,
    current_group: vec::IntoIter<Vec<Entry>>,
}

impl Iterator for PrefetchedBatches {
    type Item = Vec<Entry>;

    fn next(&mut self) -> Option<Vec<Entry>> {
        if self.current_group.as_slice().is_empty() {
            self.current_group = self.groups.recv_timeout(GROUP_WAIT_MAX).ok()?.into_iter();
        }
        self.current_group.next()
    }
}
