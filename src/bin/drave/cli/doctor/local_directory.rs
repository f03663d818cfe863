//! The checks of a directory on this machine: its file system, its disk, and the cost of a sync.

use super::findings::{Finding, Level, check_file_system, new_finding};
use crate::loadgen::baseline::measure_sync;
use crate::remote::failure::CliError;
use drave::disk::fs::FsDisk;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Milliseconds. A p99 above this is reported: one sync in a hundred then delays every request that waits for it.
const SLOW_SYNC_P99_MS: f64 = 30.0;
/// Milliseconds. A p50 below this on a disk with a write-back cache is suspicious: syncs may reach only the cache.
const CACHED_SYNC_P50_MS: f64 = 0.1;

/// Checks the directory. Syncs are measured for `span` with a temporary file, which is removed afterwards.
pub fn examine(directory: &Path, span: Duration) -> Result<Vec<Finding>, CliError> {
    let path = directory.display().to_string();
    let io_error = |error: std::io::Error| CliError { message: format!("{path}: {error}"), code: 74 };
    let disk = FsDisk::open_existing(directory).map_err(io_error)?;
    let write_cache = block_device(directory).and_then(|device| write_cache_mode(&device));
    let sync_histogram = measure_sync(&disk, 4 << 10, span).map_err(io_error)?;
    let quantile_ms = |quantile| sync_histogram.value_at_quantile(quantile) as f64 / 1e6;
    let (p50, p99, max) = (quantile_ms(0.5), quantile_ms(0.99), quantile_ms(1.0));
    let latencies = format!("p50 {p50:.2} · p99 {p99:.2} · max {max:.2} ms of {} syncs of 4 KiB", sync_histogram.len());
    let is_suspiciously_fast =
        p50 < CACHED_SYNC_P50_MS && write_cache.as_deref() == Some("write back") && !disk.is_in_memory();
    let sync_result = match () {
        () if p99 > SLOW_SYNC_P99_MS => (Level::Warn, format!("{latencies} · a slow disk makes for a slow cluster")),
        () if is_suspiciously_fast => {
            (Level::Warn, format!("{latencies} · check that its cache keeps data through a power loss"))
        }
        () => (Level::Pass, latencies),
    };
    let cache_result = match write_cache.as_deref() {
        Some("write back") => (Level::Pass, "write back: each sync flushes it".to_owned()),
        Some(other) => (Level::Pass, other.to_owned()),
        None => (Level::Pass, "unknown: the directory is not on a local block device".to_owned()),
    };
    Ok(vec![
        check_file_system(format!("{path} file system"), disk.file_system_name()),
        new_finding(cache_result.0, format!("{path} disk cache"), cache_result.1),
        new_finding(sync_result.0, format!("{path} fsync"), sync_result.1),
        check_free_space(&disk, path),
    ])
}

/// Checks that there is space for the log, a snapshot and the reserve: at least a few segments of the default size.
fn check_free_space(disk: &FsDisk, path: String) -> Finding {
    use bytesize::ByteSize;
    use drave::disk::Disk;
    const LOW_SPACE_BYTES: u64 = 1 << 30;
    let subject = format!("{path} room");
    match disk.free_bytes() {
        Ok(free) if free < LOW_SPACE_BYTES => new_finding(
            Level::Warn,
            subject,
            format!("{}: little space for log and snapshots", ByteSize(free).display().iec()),
        ),
        Ok(free) => new_finding(Level::Pass, subject, ByteSize(free).display().iec().to_string()),
        Err(error) => new_finding(Level::Warn, subject, format!("unknown: {error}")),
    }
}

/// The sysfs directory of the disk that holds `directory`; `None` if `directory` is not on a local block device.
fn block_device(directory: &Path) -> Option<PathBuf> {
    let device_number = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device_number), rustix::fs::minor(device_number));
    let sysfs_path = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // In sysfs a disk has the directory `queue`, and a partition of the disk has none.
    if sysfs_path.join("queue").is_dir() { Some(sysfs_path) } else { sysfs_path.parent().map(Path::to_owned) }
}

/// The write cache mode of a disk, such as `write back`; `device` is its sysfs directory.
fn write_cache_mode(device: &Path) -> Option<String> {
    fs::read_to_string(device.join("queue/write_cache")).ok().map(|text| text.trim().to_owned())
}
