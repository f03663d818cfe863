//! Tests of the drawn screens. The expected screens are in files named after their size.

use super::*;
use crate::tui::event_log::EventText;
use crate::tui::model::Observation;
use crate::tui::model::tests::{answer_observation, at, model_with_leader, poll_observation, status, three_node_model};
use crate::tui::node::PollResult;
use drave::api::RoleName;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

const DRAW_OPTIONS: DrawOptions = DrawOptions { control: NodeControl::ChildProcesses, uses_colors: true };

fn draw_buffer(model: &Model, options: DrawOptions, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, &options, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn buffer_lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let line_text = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    buffer.content.chunks(width).map(|cells| line_text(cells).trim_end().to_owned()).collect()
}

fn screen_lines(model: &Model, width: u16, height: u16) -> Vec<String> {
    buffer_lines(&draw_buffer(model, DRAW_OPTIONS, width, height))
}

/// Asserts that the drawn screen equals the file for its size, apart from trailing empty space.
#[track_caller]
fn expect_screen(model: &Model, width: u16, height: u16) {
    let file_path = format!("{}/src/bin/drave/tui/screen/screens/{width}x{height}.txt", env!("CARGO_MANIFEST_DIR"));
    let expected = std::fs::read_to_string(&file_path).unwrap_or_default();
    let text = screen_lines(model, width, height).join("\n");
    assert!(text.trim_end() == expected.trim_end(), "{file_path} differs from the screen drawn:\n{text}");
}

/// A model after a minute with load, a frozen leader, a new leader and a dead node.
fn eventful_model() -> Model {
    let mut model = model_with_leader(1);
    for (second, commit) in (2..60).zip([0, 120, 480, 500, 495, 510, 20].into_iter().cycle()) {
        let commit_before = model.leader().unwrap().commit;
        model.update(at(second), answer_observation(status(1, RoleName::Leader, 2, commit_before + commit)));
        model.tick(at(second));
    }
    let sample = LoadSample { writes_per_second: 498, in_flight: 8, latency_us: Some((940, 4100)), failed_writes: 2 };
    model.update(at(60), Observation::LoadChanged(LoadState::On(sample)));
    model.update(at(60), Observation::Event(EventText::new(Severity::Plain, "SIGSTOP of n1, leader of term 2")));
    model.update(at(60), Observation::ProcessChecked { node: 1, process: ProcessState::Frozen });
    let commit_before = model.leader().unwrap().commit;
    model.update(at(61), answer_observation(status(2, RoleName::Leader, 3, commit_before + 400)));
    model.update(at(61), poll_observation(1, PollResult::NoAnswer));
    model.update(at(62), Observation::ProcessChecked { node: 3, process: ProcessState::Down });
    model.update(at(62), poll_observation(3, PollResult::NotListening));
    model.tick(at(63));
    model
}

#[test]
fn whole_view_fits_80_columns_and_24_rows() {
    expect_screen(&eventful_model(), 80, 24);
}

#[test]
fn wide_screen_adds_address_log_and_snapshot_columns() {
    expect_screen(&eventful_model(), 120, 40);
}

#[test]
fn view_without_any_status_shows_placeholders() {
    expect_screen(&three_node_model(), 80, 12);
}

#[test]
fn narrow_screen_keeps_node_role_and_state() {
    expect_screen(&eventful_model(), 38, 14);
}

#[test]
fn help_of_client_only_view_omits_process_keys() {
    let lines = buffer_lines(&draw_buffer(
        &model_with_leader(1),
        DrawOptions { control: NodeControl::ClientOnly, ..DRAW_OPTIONS },
        80,
        24,
    ));
    assert_eq!(lines.last().unwrap(), "t transfer  b load  s snapshot  q quit");
}

#[test]
fn screen_without_colors_has_the_same_text() {
    let without_colors = draw_buffer(&eventful_model(), DrawOptions { uses_colors: false, ..DRAW_OPTIONS }, 100, 30);
    let with_colors = draw_buffer(&eventful_model(), DRAW_OPTIONS, 100, 30);
    assert!(without_colors.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(
        with_colors.content.iter().any(|cell| cell.fg != Color::Reset),
        "the screen drawn with colors has colored cells"
    );
    assert_eq!(buffer_lines(&without_colors), buffer_lines(&with_colors));
}

#[test]
fn superseded_leader_is_shown_as_old_leader() {
    let mut model = model_with_leader(1);
    model.update(at(2), answer_observation(status(2, RoleName::Leader, 3, 1010)));
    let lines = screen_lines(&model, 80, 24);
    let role_of = |node: &str| lines.iter().find(|line| line.starts_with(node)).unwrap()[6..17].trim_end().to_owned();
    assert_eq!(
        (role_of("n1").as_str(), role_of("n2").as_str(), role_of("n3").as_str()),
        ("old leader", "leader", "follower")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn screen_of_any_size_is_drawn(width in 1_u16..=200, height in 1_u16..=60, controls_processes in any::<bool>()) {
        let control = if controls_processes { NodeControl::ChildProcesses } else { NodeControl::ClientOnly };
        for model in [three_node_model(), eventful_model()] {
            let lines = buffer_lines(&draw_buffer(&model, DrawOptions { control, uses_colors: true }, width, height));
            prop_assert_eq!(lines.len(), usize::from(height));
        }
    }
}
