//! A snapshot's file, read back chunk by chunk.
//!
//! It is read with `pread` and not through a mapping: a sector that the disk cannot read is a flaw of the
//! file then, and not the end of the process.

use super::format::{CHUNK_HEADER, Chain, Flaw, FlawKind, Header, file_name};
use crate::disk::unreadable::is_media_error;
use crate::disk::{DiskFile, Meter};
use crate::types::ClusterId;
use bytes::Bytes;
use std::io;

/// A file's bytes, its flaw, or an error that says nothing of them.
type Checked<T> = io::Result<Result<T, Flaw>>;

/// How far a file was found whole.
#[derive(Debug, Default)]
pub struct Verifier {
    found: Option<(Header, Chain)>,
    chunk: Vec<u8>,
}

impl Verifier {
    /// Reads on, about so many bytes; true when all of the file was found whole.
    pub fn step(&mut self, file: &impl DiskFile, bytes: u64) -> Checked<bool> {
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

    /// The header, and how far the chunks behind it were followed.
    pub fn found(&self) -> Option<(&Header, &Chain)> {
        self.found.as_ref().map(|(header, chain)| (header, chain))
    }
}

/// Reads all of a file that should be the snapshot of that name; its header, and where its chunks begin.
pub fn read_back(file: &impl DiskFile, name: &str, cluster: ClusterId, meter: &Meter) -> Checked<(Header, Chain)> {
    let begin = match read_header(file)? {
        Ok(begin) => begin,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let wrong = |what| Ok(Err(Flaw { at: 0, what: FlawKind::Wrong(what) }));
    if begin.0.cluster != cluster {
        return wrong("it is of another cluster");
    }
    if file_name(begin.0.position) != name {
        return wrong("it is of another position than its name says");
    }
    follow(file, begin, meter)
}

/// Reads all of a file that should be a snapshot, of whatever cluster and under whatever name; its header, and where its
/// chunks begin.
pub fn read_whole(file: &impl DiskFile, meter: &Meter) -> Checked<(Header, Chain)> {
    match read_header(file)? {
        Ok(begin) => follow(file, begin, meter),
        Err(flaw) => Ok(Err(flaw)),
    }
}

/// Reads all chunks behind a header; returns where it began.
fn follow(file: &impl DiskFile, begin: (Header, Chain), meter: &Meter) -> Checked<(Header, Chain)> {
    let mut verifier = Verifier { found: Some(begin.clone()), chunk: Vec::new() };
    loop {
        let before = verifier.found().map_or(0, |(_, chain)| chain.at);
        match verifier.step(file, 1)? {
            Ok(true) => return Ok(Ok(begin)),
            Ok(false) => meter.advance(verifier.found().map_or(0, |(_, chain)| chain.at) - before),
            Err(flaw) => return Ok(Err(flaw)),
        }
    }
}

/// Reads the header of a file, and where its chunks begin.
pub fn read_header(file: &impl DiskFile) -> Checked<(Header, Chain)> {
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

/// Reads the next chunk, and follows it if it is whole.
pub fn read_chunk(file: &impl DiskFile, chain: &mut Chain, chunk: &mut Vec<u8>) -> Checked<()> {
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

/// Fills the buffer from there.
fn read(file: &impl DiskFile, at: u64, buffer: &mut [u8]) -> Checked<()> {
    match file.read_at(at, buffer) {
        Ok(read) if read == buffer.len() => Ok(Ok(())),
        Ok(read) => Ok(Err(Flaw { at: at + read as u64, what: FlawKind::Cut })),
        Err(error) if is_media_error(&error) => Ok(Err(Flaw { at, what: FlawKind::Unreadable })),
        Err(error) => Err(error),
    }
}
