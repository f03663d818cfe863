//! One step of the live view: applies observations, draws the screen, and maps key presses to actions.

use super::event_log::{EventText, Severity};
use super::jobs::BackgroundJobs;
use super::keys::{KeyAction, KeyEffect, KeyHandler, NodeControl};
use super::load::LoadWriter;
use super::model::{LoadSample, LoadState, Model, Observation};
use super::node::ProcessState;
use super::poll::{ObservationSender, StatusPoller, TimedObservation};
use super::screen::{self, DrawOptions};
use super::terminal::{Screen, TerminalInput};
use crate::remote::cluster::ClusterArgs;
use crate::remote::failure::CliError;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long [`View::update_and_draw`] waits for a key.
const KEY_WAIT_MAX: Duration = Duration::from_millis(100);
/// The capacity of the channel of observations. A polling thread waits while the channel is full.
const OBSERVATION_CHANNEL_CAPACITY: usize = 256;
/// The maximum number of keys handled before the next drawing, so that a key held down does not block the loop.
const KEYS_PER_FRAME_MAX: usize = 32;
/// How long closing the view waits for the load to end.
const LOAD_STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// A live view of a cluster, in the terminal.
pub struct View {
    cluster: ClusterArgs,
    model: Model,
    draw_options: DrawOptions,
    key_handler: KeyHandler,
    screen: Screen,
    poller: StatusPoller,
    jobs: BackgroundJobs,
    load: Option<LoadWriter>,
    observations: Receiver<TimedObservation>,
    observation_sender: ObservationSender,
    opened_at: Instant,
}

/// The cluster that a view shows, and the actions allowed on it.
pub struct ViewConfig {
    /// The title of the view, such as `drave top`.
    pub title: &'static str,
    /// The data directory or the endpoints of the cluster, as text for the header.
    pub location: String,
    /// The endpoints and client options of the cluster.
    pub cluster: ClusterArgs,
    /// Whether the endpoints are those of node 1, node 2 and so on.
    pub are_endpoints_numbered: bool,
    /// The actions that the view may perform on the nodes.
    pub control: NodeControl,
}

fn terminal_error(error: io::Error) -> CliError {
    CliError { message: format!("terminal: {error}\n  without one: --plain, or drave status --watch"), code: 74 }
}

impl View {
    /// Switches the terminal to the view. The nodes are polled from the first [`View::update_and_draw`] on.
    pub fn open(config: ViewConfig) -> Result<View, CliError> {
        let ViewConfig { title, location, cluster, are_endpoints_numbered, control } = config;
        let (observation_sender, observations) = sync_channel(OBSERVATION_CHANNEL_CAPACITY);
        let endpoints =
            cluster.endpoints.iter().cloned().zip(1..).map(|(at, id)| (are_endpoints_numbered.then_some(id), at));
        Ok(View {
            model: Model::new(title, location, endpoints),
            draw_options: DrawOptions::from_environment(control),
            key_handler: KeyHandler::new(control),
            screen: Screen::open().map_err(terminal_error)?,
            poller: StatusPoller::new(observation_sender.clone(), cluster.tls.keys.clone()),
            jobs: BackgroundJobs::new(&cluster, observation_sender.clone()),
            load: None,
            observations,
            observation_sender,
            opened_at: Instant::now(),
            cluster,
        })
    }

    /// The state of the cluster that the view shows.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Records the state of a node's process. A change appends an event.
    pub fn record_process(&mut self, node: u64, process: ProcessState) {
        self.apply_observation(Observation::ProcessChecked { node, process });
    }

    /// Appends an event to the list that the view shows.
    pub fn append_event(&mut self, severity: Severity, text: impl Into<String>) {
        self.apply_observation(Observation::Event(EventText::new(severity, text)));
    }

    fn apply_observation(&mut self, observation: Observation) {
        self.model.update(self.opened_at.elapsed(), observation);
    }

    /// Draws the model, waits briefly for keys, and applies the observations received meanwhile. Performs the
    /// requested actions that any client can perform, and returns the others.
    pub fn update_and_draw(&mut self) -> Result<Vec<KeyAction>, CliError> {
        self.poller.set_endpoints(&self.model.endpoints());
        let (model, draw_options) = (&self.model, &self.draw_options);
        self.screen.draw(|frame| screen::draw(model, draw_options, frame)).map_err(terminal_error)?;
        let actions = self.read_keys().map_err(terminal_error)?;
        while let Ok((at, observation)) = self.observations.try_recv() {
            self.model.update(at.saturating_duration_since(self.opened_at), observation);
        }
        if self.load.take_if(|load| load.has_ended()).is_some() {
            self.apply_observation(Observation::LoadChanged(LoadState::Off));
        }
        self.model.tick(self.opened_at.elapsed());
        Ok(actions.into_iter().filter(|action| !self.perform_client_action(*action)).collect())
    }

    /// Waits up to [`KEY_WAIT_MAX`] for a key; returns the actions of all keys pressed.
    fn read_keys(&mut self) -> io::Result<Vec<KeyAction>> {
        let mut actions = Vec::new();
        for n in 0..KEYS_PER_FRAME_MAX {
            let key = match self.screen.wait_for_input(if n == 0 { KEY_WAIT_MAX } else { Duration::ZERO })? {
                TerminalInput::Key(key) => key,
                TerminalInput::Nothing => break,
                TerminalInput::End => {
                    actions.push(KeyAction::Quit);
                    break;
                }
            };
            match self.key_handler.handle_press(key) {
                KeyEffect::Action(action) => actions.push(action),
                KeyEffect::NeedsSecondPress((key, description)) => {
                    self.append_event(Severity::Plain, format!("press {key} again: {description}"))
                }
                KeyEffect::Nothing => {}
            }
        }
        Ok(actions)
    }

    /// Performs an action if any client can request it; returns whether it was performed.
    fn perform_client_action(&mut self, action: KeyAction) -> bool {
        match action {
            KeyAction::TransferLeadership => {
                let event = self.jobs.start_transfer();
                self.apply_observation(Observation::Event(event));
            }
            KeyAction::TakeSnapshots => {
                let answering_nodes = self.model.nodes.iter().filter(|node| node.status().is_some());
                let nodes = answering_nodes.map(|node| (node.name(), node.endpoint.clone())).collect();
                let event = self.jobs.start_snapshots(nodes);
                self.apply_observation(Observation::Event(event));
            }
            KeyAction::ToggleLoad => self.toggle_load(),
            KeyAction::KillLeader | KeyAction::KillOrStart(_) | KeyAction::FreezeOrThaw | KeyAction::Quit => {
                return false;
            }
        }
        true
    }

    fn toggle_load(&mut self) {
        match &self.load {
            Some(load) if load.is_stopping() => self.append_event(Severity::Plain, "the load is still stopping"),
            Some(load) => {
                load.request_stop();
                self.append_event(Severity::Plain, "load off");
            }
            None => {
                self.load = Some(LoadWriter::start(&self.cluster, self.observation_sender.clone()));
                self.apply_observation(Observation::LoadChanged(LoadState::On(LoadSample::default())));
                self.append_event(Severity::Plain, "load on");
            }
        }
    }

    /// Restores the terminal, then stops a running load and waits up to 3 s until its counters are removed.
    pub fn close(self) {
        let View { load, screen, poller, .. } = self;
        drop(screen);
        drop(poller);
        if let Some(load) = load {
            load.request_stop();
            let deadline = Instant::now() + LOAD_STOP_TIMEOUT;
            while !load.has_ended() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
