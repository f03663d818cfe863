//! SIGHUP: reloads keys and password; and logs the validity of certificates.

use crate::driver::inbox::{InboxSender, LoopMessage};
use crate::net::credentials::CredentialFiles;
use crate::secure::{Keys, Validity};
use log::Level;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

/// A certificate that expires sooner than this causes a warning.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
/// The interval of these warnings while a node runs.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Reloads credentials on request, one request at a time, on a separate thread, since a disk may be slow. Warns once a
/// day of certificates that expire soon.
pub struct Reloader {
    ask: Option<SyncSender<()>>,
    node: u64,
}

impl Reloader {
    /// Starts the thread, if there is anything to read. Posts what it reads; errors are logged, and nothing changes
    /// then. The thread ends with the reloader.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn start(files: CredentialFiles, keys: Option<Keys>, post: InboxSender, node: u64) -> io::Result<Reloader> {
        if files.is_empty() {
            return Ok(Reloader { ask: None, node });
        }
        // A request while another one waits is served by that one, which has read nothing yet.
        let (ask, asked) = sync_channel(1);
        let mut keys = keys;
        let read = move || {
            loop {
                match asked.recv_timeout(WARN_EVERY) {
                    Ok(()) => keys = reload(&files, &post, node).or(keys),
                    Err(RecvTimeoutError::Timeout) => tell_validity(node, keys.as_ref(), Level::Warn),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new().name("reload".into()).spawn(read)?;
        Ok(Reloader { ask: Some(ask), node })
    }

    /// Requests a reload, without waiting.
    pub fn ask(&self) {
        match &self.ask {
            Some(ask) => _ = ask.try_send(()),
            None => log::info!(node = self.node; "SIGHUP: nothing to reload: no certificates, no password"),
        }
    }
}

/// Returns the new keys, if any were read.
fn reload(files: &CredentialFiles, post: &InboxSender, node: u64) -> Option<Keys> {
    match files.read() {
        Ok(fresh) => {
            log::info!(node; "SIGHUP: {} reloaded, for new connections", named(files));
            tell_validity(node, fresh.keys.as_ref(), Level::Info);
            let keys = fresh.keys.clone();
            // If the reactor is gone, the node is stopping.
            let _there_or_gone = post.post(LoopMessage::Credentials(Box::new(fresh)));
            keys
        }
        Err(what) => {
            log::error!(node; "SIGHUP: {what}; the former credentials stay in use");
            None
        }
    }
}

fn named(files: &CredentialFiles) -> &'static str {
    match (&files.keys, &files.password) {
        (Some(_), Some(_)) => "certificates and password were",
        (Some(_), None) => "certificates were",
        (None, _) => "the password was",
    }
}

/// Logs until when certificates are valid, and warns of those that expire soon: only lines at `least` or more
/// important.
pub fn tell_validity(node: u64, keys: Option<&Keys>, least: Level) {
    let Validity { own, authority } = keys.map(Keys::validity).unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let both = [("this node's certificate", own), ("the certificate authority", authority)];
    for (which, end) in both.into_iter().filter_map(|(which, end)| Some((which, end?))) {
        let (line, warns) = validity(now, which, end);
        let level = if warns { Level::Warn } else { Level::Info };
        if level <= least {
            log::log!(level, node; "{line}");
        }
    }
}

/// The line for a certificate that expires that many seconds after 1970, and whether it is a warning.
fn validity(now: Duration, which: &str, end: u64) -> (String, bool) {
    let end = Duration::from_secs(end);
    // humantime cannot format dates beyond the year 9999.
    let at = SystemTime::UNIX_EPOCH + end.min(Duration::from_secs(253_402_300_799));
    let at = humantime::format_rfc3339_seconds(at);
    match end.checked_sub(now) {
        None => (format!("{which} expired at {at}: replace it, and send SIGHUP"), true),
        Some(left) => {
            let days = left.as_secs() / 86_400;
            let soon = left < WARN_BEFORE;
            let advice = if soon { ": replace it, and send SIGHUP" } else { "" };
            (format!("{which} is valid until {at}, {days} days from now{advice}"), soon)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_near_expiry_causes_a_warning() {
        let now = Duration::from_secs(1_800_000_000);
        let day = 86_400;
        let says = |end: u64| validity(now, "this node's certificate", end);
        assert_eq!(
            says(1_800_000_000 + 30 * day),
            ("this node's certificate is valid until 2027-02-14T08:00:00Z, 30 days from now".to_owned(), false)
        );
        let (line, warns) = says(1_800_000_000 + 13 * day);
        assert!(warns && line.contains("13 days from now: replace it, and send SIGHUP"), "{line}");
        let (line, warns) = says(1_800_000_000 - 1);
        assert!(warns && line.contains("expired at 2027-01-15T07:59:59Z"), "{line}");
        assert!(says(u64::MAX).0.contains("valid until 9999-12-31"));
    }
}
