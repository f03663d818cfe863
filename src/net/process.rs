//! What the system says of this process. Where it does not say something, nothing is said.

use rustix::process::{Resource, getrlimit};
use std::sync::OnceLock;

/// How many bytes of memory this process has.
pub fn resident() -> Option<u64> {
    of_status("VmRSS:")
}

/// How many bytes of addresses this process has, most of which may have no memory.
pub fn addressed() -> Option<u64> {
    of_status("VmSize:")
}

/// A size that `/proc/self/status` tells in KiB, in bytes.
fn of_status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let size = text.lines().find_map(|line| line.strip_prefix(name))?;
    size.trim().split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// How many files and sockets this process has open.
pub fn open_files() -> Option<u64> {
    // Linux tells the number as the size of the directory since 6.2; before, it has to be read: 2 ms for ten thousand.
    match std::fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        known => Some(known),
    }
}

/// How many it may have open.
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// When this process was started, in seconds since 1970: the same whenever it is asked, however the clock is set since.
pub fn started() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(started_by_the_clock)
}

#[cfg(target_os = "linux")]
fn started_by_the_clock() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold blanks. Behind it: the start is the twentieth field, in
    // hundredths of a second since the machine was.
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
    fn the_system_says_how_this_process_is() {
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
