//! The output queue of one connection, with two priorities (lanes): a heartbeat must not wait behind a large append.

use crate::wire::frame::{FrameKind, PIECE_BYTES_MAX, put_frame, put_piece};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, Write};

/// Long frames are cut into pieces until this many bytes are ready to be written. An urgent frame waits for at most
/// these bytes.
const READY_BYTES_TARGET: usize = PIECE_BYTES_MAX;

/// The output that waits to be written to one connection.
///
/// Invariant: long frames are sent in order, one after the other. An urgent frame is sent between two pieces of a long
/// frame. A short frame that is not urgent goes to the ready buffer only while no long frame waits, so it never
/// overtakes a frame that was added before it.
#[derive(Debug, Default)]
pub struct OutputLanes {
    /// Complete short frames, and pieces of long frames, ready to be written.
    ready_bytes: BytesMut,
    /// Long frames of which some or all bytes are not in the ready buffer yet.
    long_frames: VecDeque<LongFrame>,
    /// The bytes of `long_frames` that are not cut into pieces yet.
    uncut_bytes: usize,
    /// The total bytes that the socket has accepted since it was opened.
    sent_bytes: u64,
}

/// A frame in the lane of long frames.
#[derive(Debug)]
struct LongFrame {
    kind: FrameKind,
    content: Bytes,
    /// How many bytes of the content were moved to the ready buffer, in pieces.
    cut_bytes: usize,
}

/// The result of writing the output to a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOutcome {
    /// All output was written.
    Complete,
    /// The socket's send buffer is full. The poll reports when the socket accepts more.
    Partial,
}

impl OutputLanes {
    /// The number of bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.ready_bytes.len() + self.uncut_bytes
    }

    /// The memory of the output in bytes, including the unused capacity of the ready buffer.
    pub fn allocated_bytes(&self) -> usize {
        self.ready_bytes.capacity() + self.uncut_bytes
    }

    /// The total bytes that the socket has accepted since it was opened.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Whether all output was written to the stream, which may still hold TLS records.
    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0
    }

    /// The bytes to be written next, before any long frame. Handshakes and gateways append to them directly.
    pub fn ready_buffer(&mut self) -> &mut BytesMut {
        &mut self.ready_bytes
    }

    /// Adds a short frame that overtakes all long frames.
    pub fn push_urgent_frame(&mut self, kind: FrameKind, write_content: impl FnOnce(&mut BytesMut)) {
        put_frame(&mut self.ready_bytes, kind, write_content);
    }

    /// Adds a frame behind all frames that are not urgent. `size` is the length of its content in bytes, or slightly
    /// more.
    pub fn push_frame(&mut self, kind: FrameKind, size: usize, write_content: impl FnOnce(&mut BytesMut)) {
        if self.long_frames.is_empty() && size <= PIECE_BYTES_MAX {
            put_frame(&mut self.ready_bytes, kind, write_content);
            return;
        }
        let mut content = BytesMut::with_capacity(size);
        write_content(&mut content);
        self.uncut_bytes += content.len();
        self.long_frames.push_back(LongFrame { kind, content: content.freeze(), cut_bytes: 0 });
    }

    /// Writes as much of the output as the socket accepts.
    pub fn write(&mut self, stream: &mut impl Write) -> io::Result<WriteOutcome> {
        loop {
            self.cut_pieces();
            if self.ready_bytes.is_empty() {
                self.ready_bytes.clear();
                return Ok(WriteOutcome::Complete);
            }
            match stream.write(&self.ready_bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.ready_bytes.advance(n);
                    self.sent_bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(WriteOutcome::Partial),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Cuts pieces off the long frames until `READY_BYTES_TARGET` bytes are ready, or no long frame is left.
    fn cut_pieces(&mut self) {
        while self.ready_bytes.len() < READY_BYTES_TARGET
            && let Some(frame) = self.long_frames.front_mut()
        {
            let cut_before = frame.cut_bytes;
            if frame.content.len() <= PIECE_BYTES_MAX {
                put_frame(&mut self.ready_bytes, frame.kind, |out| out.put_slice(&frame.content));
                frame.cut_bytes = frame.content.len();
            } else {
                frame.cut_bytes = put_piece(&mut self.ready_bytes, frame.kind, &frame.content, frame.cut_bytes);
            }
            self.uncut_bytes -= frame.cut_bytes - cut_before;
            if frame.cut_bytes == frame.content.len() {
                self.long_frames.pop_front();
            }
        }
    }

    /// Frees the buffers if no output waits. The count of sent bytes stays.
    pub fn free_buffers(&mut self) {
        if self.is_empty() && self.ready_bytes.capacity() > 0 {
            *self = OutputLanes { sent_bytes: self.sent_bytes, ..OutputLanes::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Frame, FrameReader};

    /// A writer that accepts `bytes_until_block` bytes and then would block.
    struct SlowWriter {
        accepted_bytes: BytesMut,
        bytes_until_block: usize,
    }

    impl Write for SlowWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.bytes_until_block);
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.accepted_bytes.extend_from_slice(&bytes[..n]);
            self.bytes_until_block -= n;
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn push(output: &mut OutputLanes, content: &[u8]) {
        output.push_frame(FrameKind::Raft, content.len(), |out| out.put_slice(content));
    }

    #[test]
    fn urgent_frame_overtakes_and_others_keep_order() {
        let (long, short) = (vec![7; 10 * PIECE_BYTES_MAX], b"short".to_vec());
        let mut output = OutputLanes::default();
        let mut stream = SlowWriter { accepted_bytes: BytesMut::new(), bytes_until_block: 0 };
        push(&mut output, &long);
        push(&mut output, &short);
        assert_eq!(output.pending_bytes(), long.len() + short.len());
        assert_eq!(output.write(&mut stream).unwrap(), WriteOutcome::Partial);
        output.push_urgent_frame(FrameKind::Raft, |out| out.put_slice(b"beat"));

        let mut reader = FrameReader::default();
        let mut received: Vec<(Frame, usize)> = Vec::new();
        let mut accepted_bytes_max = 0;
        while received.len() < 3 {
            stream.bytes_until_block = 1000;
            accepted_bytes_max += 1000;
            output.write(&mut stream).unwrap();
            while let Some(frame) = reader.next(&mut stream.accepted_bytes).unwrap() {
                received.push((frame, accepted_bytes_max));
            }
        }
        assert_eq!(&received[0].0.content[..], b"beat");
        assert!(received[0].1 < 2 * PIECE_BYTES_MAX, "an urgent frame waits for at most one piece of a long frame");
        assert_eq!(received[1].0.content, long);
        assert_eq!(received[2].0.content, short);
        assert!(output.is_empty());
        assert_eq!(output.write(&mut stream).unwrap(), WriteOutcome::Complete);
    }
}
