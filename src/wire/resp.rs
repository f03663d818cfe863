//! The protocol of Redis clients: commands in RESP2 or as inline lines; replies in RESP2 or RESP3.
//!
//! A command is an array of strings: `*2`, then the length and the bytes of each. It is not nested, so the parser is
//! not recursive. No memory is reserved for an announced count or length before the bytes arrive, and every received
//! byte is examined once, however the input is split. Any other input is an error in Redis's own words, after which no
//! further input is read.
//!
//! A command that is only too large is skipped as it arrives: the client loses the command, not the connection.

use crate::codec::parse_integer;
use crate::limits::{
    ENTRY_BYTES_MAX, RESP_ARGUMENTS_MAX, RESP_BULK_BYTES_MAX, RESP_COMMAND_BYTES_MAX, RESP_LINE_BYTES_MAX,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::borrow::Cow;

/// A violation of the protocol, in Redis's own words. The connection is unusable afterwards.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct RespError(pub Cow<'static, str>);

/// The size limits of a command.
#[derive(Clone, Copy, Debug)]
pub struct CommandLimits {
    /// The maximum number of arguments, with the command's name.
    arguments_max: usize,
    /// The maximum length of an argument in bytes.
    argument_bytes_max: usize,
    /// The first word of the errors about these limits, such as `unauthenticated`; empty for authenticated clients.
    error_prefix: &'static str,
}

impl CommandLimits {
    /// The limits for authenticated clients, or where no password is set.
    pub const AUTHENTICATED: CommandLimits = CommandLimits {
        arguments_max: RESP_ARGUMENTS_MAX,
        argument_bytes_max: ENTRY_BYTES_MAX as usize,
        error_prefix: "",
    };
    /// The limits for clients before authentication: enough for a password, as in Redis.
    pub const UNAUTHENTICATED: CommandLimits =
        CommandLimits { arguments_max: 10, argument_bytes_max: 16 << 10, error_prefix: "unauthenticated " };
}

/// One command: its name and its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandArgs {
    bytes: Bytes,
    /// The range of each argument in `bytes`, the name first.
    argument_ranges: Vec<(u32, u32)>,
    /// The part that is too large, if any. Only the first words of such a command are in `bytes`.
    oversized_part: Option<OversizedPart>,
}

/// The part of a command that is too large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OversizedPart {
    /// An argument is longer than [`ENTRY_BYTES_MAX`]; the number is its length in bytes.
    Argument(usize),
    /// The arguments together are longer than [`RESP_COMMAND_BYTES_MAX`].
    Command,
}

impl CommandArgs {
    /// The part that is too large, if any. Such a command cannot be executed.
    pub fn oversized_part(&self) -> Option<OversizedPart> {
        self.oversized_part
    }

    /// The number of arguments, including the name.
    pub fn len(&self) -> usize {
        self.argument_ranges.len()
    }

    /// Whether there are no arguments: never for a command from [`CommandReader`].
    pub fn is_empty(&self) -> bool {
        self.argument_ranges.is_empty()
    }

    /// The argument with the index `n`, from 0; empty beyond the last one.
    pub fn at(&self, n: usize) -> &[u8] {
        self.argument_ranges.get(n).map_or(&[], |(from, to)| &self.bytes[*from as usize..*to as usize])
    }

    /// The arguments from the index `n` on, counted from 0 with the name.
    pub fn args_from(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        (n..self.len()).map(|n| self.at(n))
    }

    /// The approximate memory of the arguments in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.argument_ranges.len() * size_of::<(u32, u32)>()
    }

    /// A copy that owns exactly the memory it needs, instead of a slice of a large read buffer.
    pub fn to_owned_copy(&self) -> CommandArgs {
        CommandArgs {
            bytes: Bytes::copy_from_slice(&self.bytes),
            argument_ranges: self.argument_ranges.clone(),
            oversized_part: self.oversized_part,
        }
    }
}

/// Reads commands from bytes as they arrive.
///
/// Invariants: the bytes up to `parsed_upto` belong to the current command and have been parsed; from there up to
/// `scanned_upto` there is no line feed.
#[derive(Clone, Debug, Default)]
pub struct CommandReader {
    parsed_upto: usize,
    scanned_upto: usize,
    /// The number of strings of the array that have not arrived; `None` between commands.
    strings_left: Option<usize>,
    /// The length of the next string in bytes; `None` before its length has arrived.
    string_bytes: Option<usize>,
    argument_ranges: Vec<(u32, u32)>,
    /// The first words of a command that is too large, while the rest is skipped.
    skipped_command: Option<CommandArgs>,
}

/// The number of words that are kept of a command that is too large: the error must identify the command.
const SKIPPED_WORDS_KEPT: usize = 2;
/// The number of bytes that are kept of each word of a command that is too large.
const SKIPPED_WORD_BYTES_KEPT: usize = 128;

impl CommandReader {
    /// Reads the next command, and removes it from the input; `None` if more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut, limits: CommandLimits) -> Result<Option<CommandArgs>, RespError> {
        loop {
            if self.strings_left.is_none() {
                match input.first() {
                    None => return Ok(None),
                    Some(b'*') => {}
                    Some(_) => match self.read_inline_command(input)? {
                        None => return Ok(None),
                        // An empty line or an empty array is skipped.
                        Some(words) if words.is_empty() => continue,
                        Some(words) => return Ok(Some(words)),
                    },
                }
                let Some((from, to)) = self.read_line(input, "too big mbulk count string")? else { return Ok(None) };
                let count = parse_integer(&input[from + 1..to]).filter(|count| *count <= RESP_ARGUMENTS_MAX as i64);
                let count = count.ok_or_else(|| protocol_error("invalid multibulk length"))?;
                if count > limits.arguments_max as i64 {
                    return Err(RespError(format!("{}multibulk length", limits.error_prefix).into()));
                }
                if count <= 0 {
                    self.take_command(input);
                    continue;
                }
                self.strings_left = Some(count as usize);
            }
            if self.skipped_command.is_none() && self.read_strings(input, limits)? {
                let (bytes, argument_ranges) = self.take_command(input);
                return Ok(Some(CommandArgs { bytes, argument_ranges, oversized_part: None }));
            }
            return if self.skipped_command.is_some() { self.skip_strings(input) } else { Ok(None) };
        }
    }

    /// Whether the beginning of a command has arrived, and not its end.
    pub fn has_partial_command(&self) -> bool {
        self.strings_left.is_some() || self.scanned_upto > 0
    }

    /// Starts to skip the current command because it is too large. Discards the bytes that have arrived, except the
    /// first words. `length` is the length of the next string in bytes.
    fn start_skipping(&mut self, input: &mut BytesMut, oversized_part: OversizedPart, length: usize) {
        let (strings_left, (bytes, argument_ranges)) = (self.strings_left, self.take_command(input));
        let (mut kept_bytes, mut kept_argument_ranges) = (BytesMut::new(), Vec::new());
        for (from, to) in argument_ranges.into_iter().take(SKIPPED_WORDS_KEPT) {
            let word = &bytes[from as usize..to as usize];
            let start = kept_bytes.len() as u32;
            kept_bytes.put_slice(&word[..word.len().min(SKIPPED_WORD_BYTES_KEPT)]);
            kept_argument_ranges.push((start, kept_bytes.len() as u32));
        }
        let words = CommandArgs {
            bytes: kept_bytes.freeze(),
            argument_ranges: kept_argument_ranges,
            oversized_part: Some(oversized_part),
        };
        (self.strings_left, self.string_bytes, self.skipped_command) = (strings_left, Some(length + 2), Some(words));
    }

    /// Skips the strings of a command that is too large, as far as they have arrived. Meanwhile `string_bytes` is
    /// the remaining length of the current string, including its line end.
    fn skip_strings(&mut self, input: &mut BytesMut) -> Result<Option<CommandArgs>, RespError> {
        while let Some(left) = self.strings_left.filter(|left| *left > 0) {
            let string_left = match self.string_bytes {
                Some(string_left) => string_left,
                None => match self.read_bulk_length(input)? {
                    Some(length) => length + 2,
                    None => return Ok(None),
                },
            };
            input.advance(std::mem::take(&mut self.parsed_upto));
            self.scanned_upto = 0;
            let skipped_bytes = string_left.min(input.len());
            input.advance(skipped_bytes);
            if skipped_bytes < string_left {
                self.string_bytes = Some(string_left - skipped_bytes);
                return Ok(None);
            }
            (self.strings_left, self.string_bytes) = (Some(left - 1), None);
        }
        let words = self.skipped_command.take();
        *self = CommandReader::default();
        Ok(words)
    }

    /// Reads the announced length of the next string; `None` if its line is incomplete.
    fn read_bulk_length(&mut self, input: &BytesMut) -> Result<Option<usize>, RespError> {
        let Some((from, to)) = self.read_line(input, "too big bulk count string")? else { return Ok(None) };
        if input[from] != b'$' {
            let first_byte = input[from].escape_ascii();
            return Err(RespError(format!("expected '$', got '{first_byte}'").into()));
        }
        let length = parse_integer(&input[from + 1..to]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= RESP_BULK_BYTES_MAX);
        length.ok_or_else(|| protocol_error("invalid bulk length")).map(Some)
    }

    /// The memory in bytes that the reader itself has allocated, without the input.
    pub fn allocated_bytes(&self) -> usize {
        self.argument_ranges.capacity() * size_of::<(u32, u32)>()
    }

    /// Reads the strings of an array, as far as they have arrived; returns whether all have arrived.
    fn read_strings(&mut self, input: &mut BytesMut, limits: CommandLimits) -> Result<bool, RespError> {
        while let Some(left) = self.strings_left.filter(|left| *left > 0) {
            let length = match self.string_bytes {
                Some(length) => length,
                None => {
                    let Some(length) = self.read_bulk_length(input)? else { return Ok(false) };
                    if limits.argument_bytes_max < length.min(ENTRY_BYTES_MAX as usize) {
                        return Err(RespError(format!("{}bulk length", limits.error_prefix).into()));
                    }
                    let oversized_part = match length {
                        _ if length > ENTRY_BYTES_MAX as usize => Some(OversizedPart::Argument(length)),
                        _ if self.parsed_upto + length > RESP_COMMAND_BYTES_MAX => Some(OversizedPart::Command),
                        _ => None,
                    };
                    if let Some(oversized_part) = oversized_part {
                        self.start_skipping(input, oversized_part, length);
                        return Ok(false);
                    }
                    self.string_bytes = Some(length);
                    length
                }
            };
            let end = self.parsed_upto + length;
            if input.len() < end + 2 {
                return Ok(false);
            }
            if input[end..end + 2] != *b"\r\n" {
                return Err(protocol_error("expected CRLF"));
            }
            self.argument_ranges.push((self.parsed_upto as u32, end as u32));
            (self.parsed_upto, self.scanned_upto) = (end + 2, end + 2);
            (self.strings_left, self.string_bytes) = (Some(left - 1), None);
        }
        Ok(true)
    }

    /// Reads a line. Returns its range without the line end; `None` if the line is incomplete. `too_long` is the error
    /// for a line that exceeds the limit.
    fn read_line(&mut self, input: &BytesMut, too_long: &'static str) -> Result<Option<(usize, usize)>, RespError> {
        let from = self.parsed_upto;
        let Some(end) = self.find_line_feed(input) else {
            return if input.len() - from > RESP_LINE_BYTES_MAX { Err(protocol_error(too_long)) } else { Ok(None) };
        };
        (self.parsed_upto, self.scanned_upto) = (end + 1, end + 1);
        let to = if end > from && input[end - 1] == b'\r' { end - 1 } else { end };
        if to == from { Err(protocol_error("expected '$', got ' '")) } else { Ok(Some((from, to))) }
    }

    /// Finds the next line feed. Examines no byte twice.
    fn find_line_feed(&mut self, input: &BytesMut) -> Option<usize> {
        let from = self.scanned_upto.max(self.parsed_upto);
        let line_feed = input[from..].iter().position(|byte| *byte == b'\n');
        self.scanned_upto = input.len();
        line_feed.map(|at| from + at)
    }

    /// Reads an inline command: a line of words separated by blanks. The command has no words if the line is empty.
    fn read_inline_command(&mut self, input: &mut BytesMut) -> Result<Option<CommandArgs>, RespError> {
        let Some(end) = self.find_line_feed(input) else {
            let is_too_long = input.len() > RESP_LINE_BYTES_MAX;
            return if is_too_long { Err(protocol_error("too big inline request")) } else { Ok(None) };
        };
        if end > RESP_LINE_BYTES_MAX {
            return Err(protocol_error("too big inline request"));
        }
        self.parsed_upto = end + 1;
        let (line, _) = self.take_command(input);
        let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        split_words(line).ok_or_else(|| protocol_error("unbalanced quotes in request")).map(Some)
    }

    /// Removes the parsed bytes from the input, and starts over for the next command.
    fn take_command(&mut self, input: &mut BytesMut) -> (Bytes, Vec<(u32, u32)>) {
        let bytes = input.split_to(self.parsed_upto).freeze();
        let argument_ranges = std::mem::take(&mut self.argument_ranges);
        *self = CommandReader::default();
        (bytes, argument_ranges)
    }
}

fn protocol_error(message: &'static str) -> RespError {
    RespError(Cow::Borrowed(message))
}

/// Splits a line into words, with redis-cli's quotes and escapes; `None` if a quote is not closed.
fn split_words(line: &[u8]) -> Option<CommandArgs> {
    let mut out = BytesMut::with_capacity(line.len());
    let mut argument_ranges = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.first() else {
            return Some(CommandArgs { bytes: out.freeze(), argument_ranges, oversized_part: None });
        };
        let from = out.len() as u32;
        rest = match first {
            b'"' => read_double_quoted(&rest[1..], &mut out)?,
            b'\'' => read_single_quoted(&rest[1..], &mut out)?,
            _ => read_unquoted(rest, &mut out)?,
        };
        argument_ranges.push((from, out.len() as u32));
    }
}

/// Reads a word up to the next blank. A quoted part may follow within the word, and ends the word.
fn read_unquoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Option<&'a [u8]> {
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b'"' => return read_double_quoted(tail, out),
            b'\'' => return read_single_quoted(tail, out),
            blank if blank.is_ascii_whitespace() || *blank == 0 => return Some(tail),
            byte => out.put_u8(*byte),
        }
        rest = tail;
    }
    Some(rest)
}

fn read_double_quoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let hex_digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
                out.put_u8(hex_digit(*high) << 4 | hex_digit(*low));
                tail
            }
            [b'\\', escaped, tail @ ..] => {
                out.put_u8(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                tail
            }
            [b'"', tail @ ..] => return after_closing_quote(tail),
            [byte, tail @ ..] => {
                out.put_u8(*byte);
                tail
            }
            [] => return None,
        }
    }
}

fn read_single_quoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'\'', tail @ ..] => {
                out.put_u8(b'\'');
                tail
            }
            [b'\'', tail @ ..] => return after_closing_quote(tail),
            [byte, tail @ ..] => {
                out.put_u8(*byte);
                tail
            }
            [] => return None,
        }
    }
}

/// Checks that a blank or the end of the line follows a closing quote.
fn after_closing_quote(tail: &[u8]) -> Option<&[u8]> {
    tail.first().is_none_or(u8::is_ascii_whitespace).then_some(tail)
}

/// The protocol version of replies, which a client chooses with `HELLO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RespVersion {
    /// RESP2, in which maps are arrays and nil is a null bulk string.
    #[default]
    Resp2,
    /// RESP3, which has a type for maps and one for nil.
    Resp3,
}

/// Encodes replies in the version that the client chose.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    out: &'a mut BytesMut,
    version: RespVersion,
}

impl<'a> ReplyWriter<'a> {
    /// A writer that appends its replies to `out`.
    pub fn new(out: &'a mut BytesMut, version: RespVersion) -> ReplyWriter<'a> {
        ReplyWriter { out, version }
    }

    /// Writes a simple string such as `+OK`. Line breaks become spaces.
    pub fn simple_string(&mut self, text: &str) {
        self.put_line(b'+', text);
    }

    /// Writes an error. `text` is its kind in capitals, such as `ERR`, and a message. Line breaks become spaces.
    pub fn error(&mut self, text: &str) {
        self.put_line(b'-', text);
    }

    fn put_line(&mut self, kind: u8, text: &str) {
        self.out.put_u8(kind);
        let start = self.out.len();
        self.out.put_slice(text.as_bytes());
        for byte in &mut self.out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.put_slice(b"\r\n");
    }

    /// Writes an integer, such as `:7`.
    pub fn integer(&mut self, number: i64) {
        self.put_number_line(b':', number);
    }

    /// Writes a bulk string: any bytes, after their length.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.put_number_line(b'$', bytes.len() as i64);
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// Writes a bulk string, or nil for `None`.
    pub fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// Writes nil, the reply for an absent value.
    pub fn nil(&mut self) {
        self.out.put_slice(match self.version {
            RespVersion::Resp2 => b"$-1\r\n",
            RespVersion::Resp3 => b"_\r\n",
        });
    }

    /// Writes the head of an array: its `count` elements must follow.
    pub fn array(&mut self, count: usize) {
        self.put_number_line(b'*', count as i64);
    }

    /// Writes the head of a map: its `pairs` of key and value must follow.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            RespVersion::Resp2 => self.put_number_line(b'*', 2 * pairs as i64),
            RespVersion::Resp3 => self.put_number_line(b'%', pairs as i64),
        }
    }

    /// Appends a reply that is already encoded.
    pub fn raw(&mut self, reply: &[u8]) {
        self.out.put_slice(reply);
    }

    fn put_number_line(&mut self, kind: u8, number: i64) {
        self.out.put_u8(kind);
        let (mut digits, mut at) = ([0; 20], 20);
        let mut rest = number.unsigned_abs();
        while rest > 0 || at == 20 {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        if number < 0 {
            self.out.put_u8(b'-');
        }
        self.out.put_slice(&digits[at..]);
        self.out.put_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests;
