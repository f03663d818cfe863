//! Mapped files, and the SIGBUS of a page that the disk cannot read.
//!
//! A failed read of a mapping cannot be handled as an error: the kernel sends SIGBUS, and the process ends without a
//! message. So every mapping is registered in a table, and a signal handler looks up the address there: it writes one
//! line with file and offset, and ends the process with exit code 5 (damaged data). A SIGBUS at any other address goes
//! to the handler that was installed before, or to the default action.

use memmap2::Mmap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The exit code for damaged data.
const DAMAGED: c_int = 5;
/// The number of mappings that the handler can know: of 64 MiB segments, 256 GiB. Further mappings work as well, but a
/// SIGBUS in them has the default action.
const SLOTS: usize = 4096;
/// The start address of an unused slot.
const FREE: usize = 0;
/// A slot that is being filled or cleared; no mapping begins at this address.
const CLAIMED: usize = 1;
/// The message has the offset of the page: nothing smaller is read.
const PAGE: usize = 4096;
/// The longest message in bytes; a longer path is cut off at its end.
const LINE: usize = 2048;
/// How many milliseconds the last message waits for standard error to accept it.
const LINE_WAIT_MS: c_int = 1000;

/// The registered range of a mapping.
///
/// The handler may run at any moment, in any thread. It reads `path` only from the slot whose range holds the faulting
/// address: that mapping is in use, so its slot is neither being filled nor cleared.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    path: AtomicPtr<c_char>,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { start: AtomicUsize::new(FREE), end: AtomicUsize::new(0), path: AtomicPtr::new(ptr::null_mut()) } };
        SLOTS];

/// A mapped file, registered as long as it is mapped.
#[derive(Debug)]
pub struct MappedFile {
    slot: Option<usize>,
    mapping: Mmap,
}

impl MappedFile {
    /// Maps a whole file, which is at `path`.
    ///
    /// # Safety
    ///
    /// As for [`Mmap::map`]: the file must not change while it is mapped.
    pub unsafe fn map(file: &File, path: &Path) -> io::Result<MappedFile> {
        install();
        // SAFETY: the caller guarantees it.
        let mapping = unsafe { Mmap::map(file)? };
        let start = mapping.as_ptr() as usize;
        Ok(MappedFile { slot: register(start..start + mapping.len(), path), mapping })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.mapping
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // Must precede the unmapping, after which another mapping may get its address.
        let Some(slot) = self.slot.take().map(|slot| &TABLE[slot]) else { return };
        slot.start.store(CLAIMED, Ordering::SeqCst);
        let path = slot.path.swap(ptr::null_mut(), Ordering::SeqCst);
        slot.start.store(FREE, Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: it came from `into_raw`, and was taken out of the slot by this thread alone.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

/// Enters a range into the table; `None` if the table is full.
fn register(range: std::ops::Range<usize>, path: &Path) -> Option<usize> {
    let claim = |slot: &Slot| slot.start.compare_exchange(FREE, CLAIMED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let number = TABLE.iter().position(claim)?;
    let slot = &TABLE[number];
    slot.path.store(path.into_raw(), Ordering::SeqCst);
    slot.end.store(range.end, Ordering::SeqCst);
    slot.start.store(range.start, Ordering::SeqCst);
    Some(number)
}

/// The action for SIGBUS before [`install`].
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once.
fn install() {
    BEFORE.get_or_init(|| {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: both are valid pointers; the handler does only what a signal handler may do. The threads of
        // the standard library have an alternate stack, which SA_ONSTACK uses.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr());
            before.assume_init()
        }
    });
}

/// The signal handler. It may only use async-signal-safe calls: atomics, `poll`, `write`, `_exit`, `sigaction`.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo. Only for a signal that the kernel itself sent is `si_addr` an address.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    if let Some(address) = address {
        for slot in &TABLE {
            let start = slot.start.load(Ordering::SeqCst);
            if start > CLAIMED && address >= start && address < slot.end.load(Ordering::SeqCst) {
                let path = slot.path.load(Ordering::SeqCst);
                if !path.is_null() {
                    // SAFETY: the mapping is in use, so the slot keeps its path.
                    stop(unsafe { CStr::from_ptr(path) }.to_bytes(), (address - start) / PAGE * PAGE);
                }
            }
        }
    }
    pass_on(signal, info, context);
}

/// Writes the message and ends the process.
fn stop(path: &[u8], offset: usize) -> ! {
    let mut line = Line { bytes: [0; LINE], used: 0 };
    line.put(b"error: ");
    line.put(&path[..path.len().min(LINE / 2)]);
    line.put(b": byte ");
    line.put_number(offset);
    line.put(
        b": the disk cannot read it, or the file was cut short (SIGBUS). Acknowledged writes do not \
          depend on this process; check the disk, and run `drave check` on the data directory\n",
    );
    let mut out = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: `out` and the line are valid buffers, and `poll` is async-signal-safe. A pipe without a reader may accept
    // nothing: that must not keep the process from ending.
    unsafe {
        if libc::poll(&mut out, 1, LINE_WAIT_MS) > 0 {
            let _nobody_may_read = libc::write(2, line.bytes.as_ptr().cast(), line.used);
        }
        libc::_exit(DAMAGED)
    }
}

/// Passes on a SIGBUS outside of the registered mappings to the earlier action.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let before = BEFORE.get();
    let (handler, flags) = before.map_or((libc::SIG_DFL, 0), |before| (before.sa_sigaction, before.sa_flags));
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // The default action, once the instruction is run again; or at once, if a process sent the signal.
        // SAFETY: valid pointers and a valid signal.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &action, ptr::null_mut());
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        }
        return;
    }
    // SAFETY: the address of a handler that was installed with these flags.
    unsafe {
        if flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}

/// A message under construction, without allocation.
struct Line {
    bytes: [u8; LINE],
    used: usize,
}

impl Line {
    fn put(&mut self, bytes: &[u8]) {
        let room = LINE - self.used;
        let bytes = &bytes[..bytes.len().min(room)];
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    fn put_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::{Disk, FsDisk};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    const CHILD: &str = "DRAVE_TEST_SIGBUS_CHILD";

    /// Runs a test of this file in a process of its own.
    fn run(test: &str, what: &str, directory: &std::path::Path) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("disk::sigbus::tests::{test}"), "--nocapture"])
            .env(CHILD, what)
            .current_dir(directory)
            .output()
            .unwrap()
    }

    #[test]
    fn unreadable_page_ends_process_with_line_and_exit_code() {
        if std::env::var_os(CHILD).is_some() {
            let disk = FsDisk::at(&std::env::current_dir().unwrap()).unwrap();
            let (other, bytes) = (disk.map("other").unwrap(), disk.map("0000000001.wal").unwrap());
            std::fs::File::options().write(true).open("0000000001.wal").unwrap().set_len(8192).unwrap();
            println!("{} {}", other[3], bytes[8191]);
            println!("{}", bytes[20_000]);
            unreachable!("reading the missing page raises SIGBUS");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("0000000001.wal"), vec![7; 40_000]).unwrap();
        std::fs::write(directory.path().join("other"), b"fine").unwrap();
        let output = run("unreadable_page_ends_process_with_line_and_exit_code", "read", directory.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        let path = directory.path().canonicalize().unwrap().join("0000000001.wal");
        let line = format!("error: {}: byte 16384: the disk cannot read it", path.display());
        assert!(said.lines().any(|said| said.starts_with(&line)), "{said}");
        assert_eq!(said.matches("SIGBUS").count(), 1, "{said}");
    }

    #[test]
    fn sigbus_elsewhere_has_default_action() {
        if std::env::var_os(CHILD).is_some() {
            let disk = FsDisk::at(&std::env::current_dir().unwrap()).unwrap();
            let kept = disk.map("gone").unwrap();
            drop(disk.map("gone").unwrap());
            let file = std::fs::File::options().read(true).write(true).open("other").unwrap();
            // SAFETY: the test is about a change of this file.
            let other = unsafe { memmap2::Mmap::map(&file).unwrap() };
            file.set_len(0).unwrap();
            println!("{} {}", kept[0], other[1]);
            unreachable!("reading the missing page raises SIGBUS");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("other"), b"some").unwrap();
        std::fs::write(directory.path().join("gone"), b"some").unwrap();
        let output = run("sigbus_elsewhere_has_default_action", "read", directory.path());
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
