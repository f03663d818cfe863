//! A bounded queue of log lines, and the thread that writes them.

use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The maximum length of all queued lines, in bytes. Further lines are dropped and counted.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// A bounded queue of log lines. Clones are handles to the same queue.
#[derive(Clone, Debug, Default)]
pub struct LogSink {
    queue_and_condvar: Arc<(Mutex<LineQueue>, Condvar)>,
}

/// The queued lines, and the state of the writer.
#[derive(Debug, Default)]
struct LineQueue {
    lines: VecDeque<Vec<u8>>,
    /// The length of all `lines`, in bytes.
    queued_bytes: usize,
    /// Whether the writer has removed a line from the queue and not written it yet.
    is_writing: bool,
    /// Whether a line did not fit. No further line is then accepted until the writer has reported the lost lines.
    is_full: bool,
    /// The number of lines that were dropped or not written since the last report.
    lost_line_count: u64,
}

impl LogSink {
    /// Queues a line, which ends with a newline. Never waits for the writer: a line that does not fit is dropped.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.lock_queue();
        if queue.is_full || queue.queued_bytes + line.len() > QUEUE_BYTES_MAX {
            queue.is_full = true;
            queue.lost_line_count += 1;
            return;
        }
        queue.queued_bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.queue_and_condvar.1.notify_all();
    }

    /// Waits until all queued lines are written, for `timeout` at most. Returns whether all are written.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut queue = self.lock_queue();
        while queue.is_writing || !queue.lines.is_empty() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return false;
            }
            queue = self.queue_and_condvar.1.wait_timeout(queue, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes queued lines to `out`, and never returns. Calls `report_lost` with the number of lost lines once `out`
    /// accepts lines again.
    pub fn write_lines_forever(&self, mut out: impl Write, report_lost: impl Fn(u64)) -> ! {
        loop {
            let line = self.next_line();
            let write_result = out.write_all(&line).and_then(|()| out.flush());
            if let Some(lost) = self.end_write(write_result.is_ok()) {
                report_lost(lost);
            }
        }
    }

    /// Removes the next line from the queue; waits while the queue is empty.
    fn next_line(&self) -> Vec<u8> {
        let mut queue = self.lock_queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.queued_bytes -= line.len();
                queue.is_writing = true;
                return line;
            }
            queue = self.queue_and_condvar.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records whether the line from [`LogSink::next_line`] was written. Returns the number of lost lines once a line
    /// was written and half of the queue is free.
    fn end_write(&self, was_written: bool) -> Option<u64> {
        let mut queue = self.lock_queue();
        queue.is_writing = false;
        self.queue_and_condvar.1.notify_all();
        if !was_written {
            queue.lost_line_count += 1;
            return None;
        }
        if queue.lost_line_count == 0 || queue.queued_bytes > QUEUE_BYTES_MAX / 2 {
            return None;
        }
        queue.is_full = false;
        Some(std::mem::take(&mut queue.lost_line_count))
    }

    /// Locks the queue. Poisoning is ignored: no code in this file panics while it holds the lock.
    fn lock_queue(&self) -> MutexGuard<'_, LineQueue> {
        self.queue_and_condvar.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LogSink {
    /// Queues a whole line: the formatter writes each line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error through a duplicated file descriptor, so that no other thread waits for the lock of
/// [`std::io::stderr`]. Writes wait until the descriptor is writable, also if it is non-blocking.
#[derive(Debug)]
pub struct StandardError(File);

impl StandardError {
    /// Duplicates the file descriptor of standard error.
    pub fn open() -> io::Result<StandardError> {
        Ok(StandardError(File::from(io::stderr().as_fd().try_clone_to_owned()?)))
    }
}

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _write_is_retried_anyway = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None);
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

    const TEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// A writer that accepts each line only after a permit from the test, until the test drops the permits.
    struct GatedWriter {
        permits: Receiver<io::Result<()>>,
        written_lines: Sender<Vec<u8>>,
    }

    impl Write for GatedWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().unwrap_or(Ok(()))?;
            let _test_may_have_ended = self.written_lines.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Starts a writer thread; returns the sender of permits and the receiver of the lines written.
    fn start_gated_writer(sink: &LogSink) -> (Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let ((permit_sender, permits), (written_sender, written_lines)) = (channel(), channel());
        let (writer, reporter) = (sink.clone(), sink.clone());
        thread::spawn(move || -> () {
            writer.write_lines_forever(GatedWriter { permits, written_lines: written_sender }, |lost| {
                reporter.push(format!("lost {lost}\n").as_bytes())
            });
        });
        (permit_sender, written_lines)
    }

    #[test]
    fn full_queue_drops_lines_and_counts_them() {
        let sink = LogSink::default();
        let (permit_sender, written_lines) = start_gated_writer(&sink);
        sink.push(b"first\n");
        let half_queue_line = vec![b'x'; QUEUE_BYTES_MAX / 2];
        // The writer has no permit yet: at most two of these lines fit, whether or not it has removed the first one.
        for _ in 0..10 {
            sink.push(&half_queue_line);
        }
        assert!(!sink.flush(Duration::from_millis(1)), "flush times out while the writer has no permit to write");
        drop(permit_sender);
        assert!(sink.flush(TEST_TIMEOUT));
        let lines: Vec<_> = (0..).map_while(|_| written_lines.try_recv().ok()).collect();
        assert_eq!(lines[0], b"first\n");
        let last_line = String::from_utf8(lines[lines.len() - 1].clone()).unwrap();
        assert_eq!(last_line, format!("lost {}\n", 10 - (lines.len() - 2)));
        sink.push(b"again\n");
        assert_eq!(written_lines.recv_timeout(TEST_TIMEOUT).unwrap(), b"again\n");
    }

    #[test]
    fn line_that_cannot_be_written_is_counted_as_lost() {
        let sink = LogSink::default();
        let (permit_sender, written_lines) = start_gated_writer(&sink);
        permit_sender.send(Err(ErrorKind::StorageFull.into())).unwrap();
        sink.push(b"one\n");
        assert!(sink.flush(TEST_TIMEOUT));
        drop(permit_sender);
        sink.push(b"two\n");
        assert_eq!(written_lines.recv_timeout(TEST_TIMEOUT).unwrap(), b"two\n");
        assert_eq!(written_lines.recv_timeout(TEST_TIMEOUT).unwrap(), b"lost 1\n");
    }
}
