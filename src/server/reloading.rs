//! Reloads keys and password after a SIGHUP, and logs until when certificates are valid.

use crate::driver::inbox::{InboxSender, LoopMessage};
use crate::net::credentials::CredentialFiles;
use crate::secure::{CertificateExpiry, Keys};
use log::Level;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

/// A certificate that is valid for less than this time causes a warning.
const EXPIRY_WARNING_PERIOD: Duration = Duration::from_secs(14 * 24 * 3600);
/// The interval of warnings about certificates that expire soon.
const EXPIRY_WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Reloads credentials on request, one request at a time, on a separate thread, since a disk may be slow. Warns once a
/// day of certificates that expire soon.
pub struct CredentialReloader {
    reload_requests: Option<SyncSender<()>>,
    node: u64,
}

impl CredentialReloader {
    /// Starts the reloading thread, if there are files to read. The thread sends new credentials to `inbox`; after an
    /// error, which is logged, the former credentials stay in use. The thread ends when the reloader is dropped.
    ///
    /// # Errors
    ///
    /// The system cannot start a thread.
    pub fn start(
        files: CredentialFiles,
        keys: Option<Keys>,
        inbox: InboxSender,
        node: u64,
    ) -> io::Result<CredentialReloader> {
        if files.is_empty() {
            return Ok(CredentialReloader { reload_requests: None, node });
        }
        // The queue has one slot: a second waiting request is dropped, since the first one has read no file yet.
        let (reload_requests, receiver) = sync_channel(1);
        let mut keys = keys;
        let handle_requests = move || {
            loop {
                match receiver.recv_timeout(EXPIRY_WARNING_INTERVAL) {
                    Ok(()) => keys = reload_credentials(&files, &inbox, node).or(keys),
                    Err(RecvTimeoutError::Timeout) => log_validity(node, keys.as_ref(), Level::Warn),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new().name("reload".into()).spawn(handle_requests)?;
        Ok(CredentialReloader { reload_requests: Some(reload_requests), node })
    }

    /// Requests a reload, without waiting.
    pub fn request_reload(&self) {
        match &self.reload_requests {
            Some(requests) => _ = requests.try_send(()),
            None => log::info!(node = self.node; "SIGHUP: nothing to reload: no certificates, no password"),
        }
    }
}

/// Reads the files and sends the credentials to the event loop. Returns the new keys, if any were read.
fn reload_credentials(files: &CredentialFiles, inbox: &InboxSender, node: u64) -> Option<Keys> {
    match files.read() {
        Ok(credentials) => {
            log::info!(node; "SIGHUP: {} reloaded, for new connections", reloaded_text(files));
            log_validity(node, credentials.keys.as_ref(), Level::Info);
            let keys = credentials.keys.clone();
            // If the reactor is gone, the node is stopping.
            let _loop_may_have_ended = inbox.send(LoopMessage::Credentials(Box::new(credentials)));
            keys
        }
        Err(error) => {
            log::error!(node; "SIGHUP: {error}; the former credentials stay in use");
            None
        }
    }
}

fn reloaded_text(files: &CredentialFiles) -> &'static str {
    match (&files.keys, &files.password) {
        (Some(_), Some(_)) => "certificates and password were",
        (Some(_), None) => "certificates were",
        (None, _) => "the password was",
    }
}

/// Logs until when certificates are valid, and warns of those that expire soon. Lines less important than `min_level`
/// are left out.
pub fn log_validity(node: u64, keys: Option<&Keys>, min_level: Level) {
    let CertificateExpiry { own_expires_at, authority_expires_at } = keys.map(Keys::expiry).unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let certificates =
        [("this node's certificate", own_expires_at), ("the certificate authority", authority_expires_at)];
    for (certificate_name, end) in
        certificates.into_iter().filter_map(|(certificate_name, end)| Some((certificate_name, end?)))
    {
        let (line, is_warning) = validity_line(now, certificate_name, end);
        let level = if is_warning { Level::Warn } else { Level::Info };
        if level <= min_level {
            log::log!(level, node; "{line}");
        }
    }
}

/// The line for the certificate `certificate_name` that expires `end` seconds after 1970, and whether it is a warning.
fn validity_line(now: Duration, certificate_name: &str, end: u64) -> (String, bool) {
    let end = Duration::from_secs(end);
    // humantime cannot format dates beyond the year 9999.
    let end_date = SystemTime::UNIX_EPOCH + end.min(Duration::from_secs(253_402_300_799));
    let end_date = humantime::format_rfc3339_seconds(end_date);
    match end.checked_sub(now) {
        None => (format!("{certificate_name} expired at {end_date}: replace it, and send SIGHUP"), true),
        Some(time_left) => {
            let days = time_left.as_secs() / 86_400;
            let expires_soon = time_left < EXPIRY_WARNING_PERIOD;
            let advice = if expires_soon { ": replace it, and send SIGHUP" } else { "" };
            (format!("{certificate_name} is valid until {end_date}, {days} days from now{advice}"), expires_soon)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_near_expiry_causes_a_warning() {
        let now = Duration::from_secs(1_800_000_000);
        let day_seconds = 86_400;
        let line_for = |end: u64| validity_line(now, "this node's certificate", end);
        assert_eq!(
            line_for(1_800_000_000 + 30 * day_seconds),
            ("this node's certificate is valid until 2027-02-14T08:00:00Z, 30 days from now".to_owned(), false)
        );
        let (line, warns) = line_for(1_800_000_000 + 13 * day_seconds);
        assert!(warns && line.contains("13 days from now: replace it, and send SIGHUP"), "{line}");
        let (line, warns) = line_for(1_800_000_000 - 1);
        assert!(warns && line.contains("expired at 2027-01-15T07:59:59Z"), "{line}");
        assert!(line_for(u64::MAX).0.contains("valid until 9999-12-31"));
    }
}
