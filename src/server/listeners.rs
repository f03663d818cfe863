//! The listening sockets of a node, bound before it writes anything: a start that cannot listen changes nothing.

use super::error::ServerError;
use crate::config::{BindAddress, Config};
use crate::gateway::http::gateway as http;
use crate::gateway::redis::gateway as redis;
use crate::net::stream;
use mio::net::TcpListener;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How long an unknown name is looked up again: at boot the resolver may start after the node.
const NAME_WAIT: Duration = Duration::from_secs(60);
/// The pause between two look-ups of a name.
const NAME_PAUSE: Duration = Duration::from_millis(500);

/// The listening sockets of a node.
#[derive(Debug)]
pub struct Listeners {
    /// For nodes and native clients.
    pub(super) native: TcpListener,
    /// For Redis clients, if that gateway is on.
    pub(super) redis: Option<TcpListener>,
    /// For HTTP clients, if that gateway is on.
    pub(super) http: Option<TcpListener>,
}

impl Listeners {
    /// Binds all of them; the native one at `place`. A name that cannot be resolved is looked up again for a minute.
    ///
    /// # Errors
    ///
    /// [`ServerError::Listen`] with the address. If a gateway's address was not configured explicitly, the node runs
    /// without that gateway and warns instead.
    pub fn bind(config: &Config, place: &str) -> Result<Listeners, ServerError> {
        let native = listen_when_known(config, place)?;
        let port = native.local_addr()?.port();
        let redis =
            bind_gateway(config, ("Redis clients", "--resp"), &config.resp, port.checked_add(redis::PORT_ABOVE))?;
        let http = bind_gateway(config, ("HTTP clients", "--http"), &config.http, port.checked_add(http::PORT_ABOVE))?;
        Ok(Listeners { native, redis, http })
    }
}

fn listen_when_known(config: &Config, place: &str) -> Result<TcpListener, ServerError> {
    let began = Instant::now();
    let mut told = None;
    loop {
        match resolve(place) {
            Err(error) if is_transient(&error) && began.elapsed() < NAME_WAIT => {
                let second = began.elapsed().as_secs();
                if told.is_none_or(|told| second >= told + 5) {
                    told = Some(second);
                    log::warn!(node = config.id.get(); "cannot resolve the name in {place} yet ({error}): retrying");
                }
                thread::sleep(NAME_PAUSE);
            }
            resolved => {
                let listened = resolved.and_then(|addresses| listen_at_any(&addresses));
                let option = "--listen";
                return listened.map_err(|source| ServerError::Listen { address: place.to_owned(), option, source });
            }
        }
    }
}

/// Whether the name may be resolved later.
fn is_transient(error: &io::Error) -> bool {
    error.kind() != ErrorKind::InvalidInput
}

/// `beside` is the default port, derived from the native one.
fn bind_gateway(
    config: &Config,
    (who, option): (&str, &'static str),
    doorway: &BindAddress,
    beside: Option<u16>,
) -> Result<Option<TcpListener>, ServerError> {
    let place = match (doorway, beside) {
        (BindAddress::Off, _) | (BindAddress::Loopback, None) => return Ok(None),
        (BindAddress::At(place), _) => place.clone(),
        (BindAddress::Loopback, Some(port)) => format!("127.0.0.1:{port}"),
    };
    match resolve(&place).and_then(|addresses| listen_at_any(&addresses)) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if *doorway == BindAddress::Loopback => {
            log::warn!(node = config.id.get(); "cannot listen for {who} at {place}: {error}; this gateway is off");
            Ok(None)
        }
        Err(source) => Err(ServerError::Listen { address: place, option, source }),
    }
}

fn resolve(place: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(place.to_socket_addrs()?.collect())
}

/// Listens on the first of these addresses that is local and free.
fn listen_at_any(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the name resolves to no address");
    for address in addresses {
        match stream::listen(*address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
