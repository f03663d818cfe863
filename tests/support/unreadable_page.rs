//! A library that tests load into a process (`LD_PRELOAD`), so that one page of a file cannot be read, as on a disk with
//! a bad sector: a read stops before the page, and a read from the page fails with `EIO`. The page follows the file when it
//! is renamed, and can be read again once something was written to it.
//!
//! The environment variable `UNREADABLE_PAGE` names file and page: `/path/of/file@12288`. Reads through a mapping are not
//! affected.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

const PAGE_BYTES: u64 = 4096;
const EIO: i32 = 5;
/// `RTLD_NEXT` of Linux.
const NEXT_LIBRARY: *mut c_void = usize::MAX as *mut c_void;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}

type Transfer = unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;

/// The page, and the file's device and inode.
struct Page {
    device: u64,
    inode: u64,
    offset: u64,
    was_overwritten: AtomicBool,
}

static PAGE: OnceLock<Option<Page>> = OnceLock::new();
static READ: OnceLock<Transfer> = OnceLock::new();
static WRITE: OnceLock<Transfer> = OnceLock::new();

fn page() -> Option<&'static Page> {
    let find = || {
        let variable = std::env::var("UNREADABLE_PAGE").ok()?;
        let (path, offset) = variable.rsplit_once('@')?;
        let metadata = std::fs::metadata(path).ok()?;
        let (device, inode, offset) = (metadata.dev(), metadata.ino(), offset.parse().ok()?);
        Some(Page { device, inode, offset, was_overwritten: AtomicBool::new(false) })
    };
    PAGE.get_or_init(find).as_ref()
}

impl Page {
    /// Whether the page is in the file of that descriptor.
    fn is_in(&self, descriptor: c_int) -> bool {
        // SAFETY: the descriptor is only asked for its metadata, and is not closed here.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) });
        file.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode))
    }
}

/// The function of the same name in the next library.
fn next_function(function: &'static OnceLock<Transfer>, name: &'static std::ffi::CStr) -> Transfer {
    // SAFETY: the C library defines both functions with this signature.
    *function.get_or_init(|| unsafe { std::mem::transmute::<*mut c_void, Transfer>(dlsym(NEXT_LIBRARY, name.as_ptr())) })
}

/// # Safety
///
/// As of `pread64` in the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(descriptor: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize {
    let mut count = count;
    let (start, end) = (offset as u64, offset as u64 + count as u64);
    if let Some(page) = page()
        && start < page.offset + PAGE_BYTES
        && end > page.offset
        && !page.was_overwritten.load(Ordering::Relaxed)
        && page.is_in(descriptor)
    {
        if start >= page.offset {
            // SAFETY: the C library returns a valid pointer.
            unsafe { *__errno_location() = EIO };
            return -1;
        }
        count = (page.offset - start) as usize;
    }
    // SAFETY: the caller's arguments, with a count that is not higher.
    unsafe { next_function(&READ, c"pread64")(descriptor, buffer, count, offset) }
}

/// # Safety
///
/// As of `pwrite64` in the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(descriptor: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize {
    let (start, end) = (offset as u64, offset as u64 + count as u64);
    if let Some(page) = page()
        && start < page.offset + PAGE_BYTES
        && end > page.offset
        && page.is_in(descriptor)
    {
        page.was_overwritten.store(true, Ordering::Relaxed);
    }
    // SAFETY: the caller's arguments.
    unsafe { next_function(&WRITE, c"pwrite64")(descriptor, buffer, count, offset) }
}
