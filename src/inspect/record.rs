//! Describes a journal record, as text and as JSON fields.

use super::record_kv::describe_command;
use super::record_text::{Fields, RecordText, Style, quote, text_or_base64};
use crate::api::Op;
use crate::codec::{self, Reader};
use crate::machine::commands::Command;
use crate::types::{Index, Payload, Position, Vote};
use crate::wal::format::{self, BatchHeader, Frame, Opening, RecordKind, Seal};
use bytes::Bytes;

/// Describes the record in a frame whose checksums are right. A record that cannot be decoded is named `odd`.
pub fn describe_record(frame: &Frame, style: Style) -> RecordText {
    let decoded_record = match frame.kind {
        RecordKind::Entry => return describe_entry(frame, style),
        RecordKind::Batch => BatchHeader::decode(&frame.body).map(|batch| RecordText {
            name: "head",
            content: format!(
                "{} records {} bytes synced={:010}:{}{}",
                batch.frame_count,
                batch.bytes,
                batch.synced_end.0,
                batch.synced_end.1,
                if batch.has_more_pieces { " more" } else { "" }
            ),
            ..RecordText::default()
        }),
        RecordKind::Open => Opening::decode(&frame.body).map(|opening| RecordText {
            name: "seg",
            term: Some(opening.hard_state.term),
            content: format!(
                "begins behind {} base={} term={} vote={} {}",
                opening.last_position,
                opening.base.position,
                opening.hard_state.term,
                vote_text(opening.hard_state.vote),
                opening.configuration.1
            ),
            ..RecordText::default()
        }),
        RecordKind::HardState => format::decode_hard_state(&frame.body).map(|hard| RecordText {
            name: "hard",
            term: Some(hard.term),
            content: format!(
                "term={} vote={}{}",
                hard.term,
                vote_text(hard.vote),
                lost_position_text(hard.promised_position)
            ),
            fields: Fields { vote: Some(hard.vote.map_or(0, |vote| vote.node.get())), ..Fields::default() },
            ..RecordText::default()
        }),
        RecordKind::Base | RecordKind::Release => format::decode_base(&frame.body).map(|base| {
            let is_restart = frame.kind == RecordKind::Base;
            let phrase = if is_restart { "the log restarts behind" } else { "released up to" };
            RecordText {
                name: if is_restart { "base" } else { "free" },
                term: Some(base.position.term),
                content: format!("{phrase} {} {}", base.position, base.membership),
                ..RecordText::default()
            }
        }),
        RecordKind::Seal => Seal::decode(&frame.body).map(|seal| RecordText {
            name: "seal",
            content: format!("ends at {} next={}", seal.last_position, format::file_name(seal.successor_number)),
            ..RecordText::default()
        }),
    };
    let mut record = decoded_record.unwrap_or_else(|malformed| RecordText {
        name: "odd",
        content: malformed.0.to_owned(),
        ..RecordText::default()
    });
    if frame.kind != RecordKind::HardState {
        record.fields.what = Some(record.content.clone());
    }
    record
}

fn vote_text(vote: Option<Vote>) -> String {
    vote.map_or("-".to_owned(), |vote| vote.node.get().to_string())
}

/// The text of the position up to which the node had acknowledged entries and then lost them; empty if it lost none.
fn lost_position_text(upto: Position) -> String {
    if upto == Position::ZERO { String::new() } else { format!(" promised={upto}") }
}

fn describe_entry(frame: &Frame, style: Style) -> RecordText {
    let entry = match codec::read_entry(&mut Reader::new(frame.body.clone())) {
        Ok(entry) => entry,
        Err(malformed) => return RecordText { name: "odd", content: malformed.0.to_owned(), ..RecordText::default() },
    };
    let mut record = match entry.payload {
        Payload::Noop => RecordText { name: "noop", ..RecordText::default() },
        Payload::Membership(membership) => {
            let content = membership.to_string();
            let fields = Fields { what: Some(content.clone()), ..Fields::default() };
            RecordText { name: "conf", content, fields, ..RecordText::default() }
        }
        Payload::Opaque(bytes) => describe_op(entry.position.index, bytes, style),
    };
    record.position = Some((entry.position.index, entry.position.term));
    record
}

fn describe_op(index: Index, bytes: Bytes, style: Style) -> RecordText {
    match Op::decode(bytes.clone()) {
        Ok(Op::Open { window, ordered }) => RecordText {
            name: "open",
            content: format!("session={index} window={window}{}", if ordered { " ordered" } else { "" }),
            fields: Fields { session: Some(index.0), window: Some(window), ..Fields::default() },
            ..RecordText::default()
        },
        Ok(Op::Close { session }) => RecordText {
            name: "close",
            content: format!("session={session}"),
            fields: Fields { session: Some(session.0), ..Fields::default() },
            ..RecordText::default()
        },
        Ok(Op::Execute { session, seq, command: bytes, .. }) => {
            let mut record = match Command::decode(&bytes) {
                Ok(command) => describe_command(&command, style),
                // A command of another state machine is shown as bytes.
                Err(_) => raw_record("cmd", &bytes, style),
            };
            record.content = format!("{session}#{seq} {}", record.content);
            record.fields.session = Some(session.0);
            record.fields.seq = Some(seq);
            record
        }
        Ok(Op::Tick) => RecordText { name: "tick", ..RecordText::default() },
        Err(_) => raw_record("op", &bytes, style),
    }
}

fn raw_record(name: &'static str, bytes: &[u8], style: Style) -> RecordText {
    let mut fields = Fields::default();
    (fields.value, fields.value_b64) = text_or_base64(bytes);
    RecordText { name, content: quote(bytes, style), fields, ..RecordText::default() }
}
