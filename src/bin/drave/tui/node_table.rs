//! The table of nodes: its columns, and which of them are hidden on a narrow terminal.

use super::model::Model;
use super::node::{Node, PollResult, Process};
use bytesize::ByteSize;
use drave::api::{PeerStatus, RoleName, Status};
use std::time::Duration;

/// The data for the cells of a row.
struct Row<'a> {
    node: &'a Node,
    status: Option<&'a Status>,
    leader: Option<&'a Status>,
    /// The leader's view of this node.
    peer: Option<&'a PeerStatus>,
    now: Duration,
}

struct Column {
    title: &'static str,
    width: usize,
    /// Whether the column holds numbers, which are right-aligned.
    is_figure: bool,
    /// Terminals narrower than this hide the column.
    from: u16,
    cell: fn(&Row) -> String,
}

/// The columns in order. On an 80-column terminal the last one has 17 columns left.
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

/// The header line, for a terminal of this width.
pub fn titles(width: u16) -> String {
    line(width, |column| column.title.to_owned())
}

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
        // It does not know the new leader yet.
        Some(leader) if status.role == RoleName::Leader && leader.node != status.node => "old leader".to_owned(),
        _ => status.role.to_string(),
    }
}

/// The number of entries that the node lags behind. The leader's figure covers silent nodes as well.
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

/// Formats microseconds as milliseconds.
pub fn ms(us: f64) -> String {
    let digits = if us < 100_000.0 { 2 } else { 0 };
    format!("{:.digits$} ms", us / 1000.0)
}

fn log(row: &Row) -> String {
    row.status.map_or_else(none, |status| size(status.log.bytes))
}

/// The last index of the newest snapshot.
fn snapshot(row: &Row) -> String {
    match row.status.map(|status| &status.log) {
        Some(log) if log.snapshot > 0 => log.snapshot.to_string(),
        _ => none(),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// The state of the child process, if it is one, and whether the node answers.
fn state(row: &Row) -> String {
    match (row.node.process, &row.node.found) {
        (Some(Process::Frozen), _) => "frozen".to_owned(),
        (Some(Process::Returns { seconds }), _) => format!("restarts in {seconds} s"),
        (Some(Process::Away), _) => match row.node.id {
            Some(id) => format!("dead, press {id}"),
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
        _ if status.low_space => "low disk space",
        Some(peer) if peer.stage == "snapshot" => "gets a snapshot",
        _ if status.log.taking => "takes a snapshot",
        _ if status.hands_over > 0 => "hands over",
        _ if row.node.process.is_some() => "runs",
        _ => "answers",
    };
    words.to_owned()
}
