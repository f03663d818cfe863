//! The protocol of Redis clients: commands in RESP2 or as inline lines; replies in RESP2 or RESP3.
//!
//! A command is an array of strings: `*2`, then the length and the bytes of each. It is not nested, so the parser is
//! not recursive. An announced count or length costs nothing before the bytes arrive, and every received byte is
//! examined once, however the input is split. Anything else is an error in Redis's own words, after which nothing more
//! is read.
//!
//! A command that is only too large is skipped as it arrives: the client loses the command, not the connection.

use crate::codec::integer;
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
pub struct Bounds {
    /// The number of arguments.
    arguments: usize,
    /// The length of an argument.
    bytes: usize,
    /// The prefix of error messages about these limits.
    who: &'static str,
}

impl Bounds {
    /// For authenticated clients.
    pub const KNOWN: Bounds = Bounds { arguments: RESP_ARGUMENTS_MAX, bytes: ENTRY_BYTES_MAX as usize, who: "" };
    /// For clients before authentication: enough for a password.
    pub const UNKNOWN: Bounds = Bounds { arguments: 10, bytes: 16 << 10, who: "unauthenticated " };
}

/// One command: its name and its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandArgs {
    bytes: Bytes,
    /// The range of each argument in `bytes`.
    places: Vec<(u32, u32)>,
    /// What is too large, if anything: then only the first words are here.
    excess: Option<Excess>,
}

/// The part of a command that is too large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// One argument, of that many bytes.
    Argument(usize),
    /// The command as a whole.
    Command,
}

impl CommandArgs {
    /// What is too large, if anything: such a command cannot be executed.
    pub fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// The number of arguments, including the name.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no arguments: never for a command from [`Reader`].
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The argument at that index, from 0; empty beyond the last one.
    pub fn at(&self, n: usize) -> &[u8] {
        self.places.get(n).map_or(&[], |(from, to)| &self.bytes[*from as usize..*to as usize])
    }

    /// The arguments from that index on.
    pub fn from(&self, n: usize) -> impl Iterator<Item = &[u8]> {
        (n..self.len()).map(|n| self.at(n))
    }

    /// The approximate memory in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<(u32, u32)>()
    }

    /// A copy with its own memory of exactly that size, to be kept.
    pub fn keep(&self) -> CommandArgs {
        CommandArgs { bytes: Bytes::copy_from_slice(&self.bytes), places: self.places.clone(), excess: self.excess }
    }
}

/// Reads commands from bytes as they arrive.
///
/// Invariants: the bytes up to `at` belong to the current command and have been examined; the bytes up to `looked`
/// contain no further line feed.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    at: usize,
    looked: usize,
    /// The number of strings still to come, within an array; and the length of the next string, once known.
    array: Option<usize>,
    length: Option<usize>,
    places: Vec<(u32, u32)>,
    /// The first words of a command that is too large, while the rest is skipped.
    passing: Option<CommandArgs>,
}

/// The number of words that are kept of a command that is too large, and the bytes of each: the error must identify the
/// command.
const KEPT: (usize, usize) = (2, 128);

impl Reader {
    /// The next command, if it is complete. Removes it from the input.
    pub fn next(&mut self, input: &mut BytesMut, bounds: Bounds) -> Result<Option<CommandArgs>, RespError> {
        loop {
            if self.array.is_none() {
                match input.first() {
                    None => return Ok(None),
                    Some(b'*') => {}
                    Some(_) => match self.line(input)? {
                        None => return Ok(None),
                        // An empty line or an empty array is skipped.
                        Some(words) if words.is_empty() => continue,
                        Some(words) => return Ok(Some(words)),
                    },
                }
                let Some((from, to)) = self.head(input, "too big mbulk count string")? else { return Ok(None) };
                let count = integer(&input[from + 1..to]).filter(|count| *count <= RESP_ARGUMENTS_MAX as i64);
                let count = count.ok_or_else(|| wrong("invalid multibulk length"))?;
                if count > bounds.arguments as i64 {
                    return Err(RespError(format!("{}multibulk length", bounds.who).into()));
                }
                if count <= 0 {
                    self.take(input);
                    continue;
                }
                self.array = Some(count as usize);
            }
            if self.passing.is_none() && self.strings(input, bounds)? {
                let (bytes, places) = self.take(input);
                return Ok(Some(CommandArgs { bytes, places, excess: None }));
            }
            return if self.passing.is_some() { self.pass(input) } else { Ok(None) };
        }
    }

    /// Whether a command is incomplete.
    pub fn is_midway(&self) -> bool {
        self.array.is_some() || self.looked > 0
    }

    /// Starts to skip the current command because it is too large; drops what has arrived except the first words. The
    /// next string has that length.
    fn begin_to_pass(&mut self, input: &mut BytesMut, excess: Excess, length: usize) {
        let (array, (bytes, places)) = (self.array, self.take(input));
        let mut kept = (BytesMut::new(), Vec::new());
        for (from, to) in places.into_iter().take(KEPT.0) {
            let word = &bytes[from as usize..to as usize];
            let begins = kept.0.len() as u32;
            kept.0.put_slice(&word[..word.len().min(KEPT.1)]);
            kept.1.push((begins, kept.0.len() as u32));
        }
        let words = CommandArgs { bytes: kept.0.freeze(), places: kept.1, excess: Some(excess) };
        (self.array, self.length, self.passing) = (array, Some(length + 2), Some(words));
    }

    /// Skips the strings of a command that is too large, as far as they have arrived. Meanwhile `length` is the
    /// remaining length of the current string, including its line end.
    fn pass(&mut self, input: &mut BytesMut) -> Result<Option<CommandArgs>, RespError> {
        while let Some(left) = self.array.filter(|left| *left > 0) {
            let rest = match self.length {
                Some(rest) => rest,
                None => match self.bulk_length(input)? {
                    Some(length) => length + 2,
                    None => return Ok(None),
                },
            };
            input.advance(std::mem::take(&mut self.at));
            self.looked = 0;
            let passed = rest.min(input.len());
            input.advance(passed);
            if passed < rest {
                self.length = Some(rest - passed);
                return Ok(None);
            }
            (self.array, self.length) = (Some(left - 1), None);
        }
        let words = self.passing.take();
        *self = Reader::default();
        Ok(words)
    }

    /// The announced length of the next string, if its line is complete.
    fn bulk_length(&mut self, input: &BytesMut) -> Result<Option<usize>, RespError> {
        let Some((from, to)) = self.head(input, "too big bulk count string")? else { return Ok(None) };
        if input[from] != b'$' {
            let got = input[from].escape_ascii();
            return Err(RespError(format!("expected '$', got '{got}'").into()));
        }
        let length = integer(&input[from + 1..to]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= RESP_BULK_BYTES_MAX);
        length.ok_or_else(|| wrong("invalid bulk length")).map(Some)
    }

    /// The memory in bytes that the reader itself holds.
    pub fn held(&self) -> usize {
        self.places.capacity() * size_of::<(u32, u32)>()
    }

    /// Reads the strings of an array, as far as they have arrived; returns whether all have.
    fn strings(&mut self, input: &mut BytesMut, bounds: Bounds) -> Result<bool, RespError> {
        while let Some(left) = self.array.filter(|left| *left > 0) {
            let length = match self.length {
                Some(length) => length,
                None => {
                    let Some(length) = self.bulk_length(input)? else { return Ok(false) };
                    if bounds.bytes < length.min(ENTRY_BYTES_MAX as usize) {
                        return Err(RespError(format!("{}bulk length", bounds.who).into()));
                    }
                    let excess = match length {
                        _ if length > ENTRY_BYTES_MAX as usize => Some(Excess::Argument(length)),
                        _ if self.at + length > RESP_COMMAND_BYTES_MAX => Some(Excess::Command),
                        _ => None,
                    };
                    if let Some(excess) = excess {
                        self.begin_to_pass(input, excess, length);
                        return Ok(false);
                    }
                    self.length = Some(length);
                    length
                }
            };
            let end = self.at + length;
            if input.len() < end + 2 {
                return Ok(false);
            }
            if input[end..end + 2] != *b"\r\n" {
                return Err(wrong("expected CRLF"));
            }
            self.places.push((self.at as u32, end as u32));
            (self.at, self.looked) = (end + 2, end + 2);
            (self.array, self.length) = (Some(left - 1), None);
        }
        Ok(true)
    }

    /// The range of the current line without its end, if it is complete.
    fn head(&mut self, input: &BytesMut, too_long: &'static str) -> Result<Option<(usize, usize)>, RespError> {
        let from = self.at;
        let Some(end) = self.find(input) else {
            return if input.len() - from > RESP_LINE_BYTES_MAX { Err(wrong(too_long)) } else { Ok(None) };
        };
        (self.at, self.looked) = (end + 1, end + 1);
        let to = if end > from && input[end - 1] == b'\r' { end - 1 } else { end };
        if to == from { Err(wrong("expected '$', got ' '")) } else { Ok(Some((from, to))) }
    }

    /// The position of the next line feed; examines no byte twice.
    fn find(&mut self, input: &BytesMut) -> Option<usize> {
        let from = self.looked.max(self.at);
        let found = input[from..].iter().position(|byte| *byte == b'\n');
        self.looked = input.len();
        found.map(|at| from + at)
    }

    /// An inline command: a line of words separated by blanks; without words if the line is empty.
    fn line(&mut self, input: &mut BytesMut) -> Result<Option<CommandArgs>, RespError> {
        let Some(end) = self.find(input) else {
            let long = input.len() > RESP_LINE_BYTES_MAX;
            return if long { Err(wrong("too big inline request")) } else { Ok(None) };
        };
        if end > RESP_LINE_BYTES_MAX {
            return Err(wrong("too big inline request"));
        }
        self.at = end + 1;
        let (line, _) = self.take(input);
        let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        split(line).ok_or_else(|| wrong("unbalanced quotes in request")).map(Some)
    }

    /// Removes the bytes read, and resets.
    fn take(&mut self, input: &mut BytesMut) -> (Bytes, Vec<(u32, u32)>) {
        let bytes = input.split_to(self.at).freeze();
        let places = std::mem::take(&mut self.places);
        *self = Reader::default();
        (bytes, places)
    }
}

fn wrong(what: &'static str) -> RespError {
    RespError(Cow::Borrowed(what))
}

/// The words of a line, with redis-cli's quotes and escapes; `None` if a quote is not closed.
fn split(line: &[u8]) -> Option<CommandArgs> {
    let mut out = BytesMut::with_capacity(line.len());
    let mut places = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.first() else {
            return Some(CommandArgs { bytes: out.freeze(), places, excess: None });
        };
        let from = out.len() as u32;
        rest = match first {
            b'"' => quoted(&rest[1..], &mut out)?,
            b'\'' => single_quoted(&rest[1..], &mut out)?,
            _ => bare(rest, &mut out)?,
        };
        places.push((from, out.len() as u32));
    }
}

/// Reads a word up to the next blank; a quote may begin within it, and ends it.
fn bare<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Option<&'a [u8]> {
    while let Some((first, behind)) = rest.split_first() {
        match first {
            b'"' => return quoted(behind, out),
            b'\'' => return single_quoted(behind, out),
            blank if blank.is_ascii_whitespace() || *blank == 0 => return Some(behind),
            byte => out.put_u8(*byte),
        }
        rest = behind;
    }
    Some(rest)
}

fn quoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
                out.put_u8(digit(*high) << 4 | digit(*low));
                behind
            }
            [b'\\', escaped, behind @ ..] => {
                out.put_u8(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                behind
            }
            [b'"', behind @ ..] => return closed(behind),
            [byte, behind @ ..] => {
                out.put_u8(*byte);
                behind
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], out: &mut BytesMut) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\\', b'\'', behind @ ..] => {
                out.put_u8(b'\'');
                behind
            }
            [b'\'', behind @ ..] => return closed(behind),
            [byte, behind @ ..] => {
                out.put_u8(*byte);
                behind
            }
            [] => return None,
        }
    }
}

/// After a closing quote there must be a blank or the end.
fn closed(behind: &[u8]) -> Option<&[u8]> {
    behind.first().is_none_or(u8::is_ascii_whitespace).then_some(behind)
}

/// The protocol version of replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Version {
    /// RESP2.
    #[default]
    Two,
    /// RESP3, which has maps and its own nil.
    Three,
}

/// Writes replies.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    version: Version,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut BytesMut, version: Version) -> Writer<'a> {
        Writer { out, version }
    }

    /// A simple string such as `+OK`: one line.
    pub fn line(&mut self, text: &str) {
        self.put_line(b'+', text);
    }

    /// An error: its kind in capitals and a message. Line breaks become spaces.
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

    /// An integer.
    pub fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as i64);
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// A bulk string, or nil.
    pub fn option(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// Nil.
    pub fn nil(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"$-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// The head of an array.
    pub fn array(&mut self, count: usize) {
        self.head(b'*', count as i64);
    }

    /// The head of a map.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            Version::Two => self.head(b'*', 2 * pairs as i64),
            Version::Three => self.head(b'%', pairs as i64),
        }
    }

    /// Encoded bytes, unchanged.
    pub fn raw(&mut self, said: &[u8]) {
        self.out.put_slice(said);
    }

    fn head(&mut self, kind: u8, number: i64) {
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
