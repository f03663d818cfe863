//! The thread that checks this node's files. It shares nothing with the log thread and the snapshot thread, which never
//! wait for it.

use crate::disk::Disk;
use crate::driver::deferred_drop::lower_priority;
use crate::driver::inbox::{InboxSender, LoopMessage};
use crate::driver::scrub_queue::{PassWatch, ScrubQueue, scrub_queue};
use crate::scrub::pass::{ScrubSource, Throttle};
use crate::scrub::{ScrubPace, ScrubPass};
use std::io;
use std::time::Duration;

/// The bytes per second of a regular pass: a few percent of what a slow disk reads, so that neither clients nor the log
/// notice it. A log and a snapshot of 10 GB are read within 45 minutes.
const BACKGROUND_BYTES_PER_SECOND: u64 = 4 << 20;
/// The bytes per second of a pass that an operator waits for: a disk that serves the log meanwhile has most of its time
/// left for it.
const REQUESTED_BYTES_PER_SECOND: u64 = 64 << 20;

/// Sleeps after each read, for as long as its bytes may take at the pace of the pass.
#[derive(Clone)]
struct PacedReading {
    bytes_per_second: u64,
    watch: PassWatch,
}

impl Throttle for PacedReading {
    fn pause(&self, read_bytes: u64) -> io::Result<()> {
        std::thread::sleep(Duration::from_nanos(read_bytes * 1_000_000_000 / self.bytes_per_second));
        if self.watch.is_wanted() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    }
}

/// Starts the thread. It ends when the returned queue is dropped.
pub fn spawn_scrub_thread<D: Disk>(source: ScrubSource<D>, inbox: InboxSender) -> io::Result<ScrubQueue> {
    let (queue, orders) = scrub_queue();
    std::thread::Builder::new().name("scrub".into()).spawn(move || {
        lower_priority();
        while let Some((order, watch)) = orders.wait() {
            let bytes_per_second = match order.pace {
                ScrubPace::Background => BACKGROUND_BYTES_PER_SECOND,
                ScrubPace::Requested => REQUESTED_BYTES_PER_SECOND,
            };
            for report in ScrubPass::new(source.clone(), order, PacedReading { bytes_per_second, watch }) {
                if !inbox.send(LoopMessage::Scrub(report)) {
                    return;
                }
            }
        }
    })?;
    Ok(queue)
}
