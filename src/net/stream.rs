//! Creates and tunes sockets.

use super::options::Options;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Maximum connections that the kernel queues before they are accepted.
const BACKLOG: i32 = 1024;
/// A peer that acknowledges nothing for this long is considered dead by the kernel too.
const PEER_GONE: Duration = Duration::from_secs(5);
/// After this long without traffic, the kernel probes whether a client is alive.
const CLIENT_IDLE: Duration = Duration::from_secs(60);

/// Opens a listening socket.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    // A restarted node must not wait for its old connections to expire.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Tunes an outbound connection to a peer. A failure makes it slower, not wrong.
pub fn tune_peer(stream: &TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(options.unsent_bytes)?;
        socket.set_tcp_user_timeout(Some(PEER_GONE))?;
    }
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_GONE).with_interval(Duration::from_secs(1)))
}

/// Tunes an inbound connection of a peer, on which this node sends nothing. A dead connection must be noticed soon,
/// because its successor is not accepted before.
pub fn tune_inbound_peer(stream: &TcpStream) -> io::Result<()> {
    let second = Duration::from_secs(1);
    SockRef::from(stream)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3))
}

/// Tunes an inbound connection. A failure makes it slower, not wrong.
pub fn tune_caller(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(CLIENT_IDLE))
}
