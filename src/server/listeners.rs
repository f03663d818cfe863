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

/// How long the look-up of the host name to listen on is retried: at boot the resolver may start after the node.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two look-ups of the host name.
const RESOLVE_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The listening sockets of a node.
#[derive(Debug)]
pub struct Listeners {
    /// The listener for nodes and native clients.
    pub(super) native: TcpListener,
    /// The listener for Redis clients; `None` if that gateway is off.
    pub(super) redis: Option<TcpListener>,
    /// The listener for HTTP clients; `None` if that gateway is off.
    pub(super) http: Option<TcpListener>,
}

impl Listeners {
    /// Binds all listeners, the native one at `address`. If the host name in `address` cannot be resolved, the look-up
    /// is retried for a minute.
    ///
    /// # Errors
    ///
    /// [`ServerError::Listen`] with the address. If a gateway's address was not configured explicitly, the node runs
    /// without that gateway and warns instead.
    pub fn bind(config: &Config, address: &str) -> Result<Listeners, ServerError> {
        let native = listen_once_resolved(config, address)?;
        let port = native.local_addr()?.port();
        let redis =
            bind_gateway(config, ("Redis clients", "--resp"), &config.resp, port.checked_add(redis::PORT_OFFSET))?;
        let http = bind_gateway(config, ("HTTP clients", "--http"), &config.http, port.checked_add(http::PORT_OFFSET))?;
        Ok(Listeners { native, redis, http })
    }
}

fn listen_once_resolved(config: &Config, address: &str) -> Result<TcpListener, ServerError> {
    let started_at = Instant::now();
    let mut last_warning_seconds = None;
    loop {
        match resolve(address) {
            Err(error) if is_transient(&error) && started_at.elapsed() < RESOLVE_TIMEOUT => {
                let elapsed_seconds = started_at.elapsed().as_secs();
                if last_warning_seconds.is_none_or(|seconds| elapsed_seconds >= seconds + 5) {
                    last_warning_seconds = Some(elapsed_seconds);
                    log::warn!(node = config.id.get(); "cannot resolve the name in {address} yet ({error}): retrying");
                }
                thread::sleep(RESOLVE_RETRY_INTERVAL);
            }
            resolved => {
                let listener = resolved.and_then(|addresses| listen_at_any(&addresses));
                let option = "--listen";
                return listener.map_err(|source| ServerError::Listen { address: address.to_owned(), option, source });
            }
        }
    }
}

/// Whether a host name that could not be resolved with this error may be resolved later.
fn is_transient(error: &io::Error) -> bool {
    error.kind() != ErrorKind::InvalidInput
}

/// Binds the listener of a gateway, if it is on. `default_port` is derived from the native port.
fn bind_gateway(
    config: &Config,
    (clients, option): (&str, &'static str),
    bind_address: &BindAddress,
    default_port: Option<u16>,
) -> Result<Option<TcpListener>, ServerError> {
    let address = match (bind_address, default_port) {
        (BindAddress::Off, _) | (BindAddress::Loopback, None) => return Ok(None),
        (BindAddress::At(address), _) => address.clone(),
        (BindAddress::Loopback, Some(port)) => format!("127.0.0.1:{port}"),
    };
    match resolve(&address).and_then(|addresses| listen_at_any(&addresses)) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if *bind_address == BindAddress::Loopback => {
            let node = config.id.get();
            log::warn!(node; "cannot listen for {clients} at {address}: {error}; this gateway is off");
            Ok(None)
        }
        Err(source) => Err(ServerError::Listen { address, option, source }),
    }
}

fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

/// Listens on the first of `addresses` that is local and free.
fn listen_at_any(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut last_error = io::Error::new(ErrorKind::NotFound, "the name resolves to no address");
    for address in addresses {
        match stream::listen(*address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}
