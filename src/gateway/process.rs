//! Figures of this process from the operating system; `None` where it does not provide them.

use rustix::process::{Resource, getrlimit};
use std::sync::OnceLock;

/// Resident memory of this process, in bytes.
pub fn resident() -> Option<u64> {
    of_status("VmRSS:")
}

/// Virtual memory of this process, in bytes.
pub fn addressed() -> Option<u64> {
    of_status("VmSize:")
}

/// A size in `/proc/self/status`, converted from KiB to bytes.
fn of_status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let size = text.lines().find_map(|line| line.strip_prefix(name))?;
    size.trim().split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// How many file descriptors this process has open.
pub fn open_files() -> Option<u64> {
    // Since Linux 6.2 the size of the directory is the number. Before, it has to be listed: 2 ms for ten thousand.
    match std::fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        known => Some(known),
    }
}

/// The limit on open file descriptors.
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// When this process was started, in seconds since 1970. The value stays the same when the clock is set later.
pub fn started() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(started_by_the_clock)
}

#[cfg(target_os = "linux")]
fn started_by_the_clock() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in parentheses, may contain spaces. In the fields after it, the start time is the twentieth,
    // in hundredths of a second since boot.
    let (_, fields) = stat.rsplit_once(')')?;
    let started = fields.split_whitespace().nth(19)?.parse::<f64>().ok()? / 100.0;
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let age = up.tv_sec as f64 + up.tv_nsec as f64 / 1e9 - started;
    Some(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64() - age)
}

#[cfg(not(target_os = "linux"))]
fn started_by_the_clock() -> Option<f64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn process_figures_are_plausible() {
        assert!(resident().unwrap() > 1 << 16 && addressed().unwrap() >= resident().unwrap());
        let before = open_files().unwrap();
        let _more = [0; 3].map(|_| std::fs::File::open("/dev/null").unwrap());
        assert!(before >= 3 && open_files().unwrap() > 0 && open_files_max().is_none_or(|most| most >= before));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let since = now - started().unwrap();
        assert!(since > -1.0 && since < 86_400.0, "{since}");
        assert_eq!(started(), started());
    }
}
