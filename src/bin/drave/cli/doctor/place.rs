//! The checks of a directory on this machine: its file system, its disk, and the cost of a sync.

use super::findings::{Finding, Level, file_system, finding};
use crate::loadgen::raw::syncs_at;
use crate::remote::failure::CliError;
use drave::disk::fs::FsDisk;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Milliseconds. Above this p99, one sync in a hundred delays every request that waits for it.
const SLOW_MS: f64 = 30.0;
/// Milliseconds. Below this p50, with a write-back cache, perhaps only the cache answers.
const QUICK_MS: f64 = 0.1;

/// Measures the directory, with temporary files that are removed afterwards.
pub fn examine(directory: &Path, span: Duration) -> Result<Vec<Finding>, CliError> {
    let place = directory.display().to_string();
    let failed = |error: std::io::Error| CliError { what: format!("{place}: {error}"), code: 74 };
    let disk = FsDisk::at(directory).map_err(failed)?;
    let cache = block_device(directory).and_then(|device| cache_of(&device));
    let histogram = syncs_at(&disk, 4 << 10, span).map_err(failed)?;
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    let (p50, p99, max) = (ms(0.5), ms(0.99), ms(1.0));
    let figures = format!("p50 {p50:.2} · p99 {p99:.2} · max {max:.2} ms of {} syncs of 4 KiB", histogram.len());
    let is_quick = p50 < QUICK_MS && cache.as_deref() == Some("write back") && !disk.is_in_memory();
    let synced = match () {
        () if p99 > SLOW_MS => (Level::Warn, format!("{figures} · a slow disk makes for a slow cluster")),
        () if is_quick => (Level::Warn, format!("{figures} · check that its cache keeps data through a power loss")),
        () => (Level::Pass, figures),
    };
    let told = match cache.as_deref() {
        Some("write back") => (Level::Pass, "write back: each sync flushes it".to_owned()),
        Some(other) => (Level::Pass, other.to_owned()),
        None => (Level::Pass, "unknown: the directory is not on a local block device".to_owned()),
    };
    Ok(vec![
        file_system(format!("{place} file system"), disk.file_system()),
        finding(told.0, format!("{place} disk cache"), told.1),
        finding(synced.0, format!("{place} fsync"), synced.1),
        room(&disk, place),
    ])
}

/// Whether there is room for the log, a snapshot and the reserve: at least a few segments of the usual size.
fn room(disk: &FsDisk, place: String) -> Finding {
    use bytesize::ByteSize;
    use drave::disk::Disk;
    const FEW: u64 = 1 << 30;
    let what = format!("{place} room");
    match disk.free() {
        Ok(free) if free < FEW => finding(
            Level::Warn,
            what,
            format!("{}: little space for log and snapshots", ByteSize(free).display().iec()),
        ),
        Ok(free) => finding(Level::Pass, what, ByteSize(free).display().iec().to_string()),
        Err(error) => finding(Level::Warn, what, format!("unknown: {error}")),
    }
}

/// The sysfs directory of the disk that holds a directory.
fn block_device(directory: &Path) -> Option<PathBuf> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition has no queue of its own.
    if place.join("queue").is_dir() { Some(place) } else { place.parent().map(Path::to_owned) }
}

fn cache_of(device: &Path) -> Option<String> {
    fs::read_to_string(device.join("queue/write_cache")).ok().map(|text| text.trim().to_owned())
}
