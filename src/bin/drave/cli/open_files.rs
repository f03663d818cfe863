//! Divides the open files that the system allows a process, so that connections never use up the last ones.
//!
//! A node that runs out of file descriptors when it creates the next journal segment stops, as with a broken disk. So
//! each kind of connection has a share from the start, and the rest belongs to the node itself.

use crate::remote::failure::CliError;
use drave::limits::MEMBERS_MAX;
use drave::net;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The files that a node needs for itself: the log and the segment made ahead, snapshots written, read and received,
/// listeners, polls and signals, name lookups, certificates read again, and one connection that is accepted to be
/// rejected.
const OWN: u64 = 48;
/// The fewest open files with which a node starts.
const LEAST: u64 = 96;

/// How many connections of each kind may be open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shares {
    /// Connections from and to peers. No limit enforces it: their number depends on the number of members.
    peers: u64,
    strangers: u64,
    probes: u64,
    clients: u64,
}

impl Shares {
    /// The shares of that many open files; `None` if they are too few for a node.
    fn of(files: u64) -> Option<Shares> {
        let left = files.checked_sub(OWN).filter(|_| files >= LEAST)?;
        let defaults = net::Options::default();
        // Each peer has a connection in each direction.
        let peers = (2 * MEMBERS_MAX as u64).min(left / 4);
        let strangers = (defaults.handshakes_max as u64).min(left / 8);
        let probes = (defaults.probes_max as u64).min(left / 16);
        let clients = (defaults.clients_max as u64).min(left - peers - strangers - probes);
        Some(Shares { peers, strangers, probes, clients })
    }
}

/// Raises the limit of open files as far as the system allows, and divides them. Returns an error if they are too few.
pub fn set_connection_limits(options: &mut net::Options) -> Result<(), CliError> {
    let files = raise_limit();
    let shares = Shares::of(files).ok_or_else(|| CliError {
        what: format!("the system allows this process {files} open files, and a node needs {LEAST} at least\n  see ulimit -Hn, or LimitNOFILE= of the unit"),
        code: 78,
    })?;
    options.clients_max = options.clients_max.min(shares.clients as usize);
    options.handshakes_max = options.handshakes_max.min(shares.strangers as usize);
    options.probes_max = options.probes_max.min(shares.probes as usize);
    if (options.clients_max as u64) < net::Options::default().clients_max as u64 {
        log::info!("{files} open files are allowed: at most {} clients are connected at once", options.clients_max);
    }
    Ok(())
}

/// Raises the limit of open files as far as the system allows. Returns the limit then in force.
fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = if raised.is_ok() { maximum } else { current };
    // None means that there is no limit.
    allowed.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limits_leave_open_files_for_the_node() {
        assert_eq!(Shares::of(LEAST - 1), None);
        for files in (LEAST..2_000).chain([10_000, 20_000, u64::MAX]) {
            let Shares { peers, strangers, probes, clients } = Shares::of(files).unwrap();
            assert!(peers + strangers + probes + clients + OWN <= files, "{files}");
            assert!(peers >= 10 && strangers >= 4 && probes >= 2 && clients >= 16, "{files}: {strangers} {clients}");
        }
        let ample = Shares::of(20_000).unwrap();
        assert_eq!((ample.clients, ample.strangers), (10_000, 256));
    }
}
