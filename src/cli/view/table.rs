//! The table of nodes: its columns, and which of them a narrow terminal does without.

use super::model::{Model, Node, PollResult, Process};
use crate::api::{PeerStatus, RoleName, Status};
use bytesize::ByteSize;
use std::time::Duration;

/// What a cell is made of.
struct Row<'a> {
    node: &'a Node,
    status: Option<&'a Status>,
    leader: Option<&'a Status>,
    /// What the leader knows of it.
    peer: Option<&'a PeerStatus>,
    now: Duration,
}

struct Column {
    title: &'static str,
    width: usize,
    /// Figures stand at the right.
    is_figure: bool,
    /// Terminals with fewer columns do without.
    from: u16,
    cell: fn(&Row) -> String,
}

/// In their order. At 80 columns the last one has 17 left.
const COLUMNS: &[Column] = &[
    Column { title: "node", width: 5, is_figure: false, from: 0, cell: |row| row.node.name() },
    Column { title: "role", width: 12, is_figure: false, from: 0, cell: role },
    Column { title: "term", width: 5, is_figure: true, from: 46, cell: |row| of(row, |status| status.term) },
    Column { title: "commit", width: 9, is_figure: true, from: 56, cell: |row| of(row, |status| status.commit) },
    Column { title: "applied", width: 9, is_figure: true, from: 66, cell: |row| of(row, |status| status.applied) },
    Column { title: "lag", width: 7, is_figure: true, from: 40, cell: lag },
    Column { title: "fsync p99", width: 9, is_figure: true, from: 78, cell: fsync },
    Column { title: "log", width: 9, is_figure: true, from: 100, cell: log },
    Column { title: "snapshot", width: 9, is_figure: true, from: 100, cell: snapshot },
    Column { title: "address", width: 19, is_figure: false, from: 118, cell: |row| row.node.endpoint.clone() },
    Column { title: "state", width: 0, is_figure: false, from: 0, cell: state },
];

/// The line of titles, for a terminal so many columns wide.
pub fn titles(width: u16) -> String {
    line(width, |column| column.title.to_owned())
}

/// The line of a node.
pub fn row(model: &Model, node: &Node, width: u16) -> String {
    let leader = model.leader();
    let peer = leader.and_then(|leader| leader.peers.iter().find(|peer| Some(peer.node) == node.id));
    let row = Row { node, status: node.status(), leader, peer, now: model.now() };
    line(width, |column| (column.cell)(&row))
}

fn line(width: u16, cell: impl Fn(&Column) -> String) -> String {
    let cells = COLUMNS.iter().filter(|column| column.from <= width).map(|column| match column.is_figure {
        true => format!("{:>width$}", cell(column), width = column.width),
        false => format!("{:<width$}", cell(column), width = column.width),
    });
    cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

fn of(row: &Row, figure: fn(&Status) -> u64) -> String {
    row.status.map_or_else(none, |status| figure(status).to_string())
}

fn none() -> String {
    "-".to_owned()
}

fn role(row: &Row) -> String {
    let Some(status) = row.status else { return none() };
    match row.leader {
        // It does not know yet that another does.
        Some(leader) if status.role == RoleName::Leader && leader.node != status.node => "old leader".to_owned(),
        _ => status.role.to_string(),
    }
}

/// How many entries it lacks: as its leader knows, also of one that is silent.
fn lag(row: &Row) -> String {
    match (row.peer, row.leader, row.status) {
        (Some(peer), ..) => peer.known_lag().map_or_else(none, |lag| lag.to_string()),
        (None, Some(leader), Some(status)) if leader.node == status.node => {
            status.last.saturating_sub(status.durable).to_string()
        }
        _ => none(),
    }
}

fn fsync(row: &Row) -> String {
    match row.status {
        Some(status) if !status.fsync => "OFF".to_owned(),
        Some(status) => ms(status.disk.sync_p99_us),
        None => none(),
    }
}

/// Microseconds, as milliseconds.
pub fn ms(us: f64) -> String {
    let digits = if us < 100_000.0 { 2 } else { 0 };
    format!("{:.digits$} ms", us / 1000.0)
}

fn log(row: &Row) -> String {
    row.status.map_or_else(none, |status| size(status.log.bytes))
}

/// Up to which index the newest one goes.
fn snapshot(row: &Row) -> String {
    match row.status.map(|status| &status.log) {
        Some(log) if log.snapshot > 0 => log.snapshot.to_string(),
        _ => none(),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// How its process is, if it is ours, and whether it answers.
fn state(row: &Row) -> String {
    match (row.node.process, &row.node.found) {
        (Some(Process::Frozen), _) => "frozen".to_owned(),
        (Some(Process::Returns { seconds }), _) => format!("dead, back in {seconds} s"),
        (Some(Process::Away), _) => match row.node.id {
            Some(id) => format!("dead, {id} starts it"),
            None => "dead".to_owned(),
        },
        (_, Some(PollResult::Answer(status))) => of_an_answer(row, status),
        (Some(Process::Runs), Some(PollResult::Nobody) | None) => "starts".to_owned(),
        (None, Some(PollResult::Nobody)) => "down".to_owned(),
        (None, None) => "…".to_owned(),
        (_, Some(PollResult::Silence)) => match row.node.heard {
            Some(heard) => format!("silent {} s", row.now.saturating_sub(heard).as_secs()),
            None => "silent".to_owned(),
        },
    }
}

fn of_an_answer(row: &Row, status: &Status) -> String {
    let words = match row.peer {
        _ if status.low_space => "disk is full",
        Some(peer) if peer.stage == "snapshot" => "gets a snapshot",
        _ if status.log.taking => "takes a snapshot",
        _ if status.hands_over > 0 => "hands over",
        _ if row.node.process.is_some() => "runs",
        _ => "answers",
    };
    words.to_owned()
}
