//! Figures of this process from the operating system; `None` where the system does not provide a figure.

use rustix::process::{Resource, getrlimit};
use std::sync::OnceLock;

/// The resident memory of this process in bytes.
pub fn resident_bytes() -> Option<u64> {
    read_memory_size("VmRSS:")
}

/// The size of this process's address space in bytes.
pub fn virtual_bytes() -> Option<u64> {
    read_memory_size("VmSize:")
}

/// The size in the field `name` of `/proc/self/status`, converted from KiB to bytes.
fn read_memory_size(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let size = text.lines().find_map(|line| line.strip_prefix(name))?;
    size.trim().split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The number of open file descriptors of this process.
pub fn open_file_count() -> Option<u64> {
    // Since Linux 6.2 the size of the directory is the number of descriptors. In older versions it is 0: the directory
    // has to be listed, which takes 2 ms for ten thousand files.
    match std::fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        count => Some(count),
    }
}

/// The soft limit on open file descriptors; `None` also if there is no limit.
pub fn open_file_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// When this process was started, in seconds since 1970. The value is computed once, so later changes of the system
/// clock do not affect it.
pub fn start_time() -> Option<f64> {
    static START_TIME: OnceLock<Option<f64>> = OnceLock::new();
    *START_TIME.get_or_init(read_start_time)
}

#[cfg(target_os = "linux")]
fn read_start_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name in parentheses, may contain spaces. Of the fields after it, the twentieth is
    // the start time, in hundredths of a second since boot.
    let (_, fields) = stat.rsplit_once(')')?;
    let start_time = fields.split_whitespace().nth(19)?.parse::<f64>().ok()? / 100.0;
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let process_age = since_boot.tv_sec as f64 + since_boot.tv_nsec as f64 / 1e9 - start_time;
    Some(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64() - process_age)
}

#[cfg(not(target_os = "linux"))]
fn read_start_time() -> Option<f64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn process_figures_are_plausible() {
        assert!(resident_bytes().unwrap() > 1 << 16 && virtual_bytes().unwrap() >= resident_bytes().unwrap());
        let count_before = open_file_count().unwrap();
        let _more_files = [0; 3].map(|_| std::fs::File::open("/dev/null").unwrap());
        assert!(
            count_before >= 3
                && open_file_count().unwrap() > 0
                && open_file_limit().is_none_or(|limit| limit >= count_before)
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - start_time().unwrap();
        assert!(age > -1.0 && age < 86_400.0, "{age}");
        assert_eq!(start_time(), start_time());
    }
}
