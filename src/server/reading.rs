//! Reads the log that is to be applied beforehand, on a thread of its own: while the loop applies one
//! batch, the next is taken from the mapped files, checked, and made into entries.

use crate::node::prefetch::Prefetch;
use crate::types::{Entry, Index};
use crate::wal::view::View;
use std::ops::RangeInclusive;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use std::{iter, thread, vec};

/// So many batches are handed over together: to wake a thread costs more than to read a batch.
const TOGETHER: usize = 8;
/// So many times [`TOGETHER`] are read beforehand: enough that neither waits for the other's every step.
const AHEAD: usize = 2;
/// Who takes waits so long for a batch, and then reads by itself: heartbeats wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(20);
/// A log with less to apply is as quickly read on the way.
const WORTHWHILE: u64 = 10_000;

/// The entries of mapped segments behind `applied`, in batches of about so many bytes; nothing where it
/// is not worth a thread. The thread ends with the log, with the first entry that cannot be read (which
/// is for the node to meet, and to judge), and when nobody wants any more.
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
