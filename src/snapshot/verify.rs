//! Reads a snapshot's file back, chunk by chunk.
//!
//! The file is read with `pread` and not through a mapping: an unreadable sector is then a flaw of the file, and does
//! not end the process by SIGBUS.

use super::format::{CHUNK_HEADER_BYTES, ChecksumChain, Flaw, FlawKind, Header, file_name};
use super::report::Fault;
use crate::disk::unreadable::is_media_error;
use crate::disk::{DiskFile, Meter};
use crate::types::ClusterId;
use bytes::Bytes;
use std::io;

/// A value, a flaw of the file, or an I/O error that does not show a flaw of the file.
type VerifyResult<T> = io::Result<Result<T, Flaw>>;

/// Verifies a snapshot file step by step, and keeps the progress between the steps.
#[derive(Debug, Default)]
pub struct Verifier {
    progress: Option<(Header, ChecksumChain)>,
    chunk_buffer: Vec<u8>,
}

impl Verifier {
    /// Verifies about `bytes` more bytes; returns `true` when the whole file is verified.
    pub fn step(&mut self, file: &impl DiskFile, bytes: u64) -> VerifyResult<bool> {
        let (mut chain, mut read) = match &self.progress {
            Some((_, chain)) => (*chain, 0),
            None => match read_header(file)? {
                Ok((header, chain)) => {
                    self.progress = Some((header, chain));
                    (chain, chain.at)
                }
                Err(flaw) => return Ok(Err(flaw)),
            },
        };
        while !chain.is_ended() && read < bytes {
            let offset_before = chain.at;
            if let Err(flaw) = read_chunk(file, &mut chain, &mut self.chunk_buffer)? {
                return Ok(Err(flaw));
            }
            read += chain.at - offset_before;
        }
        if let Some((_, verified)) = &mut self.progress {
            *verified = chain;
        }
        if chain.is_ended() && file.size()? > chain.at {
            return Ok(Err(Flaw { at: chain.at, kind: FlawKind::Invalid("bytes behind the end") }));
        }
        Ok(Ok(chain.is_ended()))
    }

    /// The header, and the chain after the last verified chunk; `None` before the first step.
    pub fn progress(&self) -> Option<(&Header, &ChecksumChain)> {
        self.progress.as_ref().map(|(header, chain)| (header, chain))
    }
}

/// Verifies that a file is the intact snapshot of that name and cluster. Returns its header and the chain at its first
/// chunk.
pub fn read_back(
    file: &impl DiskFile,
    name: &str,
    cluster: ClusterId,
    meter: &Meter,
) -> VerifyResult<(Header, ChecksumChain)> {
    let header_and_chain = match read_header(file)? {
        Ok(header_and_chain) => header_and_chain,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let invalid = |description| Ok(Err(Flaw { at: 0, kind: FlawKind::Invalid(description) }));
    if header_and_chain.0.cluster != cluster {
        return invalid("it belongs to another cluster");
    }
    if file_name(header_and_chain.0.position) != name {
        return invalid("its header and its name have different positions");
    }
    verify_chunks(file, header_and_chain, meter)
}

/// Verifies that a file is an intact snapshot, of any cluster and under any name. Returns its header and the chain at
/// its first chunk.
pub fn verify_snapshot_file(file: &impl DiskFile, meter: &Meter) -> VerifyResult<(Header, ChecksumChain)> {
    match read_header(file)? {
        Ok(header_and_chain) => verify_chunks(file, header_and_chain, meter),
        Err(flaw) => Ok(Err(flaw)),
    }
}

/// Verifies all chunks after a header. Returns `header_and_chain`: the header, and the chain after it.
fn verify_chunks(
    file: &impl DiskFile,
    header_and_chain: (Header, ChecksumChain),
    meter: &Meter,
) -> VerifyResult<(Header, ChecksumChain)> {
    let mut verifier = Verifier { progress: Some(header_and_chain.clone()), chunk_buffer: Vec::new() };
    loop {
        let offset_before = verifier.progress().map_or(0, |(_, chain)| chain.at);
        match verifier.step(file, 1)? {
            Ok(true) => return Ok(Ok(header_and_chain)),
            Ok(false) => meter.add_read(verifier.progress().map_or(0, |(_, chain)| chain.at) - offset_before),
            Err(flaw) => return Ok(Err(flaw)),
        }
    }
}

/// Refuses a snapshot of a feature level above `level_max`: it may hold a state that this program cannot read.
pub fn check_feature_level(name: &str, header: &Header, level_max: u16) -> Result<(), Fault> {
    match header.membership.feature_level {
        level if level > level_max => {
            Err(Fault::unknown_format(&format!("snapshot {name} has feature level {level}"), u32::from(level_max)))
        }
        _ => Ok(()),
    }
}

/// Reads and decodes the header of a file. Returns the header and the chain at the first chunk.
pub fn read_header(file: &impl DiskFile) -> VerifyResult<(Header, ChecksumChain)> {
    let mut header_start = vec![0; 16];
    if let Err(flaw) = fill_buffer(file, 0, &mut header_start)? {
        return Ok(Err(flaw));
    }
    let mut bytes = match Header::encoded_length(&header_start) {
        Ok(length) => vec![0; length],
        Err(flaw) => return Ok(Err(flaw)),
    };
    Ok(match fill_buffer(file, 0, &mut bytes)? {
        Ok(()) => Header::decode(&Bytes::from(bytes)),
        Err(flaw) => Err(flaw),
    })
}

/// Reads the next chunk into `chunk` and verifies the chunk. Advances `chain` past an intact chunk.
pub fn read_chunk(file: &impl DiskFile, chain: &mut ChecksumChain, chunk: &mut Vec<u8>) -> VerifyResult<()> {
    let mut chunk_header = [0; CHUNK_HEADER_BYTES];
    if let Err(flaw) = fill_buffer(file, chain.at, &mut chunk_header)? {
        return Ok(Err(flaw));
    }
    match chain.body_size(&chunk_header) {
        Ok(body) => chunk.resize(CHUNK_HEADER_BYTES + body, 0),
        Err(flaw) => return Ok(Err(flaw)),
    }
    if let Err(flaw) = fill_buffer(file, chain.at, chunk)? {
        return Ok(Err(flaw));
    }
    Ok(chain.verify_chunk(chunk).map(drop))
}

/// Fills the buffer with the bytes from offset `at` on.
fn fill_buffer(file: &impl DiskFile, at: u64, buffer: &mut [u8]) -> VerifyResult<()> {
    match file.read_at(at, buffer) {
        Ok(read) if read == buffer.len() => Ok(Ok(())),
        Ok(read) => Ok(Err(Flaw { at: at + read as u64, kind: FlawKind::Truncated })),
        Err(error) if is_media_error(&error) => Ok(Err(Flaw { at, kind: FlawKind::Unreadable })),
        Err(error) => Err(error),
    }
}
