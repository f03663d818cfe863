//! A TCP proxy in front of each node, which can isolate a node from its peers and clients.
//!
//! An isolated node is cut off from all peers and clients without any error: connections stay open, new connections
//! are accepted, and no byte is forwarded in either direction until the isolation ends. The bytes held back are then
//! delivered late, as a real network delivers retransmissions.

use crate::remote::failure::CliError;
use bytes::BytesMut;
use drave::wire::frame::FrameReader;
use drave::wire::hello::{CallerKind, Hello};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The maximum number of bytes read at once. Further bytes wait in the kernel's buffers.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Holds back the traffic of an isolated node.
#[derive(Debug, Default)]
struct IsolationGate {
    isolated_node: Mutex<Option<u64>>,
    isolation_changed: Condvar,
    is_stopping: AtomicBool,
}

impl IsolationGate {
    /// Blocks while the node with id `from` or `to` is isolated. Id 0 is a client.
    fn wait_while_isolated(&self, from: u64, to: u64) {
        let isolated_node = self.isolated_node.lock().unwrap_or_else(PoisonError::into_inner);
        let is_blocked = |isolated_node: &mut Option<u64>| isolated_node.is_some_and(|node| node == from || node == to);
        drop(self.isolation_changed.wait_while(isolated_node, is_blocked).unwrap_or_else(PoisonError::into_inner));
    }

    fn set_isolated(&self, node: Option<u64>) {
        *self.isolated_node.lock().unwrap_or_else(PoisonError::into_inner) = node;
        self.isolation_changed.notify_all();
    }
}

/// The running proxies, one per node. They stop when this value is dropped.
#[derive(Debug)]
pub struct Proxy {
    gate: Arc<IsolationGate>,
    listen_addresses: Vec<SocketAddr>,
}

impl Proxy {
    /// Starts the proxies. The first listener forwards its connections to the first node, and so on.
    pub fn start(listeners: Vec<TcpListener>, node_addresses: &[String]) -> Result<Proxy, CliError> {
        let loopback_error = |error: io::Error| CliError { message: format!("loopback: {error}"), code: 74 };
        let gate = Arc::new(IsolationGate::default());
        let mut listen_addresses = Vec::new();
        for ((listener, node_address), to) in listeners.into_iter().zip(node_addresses).zip(1..) {
            listen_addresses.push(listener.local_addr().map_err(loopback_error)?);
            let (gate, node_address) = (gate.clone(), node_address.clone());
            std::thread::spawn(move || accept_connections(&listener, &gate, to, &node_address));
        }
        Ok(Proxy { gate, listen_addresses })
    }

    /// Isolates the node with this id. At most one node is isolated at a time.
    pub fn isolate(&self, node: u64) {
        self.gate.set_isolated(Some(node));
    }

    /// Ends the isolation. The bytes that were held back are then delivered.
    pub fn heal(&self) {
        self.gate.set_isolated(None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.is_stopping.store(true, Ordering::Relaxed);
        self.heal();
        for address in &self.listen_addresses {
            // The connection wakes a thread that blocks in accept; a failure means that the thread has ended.
            let _wakes_accept = TcpStream::connect(address);
        }
    }
}

/// Forwards each connection that `listener` accepts to the node with id `to`, which listens at `node_address`.
fn accept_connections(listener: &TcpListener, gate: &Arc<IsolationGate>, to: u64, node_address: &str) {
    for stream in listener.incoming() {
        if gate.is_stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (gate, node_address) = (gate.clone(), node_address.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = forward_connection(stream, &gate, to, &node_address) {
                log::debug!("a connection to {node_address} ends: {error}");
            }
        });
    }
}

/// Forwards the connection of `caller` to the node with id `to`, which listens at `node_address`. The first frame
/// identifies the caller.
fn forward_connection(mut caller: TcpStream, gate: &Arc<IsolationGate>, to: u64, node_address: &str) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let (from, bytes_read) = read_hello(&mut caller)?;
    gate.wait_while_isolated(from, to);
    let mut callee = TcpStream::connect(node_address)?;
    callee.set_nodelay(true)?;
    callee.write_all(&bytes_read)?;
    let reverse_streams_and_gate = (callee.try_clone()?, caller.try_clone()?, gate.clone());
    std::thread::spawn(move || {
        let (callee, caller, gate) = reverse_streams_and_gate;
        forward_bytes(callee, caller, &gate, from, to);
    });
    forward_bytes(caller, callee, gate, from, to);
    Ok(())
}

/// Reads the first frame of a connection; returns the caller's node id (0 for a client) and all bytes read.
fn read_hello(caller: &mut TcpStream) -> io::Result<(u64, Vec<u8>)> {
    let (mut bytes_read, mut reader, mut input) = (Vec::new(), FrameReader::default(), BytesMut::new());
    let mut chunk = [0; 512];
    loop {
        let invalid_data = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
        if let Some(frame) = reader.next(&mut input).map_err(invalid_data)? {
            return Ok(match Hello::read(frame).map_err(invalid_data)?.caller {
                CallerKind::Peer { node, .. } => (node.get(), bytes_read),
                CallerKind::Client | CallerKind::Operator => (0, bytes_read),
            });
        }
        let n = caller.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes_read.extend_from_slice(&chunk[..n]);
        input.extend_from_slice(&chunk[..n]);
    }
}

/// Forwards bytes in one direction until the stream ends, then closes both connections.
fn forward_bytes(mut source: TcpStream, mut sink: TcpStream, gate: &IsolationGate, from: u64, to: u64) {
    let mut chunk = vec![0; READ_BUFFER_BYTES];
    loop {
        let read_result = source.read(&mut chunk);
        gate.wait_while_isolated(from, to);
        match read_result {
            Ok(n) if n > 0 && sink.write_all(&chunk[..n]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // Either end may have closed its connection: both are closed now.
    let _may_be_closed = (sink.shutdown(Shutdown::Both), source.shutdown(Shutdown::Both));
}
