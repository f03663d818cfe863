//! What takes long to be freed is freed on a thread of its own, while nobody waits.
//!
//! To let go of the last hold on a file of a gigabyte that was removed takes a third of a second: the kernel
//! takes its pages back, and its blocks. A machine with a million keys takes as long. On the loop's own
//! thread that would be longer than an election takes.

use bytes::Bytes;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use std::io;
use std::sync::mpsc::{SendError, Sender, channel};

/// How much a thread gives way that nobody waits for. Not all there is: a snapshot that is never done while
/// clients keep the processors busy would let the log grow without bound.
const NICE: i32 = 5;

/// Where to leave what takes long to be freed. Clones lead to the same thread, which ends with the last.
#[derive(Clone)]
pub struct DeferredDrop {
    thread: Sender<Box<dyn Send>>,
}

/// Bytes that are left to the thread when nobody reads them any more.
struct DeferredBytes {
    /// There until they are left.
    bytes: Option<Bytes>,
    leavings: DeferredDrop,
}

impl AsRef<[u8]> for DeferredBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl Drop for DeferredBytes {
    fn drop(&mut self) {
        self.leavings.leave(self.bytes.take());
    }
}

impl DeferredDrop {
    /// Starts the thread.
    pub fn start() -> io::Result<DeferredDrop> {
        let (thread, left) = channel::<Box<dyn Send>>();
        std::thread::Builder::new().name("leavings".into()).spawn(move || {
            give_way();
            left.into_iter().for_each(drop);
        })?;
        Ok(DeferredDrop { thread })
    }

    /// Frees it, some time.
    pub fn leave(&self, what: impl Send + 'static) {
        if let Err(SendError(what)) = self.thread.send(Box::new(what)) {
            // The thread is gone, which it is only with the process.
            drop(what);
        }
    }

    /// The same bytes, to be freed by the thread, whoever was the last to have them.
    pub fn lend(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(DeferredBytes { bytes: Some(bytes), leavings: self.clone() })
    }
}

/// Lets the system have the memory that is free. The allocator does so by itself only with what lies behind the last
/// thing in use, and one small thing that came late may keep fifty megabytes.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // It holds the allocator's lock, and so must not give way to those who wait for that.
        let trim = || {
            // SAFETY: it may be called at any time, by any thread, and touches nothing that is in use.
            let _whether_there_was_any = unsafe { libc::malloc_trim(0) };
        };
        if let Err(error) = std::thread::Builder::new().name("trim".into()).spawn(trim) {
            log::debug!("memory that is free is kept: {error}");
        }
    }
}

/// The thread that calls this gives way to others: nobody waits for what it does.
pub fn give_way() {
    if let Err(error) = setpriority_process(Some(gettid()), NICE) {
        log::warn!("a thread that nobody waits for runs like any other: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;
    use std::thread::{ThreadId, current};

    /// Says where it was freed.
    struct Telltale(Sender<ThreadId>);

    impl AsRef<[u8]> for Telltale {
        fn as_ref(&self) -> &[u8] {
            b"lent"
        }
    }

    impl Drop for Telltale {
        fn drop(&mut self) {
            self.0.send(current().id()).unwrap();
        }
    }

    #[test]
    fn what_is_left_and_what_was_lent_is_freed_elsewhere_once_nobody_has_it() {
        let leavings = DeferredDrop::start().unwrap();
        let (tell, told) = channel();
        leavings.leave(Telltale(tell.clone()));
        assert_ne!(told.recv().unwrap(), current().id());
        let bytes = leavings.lend(Bytes::from_owner(Telltale(tell)));
        let rest = bytes.slice(1..);
        drop(bytes);
        assert_eq!(&rest[..], b"ent");
        assert!(told.try_recv().is_err(), "somebody has it");
        drop(rest);
        assert_ne!(told.recv().unwrap(), current().id());
        assert!(told.recv().is_err(), "each once");
    }
}
