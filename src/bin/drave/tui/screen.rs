//! Draws the model on a screen of any size. Colors carry no information that the text does not.

use super::event_log::Severity;
use super::keys::{self, Reach};
use super::model::{Event, Load, Model, Sample};
use super::node::Process;
use super::node_table;
use drave::types::Membership;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// The keys available.
    pub reach: Reach,
    /// Whether to use colors.
    pub colours: bool,
}

/// Screens with fewer rows have no empty rows.
const ROWS_FOR_GAPS: u16 = 20;
/// With fewer rows left, the graph is omitted and events take all of them.
const ROWS_FOR_A_GRAPH: u16 = 7;

impl DrawOptions {
    /// With colors, unless `NO_COLOR` is set and not empty.
    pub fn from_environment(reach: Reach) -> DrawOptions {
        DrawOptions { reach, colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn coloured(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn tone(&self, tone: Severity) -> Style {
        match tone {
            Severity::Good => self.coloured(Color::Green),
            Severity::Plain => Style::new(),
            Severity::Bad => self.coloured(Color::Red),
        }
    }

    fn title(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Draws the whole model, or as much as fits.
pub fn draw(model: &Model, look: &DrawOptions, frame: &mut Frame) {
    let mut left = frame.area();
    let gap = u16::from(left.height >= ROWS_FOR_GAPS);
    let help = help(look, left.width);
    let at_the_end = cut_from_below(&mut left, help.len() as u16);
    put(frame, at_the_end, &help);
    let row = cut(&mut left, 1);
    put(frame, row, &[header(model, look)]);
    cut(&mut left, gap);
    nodes(model, look, frame, &mut left);
    cut(&mut left, gap);
    if left.height >= ROWS_FOR_A_GRAPH {
        graph(model, look, frame, &mut left);
        cut(&mut left, gap);
    }
    events(model, look, frame, left);
}

/// Cuts this many rows off the top, or as many as there are.
fn cut(area: &mut Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    let top = Rect { height: rows, ..*area };
    (area.y, area.height) = (area.y + rows, area.height - rows);
    top
}

/// Cuts rows off the bottom.
fn cut_from_below(area: &mut Rect, rows: u16) -> Rect {
    let rows = rows.min(area.height);
    area.height -= rows;
    Rect { y: area.y + area.height, height: rows, ..*area }
}

fn put(frame: &mut Frame, area: Rect, lines: &[Line]) {
    for (line, y) in lines.iter().zip(area.y..area.bottom()) {
        frame.buffer_mut().set_line(area.x, y, line, area.width);
    }
}

fn header(model: &Model, look: &DrawOptions) -> Line<'static> {
    let (answer, all) = (model.answered().count(), model.nodes.len());
    let (leads, style) = match model.leader() {
        Some(leader) => (format!("n{} leads term {}", leader.node, leader.term), look.tone(Severity::Good)),
        None => (nobody(model), look.tone(Severity::Bad)),
    };
    Line::from(vec![
        Span::styled(model.title.clone(), look.title()),
        Span::raw(" · "),
        Span::styled(leads, style.add_modifier(Modifier::BOLD)),
        Span::raw(format!(" · {answer} of {all} answer · {} · {}", clock(model.now()), model.place)),
    ])
}

/// The text for a cluster without a leader, with the size of a quorum if it is known.
fn nobody(model: &Model) -> String {
    let members = model.answered().max_by_key(|status| status.term).map(|status| &status.members);
    let voters = members.map_or(0, |members| members.iter().filter(|member| member.kind == "voter").count());
    match voters {
        0 => "no leader".to_owned(),
        voters => format!("no leader (a quorum is {})", Membership::majority_of(voters)),
    }
}

/// Formats the time since the view was opened: `mm:ss`, with hours if there are any.
fn clock(at: Duration) -> String {
    let seconds = at.as_secs();
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

fn nodes(model: &Model, look: &DrawOptions, frame: &mut Frame, left: &mut Rect) {
    let width = left.width;
    let row = cut(left, 1);
    put(frame, row, &[Line::styled(node_table::titles(width), look.title())]);
    for node in &model.nodes {
        let leads = model.leader().is_some_and(|leader| node.status().is_some_and(|own| own.node == leader.node));
        let well = node.status().is_some() && matches!(node.process, None | Some(Process::Runs));
        let style = match (leads, well) {
            (_, false) => look.tone(Severity::Bad),
            (true, true) => look.tone(Severity::Good).add_modifier(Modifier::BOLD),
            (false, true) => look.tone(Severity::Plain),
        };
        let row = cut(left, 1);
        put(frame, row, &[Line::styled(node_table::row(model, node, width), style)]);
    }
}

fn graph(model: &Model, look: &DrawOptions, frame: &mut Frame, left: &mut Rect) {
    let title = cut(left, 1);
    let bars = cut(left, (left.height / 3).clamp(1, 8));
    let below = cut(left, 1);
    // The newest second is at the right edge.
    let seconds: Vec<u64> = model.commits().rev().take(bars.width.into()).collect();
    let (now, most) = (seconds.first().copied().unwrap_or(0), seconds.iter().copied().max().unwrap_or(0));
    let figures = format!("  {now} now · max {most} in {} s", seconds.len());
    put(frame, title, &[Line::from(vec![Span::styled("commits a second", look.title()), Span::raw(figures)])]);
    let graph = Sparkline::default().direction(RenderDirection::RightToLeft).max(most.max(1));
    frame.render_widget(graph.data(seconds).style(look.coloured(Color::Cyan)), bars);
    put(frame, below, &[Line::raw(load(&model.load))]);
}

fn load(load: &Load) -> String {
    match load {
        Load::Off => "load off: latency is measured only under load".to_owned(),
        Load::On(Sample { per_second, under_way, latency, failed }) => {
            let latency = match latency {
                Some((p50, p99)) => {
                    format!("p50 {} · p99 {}", node_table::ms(*p50 as f64), node_table::ms(*p99 as f64))
                }
                None => "no answers".to_owned(),
            };
            let failed = if *failed > 0 { format!(" · {failed} failed") } else { String::new() };
            format!("load {per_second}/s · {under_way} in flight · {latency} (last 5 s){failed}")
        }
    }
}

fn events(model: &Model, look: &DrawOptions, frame: &mut Frame, mut left: Rect) {
    let title = cut(&mut left, 1);
    put(frame, title, &[Line::styled("events", look.title())]);
    let newest = model.events.iter().rev().take(left.height.into());
    let lines: Vec<Line> = newest
        .map(|Event { at, told }| Line::styled(format!("{}  {}", clock(*at), told.text), look.tone(told.tone)))
        .collect();
    put(frame, left, &lines);
}

/// The keys, on as many lines as they need.
fn help(look: &DrawOptions, width: u16) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for (key, does) in keys::help(look.reach) {
        let words = [Span::styled(key, look.title()), Span::raw(" "), Span::raw(does)];
        match lines.last_mut() {
            Some(line) if line.width() + 2 + key.len() + 1 + does.len() <= width.into() => {
                line.spans.push(Span::raw("  "));
                line.spans.extend(words);
            }
            _ => lines.push(Line::from(words.to_vec())),
        }
    }
    lines
}

#[cfg(test)]
mod tests;
