//! A bounded queue of log lines, and the thread that writes them.

use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes of lines that wait to be written; further lines are dropped and counted.
pub const QUEUE_BYTES: usize = 1 << 20;

/// A bounded queue of log lines. Clones are handles to the same queue.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// The length of all `lines`.
    bytes: usize,
    /// Whether the writer has a line that it has not written yet.
    is_writing: bool,
    /// Whether the queue was full: it accepts no line until the writer has reported the loss.
    is_full: bool,
    /// How many lines were dropped or not written since the last report.
    lost: u64,
}

impl Sink {
    /// Queues a line, which ends with a newline. Never waits for the writer: a line that does not fit is dropped.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.is_full || queue.bytes + line.len() > QUEUE_BYTES {
            queue.is_full = true;
            queue.lost += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.shared.1.notify_all();
    }

    /// Waits until all queued lines are written, for `patience` at most. Returns whether they are.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.lock();
        while queue.is_writing || !queue.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.shared.1.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes queued lines, for ever. Calls `tell` with the number of lost lines as soon as `out` accepts lines again.
    pub fn write_to(&self, mut out: impl Write, tell: impl Fn(u64)) -> ! {
        loop {
            let line = self.next();
            let written = out.write_all(&line).and_then(|()| out.flush());
            if let Some(lost) = self.end_write(written.is_ok()) {
                tell(lost);
            }
        }
    }

    /// Removes the next line from the queue; waits for one.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.is_writing = true;
                return line;
            }
            queue = self.shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes whether the line of [`Sink::next`] was written. Returns the number of lost lines if it is time to report
    /// them.
    fn end_write(&self, written: bool) -> Option<u64> {
        let mut queue = self.lock();
        queue.is_writing = false;
        self.shared.1.notify_all();
        if !written {
            queue.lost += 1;
            return None;
        }
        if queue.lost == 0 || queue.bytes > QUEUE_BYTES / 2 {
            return None;
        }
        queue.is_full = false;
        Some(std::mem::take(&mut queue.lost))
    }

    /// Ignores poisoning: no code of this file panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Sink {
    /// Queues a whole line: the formatter writes each line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error by a file descriptor of its own, so that no other thread waits for the lock of [`std::io::stderr`].
/// Waits until it is writable, also if it is non-blocking.
#[derive(Debug)]
pub struct StandardError(File);

impl StandardError {
    /// Duplicates the descriptor.
    pub fn open() -> io::Result<StandardError> {
        Ok(StandardError(File::from(io::stderr().as_fd().try_clone_to_owned()?)))
    }
}

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _either_way_it_is_tried_again = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None);
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Accepts a line only when the test opens it.
    struct Gate {
        open: Receiver<io::Result<()>>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.open.recv().unwrap_or(Ok(()))?;
            let _the_test_may_be_over = self.taken.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(sink: &Sink) -> (Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let ((opens, open), (taken, takes)) = (channel(), channel());
        let (writer, teller) = (sink.clone(), sink.clone());
        thread::spawn(move || -> () {
            writer.write_to(Gate { open, taken }, |lost| teller.push(format!("lost {lost}\n").as_bytes()));
        });
        (opens, takes)
    }

    #[test]
    fn full_queue_drops_lines_and_counts_them() {
        let sink = Sink::default();
        let (open, taken) = gated(&sink);
        sink.push(b"first\n");
        let half = vec![b'x'; QUEUE_BYTES / 2];
        // Nothing is read: at most two of these fit, whether the writer has the first line already or not.
        for _ in 0..10 {
            sink.push(&half);
        }
        assert!(!sink.flush(Duration::from_millis(1)), "nothing was written yet");
        drop(open);
        assert!(sink.flush(PATIENCE));
        let lines: Vec<_> = (0..).map_while(|_| taken.try_recv().ok()).collect();
        assert_eq!(lines[0], b"first\n");
        let last = String::from_utf8(lines[lines.len() - 1].clone()).unwrap();
        assert_eq!(last, format!("lost {}\n", 10 - (lines.len() - 2)));
        sink.push(b"again\n");
        assert_eq!(taken.recv_timeout(PATIENCE).unwrap(), b"again\n");
    }

    #[test]
    fn line_that_cannot_be_written_is_counted_as_lost() {
        let sink = Sink::default();
        let (open, taken) = gated(&sink);
        open.send(Err(ErrorKind::StorageFull.into())).unwrap();
        sink.push(b"one\n");
        assert!(sink.flush(PATIENCE));
        drop(open);
        sink.push(b"two\n");
        assert_eq!(taken.recv_timeout(PATIENCE).unwrap(), b"two\n");
        assert_eq!(taken.recv_timeout(PATIENCE).unwrap(), b"lost 1\n");
    }
}
