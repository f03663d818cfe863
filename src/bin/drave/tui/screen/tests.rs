//! Tests of the drawn screens.

use super::*;
use crate::tui::event_log::EventText;
use crate::tui::model::Observation;
use crate::tui::model::tests::{answers, at, led, looked, status, three};
use crate::tui::node::PollResult;
use drave::api::RoleName;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

const LOOK: DrawOptions = DrawOptions { reach: Reach::Processes, colours: true };

fn drawn(model: &Model, look: DrawOptions, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, &look, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    buffer.content.chunks(width).map(|cells| line(cells).trim_end().to_owned()).collect()
}

fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    lines(&drawn(model, LOOK, width, height))
}

/// Asserts that the drawn screen equals the file for its size, apart from trailing empty space.
#[track_caller]
fn expect_screen(model: &Model, width: u16, height: u16) {
    let file = format!("{}/src/bin/drave/tui/screen/screens/{width}x{height}.txt", env!("CARGO_MANIFEST_DIR"));
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    let drawn = screen(model, width, height).join("\n");
    assert!(drawn.trim_end() == expected.trim_end(), "{file} differs from the screen drawn:\n{drawn}");
}

/// A model after a minute with many events.
fn eventful() -> Model {
    let mut model = led(1);
    for (second, commit) in (2..60).zip([0, 120, 480, 500, 495, 510, 20].into_iter().cycle()) {
        let before = model.leader().unwrap().commit;
        model.update(at(second), answers(status(1, RoleName::Leader, 2, before + commit)));
        model.tick(at(second));
    }
    let sample = Sample { per_second: 498, under_way: 8, latency: Some((940, 4100)), failed: 2 };
    model.update(at(60), Observation::Load(Load::On(sample)));
    model.update(at(60), Observation::Told(EventText::new(Severity::Plain, "SIGSTOP of n1, leader of term 2")));
    model.update(at(60), Observation::Process { node: 1, process: Process::Frozen });
    let before = model.leader().unwrap().commit;
    model.update(at(61), answers(status(2, RoleName::Leader, 3, before + 400)));
    model.update(at(61), looked(1, PollResult::Silence));
    model.update(at(62), Observation::Process { node: 3, process: Process::Away });
    model.update(at(62), looked(3, PollResult::Nobody));
    model.tick(at(63));
    model
}

#[test]
fn whole_view_fits_80_columns_and_24_rows() {
    expect_screen(&eventful(), 80, 24);
}

#[test]
fn wide_screen_adds_address_log_and_snapshot_columns() {
    expect_screen(&eventful(), 120, 40);
}

#[test]
fn view_without_any_status_shows_placeholders() {
    expect_screen(&three(), 80, 12);
}

#[test]
fn narrow_screen_keeps_node_role_and_state() {
    expect_screen(&eventful(), 38, 14);
}

#[test]
fn help_with_client_reach_omits_process_keys() {
    let lines = lines(&drawn(&led(1), DrawOptions { reach: Reach::Client, ..LOOK }, 80, 24));
    assert_eq!(lines.last().unwrap(), "t transfer  b load  s snapshot  q quit");
}

#[test]
fn screen_without_colours_has_the_same_text() {
    let bare = drawn(&eventful(), DrawOptions { colours: false, ..LOOK }, 100, 30);
    let coloured = drawn(&eventful(), LOOK, 100, 30);
    assert!(bare.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(coloured.content.iter().any(|cell| cell.fg != Color::Reset), "the other screen has colours");
    assert_eq!(lines(&bare), lines(&coloured));
}

#[test]
fn superseded_leader_is_shown_as_old_leader() {
    let mut model = led(1);
    model.update(at(2), answers(status(2, RoleName::Leader, 3, 1010)));
    let lines = screen(&model, 80, 24);
    let role = |node: &str| lines.iter().find(|line| line.starts_with(node)).unwrap()[6..17].trim_end().to_owned();
    assert_eq!((role("n1").as_str(), role("n2").as_str(), role("n3").as_str()), ("old leader", "leader", "follower"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn screen_of_any_size_is_drawn(width in 1_u16..=200, height in 1_u16..=60, reach in any::<bool>()) {
        let reach = if reach { Reach::Processes } else { Reach::Client };
        for model in [three(), eventful()] {
            let lines = lines(&drawn(&model, DrawOptions { reach, colours: true }, width, height));
            prop_assert_eq!(lines.len(), usize::from(height));
        }
    }
}
