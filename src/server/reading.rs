//! Prefetches the log that must be applied at start, on a separate thread: while the loop applies one batch, the next
//! is read from the mapped files, checked, and decoded into entries.

use crate::node::prefetch::Prefetch;
use crate::types::{Entry, Index};
use crate::wal::view::View;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use std::{iter, thread, vec};

/// How many batches are handed over together: waking a thread costs more than reading a batch.
const TOGETHER: usize = 8;
/// How many groups of [`TOGETHER`] batches are read ahead: enough that neither side waits for each step of the other.
const AHEAD: usize = 2;
/// How long the consumer waits for a batch before it reads by itself: heartbeats wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(20);
/// A log with fewer entries to apply is read as fast without a thread.
const WORTHWHILE: u64 = 10_000;

/// The entries of mapped segments after `applied`, in batches of about that many bytes; empty if it is not worth a
/// thread. The thread ends at the end of the log, at the first entry that cannot be read (the node will read it again
/// and handle the error), and when the consumer is dropped.
pub fn beforehand(view: &View, applied: Index, batch_bytes: u64) -> Prefetch {
    let view = view.mapped();
    let Some(range) = view.held() else { return Prefetch::default() };
    let range = applied.next().max(*range.start())..=*range.end();
    if range.end().0.saturating_sub(applied.0) < WORTHWHILE || *range.start() != applied.next() {
        return Prefetch::default();
    }
    let (give, taken) = sync_channel(AHEAD);
    let read = move || {
        let mut batches = batches(view, range, batch_bytes);
        loop {
            let together: Vec<_> = batches.by_ref().take(TOGETHER).collect();
            if together.is_empty() || give.send(together).is_err() {
                return;
            }
        }
    };
    match thread::Builder::new().name("drave-reads".to_owned()).spawn(read) {
        Ok(_ends_by_itself) => Prefetch::new(Batches { taken, at_hand: Vec::new().into_iter() }),
        Err(_) => Prefetch::default(),
    }
}

/// That range of the log in batches, up to the first entry that cannot be read.
fn batches(view: View, range: RangeInclusive<Index>, batch_bytes: u64) -> impl Iterator<Item = Vec<Entry>> {
    let mut next = *range.start();
    iter::from_fn(move || {
        let entries = (next <= *range.end()).then(|| view.entries(next..=*range.end(), batch_bytes))?.ok()?;
        next = entries.last()?.position.index.next();
        Some(entries)
    })
}

struct Batches {
    taken: Receiver<Vec<Vec<Entry>>>,
    at_hand: vec::IntoIter<Vec<Entry>>,
}

impl Iterator for Batches {
    type Item = Vec<Entry>;

    fn next(&mut self) -> Option<Vec<Entry>> {
        if self.at_hand.as_slice().is_empty() {
            self.at_hand = self.taken.recv_timeout(PATIENCE).ok()?.into_iter();
        }
        self.at_hand.next()
    }
}
