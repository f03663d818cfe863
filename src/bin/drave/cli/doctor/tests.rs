//! Round trips measured against a fake node, which counts the connections that it accepts.

use super::*;
use crate::remote::cluster::Output;
use crate::remote::tls::Tls;
use bytes::BytesMut;
use drave::types::{ClusterId, DiskId, NodeId};
use drave::wire::client::{put_reply_frame, read_request_frame};
use drave::wire::frame::{FrameKind, FrameReader};
use drave::wire::hello::{VERSION_MAX, Welcome};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers hellos and status requests until the peer closes the connection.
fn answer_status_requests(mut stream: TcpStream) -> Option<()> {
    let (mut reader, mut input, mut scratch) = (FrameReader::default(), BytesMut::new(), [0; 4096]);
    loop {
        let Some(frame) = reader.next(&mut input).ok()? else {
            let n = stream.read(&mut scratch).ok().filter(|n| *n > 0)?;
            input.extend_from_slice(&scratch[..n]);
            continue;
        };
        let mut out = BytesMut::new();
        if frame.kind == FrameKind::Hello {
            Welcome {
                version: VERSION_MAX,
                cluster: ClusterId(7),
                node: NodeId::new(1)?,
                disk: DiskId(1),
                log_state: Default::default(),
            }
            .put(&mut out);
        } else {
            let id = read_request_frame(frame).ok()?.id;
            put_reply_frame(&mut out, id, &Reply::Status(Box::new(Status { node: 1, ..Status::default() })));
        }
        stream.write_all(&out).ok()?;
    }
}

#[test]
fn round_trips_are_measured_over_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let connection_count = Arc::new(AtomicUsize::new(0));
    let accepted_count = connection_count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            accepted_count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || answer_status_requests(stream));
        }
    });
    let cluster = ClusterArgs {
        endpoints: vec![endpoint.clone()],
        timeout: Duration::from_secs(20),
        output: Output::Text,
        tls: Tls::default(),
    };
    let result = EndpointStatus { endpoint, status: Ok(Status::default()) };
    let node = measure_node(&cluster, result, Duration::from_millis(50));
    assert_eq!(node.status.map(|status| status.node), Ok(1));
    assert!(node.round_trips.len() > 1, "{} in 50 ms", node.round_trips.len());
    assert_eq!(connection_count.load(Ordering::Relaxed), 1);
}
