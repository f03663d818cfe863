//! A proxy before a node, which loses the answer to one request.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// Forwards connections to a node. The answer to the first request that contains `marker` is lost: its connection is
/// closed instead, once the test permits it.
pub struct LostAnswer {
    /// The address on which the proxy listens.
    pub address: String,
    /// Receives a message when the node has answered.
    pub answered: Receiver<()>,
    /// Closes the connection.
    pub close: Sender<()>,
}

/// The other ends of [`LostAnswer`]'s channels, taken by the request whose answer is lost.
type Loss = Arc<Mutex<Option<(Sender<()>, Receiver<()>)>>>;

impl LostAnswer {
    /// Starts the proxy, which ends with the test's process.
    pub fn before(node: &str, marker: &str) -> LostAnswer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ((answers, answered), (close, close_requests)) = (channel(), channel());
        let loss: Loss = Arc::new(Mutex::new(Some((answers, close_requests))));
        let (node, marker) = (node.to_owned(), marker.to_owned().into_bytes());
        thread::spawn(move || {
            for client in listener.incoming() {
                if let (Ok(client), Ok(node)) = (client, TcpStream::connect(&node)) {
                    let (loss, marker) = (loss.clone(), marker.clone());
                    thread::spawn(move || forward(&client, &node, &marker, &loss));
                }
            }
        });
        LostAnswer { address, answered, close }
    }
}

/// Forwards both ways until either side closes, or the answer is lost.
fn forward(client: &TcpStream, node: &TcpStream, marker: &[u8], loss: &Loss) {
    let is_lost = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut requests = Vec::new();
            copy(client, node, |bytes| {
                requests.extend_from_slice(bytes);
                let is_marked = requests.windows(marker.len()).any(|window| window == marker);
                is_lost.store(is_marked, Ordering::SeqCst);
                true
            });
        });
        copy(node, client, |_answer| {
            let loss = loss.lock().unwrap().take_if(|_| is_lost.load(Ordering::SeqCst));
            let Some((answers, close_requests)) = loss else { return true };
            // An error means that the test has ended.
            let _ended = answers.send(());
            let _ended = close_requests.recv();
            false
        });
    });
}

/// Copies bytes until either stream ends or `should_continue` returns `false`; then shuts both streams down.
fn copy(mut from: &TcpStream, mut to: &TcpStream, mut should_continue: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !should_continue(&buffer[..read]) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        // An error means that it is closed already.
        let _closed = stream.shutdown(Shutdown::Both);
    }
}
