//! Draws the model on a screen of any size. Colors carry no information that the text does not.

use super::event_log::Severity;
use super::keys::{self, NodeControl};
use super::model::{Event, LoadSample, LoadState, Model};
use super::node::ProcessState;
use super::node_table;
use drave::types::Membership;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline};
use std::time::Duration;

/// The options of the drawing that are not part of the model.
#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// The control over the nodes, which determines the keys that the help names.
    pub control: NodeControl,
    /// Whether colors are used in addition to bold text.
    pub uses_colors: bool,
}

/// Screens with fewer rows have no empty rows between their parts.
const ROWS_MIN_FOR_GAPS: u16 = 20;
/// If fewer rows remain below the nodes, the graph is omitted and the events take all of these rows.
const ROWS_MIN_FOR_GRAPH: u16 = 7;

impl DrawOptions {
    /// The options for `control`, with colors unless `NO_COLOR` is set and not empty.
    pub fn from_environment(control: NodeControl) -> DrawOptions {
        DrawOptions { control, uses_colors: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn color_style(&self, color: Color) -> Style {
        if self.uses_colors { Style::new().fg(color) } else { Style::new() }
    }

    fn severity_style(&self, severity: Severity) -> Style {
        match severity {
            Severity::Good => self.color_style(Color::Green),
            Severity::Plain => Style::new(),
            Severity::Bad => self.color_style(Color::Red),
        }
    }

    fn title_style(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Draws the whole model, or as much as fits.
pub fn draw(model: &Model, options: &DrawOptions, frame: &mut Frame) {
    let mut remaining = frame.area();
    let gap_rows = u16::from(remaining.height >= ROWS_MIN_FOR_GAPS);
    let help = help_lines(options, remaining.width);
    let help_area = cut_bottom(&mut remaining, help.len() as u16);
    put_lines(frame, help_area, &help);
    let header_area = cut_top(&mut remaining, 1);
    put_lines(frame, header_area, &[header_line(model, options)]);
    cut_top(&mut remaining, gap_rows);
    draw_nodes(model, options, frame, &mut remaining);
    cut_top(&mut remaining, gap_rows);
    if remaining.height >= ROWS_MIN_FOR_GRAPH {
        draw_graph(model, options, frame, &mut remaining);
        cut_top(&mut remaining, gap_rows);
    }
    draw_events(model, options, frame, remaining);
}

/// Removes up to `rows` rows from the top of `area`; returns the rows removed.
fn cut_top(area: &mut Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    let top_area = Rect { height: rows, ..*area };
    (area.y, area.height) = (area.y + rows, area.height - rows);
    top_area
}

/// Removes up to `rows` rows from the bottom of `area`; returns the rows removed.
fn cut_bottom(area: &mut Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    area.height -= rows;
    Rect { y: area.y + area.height, height: rows, ..*area }
}

fn put_lines(frame: &mut Frame, area: Rect, lines: &[Line]) {
    for (line, y) in lines.iter().zip(area.y..area.bottom()) {
        frame.buffer_mut().set_line(area.x, y, line, area.width);
    }
}

fn header_line(model: &Model, options: &DrawOptions) -> Line<'static> {
    let (answering, total) = (model.statuses().count(), model.nodes.len());
    let (leader_text, style) = match model.leader() {
        Some(leader) => {
            (format!("n{} leads term {}", leader.node, leader.term), options.severity_style(Severity::Good))
        }
        None => (no_leader_text(model), options.severity_style(Severity::Bad)),
    };
    Line::from(vec![
        Span::styled(model.title.clone(), options.title_style()),
        Span::raw(" · "),
        Span::styled(leader_text, style.add_modifier(Modifier::BOLD)),
        Span::raw(format!(" · {answering} of {total} answer · {} · {}", format_elapsed(model.now()), model.location)),
    ])
}

/// The text for a cluster without a leader, with the size of a quorum if it is known.
fn no_leader_text(model: &Model) -> String {
    let members = model.statuses().max_by_key(|status| status.term).map(|status| &status.members);
    let voters = members.map_or(0, |members| members.iter().filter(|member| member.kind == "voter").count());
    match voters {
        0 => "no leader".to_owned(),
        voters => format!("no leader (a quorum is {})", Membership::majority_of(voters)),
    }
}

/// Formats the time since the view was opened: `mm:ss`, with hours if there are any.
fn format_elapsed(at: Duration) -> String {
    let seconds = at.as_secs();
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

fn draw_nodes(model: &Model, options: &DrawOptions, frame: &mut Frame, remaining: &mut Rect) {
    let width = remaining.width;
    let header_area = cut_top(remaining, 1);
    put_lines(frame, header_area, &[Line::styled(node_table::header_line(width), options.title_style())]);
    for node in &model.nodes {
        let is_leader = model.leader().is_some_and(|leader| node.status().is_some_and(|own| own.node == leader.node));
        let is_healthy = node.status().is_some() && matches!(node.process, None | Some(ProcessState::Running));
        let style = match (is_leader, is_healthy) {
            (_, false) => options.severity_style(Severity::Bad),
            (true, true) => options.severity_style(Severity::Good).add_modifier(Modifier::BOLD),
            (false, true) => options.severity_style(Severity::Plain),
        };
        let row_area = cut_top(remaining, 1);
        put_lines(frame, row_area, &[Line::styled(node_table::format_row(model, node, width), style)]);
    }
}

fn draw_graph(model: &Model, options: &DrawOptions, frame: &mut Frame, remaining: &mut Rect) {
    let title_area = cut_top(remaining, 1);
    let bar_area = cut_top(remaining, (remaining.height / 3).clamp(1, 8));
    let load_area = cut_top(remaining, 1);
    // Takes the newest rates, as many as fit: the newest is drawn at the right edge.
    let commit_rates: Vec<u64> = model.commit_rates().rev().take(bar_area.width.into()).collect();
    let (now, max) = (commit_rates.first().copied().unwrap_or(0), commit_rates.iter().copied().max().unwrap_or(0));
    let rates_text = format!("  {now} now · max {max} in {} s", commit_rates.len());
    put_lines(
        frame,
        title_area,
        &[Line::from(vec![Span::styled("commits a second", options.title_style()), Span::raw(rates_text)])],
    );
    let graph = Sparkline::default().direction(RenderDirection::RightToLeft).max(max.max(1));
    frame.render_widget(graph.data(commit_rates).style(options.color_style(Color::Cyan)), bar_area);
    put_lines(frame, load_area, &[Line::raw(load_text(&model.load))]);
}

fn load_text(load: &LoadState) -> String {
    match load {
        LoadState::Off => "load off: latency is measured only under load".to_owned(),
        LoadState::On(LoadSample { writes_per_second, in_flight, latency_us, failed_writes }) => {
            let latency_text = match latency_us {
                Some((p50, p99)) => {
                    format!("p50 {} · p99 {}", node_table::format_ms(*p50 as f64), node_table::format_ms(*p99 as f64))
                }
                None => "no answers".to_owned(),
            };
            let failed_writes_text =
                if *failed_writes > 0 { format!(" · {failed_writes} failed") } else { String::new() };
            format!(
                "load {writes_per_second}/s · {in_flight} in flight · {latency_text} (last 5 s){failed_writes_text}"
            )
        }
    }
}

fn draw_events(model: &Model, options: &DrawOptions, frame: &mut Frame, mut remaining: Rect) {
    let title_area = cut_top(&mut remaining, 1);
    put_lines(frame, title_area, &[Line::styled("events", options.title_style())]);
    let newest_events = model.events.iter().rev().take(remaining.height.into());
    let lines: Vec<Line> = newest_events
        .map(|Event { at, description }| {
            Line::styled(
                format!("{}  {}", format_elapsed(*at), description.text),
                options.severity_style(description.severity),
            )
        })
        .collect();
    put_lines(frame, remaining, &lines);
}

/// The available keys and their actions, on as many lines as they need.
fn help_lines(options: &DrawOptions, width: u16) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for (key, description) in keys::help_texts(options.control) {
        let spans = [Span::styled(key, options.title_style()), Span::raw(" "), Span::raw(description)];
        match lines.last_mut() {
            Some(line) if line.width() + 2 + key.len() + 1 + description.len() <= width.into() => {
                line.spans.push(Span::raw("  "));
                line.spans.extend(spans);
            }
            _ => lines.push(Line::from(spans.to_vec())),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
