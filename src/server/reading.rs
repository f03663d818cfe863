//! Reads the log that is to be applied beforehand, on a thread of its own: while the loop applies one
//! batch, the next is taken from the mapped files, checked, and made into entries.

use crate::node::beforehand::Beforehand;
use crate::types::{Entry, Index};
use crate::wal::view::View;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// So many batches are read beforehand: enough that neither waits for the other's every step.
const BATCHES: usize = 4;
/// Who takes waits so long for a batch, and then reads by itself: heartbeats wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(20);
/// A log with less to apply is as quickly read on the way.
const WORTHWHILE: u64 = 10_000;

/// The entries of mapped segments behind `applied`, in batches of about so many bytes; nothing where it
/// is not worth a thread. The thread ends with the log, with the first entry that cannot be read (which
/// is for the node to meet, and to judge), and when nobody wants any more.
pub fn beforehand(view: &View, applied: Index, batch_bytes: u64) -> Beforehand {
    let view = view.mapped();
    let Some(range) = view.held() else { return Beforehand::default() };
    let range = applied.next().max(*range.start())..=*range.end();
    if range.end().0.saturating_sub(applied.0) < WORTHWHILE || *range.start() != applied.next() {
        return Beforehand::default();
    }
    let (give, taken) = sync_channel(BATCHES);
    let read = move || {
        let mut next = *range.start();
        while let Ok(entries) = view.entries(next..=*range.end(), batch_bytes)
            && let Some(last) = entries.last()
        {
            next = last.position.index.next();
            if give.send(entries).is_err() || next > *range.end() {
                return;
            }
        }
    };
    match thread::Builder::new().name("drave-reads".to_owned()).spawn(read) {
        Ok(_ends_by_itself) => Beforehand::new(Batches(taken)),
        Err(_) => Beforehand::default(),
    }
}

struct Batches(Receiver<Vec<Entry>>);

impl Iterator for Batches {
    type Item = Vec<Entry>;

    fn next(&mut self) -> Option<Vec<Entry>> {
        self.0.recv_timeout(PATIENCE).ok()
    }
}
