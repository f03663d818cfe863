//! A journal record as text and as JSON fields.

use super::record_kv::command;
use crate::api::Op;
use crate::codec::{self, Reader};
use crate::machine::words::Command;
use crate::types::{Index, Payload, Position, Term, Vote};
use crate::wal::format::{self, Batch, Frame, Opening, RecordKind, Seal};
use bytes::Bytes;
use serde::Serialize;

/// Values are cut after this many bytes, unless `--full` is given.
const CUT: usize = 48;

/// How bytes are printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Values in full, however long.
    pub full: bool,
    /// Hex, not text with escapes.
    pub hex: bool,
}

/// A decoded record.
#[derive(Clone, Debug, Default)]
pub struct RecordText {
    /// The name of its type.
    pub name: &'static str,
    /// Index and term of an entry.
    pub position: Option<(Index, Term)>,
    /// The term that a record other than an entry contains.
    pub term: Option<Term>,
    /// The keys it reads or writes.
    pub keys: Vec<Bytes>,
    /// Its content as text.
    pub what: String,
    /// Its content as JSON fields.
    pub fields: Fields,
}

/// The content of a record as JSON fields. Fields that do not apply are omitted.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commands: Option<Vec<Fields>>,
    #[serde(rename = "op", skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// Decodes a frame whose checksums are right.
pub fn describe_record(frame: &Frame, style: Style) -> RecordText {
    let said = match frame.kind {
        RecordKind::Entry => return entry(frame, style),
        RecordKind::Batch => Batch::read(&frame.body).map(|batch| RecordText {
            name: "head",
            what: format!(
                "{} records {} bytes synced={:010}:{}{}",
                batch.frames,
                batch.bytes,
                batch.synced.0,
                batch.synced.1,
                if batch.more { " more" } else { "" }
            ),
            ..RecordText::default()
        }),
        RecordKind::Open => Opening::read(&frame.body).map(|opening| RecordText {
            name: "seg",
            term: Some(opening.hard.term),
            what: format!(
                "begins behind {} base={} term={} vote={} {}",
                opening.last,
                opening.base.position,
                opening.hard.term,
                vote(opening.hard.vote),
                opening.current.1
            ),
            ..RecordText::default()
        }),
        RecordKind::Hard => format::read_hard(&frame.body).map(|hard| RecordText {
            name: "hard",
            term: Some(hard.term),
            what: format!("term={} vote={}{}", hard.term, vote(hard.vote), promised(hard.promised)),
            fields: Fields { vote: Some(hard.vote.map_or(0, |vote| vote.node.get())), ..Fields::default() },
            ..RecordText::default()
        }),
        RecordKind::Base | RecordKind::Release => format::read_base(&frame.body).map(|base| {
            let restarts = frame.kind == RecordKind::Base;
            let verb = if restarts { "the log restarts behind" } else { "released up to" };
            RecordText {
                name: if restarts { "base" } else { "free" },
                term: Some(base.position.term),
                what: format!("{verb} {} {}", base.position, base.membership),
                ..RecordText::default()
            }
        }),
        RecordKind::Seal => Seal::read(&frame.body).map(|seal| RecordText {
            name: "seal",
            what: format!("ends at {} next={}", seal.last, format::file_name(seal.successor)),
            ..RecordText::default()
        }),
    };
    let mut said = said.unwrap_or_else(|malformed| RecordText {
        name: "odd",
        what: malformed.0.to_owned(),
        ..RecordText::default()
    });
    if frame.kind != RecordKind::Hard {
        said.fields.what = Some(said.what.clone());
    }
    said
}

fn vote(vote: Option<Vote>) -> String {
    vote.map_or("-".to_owned(), |vote| vote.node.get().to_string())
}

/// The position up to which the node acknowledged entries and lost them; empty if there is none.
fn promised(upto: Position) -> String {
    if upto == Position::ZERO { String::new() } else { format!(" promised={upto}") }
}

fn entry(frame: &Frame, style: Style) -> RecordText {
    let entry = match codec::read_entry(&mut Reader::new(frame.body.clone())) {
        Ok(entry) => entry,
        Err(malformed) => return RecordText { name: "odd", what: malformed.0.to_owned(), ..RecordText::default() },
    };
    let mut said = match entry.payload {
        Payload::Noop => RecordText { name: "noop", ..RecordText::default() },
        Payload::Membership(membership) => {
            let what = membership.to_string();
            let fields = Fields { what: Some(what.clone()), ..Fields::default() };
            RecordText { name: "conf", what, fields, ..RecordText::default() }
        }
        Payload::Opaque(bytes) => op(entry.position.index, bytes, style),
    };
    said.position = Some((entry.position.index, entry.position.term));
    said
}

fn op(index: Index, bytes: Bytes, style: Style) -> RecordText {
    match Op::decode(bytes.clone()) {
        Ok(Op::Open { window, ordered }) => RecordText {
            name: "open",
            what: format!("session={index} window={window}{}", if ordered { " ordered" } else { "" }),
            fields: Fields { session: Some(index.0), window: Some(window), ..Fields::default() },
            ..RecordText::default()
        },
        Ok(Op::Close { session }) => RecordText {
            name: "close",
            what: format!("session={session}"),
            fields: Fields { session: Some(session.0), ..Fields::default() },
            ..RecordText::default()
        },
        Ok(Op::Execute { session, seq, command: bytes, .. }) => {
            let mut said = match Command::decode(&bytes) {
                Ok(found) => command(&found, style),
                // The command of another state machine: its bytes are shown.
                Err(_) => raw("cmd", &bytes, style),
            };
            said.what = format!("{session}#{seq} {}", said.what);
            said.fields.session = Some(session.0);
            said.fields.seq = Some(seq);
            said
        }
        Ok(Op::Tick) => RecordText { name: "tick", ..RecordText::default() },
        Err(_) => raw("op", &bytes, style),
    }
}

fn raw(name: &'static str, bytes: &[u8], style: Style) -> RecordText {
    let mut fields = Fields::default();
    (fields.value, fields.value_b64) = text(bytes);
    RecordText { name, what: quoted(bytes, style), fields, ..RecordText::default() }
}

/// Bytes in quotes, escaped as in Rust, or in hex; cut after `CUT` bytes unless the style is full.
pub(super) fn quoted(bytes: &[u8], style: Style) -> String {
    let shown = if style.full { bytes } else { &bytes[..bytes.len().min(CUT)] };
    let rest = bytes.len() - shown.len();
    let mut out = match style.hex {
        true => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
        false => format!("\"{}\"", shown.escape_ascii()),
    };
    if rest > 0 {
        out += &format!("… +{rest} bytes");
    }
    out
}

/// The bytes as text if they are UTF-8, otherwise as base64.
pub(super) fn text(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

/// Base64 by RFC 4648, padded.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_rfc_4648() {
        for (bytes, said) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\x00\u{7f}", "AH8=")]
        {
            assert_eq!(base64(bytes.as_bytes()), said);
        }
    }

    #[test]
    fn long_values_are_cut() {
        let cut = quoted(&[b'x'; 60], Style::default());
        assert!(cut.ends_with("x\"… +12 bytes"), "{cut}");
        assert_eq!(quoted(b"a\n\xff", Style::default()), r#""a\n\xff""#);
        assert_eq!(quoted(b"a\n\xff", Style { hex: true, full: true }), "610aff");
    }
}
