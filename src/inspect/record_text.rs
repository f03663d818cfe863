//! The form in which a journal record is shown: its text, its JSON fields, and the style of its bytes.

use crate::types::{Index, Term};
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
