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

/// Bytes read at once. The kernel's buffers hold the rest.
const CHUNK: usize = 64 << 10;

/// Holds back the traffic of an isolated node.
#[derive(Debug, Default)]
struct Gate {
    cut: Mutex<Option<u64>>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Gate {
    /// Blocks while `from` or `to` is isolated. Id 0 is a client.
    fn pass(&self, from: u64, to: u64) {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |cut: &mut Option<u64>| cut.is_some_and(|node| node == from || node == to);
        drop(self.changed.wait_while(cut, held).unwrap_or_else(PoisonError::into_inner));
    }

    fn set(&self, node: Option<u64>) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = node;
        self.changed.notify_all();
    }
}

/// The proxies of all nodes.
#[derive(Debug)]
pub struct Proxy {
    gate: Arc<Gate>,
    doors: Vec<SocketAddr>,
}

impl Proxy {
    /// Forwards the connections of each listener to the node at the same place in `nodes`, node 1 first.
    pub fn start(listeners: Vec<TcpListener>, nodes: &[String]) -> Result<Proxy, CliError> {
        let trouble = |error: io::Error| CliError { what: format!("loopback: {error}"), code: 74 };
        let gate = Arc::new(Gate::default());
        let mut doors = Vec::new();
        for ((listener, node), to) in listeners.into_iter().zip(nodes).zip(1..) {
            doors.push(listener.local_addr().map_err(trouble)?);
            let (gate, node) = (gate.clone(), node.clone());
            std::thread::spawn(move || accept(&listener, &gate, to, &node));
        }
        Ok(Proxy { gate, doors })
    }

    /// Isolates a node.
    pub fn cut(&self, node: u64) {
        self.gate.set(Some(node));
    }

    /// Ends the isolation.
    pub fn heal(&self) {
        self.gate.set(None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.stop.store(true, Ordering::Relaxed);
        self.heal();
        for door in &self.doors {
            // The connection wakes a thread that blocks in accept; a failure means that the thread has ended.
            let _knock = TcpStream::connect(door);
        }
    }
}

fn accept(listener: &TcpListener, gate: &Arc<Gate>, to: u64, node: &str) {
    for stream in listener.incoming() {
        if gate.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (gate, node) = (gate.clone(), node.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = forward_connection(stream, &gate, to, &node) {
                log::debug!("a connection to {node} ends: {error}");
            }
        });
    }
}

/// Forwards one connection. Its first frame identifies the caller.
fn forward_connection(mut caller: TcpStream, gate: &Arc<Gate>, to: u64, node: &str) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let (from, read) = read_hello(&mut caller)?;
    gate.pass(from, to);
    let mut callee = TcpStream::connect(node)?;
    callee.set_nodelay(true)?;
    callee.write_all(&read)?;
    let back = (callee.try_clone()?, caller.try_clone()?, gate.clone());
    std::thread::spawn(move || {
        let (callee, caller, gate) = back;
        pump(callee, caller, &gate, from, to);
    });
    pump(caller, callee, gate, from, to);
    Ok(())
}

/// Reads the first frame; returns the caller's node id (0 for a client) and all bytes read.
fn read_hello(caller: &mut TcpStream) -> io::Result<(u64, Vec<u8>)> {
    let (mut read, mut reader, mut input) = (Vec::new(), FrameReader::default(), BytesMut::new());
    let mut chunk = [0; 512];
    loop {
        let odd = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
        if let Some(frame) = reader.next(&mut input).map_err(odd)? {
            return Ok(match Hello::read(frame).map_err(odd)?.caller {
                CallerKind::Peer { node, .. } => (node.get(), read),
                CallerKind::Client | CallerKind::Operator => (0, read),
            });
        }
        let n = caller.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&chunk[..n]);
        input.extend_from_slice(&chunk[..n]);
    }
}

/// Forwards bytes in one direction until the stream ends, then closes both connections.
fn pump(mut source: TcpStream, mut sink: TcpStream, gate: &Gate, from: u64, to: u64) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = source.read(&mut chunk);
        gate.pass(from, to);
        match read {
            Ok(n) if n > 0 && sink.write_all(&chunk[..n]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // Either end may have closed: close the other one as well.
    let _gone = (sink.shutdown(Shutdown::Both), source.shutdown(Shutdown::Both));
}
