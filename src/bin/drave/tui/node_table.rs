//! The table of nodes: its columns, and which of them are hidden on a narrow terminal.

use super::model::Model;
use super::node::{Node, PollResult, ProcessState};
use bytesize::ByteSize;
use drave::api::{PeerStatus, RoleName, Status};
use std::time::Duration;

/// The data from which the cells of a row are formatted.
struct NodeRow<'a> {
    node: &'a Node,
    status: Option<&'a Status>,
    leader: Option<&'a Status>,
    /// The leader's view of this node; `None` for the leader itself.
    peer: Option<&'a PeerStatus>,
    now: Duration,
}

/// A column of the table of nodes.
struct NodeColumn {
    title: &'static str,
    /// The minimum width of a cell, in characters.
    cell_width_min: usize,
    /// Whether the column holds numbers, which are right-aligned.
    is_number: bool,
    /// Terminals narrower than this hide the column.
    terminal_width_min: u16,
    format_cell: fn(&NodeRow) -> String,
}

/// The columns in order. On a terminal that is 80 characters wide, 17 characters remain for the last column.
const COLUMNS: &[NodeColumn] = &[
    NodeColumn {
        title: "node",
        cell_width_min: 5,
        is_number: false,
        terminal_width_min: 0,
        format_cell: |row| row.node.name(),
    },
    NodeColumn { title: "role", cell_width_min: 12, is_number: false, terminal_width_min: 0, format_cell: role_cell },
    NodeColumn {
        title: "term",
        cell_width_min: 5,
        is_number: true,
        terminal_width_min: 46,
        format_cell: |row| status_number(row, |status| status.term),
    },
    NodeColumn {
        title: "commit",
        cell_width_min: 9,
        is_number: true,
        terminal_width_min: 56,
        format_cell: |row| status_number(row, |status| status.commit),
    },
    NodeColumn {
        title: "applied",
        cell_width_min: 9,
        is_number: true,
        terminal_width_min: 66,
        format_cell: |row| status_number(row, |status| status.applied),
    },
    NodeColumn { title: "lag", cell_width_min: 7, is_number: true, terminal_width_min: 40, format_cell: lag_cell },
    NodeColumn {
        title: "fsync p99",
        cell_width_min: 9,
        is_number: true,
        terminal_width_min: 78,
        format_cell: fsync_cell,
    },
    NodeColumn { title: "log", cell_width_min: 9, is_number: true, terminal_width_min: 100, format_cell: log_cell },
    NodeColumn {
        title: "snapshot",
        cell_width_min: 9,
        is_number: true,
        terminal_width_min: 100,
        format_cell: snapshot_cell,
    },
    NodeColumn {
        title: "address",
        cell_width_min: 19,
        is_number: false,
        terminal_width_min: 118,
        format_cell: |row| row.node.endpoint.clone(),
    },
    NodeColumn { title: "state", cell_width_min: 0, is_number: false, terminal_width_min: 0, format_cell: state_cell },
];

/// The header line, for a terminal of this width.
pub fn header_line(width: u16) -> String {
    format_line(width, |column| column.title.to_owned())
}

/// The line of a node, for a terminal of this width.
pub fn format_row(model: &Model, node: &Node, width: u16) -> String {
    let leader = model.leader();
    let peer = leader.and_then(|leader| leader.peers.iter().find(|peer| Some(peer.node) == node.id));
    let row = NodeRow { node, status: node.status(), leader, peer, now: model.now() };
    format_line(width, |column| (column.format_cell)(&row))
}

fn format_line(width: u16, cell: impl Fn(&NodeColumn) -> String) -> String {
    let cells =
        COLUMNS.iter().filter(|column| column.terminal_width_min <= width).map(|column| match column.is_number {
            true => format!("{:>width$}", cell(column), width = column.cell_width_min),
            false => format!("{:<width$}", cell(column), width = column.cell_width_min),
        });
    cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

fn status_number(row: &NodeRow, read_number: fn(&Status) -> u64) -> String {
    row.status.map_or_else(dash, |status| read_number(status).to_string())
}

fn dash() -> String {
    "-".to_owned()
}

fn role_cell(row: &NodeRow) -> String {
    let Some(status) = row.status else { return dash() };
    match row.leader {
        // The node still calls itself leader: it has not learned of the leader with the higher term yet.
        Some(leader) if status.role == RoleName::Leader && leader.node != status.node => "old leader".to_owned(),
        _ => status.role.to_string(),
    }
}

/// The number of entries that the node lags behind. The leader's figure covers silent nodes as well.
fn lag_cell(row: &NodeRow) -> String {
    match (row.peer, row.leader, row.status) {
        (Some(peer), ..) => peer.known_lag().map_or_else(dash, |lag| lag.to_string()),
        (None, Some(leader), Some(status)) if leader.node == status.node => {
            status.last.saturating_sub(status.durable).to_string()
        }
        _ => dash(),
    }
}

fn fsync_cell(row: &NodeRow) -> String {
    match row.status {
        Some(status) if !status.fsync => "OFF".to_owned(),
        Some(status) => format_ms(status.disk.sync_p99_us),
        None => dash(),
    }
}

/// Formats microseconds as milliseconds: 310.0 as "0.31 ms".
pub fn format_ms(us: f64) -> String {
    let decimal_count = if us < 100_000.0 { 2 } else { 0 };
    format!("{:.decimal_count$} ms", us / 1000.0)
}

fn log_cell(row: &NodeRow) -> String {
    row.status.map_or_else(dash, |status| format_size(status.log.bytes))
}

/// The last index of the newest snapshot.
fn snapshot_cell(row: &NodeRow) -> String {
    match row.status.map(|status| &status.log) {
        Some(log) if log.snapshot > 0 => log.snapshot.to_string(),
        _ => dash(),
    }
}

fn format_size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// The state of the node's process, if the node is a child process, and whether the node answers.
fn state_cell(row: &NodeRow) -> String {
    match (row.node.process, &row.node.poll_result) {
        (Some(ProcessState::Frozen), _) => "frozen".to_owned(),
        (Some(ProcessState::Restarting { seconds }), _) => format!("restarts in {seconds} s"),
        (Some(ProcessState::Down), _) => match row.node.id {
            Some(id) => format!("dead, press {id}"),
            None => "dead".to_owned(),
        },
        (_, Some(PollResult::Answer(status))) => state_of_answering_node(row, status),
        (Some(ProcessState::Running), Some(PollResult::NotListening) | None) => "starts".to_owned(),
        (None, Some(PollResult::NotListening)) => "down".to_owned(),
        (None, None) => "…".to_owned(),
        (_, Some(PollResult::NoAnswer)) => match row.node.last_answer {
            Some(last_answer) => format!("silent {} s", row.now.saturating_sub(last_answer).as_secs()),
            None => "silent".to_owned(),
        },
    }
}

fn state_of_answering_node(row: &NodeRow, status: &Status) -> String {
    let text = match row.peer {
        _ if status.repair.is_some() => "in repair",
        _ if status.scrub.findings.iter().any(|finding| !finding.mended) => "mends a file",
        _ if status.low_space => "low disk space",
        Some(peer) if peer.stage == "snapshot" => "gets a snapshot",
        _ if status.log.taking => "takes a snapshot",
        _ if status.hands_over > 0 => "hands over",
        _ if row.node.process.is_some() => "runs",
        _ => "answers",
    };
    text.to_owned()
}
