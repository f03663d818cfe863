//! Sockets, tuned for what goes over them.

use super::options::Options;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How many callers the system keeps waiting for us.
const BACKLOG: i32 = 1024;
/// A peer that acknowledges nothing for this long is taken for gone by the system too.
const PEER_GONE: Duration = Duration::from_secs(5);
/// A client that says nothing for this long is asked by the system whether it is there.
const CLIENT_IDLE: Duration = Duration::from_secs(60);

/// Listens there.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    // A node that is started again must not wait for its old connections to fade.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Tunes a connection that peers speak over. Failing to is slower, not wrong.
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

/// Tunes a connection that a peer came in on, which speaks and is not spoken to: one that is gone without a
/// word must not be taken for alive much longer, for whoever comes in its place waits for that.
pub fn tune_speaker(stream: &TcpStream) -> io::Result<()> {
    let second = Duration::from_secs(1);
    SockRef::from(stream)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3))
}

/// Tunes a connection that a caller came in on. Failing to is slower, not wrong.
pub fn tune_caller(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(CLIENT_IDLE))
}
