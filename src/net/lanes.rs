//! The output of one connection, in two lanes, so that a heartbeat is not delayed behind megabytes.

use crate::wire::frame::{FrameKind, PIECE_MAX, put_frame, put_piece};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, Write};

/// Long frames are cut into pieces until this many bytes are ready to be written.
const READY: usize = PIECE_MAX;

/// Output waiting to be written to one connection.
///
/// Invariant: frames of the long lane are sent in order, one after the other. An urgent frame is sent between their
/// pieces. A short frame that is not urgent bypasses the long lane only while that is empty, so that it overtakes
/// nothing.
#[derive(Debug, Default)]
pub struct Lanes {
    /// Complete frames and pieces, ready to be written.
    ready: BytesMut,
    /// Frames that are not completely cut into pieces yet.
    long: VecDeque<Long>,
    /// Bytes in `long` that are not cut yet.
    long_bytes: usize,
    /// Bytes that the socket has accepted.
    sent: u64,
}

#[derive(Debug)]
struct Long {
    kind: FrameKind,
    content: Bytes,
    sent: usize,
}

/// The result of writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// All output was written.
    All,
    /// The socket accepted only part of it. The system reports when it accepts more.
    Some,
}

impl Lanes {
    /// How many bytes wait to be written.
    pub fn size(&self) -> usize {
        self.ready.len() + self.long_bytes
    }

    /// How many bytes of memory are allocated for the output.
    pub fn held(&self) -> usize {
        self.ready.capacity() + self.long_bytes
    }

    /// How many bytes the socket has accepted.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether no output waits.
    pub fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// The buffer of bytes to be written next, before any long frame.
    pub fn ready(&mut self) -> &mut BytesMut {
        &mut self.ready
    }

    /// Adds a short frame ahead of everything except bytes in the ready buffer.
    pub fn put_urgent(&mut self, kind: FrameKind, content: impl FnOnce(&mut BytesMut)) {
        put_frame(&mut self.ready, kind, content);
    }

    /// Adds a frame in order. `size` is its length in bytes or slightly more.
    pub fn put(&mut self, kind: FrameKind, size: usize, content: impl FnOnce(&mut BytesMut)) {
        if self.long.is_empty() && size <= PIECE_MAX {
            put_frame(&mut self.ready, kind, content);
            return;
        }
        let mut long = BytesMut::with_capacity(size);
        content(&mut long);
        self.long_bytes += long.len();
        self.long.push_back(Long { kind, content: long.freeze(), sent: 0 });
    }

    /// Writes as much as the socket accepts.
    pub fn write(&mut self, stream: &mut impl Write) -> io::Result<Written> {
        loop {
            self.cut();
            if self.ready.is_empty() {
                self.ready.clear();
                return Ok(Written::All);
            }
            match stream.write(&self.ready) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.ready.advance(n);
                    self.sent += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Some),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Cuts pieces off the long lane until enough bytes are ready.
    fn cut(&mut self) {
        while self.ready.len() < READY
            && let Some(long) = self.long.front_mut()
        {
            let before = long.sent;
            if long.content.len() <= PIECE_MAX {
                put_frame(&mut self.ready, long.kind, |out| out.put_slice(&long.content));
                long.sent = long.content.len();
            } else {
                long.sent = put_piece(&mut self.ready, long.kind, &long.content, long.sent);
            }
            self.long_bytes -= long.sent - before;
            if long.sent == long.content.len() {
                self.long.pop_front();
            }
        }
    }

    /// Frees the buffers of a connection without output.
    pub fn rest(&mut self) {
        if self.is_empty() && self.ready.capacity() > 0 {
            *self = Lanes { sent: self.sent, ..Lanes::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Frame, FrameReader};

    /// A writer that accepts a few bytes at a time and then would block.
    struct SlowWriter {
        taken: BytesMut,
        room: usize,
    }

    impl Write for SlowWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.taken.extend_from_slice(&bytes[..n]);
            self.room -= n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn put(lanes: &mut Lanes, content: &[u8]) {
        lanes.put(FrameKind::Raft, content.len(), |out| out.put_slice(content));
    }

    #[test]
    fn urgent_frame_overtakes_others_keep_order() {
        let (long, short) = (vec![7; 10 * PIECE_MAX], b"short".to_vec());
        let mut lanes = Lanes::default();
        let mut stream = SlowWriter { taken: BytesMut::new(), room: 0 };
        put(&mut lanes, &long);
        put(&mut lanes, &short);
        assert_eq!(lanes.size(), long.len() + short.len());
        assert_eq!(lanes.write(&mut stream).unwrap(), Written::Some);
        lanes.put_urgent(FrameKind::Raft, |out| out.put_slice(b"beat"));

        let mut reader = FrameReader::default();
        let mut came: Vec<(Frame, usize)> = Vec::new();
        let mut sent = 0;
        while came.len() < 3 {
            stream.room = 1000;
            sent += 1000;
            lanes.write(&mut stream).unwrap();
            while let Some(frame) = reader.next(&mut stream.taken).unwrap() {
                came.push((frame, sent));
            }
        }
        assert_eq!(&came[0].0.content[..], b"beat");
        assert!(came[0].1 < 2 * PIECE_MAX, "an urgent frame waits for at most one piece of a long frame");
        assert_eq!(came[1].0.content, long);
        assert_eq!(came[2].0.content, short);
        assert!(lanes.is_empty());
        assert_eq!(lanes.write(&mut stream).unwrap(), Written::All);
    }
}
