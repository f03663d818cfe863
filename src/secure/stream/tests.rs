//! Streams over a pipe with small buffers.

use super::super::{KeyFiles, Keys};
use super::*;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A certificate authority, with the PEM files of all certificates and keys in one directory.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key_directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // The authority has its own name: a certificate with the name of its issuer counts as self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), key_directory: directory }
    }

    fn issue_for(&self, host: &str) -> KeyFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path_of = |end: &str| self.key_directory.path().join(format!("{host}.{end}"));
        std::fs::write(path_of("pem"), certificate.pem()).unwrap();
        std::fs::write(path_of("key"), key.serialize_pem()).unwrap();
        KeyFiles {
            certificate_and_key: Some((path_of("pem"), path_of("key"))),
            authority: self.key_directory.path().join("ca.pem"),
        }
    }
}

/// The bytes in flight in one direction.
type ByteQueue = Arc<Mutex<VecDeque<u8>>>;

/// One end of a pipe that holds at most `capacity` bytes in each direction.
#[derive(Debug)]
struct PipeEnd {
    incoming: ByteQueue,
    outgoing: ByteQueue,
    capacity: usize,
}

fn pipe(capacity: usize) -> (PipeEnd, PipeEnd) {
    let (one, other) = (ByteQueue::default(), ByteQueue::default());
    (
        PipeEnd { incoming: one.clone(), outgoing: other.clone(), capacity },
        PipeEnd { incoming: other, outgoing: one, capacity },
    )
}

impl Read for PipeEnd {
    fn read(&mut self, read_buffer: &mut [u8]) -> io::Result<usize> {
        let mut queue = self.incoming.lock().unwrap();
        if queue.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.read(read_buffer)
    }
}

impl Write for PipeEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut queue = self.outgoing.lock().unwrap();
        let n = bytes.len().min(self.capacity - queue.len().min(self.capacity));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.extend(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends all of `data`. Returns the bytes received, and how often the pipe was full.
fn transfer(from: &mut Stream<PipeEnd>, to: &mut Stream<PipeEnd>, data: &[u8]) -> io::Result<(Vec<u8>, usize)> {
    let (mut sent, mut received, mut full_count, mut scratch) = (0, Vec::new(), 0, [0; 1000]);
    while received.len() < data.len() {
        if sent < data.len() {
            match from.write(&data[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        match from.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            flushed => {
                assert_eq!(flushed.is_ok(), !from.has_unsent_bytes());
                full_count += usize::from(flushed.is_err());
            }
        }
        // The records of the handshake are sent in both directions.
        for (end, is_receiver) in [(&mut *to, true), (&mut *from, false)] {
            loop {
                match end.read(&mut scratch) {
                    Ok(n) if is_receiver && n > 0 => received.extend_from_slice(&scratch[..n]),
                    Ok(n) => {
                        panic!("unexpected read of {n} bytes: an end of the stream, or data in the other direction")
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let _best_effort = end.flush();
        }
    }
    Ok((received, full_count))
}

fn keys(files: &KeyFiles) -> Keys {
    Keys::read(files).unwrap()
}

#[test]
fn stream_delivers_all_bytes_through_small_socket_buffer() {
    let authority = Authority::new();
    let (node, other) = (keys(&authority.issue_for("a.test")), keys(&authority.issue_for("b.test")));
    let data: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    for capacity in [300, 5000, 1 << 20] {
        let (one, two) = pipe(capacity);
        let mut dialed = other.dial(one, "a.test:7401").unwrap();
        let mut accepted = node.accept(two).unwrap();
        let (received, full_count) = transfer(&mut dialed, &mut accepted, &data).unwrap();
        assert!(
            received == data && (full_count > 0 || capacity > 5000),
            "a pipe of {capacity} bytes: {} bytes received, {full_count} times full",
            received.len()
        );
        let (received, _) = transfer(&mut accepted, &mut dialed, &data).unwrap();
        assert!(
            received == data,
            "a pipe of {capacity} bytes: {} bytes received in the other direction",
            received.len()
        );
        assert!(accepted.has_trusted_certificate() && dialed.has_trusted_certificate());
        assert!(!dialed.short_read_empties_socket());
    }
}

#[test]
fn client_without_certificate_connects_unauthenticated() {
    let authority = Authority::new();
    let node = authority.issue_for("a.test");
    let client = keys(&KeyFiles { certificate_and_key: None, ..node.clone() });
    let (one, two) = pipe(1 << 20);
    let mut dialed = client.dial(one, "a.test:7401").unwrap();
    let mut accepted = keys(&node).accept(two).unwrap();
    assert_eq!(transfer(&mut dialed, &mut accepted, b"hello").unwrap().0, b"hello");
    assert!(!accepted.has_trusted_certificate() && dialed.has_trusted_certificate());
    assert!(client.accept(pipe(1).0).is_err(), "the client has no certificate to present");
}

#[test]
fn certificate_of_unknown_authority_or_host_is_rejected() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let expect_rejection = |server: &KeyFiles, client: &KeyFiles, endpoint: &str| {
        let (one, two) = pipe(1 << 20);
        let mut dialed = keys(client).dial(one, endpoint).unwrap();
        let mut accepted = keys(server).accept(two).unwrap();
        let error = transfer(&mut dialed, &mut accepted, b"hello").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    };
    let node = ours.issue_for("a.test");
    expect_rejection(&node, &ours.issue_for("b.test"), "c.test:7401");
    expect_rejection(&node, &theirs.issue_for("b.test"), "a.test:7401");
    expect_rejection(&theirs.issue_for("a.test"), &ours.issue_for("b.test"), "a.test:7401");
    // The client trusts the node, but presents a certificate of another authority.
    let foreign_client_files = KeyFiles { authority: node.authority.clone(), ..theirs.issue_for("b.test") };
    expect_rejection(&node, &foreign_client_files, "a.test:7401");
}

#[test]
fn non_tls_bytes_are_invalid_data() {
    let authority = Authority::new();
    let (mut one, two) = pipe(1 << 20);
    let mut accepted = keys(&authority.issue_for("a.test")).accept(two).unwrap();
    one.write_all(&[7; 100]).unwrap();
    let error = accepted.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[test]
fn unusable_key_file_is_named_in_error() {
    let authority = Authority::new();
    let valid_files = authority.issue_for("a.test");
    let (certificate, key) = valid_files.certificate_and_key.clone().unwrap();
    let expect_file_named = |files: KeyFiles, file: &Path| {
        let error = Keys::read(&files).unwrap_err();
        assert_eq!(error.file, file.display().to_string(), "{error}");
    };
    let missing_file = authority.key_directory.path().join("missing.pem");
    expect_file_named(KeyFiles { authority: missing_file.clone(), ..valid_files.clone() }, &missing_file);
    expect_file_named(
        KeyFiles { certificate_and_key: Some((missing_file.clone(), key.clone())), ..valid_files.clone() },
        &missing_file,
    );
    expect_file_named(
        KeyFiles { certificate_and_key: Some((certificate.clone(), missing_file.clone())), ..valid_files.clone() },
        &missing_file,
    );
    expect_file_named(KeyFiles { certificate_and_key: Some((key.clone(), key.clone())), ..valid_files.clone() }, &key);
    // The key belongs to another certificate.
    let (_, other_key) = authority.issue_for("b.test").certificate_and_key.unwrap();
    expect_file_named(
        KeyFiles { certificate_and_key: Some((certificate.clone(), other_key)), ..valid_files.clone() },
        &certificate,
    );
}
