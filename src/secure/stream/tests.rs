//! Streams over a pipe with small buffers.

use super::super::{Files, Keys};
use super::*;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A certificate authority, with its files in a directory.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
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
        Authority { issuer: Issuer::new(params, key), directory }
    }

    fn issue_for(&self, host: &str) -> Files {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let place = |end: &str| self.directory.path().join(format!("{host}.{end}"));
        std::fs::write(place("pem"), certificate.pem()).unwrap();
        std::fs::write(place("key"), key.serialize_pem()).unwrap();
        Files { own: Some((place("pem"), place("key"))), authority: self.directory.path().join("ca.pem") }
    }
}

/// The bytes in flight in one direction.
type ByteQueue = Arc<Mutex<VecDeque<u8>>>;

/// One end of a pipe that holds at most `holds` bytes in each direction.
#[derive(Debug)]
struct End {
    comes: ByteQueue,
    goes: ByteQueue,
    holds: usize,
}

fn pipe(holds: usize) -> (End, End) {
    let (one, other) = (ByteQueue::default(), ByteQueue::default());
    (End { comes: one.clone(), goes: other.clone(), holds }, End { comes: other, goes: one, holds })
}

impl Read for End {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut way = self.comes.lock().unwrap();
        if way.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        way.read(out)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut way = self.goes.lock().unwrap();
        let n = bytes.len().min(self.holds - way.len().min(self.holds));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        way.extend(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends all of `words`. Returns the bytes received, and how often the pipe was full.
fn transfer(from: &mut Stream<End>, to: &mut Stream<End>, words: &[u8]) -> io::Result<(Vec<u8>, usize)> {
    let (mut sent, mut came, mut full, mut scratch) = (0, Vec::new(), 0, [0; 1000]);
    while came.len() < words.len() {
        if sent < words.len() {
            match from.write(&words[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        match from.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            flushed => {
                assert_eq!(flushed.is_ok(), !from.has_unsent());
                full += usize::from(flushed.is_err());
            }
        }
        // The handshake goes both ways.
        for (end, hears) in [(&mut *to, true), (&mut *from, false)] {
            loop {
                match end.read(&mut scratch) {
                    Ok(n) if hears && n > 0 => came.extend_from_slice(&scratch[..n]),
                    Ok(n) => panic!("{n} bytes arrive, and none were sent"),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            let _either_way_it_is_tried_again = end.flush();
        }
    }
    Ok((came, full))
}

fn keys(files: &Files) -> Keys {
    Keys::read(files).unwrap()
}

#[test]
fn stream_delivers_all_bytes_through_small_socket_buffer() {
    let authority = Authority::new();
    let (node, other) = (keys(&authority.issue_for("a.test")), keys(&authority.issue_for("b.test")));
    let words: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    for holds in [300, 5000, 1 << 20] {
        let (one, two) = pipe(holds);
        let mut dialed = other.dial(one, "a.test:7401").unwrap();
        let mut accepted = node.accept(two).unwrap();
        let (came, full) = transfer(&mut dialed, &mut accepted, &words).unwrap();
        assert!(came == words && (full > 0 || holds > 5000), "{holds}: {} bytes, {full} times full", came.len());
        let (came, _) = transfer(&mut accepted, &mut dialed, &words).unwrap();
        assert!(came == words, "{holds}: {} bytes back", came.len());
        assert!(accepted.is_proven() && dialed.is_proven());
        assert!(!dialed.tells_when_dry());
    }
}

#[test]
fn client_without_certificate_connects_unauthenticated() {
    let authority = Authority::new();
    let node = authority.issue_for("a.test");
    let client = keys(&Files { own: None, ..node.clone() });
    let (one, two) = pipe(1 << 20);
    let mut dialed = client.dial(one, "a.test:7401").unwrap();
    let mut accepted = keys(&node).accept(two).unwrap();
    assert_eq!(transfer(&mut dialed, &mut accepted, b"hello").unwrap().0, b"hello");
    assert!(!accepted.is_proven() && dialed.is_proven());
    assert!(client.accept(pipe(1).0).is_err(), "the client has no certificate to present");
}

#[test]
fn certificate_of_unknown_authority_or_host_is_rejected() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let expect_rejection = |server: &Files, client: &Files, endpoint: &str| {
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
    // It trusts the node, but presents a certificate of another authority.
    let stranger = Files { authority: node.authority.clone(), ..theirs.issue_for("b.test") };
    expect_rejection(&node, &stranger, "a.test:7401");
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
    let good = authority.issue_for("a.test");
    let (certificate, key) = good.own.clone().unwrap();
    let wrong = |files: Files, file: &Path| {
        let error = Keys::read(&files).unwrap_err();
        assert_eq!(error.file, file.display().to_string(), "{error}");
    };
    let none = authority.directory.path().join("none.pem");
    wrong(Files { authority: none.clone(), ..good.clone() }, &none);
    wrong(Files { own: Some((none.clone(), key.clone())), ..good.clone() }, &none);
    wrong(Files { own: Some((certificate.clone(), none.clone())), ..good.clone() }, &none);
    wrong(Files { own: Some((key.clone(), key.clone())), ..good.clone() }, &key);
    // The key belongs to another certificate.
    let (_, other) = authority.issue_for("b.test").own.unwrap();
    wrong(Files { own: Some((certificate.clone(), other)), ..good.clone() }, &certificate);
}
