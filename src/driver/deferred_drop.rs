//! Frees large values on a thread of its own, on which no request waits.
//!
//! Dropping the last reference to a removed file of a gigabyte takes a third of a second, while the kernel frees its
//! pages and blocks. A state machine with a million keys takes as long. On the thread of the event loop that would be
//! longer than an election takes.

use bytes::Bytes;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use std::io;
use std::sync::mpsc::{SendError, Sender, channel};

/// The niceness of background threads. It is not the maximum: a snapshot that never completes while clients keep the
/// processors busy would let the log grow without bound.
const NICE: i32 = 5;

/// A queue of values to be freed by its thread. Clones share the thread, which ends with the last of them.
#[derive(Clone)]
pub struct DeferredDrop {
    thread: Sender<Box<dyn Send>>,
}

/// Bytes that are passed to the thread when the last reference to them is dropped.
struct DeferredBytes {
    /// `Some` until the drop.
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
    /// Starts the thread.
    pub fn start() -> io::Result<DeferredDrop> {
        let (thread, left) = channel::<Box<dyn Send>>();
        std::thread::Builder::new().name("deferred-drop".into()).spawn(move || {
            lower_priority();
            left.into_iter().for_each(drop);
        })?;
        Ok(DeferredDrop { thread })
    }

    /// Frees a value on the thread, at some later time.
    pub fn defer(&self, what: impl Send + 'static) {
        if let Err(SendError(what)) = self.thread.send(Box::new(what)) {
            // The thread ends only with the process.
            drop(what);
        }
    }

    /// Wraps bytes so that the thread frees them, wherever the last reference is dropped.
    pub fn wrap(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(DeferredBytes { bytes: Some(bytes), deferred_drop: self.clone() })
    }
}

/// Lowers the priority of the calling thread, which does background work.
pub fn lower_priority() {
    if let Err(error) = setpriority_process(Some(gettid()), NICE) {
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
    fn last_reference_is_freed_on_the_thread() {
        let deferred_drop = DeferredDrop::start().unwrap();
        let (tell, told) = channel();
        deferred_drop.defer(DropReporter(tell.clone()));
        assert_ne!(told.recv().unwrap(), current().id());
        let bytes = deferred_drop.wrap(Bytes::from_owner(DropReporter(tell)));
        let rest = bytes.slice(1..);
        drop(bytes);
        assert_eq!(&rest[..], b"ent");
        assert!(told.try_recv().is_err(), "a slice of the bytes is still in use");
        drop(rest);
        assert_ne!(told.recv().unwrap(), current().id());
        assert!(told.recv().is_err(), "each value is dropped once");
    }
}
