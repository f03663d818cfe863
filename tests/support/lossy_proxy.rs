//! A proxy in front of a node. It loses the node's response to one request.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy that forwards connections to a node, except the response to the first request that contains the marker. The
/// proxy closes the connection of that request instead, once the test permits this.
pub struct LossyProxy {
    /// The address on which the proxy listens.
    pub address: String,
    /// Receives a message when the node has sent the response that the proxy does not forward.
    pub response_lost: Receiver<()>,
    /// Permits the proxy to close the connection of the lost response.
    pub close_permit: Sender<()>,
}

/// The proxy's ends of the channels in [`LossyProxy`]. `None` once the connection of the lost response has taken them.
type ProxyChannels = Arc<Mutex<Option<(Sender<()>, Receiver<()>)>>>;

impl LossyProxy {
    /// Starts the proxy, which ends with the test's process.
    pub fn start(node_address: &str, marker: &str) -> LossyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ((loss_sender, response_lost), (close_permit, permit_receiver)) = (channel(), channel());
        let channels: ProxyChannels = Arc::new(Mutex::new(Some((loss_sender, permit_receiver))));
        let (node_address, marker) = (node_address.to_owned(), marker.to_owned().into_bytes());
        thread::spawn(move || {
            for client in listener.incoming() {
                if let (Ok(client), Ok(node)) = (client, TcpStream::connect(&node_address)) {
                    let (channels, marker) = (channels.clone(), marker.clone());
                    thread::spawn(move || forward(&client, &node, &marker, &channels));
                }
            }
        });
        LossyProxy { address, response_lost, close_permit }
    }
}

/// Forwards bytes in both directions until either side closes its connection, or the response is lost.
fn forward(client: &TcpStream, node: &TcpStream, marker: &[u8], channels: &ProxyChannels) {
    let marker_was_sent = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut requests = Vec::new();
            copy(client, node, |bytes| {
                requests.extend_from_slice(bytes);
                let has_marker = requests.windows(marker.len()).any(|window| window == marker);
                marker_was_sent.store(has_marker, Ordering::SeqCst);
                true
            });
        });
        copy(node, client, |_response| {
            let channel_ends = channels.lock().unwrap().take_if(|_| marker_was_sent.load(Ordering::SeqCst));
            let Some((loss_sender, permit_receiver)) = channel_ends else { return true };
            // An error means that the test has ended.
            let _test_ended = loss_sender.send(());
            let _test_ended = permit_receiver.recv();
            false
        });
    });
}

/// Copies bytes until either stream ends or `should_continue` returns `false`; then shuts both streams down.
fn copy(mut from: &TcpStream, mut to: &TcpStream, mut should_continue: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !should_continue(&buffer[..n]) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // An error means that the stream is closed already.
        let _may_be_closed = stream.shutdown(Shutdown::Both);
    }
}
