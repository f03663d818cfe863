//! The main loop of the view: observations and key presses in, screens and requested actions out.

use super::event_log::{EventText, Severity};
use super::jobs::BackgroundJobs;
use super::keys::{KeyAction, KeyEffect, KeyHandler, Reach};
use super::load::Writer;
use super::model::{Load, Model, Observation, Sample};
use super::node::Process;
use super::poll::{Poll, Sink, TimedObservation};
use super::screen::{self, DrawOptions};
use super::terminal::{Input, Screen};
use crate::remote::cluster::Cluster;
use crate::remote::failure::CliError;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long a turn waits for a key before it handles observations and draws.
const TURN: Duration = Duration::from_millis(100);
/// Capacity of the channel of observations.
const UNSEEN_MAX: usize = 256;
/// Maximum number of keys handled in a turn, so that a key held down does not block the loop.
const KEYS_MAX: usize = 32;
/// How long closing the view waits for the load to end.
const LOAD_END: Duration = Duration::from_secs(3);

/// A live view of a cluster, in the terminal.
pub struct View {
    cluster: Cluster,
    model: Model,
    look: DrawOptions,
    hand: KeyHandler,
    screen: Screen,
    poll: Poll,
    errands: BackgroundJobs,
    load: Option<Writer>,
    seen: Receiver<TimedObservation>,
    sink: Sink,
    began: Instant,
}

/// The cluster that a view shows, and the actions allowed on it.
pub struct Subject {
    /// The title of the view.
    pub title: &'static str,
    /// The location of the cluster, for display.
    pub place: String,
    /// The endpoints and client options of the cluster.
    pub cluster: Cluster,
    /// Whether the endpoints are those of node 1, node 2 and so on.
    pub numbered: bool,
    /// The actions allowed.
    pub reach: Reach,
}

fn io(error: io::Error) -> CliError {
    CliError { what: format!("terminal: {error}\n  without one: --plain, or drave status --watch"), code: 74 }
}

impl View {
    /// Opens the view on the terminal.
    pub fn open(subject: Subject) -> Result<View, CliError> {
        let Subject { title, place, cluster, numbered, reach } = subject;
        let (sink, seen) = sync_channel(UNSEEN_MAX);
        let named = cluster.endpoints.iter().cloned().zip(1..).map(|(at, id)| (numbered.then_some(id), at));
        Ok(View {
            model: Model::new(title, place, named),
            look: DrawOptions::from_environment(reach),
            hand: KeyHandler::new(reach),
            screen: Screen::open().map_err(io)?,
            poll: Poll::new(sink.clone(), cluster.tls.keys.clone()),
            errands: BackgroundJobs::new(&cluster, sink.clone()),
            load: None,
            seen,
            sink,
            began: Instant::now(),
            cluster,
        })
    }

    /// The model of the cluster.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Reports the state of a node's process.
    pub fn process(&mut self, node: u64, process: Process) {
        self.observe(Observation::Process { node, process });
    }

    /// Appends an event to the list.
    pub fn append_event(&mut self, tone: Severity, text: impl Into<String>) {
        self.observe(Observation::Told(EventText::new(tone, text)));
    }

    fn observe(&mut self, observation: Observation) {
        self.model.update(self.began.elapsed(), observation);
    }

    /// Draws the model, waits briefly for keys, and applies the observations received meanwhile. Performs actions that
    /// any client can, and returns the other requested actions.
    pub fn turn(&mut self) -> Result<Vec<KeyAction>, CliError> {
        self.poll.follow(&self.model.endpoints());
        let (model, look) = (&self.model, &self.look);
        self.screen.draw(|frame| screen::draw(model, look, frame)).map_err(io)?;
        let wishes = self.keys().map_err(io)?;
        while let Ok((at, observation)) = self.seen.try_recv() {
            self.model.update(at.saturating_duration_since(self.began), observation);
        }
        if self.load.take_if(|load| load.has_ended()).is_some() {
            self.observe(Observation::Load(Load::Off));
        }
        self.model.tick(self.began.elapsed());
        Ok(wishes.into_iter().filter(|wish| !self.perform(*wish)).collect())
    }

    /// Waits briefly for a key; returns the actions of all keys pressed.
    fn keys(&mut self) -> io::Result<Vec<KeyAction>> {
        let mut wishes = Vec::new();
        for n in 0..KEYS_MAX {
            let key = match self.screen.input(if n == 0 { TURN } else { Duration::ZERO })? {
                Input::Key(key) => key,
                Input::Nothing => break,
                Input::End => {
                    wishes.push(KeyAction::Quit);
                    break;
                }
            };
            match self.hand.press(key) {
                KeyEffect::Wish(wish) => wishes.push(wish),
                KeyEffect::Once((key, does)) => {
                    self.append_event(Severity::Plain, format!("press {key} again: {does}"))
                }
                KeyEffect::Nothing => {}
            }
        }
        Ok(wishes)
    }

    /// Performs an action that any client can; returns whether it was one.
    fn perform(&mut self, wish: KeyAction) -> bool {
        match wish {
            KeyAction::Transfer => {
                let told = self.errands.transfer();
                self.observe(Observation::Told(told));
            }
            KeyAction::Snapshot => {
                let answering = self.model.nodes.iter().filter(|node| node.status().is_some());
                let nodes = answering.map(|node| (node.name(), node.endpoint.clone())).collect();
                let told = self.errands.snapshot(nodes);
                self.observe(Observation::Told(told));
            }
            KeyAction::Load => self.switch_load(),
            KeyAction::KillLeader | KeyAction::KillOrStart(_) | KeyAction::FreezeOrThaw | KeyAction::Quit => {
                return false;
            }
        }
        true
    }

    fn switch_load(&mut self) {
        match &self.load {
            Some(load) if load.is_ending() => self.append_event(Severity::Plain, "the load is still stopping"),
            Some(load) => {
                load.end();
                self.append_event(Severity::Plain, "load off");
            }
            None => {
                self.load = Some(Writer::start(&self.cluster, self.sink.clone()));
                self.observe(Observation::Load(Load::On(Sample::default())));
                self.append_event(Severity::Plain, "load on");
            }
        }
    }

    /// Restores the terminal, then stops a running load and waits up to 3 s for it to remove its counters.
    pub fn close(self) {
        let View { load, screen, poll, .. } = self;
        drop(screen);
        drop(poll);
        if let Some(load) = load {
            load.end();
            let until = Instant::now() + LOAD_END;
            while !load.has_ended() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
