//! Divides the open files that the system allows a process, so that connections never use up the last ones.
//!
//! A node that runs out of file descriptors when it creates the next journal segment stops, as with a broken disk. So
//! each kind of connection has a share from the start, and the rest belongs to the node itself.

use crate::remote::failure::CliError;
use drave::limits::MEMBERS_MAX;
use drave::net;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of open files that a node needs for itself: the log and its spare segment, snapshots written, read and
/// received, listeners, epoll and signal descriptors, name lookups, certificates read again, and one connection that is
/// accepted only to be rejected.
const NODE_OPEN_FILES: u64 = 48;
/// The minimum number of open files with which a node starts.
const OPEN_FILES_MIN: u64 = 96;

/// The maximum number of open connections of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ConnectionShares {
    /// Connections from and to peers. No limit enforces this share, because the number of members bounds them.
    peers: u64,
    /// Connections that have not completed their handshake yet.
    handshakes: u64,
    /// HTTP connections for health requests while no further client is accepted.
    probes: u64,
    /// Connections of clients, of all protocols together.
    clients: u64,
}

impl ConnectionShares {
    /// Divides `files`, the number of open files; `None` if it is too small for a node.
    fn of(files: u64) -> Option<ConnectionShares> {
        let available_files = files.checked_sub(NODE_OPEN_FILES).filter(|_| files >= OPEN_FILES_MIN)?;
        let defaults = net::Options::default();
        // Each peer has a connection in each direction.
        let peers = (2 * MEMBERS_MAX as u64).min(available_files / 4);
        let handshakes = (defaults.handshakes_max as u64).min(available_files / 8);
        let probes = (defaults.probes_max as u64).min(available_files / 16);
        let clients = (defaults.clients_max as u64).min(available_files - peers - handshakes - probes);
        Some(ConnectionShares { peers, handshakes, probes, clients })
    }
}

/// Raises the limit of open files as far as the system allows, and limits the connections of each kind to their share.
/// Returns an error if the files are too few.
pub fn set_connection_limits(options: &mut net::Options) -> Result<(), CliError> {
    let files = raise_open_files_limit();
    let shares = ConnectionShares::of(files).ok_or_else(|| CliError {
        message: format!(
            "the system allows this process {files} open files, and a node needs {OPEN_FILES_MIN} at least\n  \
             see ulimit -Hn, or LimitNOFILE= of the unit"
        ),
        code: 78,
    })?;
    options.clients_max = options.clients_max.min(shares.clients as usize);
    options.handshakes_max = options.handshakes_max.min(shares.handshakes as usize);
    options.probes_max = options.probes_max.min(shares.probes as usize);
    if (options.clients_max as u64) < net::Options::default().clients_max as u64 {
        log::info!("{files} open files are allowed: at most {} clients are connected at once", options.clients_max);
    }
    Ok(())
}

/// Raises the limit of open files as far as the system allows. Returns the limit then in force.
fn raise_open_files_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let result = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit_in_force = if result.is_ok() { maximum } else { current };
    // `None` means that the system sets no limit.
    limit_in_force.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limits_leave_open_files_for_the_node() {
        assert_eq!(ConnectionShares::of(OPEN_FILES_MIN - 1), None);
        for files in (OPEN_FILES_MIN..2_000).chain([10_000, 20_000, u64::MAX]) {
            let ConnectionShares { peers, handshakes, probes, clients } = ConnectionShares::of(files).unwrap();
            assert!(peers + handshakes + probes + clients + NODE_OPEN_FILES <= files, "{files}");
            assert!(peers >= 10 && handshakes >= 4 && probes >= 2 && clients >= 16, "{files}: {handshakes} {clients}");
        }
        let ample_shares = ConnectionShares::of(20_000).unwrap();
        assert_eq!((ample_shares.clients, ample_shares.handshakes), (10_000, 256));
    }
}
