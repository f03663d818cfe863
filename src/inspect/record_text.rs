//! How `dump` and `diff` show a journal record: its text, its JSON fields, and the style of its bytes.

use crate::types::{Index, Term};
use bytes::Bytes;
use serde::Serialize;

/// The maximum number of bytes of a value that are shown without `--full`.
const SHOWN_BYTES_MAX: usize = 48;

/// How keys and values are printed: by default as text with escapes, abbreviated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether a value is shown in full, however long (`--full`).
    pub full: bool,
    /// Whether bytes are shown in hexadecimal instead of as text with escapes (`--hex`).
    pub hex: bool,
}

/// A description of one journal record.
#[derive(Clone, Debug, Default)]
pub struct RecordText {
    /// The short name of the record's type, such as `put` or `seal`: `dump --type` selects by it.
    pub name: &'static str,
    /// The index and term of an entry; `None` for any other record.
    pub position: Option<(Index, Term)>,
    /// The term in a record other than an entry, if it has one.
    pub term: Option<Term>,
    /// The keys that the entry's command reads or writes.
    pub keys: Vec<Bytes>,
    /// The content of the record as text, without name and position.
    pub content: String,
    /// The content of the record for JSON output.
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

/// Bytes in quotes, escaped as in Rust, or in hexadecimal; abbreviated after `SHOWN_BYTES_MAX` bytes unless the style
/// is full.
pub(super) fn quote(bytes: &[u8], style: Style) -> String {
    let shown_bytes = if style.full { bytes } else { &bytes[..bytes.len().min(SHOWN_BYTES_MAX)] };
    let hidden_bytes = bytes.len() - shown_bytes.len();
    let mut out = match style.hex {
        true => shown_bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        false => format!("\"{}\"", shown_bytes.escape_ascii()),
    };
    if hidden_bytes > 0 {
        out += &format!("… +{hidden_bytes} bytes");
    }
    out
}

/// The bytes as text if they are UTF-8 (first), otherwise as base64 (second).
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

/// Encodes bytes as base64 by RFC 4648, with padding.
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
        for (bytes, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\x00\u{7f}", "AH8=")]
        {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn long_values_are_abbreviated() {
        let text = quote(&[b'x'; 60], Style::default());
        assert!(text.ends_with("x\"… +12 bytes"), "{text}");
        assert_eq!(quote(b"a\n\xff", Style::default()), r#""a\n\xff""#);
        assert_eq!(quote(b"a\n\xff", Style { hex: true, full: true }), "610aff");
    }
}
