//! Reads a snapshot's file back, chunk by chunk.
//!
//! The file is read with `pread` and not through a mapping, so that a sector that the disk cannot read is a flaw of the
//! file and does not end the process.

use super::format::{CHUNK_HEADER, Chain, Flaw, FlawKind, Header, file_name};
use crate::disk::unreadable::is_media_error;
use crate::disk::{DiskFile, Meter};
use crate::types::ClusterId;
use bytes::Bytes;
use std::io;

/// A value, a flaw of the file, or an I/O error that proves no flaw.
type VerifyResult<T> = io::Result<Result<T, Flaw>>;

/// How far a file was verified.
#[derive(Debug, Default)]
pub struct Verifier {
    found: Option<(Header, Chain)>,
    chunk: Vec<u8>,
}

impl Verifier {
    /// Verifies about `bytes` more bytes; returns `true` when the whole file is verified.
    pub fn step(&mut self, file: &impl DiskFile, bytes: u64) -> VerifyResult<bool> {
        let (mut chain, mut read) = match &self.found {
            Some((_, chain)) => (*chain, 0),
            None => match read_header(file)? {
                Ok((header, chain)) => {
                    self.found = Some((header, chain));
                    (chain, chain.at)
                }
                Err(flaw) => return Ok(Err(flaw)),
            },
        };
        while !chain.ended() && read < bytes {
            let before = chain.at;
            if let Err(flaw) = read_chunk(file, &mut chain, &mut self.chunk)? {
                return Ok(Err(flaw));
            }
            read += chain.at - before;
        }
        if let Some((_, found)) = &mut self.found {
            *found = chain;
        }
        if chain.ended() && file.size()? > chain.at {
            return Ok(Err(Flaw { at: chain.at, what: FlawKind::Wrong("bytes behind the end") }));
        }
        Ok(Ok(chain.ended()))
    }

    /// The header, and the chain up to which the chunks were verified.
    pub fn verified(&self) -> Option<(&Header, &Chain)> {
        self.found.as_ref().map(|(header, chain)| (header, chain))
    }
}

/// Verifies that a file is the snapshot with that name. Returns its header and the chain at its first chunk.
pub fn read_back(file: &impl DiskFile, name: &str, cluster: ClusterId, meter: &Meter) -> VerifyResult<(Header, Chain)> {
    let begin = match read_header(file)? {
        Ok(begin) => begin,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let wrong = |what| Ok(Err(Flaw { at: 0, what: FlawKind::Wrong(what) }));
    if begin.0.cluster != cluster {
        return wrong("it belongs to another cluster");
    }
    if file_name(begin.0.position) != name {
        return wrong("its header and its name have different positions");
    }
    follow(file, begin, meter)
}

/// Verifies that a file is a snapshot, of any cluster and under any name. Returns its header and the chain at its first
/// chunk.
pub fn read_whole(file: &impl DiskFile, meter: &Meter) -> VerifyResult<(Header, Chain)> {
    match read_header(file)? {
        Ok(begin) => follow(file, begin, meter),
        Err(flaw) => Ok(Err(flaw)),
    }
}

/// Verifies all chunks after a header; returns `begin`.
fn follow(file: &impl DiskFile, begin: (Header, Chain), meter: &Meter) -> VerifyResult<(Header, Chain)> {
    let mut verifier = Verifier { found: Some(begin.clone()), chunk: Vec::new() };
    loop {
        let before = verifier.verified().map_or(0, |(_, chain)| chain.at);
        match verifier.step(file, 1)? {
            Ok(true) => return Ok(Ok(begin)),
            Ok(false) => meter.advance(verifier.verified().map_or(0, |(_, chain)| chain.at) - before),
            Err(flaw) => return Ok(Err(flaw)),
        }
    }
}

/// Reads the header of a file. Returns it and the chain at the first chunk.
pub fn read_header(file: &impl DiskFile) -> VerifyResult<(Header, Chain)> {
    let mut start = vec![0; 16];
    if let Err(flaw) = read(file, 0, &mut start)? {
        return Ok(Err(flaw));
    }
    let mut bytes = match Header::length(&start) {
        Ok(length) => vec![0; length],
        Err(flaw) => return Ok(Err(flaw)),
    };
    Ok(match read(file, 0, &mut bytes)? {
        Ok(()) => Header::decode(&Bytes::from(bytes)),
        Err(flaw) => Err(flaw),
    })
}

/// Reads and checks the next chunk, and advances past it if it is intact.
pub fn read_chunk(file: &impl DiskFile, chain: &mut Chain, chunk: &mut Vec<u8>) -> VerifyResult<()> {
    let mut start = [0; CHUNK_HEADER];
    if let Err(flaw) = read(file, chain.at, &mut start)? {
        return Ok(Err(flaw));
    }
    match chain.body(&start) {
        Ok(body) => chunk.resize(CHUNK_HEADER + body, 0),
        Err(flaw) => return Ok(Err(flaw)),
    }
    if let Err(flaw) = read(file, chain.at, chunk)? {
        return Ok(Err(flaw));
    }
    Ok(chain.follow(chunk).map(drop))
}

/// Reads from offset `at` to fill the buffer.
fn read(file: &impl DiskFile, at: u64, buffer: &mut [u8]) -> VerifyResult<()> {
    match file.read_at(at, buffer) {
        Ok(read) if read == buffer.len() => Ok(Ok(())),
        Ok(read) => Ok(Err(Flaw { at: at + read as u64, what: FlawKind::Cut })),
        Err(error) if is_media_error(&error) => Ok(Err(Flaw { at, what: FlawKind::Unreadable })),
        Err(error) => Err(error),
    }
}
