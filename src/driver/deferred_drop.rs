//! Frees large values on a thread of its own, on which no request waits.
//!
//! Unmapping a deleted file of a gigabyte takes a third of a second, in which the kernel frees the file's pages and
//! blocks. Dropping a state machine with a million keys takes as long. On the thread of the event loop, that pause
//! could exceed the election timeout.

use bytes::Bytes;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use std::io;
use std::sync::mpsc::{SendError, Sender, channel};

/// The niceness of background threads. It is not the maximum: at the lowest priority a snapshot might never complete
/// while clients keep the processors busy, and the log would grow without bound.
const BACKGROUND_NICENESS: i32 = 5;

/// A queue of values that a background thread frees. Clones share the thread, which ends when the last of them is
/// dropped.
#[derive(Clone)]
pub struct DeferredDrop {
    values_to_drop: Sender<Box<dyn Send>>,
}

/// Bytes that are passed to the background thread when the last reference to them is dropped.
struct DeferredBytes {
    /// The bytes; `None` only once they are passed to the background thread.
    bytes: Option<Bytes>,
    deferred_drop: DeferredDrop,
}

impl AsRef<[u8]> for DeferredBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl Drop for DeferredBytes {
    fn drop(&mut self) {
        self.deferred_drop.defer(self.bytes.take());
    }
}

impl DeferredDrop {
    /// Starts the background thread, at a low priority.
    pub fn start() -> io::Result<DeferredDrop> {
        let (values_to_drop, receiver) = channel::<Box<dyn Send>>();
        std::thread::Builder::new().name("deferred-drop".into()).spawn(move || {
            lower_priority();
            receiver.into_iter().for_each(drop);
        })?;
        Ok(DeferredDrop { values_to_drop })
    }

    /// Passes a value to the background thread, which frees it at some later time. Never blocks.
    pub fn defer(&self, value: impl Send + 'static) {
        if let Err(SendError(value)) = self.values_to_drop.send(Box::new(value)) {
            // The receiving thread has ended, which happens only when the process ends: the value is freed here.
            drop(value);
        }
    }

    /// Wraps bytes so that the background thread frees them, wherever the last reference is dropped.
    pub fn wrap(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(DeferredBytes { bytes: Some(bytes), deferred_drop: self.clone() })
    }
}

/// Lowers the priority of the calling thread, which does background work.
pub fn lower_priority() {
    if let Err(error) = setpriority_process(Some(gettid()), BACKGROUND_NICENESS) {
        log::warn!("cannot lower the priority of a background thread: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;
    use std::thread::{ThreadId, current};

    /// Reports the thread on which it is dropped.
    struct DropReporter(Sender<ThreadId>);

    impl AsRef<[u8]> for DropReporter {
        fn as_ref(&self) -> &[u8] {
            b"lent"
        }
    }

    impl Drop for DropReporter {
        fn drop(&mut self) {
            self.0.send(current().id()).unwrap();
        }
    }

    #[test]
    fn deferred_value_is_dropped_on_the_background_thread() {
        let deferred_drop = DeferredDrop::start().unwrap();
        let (thread_sender, reports) = channel();
        deferred_drop.defer(DropReporter(thread_sender.clone()));
        assert_ne!(reports.recv().unwrap(), current().id());
        let bytes = deferred_drop.wrap(Bytes::from_owner(DropReporter(thread_sender)));
        let slice = bytes.slice(1..);
        drop(bytes);
        assert_eq!(&slice[..], b"ent");
        assert!(reports.try_recv().is_err(), "a slice of the bytes is still in use");
        drop(slice);
        assert_ne!(reports.recv().unwrap(), current().id());
        assert!(reports.recv().is_err(), "each value is dropped once");
    }
}
