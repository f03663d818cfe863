//! Mapped files, and the SIGBUS of a page that the disk cannot read.
//!
//! A failed read of a mapping cannot be handled as an error: the kernel sends SIGBUS, and the process ends without a
//! message. So every mapping is registered in a table, and a signal handler looks up the address there: it writes one
//! line with file and offset, and ends the process with exit code 5 (damaged data), or the one that was set. A SIGBUS at any other address goes
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
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

/// The exit code of the signal handler ([`set_exit_code`]); at first that for damaged data.
static EXIT_CODE: AtomicI32 = AtomicI32::new(5);
/// Maximum number of registered mappings: enough for 256 GiB in segments of 64 MiB. A further mapping is not
/// registered: a SIGBUS in that mapping has the default action.
const MAPPING_SLOT_COUNT: usize = 4096;
/// The value of [`MappingSlot::start`] in an unused slot.
const START_OF_FREE_SLOT: usize = 0;
/// The value of [`MappingSlot::start`] in a slot that is being filled or cleared; no mapping begins at this address.
const START_OF_CLAIMED_SLOT: usize = 1;
/// The size of a page in bytes. The message names the offset of a page: the kernel reads whole pages.
const PAGE_BYTES: usize = 4096;
/// The maximum size of the message in bytes. A path longer than half of it is cut off.
const MESSAGE_BYTES_MAX: usize = 2048;
/// The time in milliseconds that the process waits for standard error to accept the message.
const MESSAGE_WAIT_MS: c_int = 1000;

/// The registered range of a mapping.
///
/// The handler may run at any moment, in any thread. It reads `path` only from the slot whose range holds the faulting
/// address: that mapping is in use, so its slot is neither being filled nor cleared.
struct MappingSlot {
    start: AtomicUsize,
    end: AtomicUsize,
    path: AtomicPtr<c_char>,
}

static MAPPINGS: [MappingSlot; MAPPING_SLOT_COUNT] = [const {
    MappingSlot {
        start: AtomicUsize::new(START_OF_FREE_SLOT),
        end: AtomicUsize::new(0),
        path: AtomicPtr::new(ptr::null_mut()),
    }
}; MAPPING_SLOT_COUNT];

/// A mapped file, which is in the table of mappings until this value is dropped.
#[derive(Debug)]
pub struct MappedFile {
    slot_number: Option<usize>,
    mapping: Mmap,
}

impl MappedFile {
    /// Maps a whole file, which is at `path`.
    ///
    /// # Safety
    ///
    /// As for [`Mmap::map`]: the file must not change while it is mapped.
    pub unsafe fn map(file: &File, path: &Path) -> io::Result<MappedFile> {
        install_handler();
        // SAFETY: the caller guarantees that the file does not change.
        let mapping = unsafe { Mmap::map(file)? };
        let start = mapping.as_ptr() as usize;
        Ok(MappedFile { slot_number: register_mapping(start..start + mapping.len(), path), mapping })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.mapping
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // The slot is cleared before the file is unmapped: afterwards another mapping may get the same address.
        let Some(slot) = self.slot_number.take().map(|number| &MAPPINGS[number]) else { return };
        slot.start.store(START_OF_CLAIMED_SLOT, Ordering::SeqCst);
        let path = slot.path.swap(ptr::null_mut(), Ordering::SeqCst);
        slot.start.store(START_OF_FREE_SLOT, Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: the path came from `into_raw`, and this thread alone took it out of the slot.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

/// Registers the address range of a mapping. Returns the number of its slot, or `None` if the table is full.
fn register_mapping(range: std::ops::Range<usize>, path: &Path) -> Option<usize> {
    let try_claim = |slot: &MappingSlot| {
        slot.start
            .compare_exchange(START_OF_FREE_SLOT, START_OF_CLAIMED_SLOT, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    };
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let slot_number = MAPPINGS.iter().position(try_claim)?;
    let slot = &MAPPINGS[slot_number];
    slot.path.store(path.into_raw(), Ordering::SeqCst);
    slot.end.store(range.end, Ordering::SeqCst);
    slot.start.store(range.start, Ordering::SeqCst);
    Some(slot_number)
}

/// Sets the exit code of a process that meets an unreadable page of a mapped file: a process that another start mends
/// should be started again.
pub fn set_exit_code(code: c_int) {
    EXIT_CODE.store(code, Ordering::Relaxed);
}

/// The action for SIGBUS that [`install_handler`] replaced.
static PREVIOUS_ACTION: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the signal handler at the first call; later calls do nothing.
fn install_handler() {
    PREVIOUS_ACTION.get_or_init(|| {
        let mut previous_action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: `action` and `previous_action` are valid pointers; the handler makes only async-signal-safe calls.
        // The threads of the standard library have an alternate stack, which SA_ONSTACK uses.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, previous_action.as_mut_ptr());
            previous_action.assume_init()
        }
    });
}

/// The signal handler. It may only use async-signal-safe calls: atomics, `poll`, `write`, `_exit`, `sigaction`.
extern "C" fn handle_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo. Only for a signal that the kernel itself sent is `si_addr` an address.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    if let Some(address) = address {
        for slot in &MAPPINGS {
            let start = slot.start.load(Ordering::SeqCst);
            if start > START_OF_CLAIMED_SLOT && address >= start && address < slot.end.load(Ordering::SeqCst) {
                let path = slot.path.load(Ordering::SeqCst);
                if !path.is_null() {
                    // SAFETY: the mapping is in use, so the slot keeps its path.
                    exit_with_message(
                        unsafe { CStr::from_ptr(path) }.to_bytes(),
                        (address - start) / PAGE_BYTES * PAGE_BYTES,
                    );
                }
            }
        }
    }
    call_previous_action(signal, info, context);
}

/// Writes the message to standard error and ends the process with [`EXIT_CODE`].
fn exit_with_message(path: &[u8], offset: usize) -> ! {
    let mut line = MessageLine { bytes: [0; MESSAGE_BYTES_MAX], used_bytes: 0 };
    line.push_bytes(b"error: ");
    line.push_bytes(&path[..path.len().min(MESSAGE_BYTES_MAX / 2)]);
    line.push_bytes(b": byte ");
    line.push_number(offset);
    line.push_bytes(
        b": the disk cannot read it, or the file was cut short (SIGBUS). Acknowledged writes do not \
          depend on this process; check the disk, and run `drave check` on the data directory\n",
    );
    let mut stderr_poll = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: `stderr_poll` and `line` are valid buffers, and `poll` is async-signal-safe. A pipe without a reader may
    // accept nothing: that must not keep the process from ending.
    unsafe {
        if libc::poll(&mut stderr_poll, 1, MESSAGE_WAIT_MS) > 0 {
            let _ignored = libc::write(2, line.bytes.as_ptr().cast(), line.used_bytes);
        }
        libc::_exit(EXIT_CODE.load(Ordering::Relaxed))
    }
}

/// Handles a SIGBUS outside of the registered mappings as if this handler had never been installed.
fn call_previous_action(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous_action = PREVIOUS_ACTION.get();
    let (handler, flags) = previous_action.map_or((libc::SIG_DFL, 0), |action| (action.sa_sigaction, action.sa_flags));
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // With the default action restored, the faulting instruction runs again and raises the signal again. A signal
        // that a process sent has no such instruction, so it is raised here.
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
    // SAFETY: `handler` is the address of a function that was installed with `flags`, and SA_SIGINFO among them says
    // which of the two signatures the function has.
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

/// A message of bounded size: a signal handler must not allocate.
struct MessageLine {
    bytes: [u8; MESSAGE_BYTES_MAX],
    used_bytes: usize,
}

impl MessageLine {
    fn push_bytes(&mut self, bytes: &[u8]) {
        let free_bytes = MESSAGE_BYTES_MAX - self.used_bytes;
        let bytes = &bytes[..bytes.len().min(free_bytes)];
        self.bytes[self.used_bytes..self.used_bytes + bytes.len()].copy_from_slice(bytes);
        self.used_bytes += bytes.len();
    }

    fn push_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut first_digit = digits.len();
        loop {
            first_digit -= 1;
            digits[first_digit] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push_bytes(&digits[first_digit..]);
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::{Disk, FsDisk};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    const CHILD_ENV_VARIABLE: &str = "DRAVE_TEST_SIGBUS_CHILD";

    /// Runs a test of this file in a process of its own.
    fn run_in_child(test: &str, variable_value: &str, directory: &std::path::Path) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("disk::sigbus::tests::{test}"), "--nocapture"])
            .env(CHILD_ENV_VARIABLE, variable_value)
            .current_dir(directory)
            .output()
            .unwrap()
    }

    #[test]
    fn unreadable_mapped_page_ends_process_with_message_and_exit_code() {
        if std::env::var_os(CHILD_ENV_VARIABLE).is_some() {
            let disk = FsDisk::open_existing(&std::env::current_dir().unwrap()).unwrap();
            if std::env::var(CHILD_ENV_VARIABLE).is_ok_and(|value| value == "repair") {
                super::set_exit_code(75);
            }
            let (other, bytes) = (disk.map("other").unwrap(), disk.map("0000000001.wal").unwrap());
            std::fs::File::options().write(true).open("0000000001.wal").unwrap().set_len(8192).unwrap();
            println!("{} {}", other[3], bytes[8191]);
            println!("{}", bytes[20_000]);
            unreachable!("reading the missing page raises SIGBUS");
        }
        for (child, exit_code) in [("read", 5), ("repair", 75)] {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("0000000001.wal"), vec![7; 40_000]).unwrap();
            std::fs::write(directory.path().join("other"), b"fine").unwrap();
            let test = "unreadable_mapped_page_ends_process_with_message_and_exit_code";
            let output = run_in_child(test, child, directory.path());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
            let path = directory.path().canonicalize().unwrap().join("0000000001.wal");
            let line = format!("error: {}: byte 16384: the disk cannot read it", path.display());
            assert!(stderr.lines().any(|printed| printed.starts_with(&line)), "{stderr}");
            assert_eq!(stderr.matches("SIGBUS").count(), 1, "{stderr}");
        }
    }

    #[test]
    fn sigbus_outside_registered_mappings_has_default_action() {
        if std::env::var_os(CHILD_ENV_VARIABLE).is_some() {
            let disk = FsDisk::open_existing(&std::env::current_dir().unwrap()).unwrap();
            let still_mapped = disk.map("gone").unwrap();
            drop(disk.map("gone").unwrap());
            let file = std::fs::File::options().read(true).write(true).open("other").unwrap();
            // SAFETY: the file does change: the test truncates it to raise SIGBUS.
            let unregistered_mapping = unsafe { memmap2::Mmap::map(&file).unwrap() };
            file.set_len(0).unwrap();
            println!("{} {}", still_mapped[0], unregistered_mapping[1]);
            unreachable!("reading the missing page raises SIGBUS");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("other"), b"some").unwrap();
        std::fs::write(directory.path().join("gone"), b"some").unwrap();
        let output = run_in_child("sigbus_outside_registered_mappings_has_default_action", "read", directory.path());
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
