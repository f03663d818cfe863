//! A journal record as text and as JSON fields.

use super::record_kv::command;
use super::record_text::{Fields, RecordText, Style, quoted, text};
use crate::api::Op;
use crate::codec::{self, Reader};
use crate::machine::commands::Command;
use crate::types::{Index, Payload, Position, Vote};
use crate::wal::format::{self, Batch, Frame, Opening, RecordKind, Seal};
use bytes::Bytes;

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
