//! Round trips, measured to a fake node that counts its connections.

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
                holds: Default::default(),
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
    let dialled = Arc::new(AtomicUsize::new(0));
    let counted = dialled.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || answer_status_requests(stream));
        }
    });
    let cluster = Cluster {
        endpoints: vec![endpoint.clone()],
        timeout: Duration::from_secs(20),
        output: Output::Text,
        tls: Tls::default(),
    };
    let asked = EndpointStatus { endpoint, status: Ok(Status::default()) };
    let node = measured(&cluster, asked, Duration::from_millis(50));
    assert_eq!(node.status.map(|status| status.node), Ok(1));
    assert!(node.trips.len() > 1, "{} in 50 ms", node.trips.len());
    assert_eq!(dialled.load(Ordering::Relaxed), 1);
}
