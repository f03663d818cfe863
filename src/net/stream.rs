//! Creates sockets and sets their TCP options.

use super::options::Options;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Maximum connections that the kernel queues before they are accepted.
const LISTEN_BACKLOG: i32 = 1024;
/// If a peer acknowledges no bytes for this long, the kernel closes the connection.
const PEER_ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without traffic, the kernel sends keepalive probes to a client.
const CLIENT_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Opens a non-blocking listening socket at an address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket_type = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), socket_type, Some(Protocol::TCP))?;
    // A restarted node must not wait for its old connections to expire.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Sets the options of an outbound connection to a peer. After an error the connection works, but more slowly.
pub fn tune_outbound_peer(stream: &TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(options.peer_unsent_bytes_max)?;
        socket.set_tcp_user_timeout(Some(PEER_ACK_TIMEOUT))?;
    }
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_ACK_TIMEOUT).with_interval(Duration::from_secs(1)))
}

/// Sets the options of an inbound connection of a peer, on which this node sends nothing. Keepalive detects a dead
/// connection within seconds: until then the peer's next process may be rejected.
pub fn tune_inbound_peer(stream: &TcpStream) -> io::Result<()> {
    let second = Duration::from_secs(1);
    SockRef::from(stream)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3))
}

/// Sets the options of an inbound connection. After an error the connection works, but more slowly.
pub fn tune_inbound(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(CLIENT_KEEPALIVE_IDLE))
}
