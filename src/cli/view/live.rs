//! The view at work: what is seen and pressed goes in, a screen and wishes come out.

use super::draw::{self, DrawOptions};
use super::jobs::Errands;
use super::keys::{Hand, KeyAction, Pressed, Reach};
use super::load::Writer;
use super::model::{Load, Model, Observation, Process, Sample};
use super::poll::{Poll, Sink, TimedObservation};
use super::story::{StoryLine, Tone};
use super::terminal::{Input, Screen};
use crate::cli::cluster::Cluster;
use crate::cli::failure::CliError;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long it waits for a key before it looks at all else, and draws.
const TURN: Duration = Duration::from_millis(100);
/// So many observations may wait to be looked at.
const UNSEEN_MAX: usize = 256;
/// So many keys are heeded in a turn: who leans on one does not stop the world.
const KEYS_MAX: usize = 32;
/// How long the end of a load is waited for, at the end of the view.
const LOAD_END: Duration = Duration::from_secs(3);

/// A live view of a cluster, in the terminal.
pub struct View {
    cluster: Cluster,
    model: Model,
    look: DrawOptions,
    hand: Hand,
    screen: Screen,
    poll: Poll,
    errands: Errands,
    load: Option<Writer>,
    seen: Receiver<TimedObservation>,
    sink: Sink,
    began: Instant,
}

/// What a view shows, and how far it reaches.
pub struct Subject {
    /// What it is, in a word.
    pub title: &'static str,
    /// Where it is, for people.
    pub place: String,
    /// Where the cluster is.
    pub cluster: Cluster,
    /// Who the nodes at its endpoints are, if that is known: node 1 first.
    pub numbered: bool,
    /// What may be done to it.
    pub reach: Reach,
}

fn io(error: io::Error) -> CliError {
    CliError { what: format!("terminal: {error}\n  without one: --plain, or drave status --watch"), code: 74 }
}

impl View {
    /// Takes the terminal, and begins to ask.
    pub fn open(subject: Subject) -> Result<View, CliError> {
        let Subject { title, place, cluster, numbered, reach } = subject;
        let (sink, seen) = sync_channel(UNSEEN_MAX);
        let named = cluster.endpoints.iter().cloned().zip(1..).map(|(at, id)| (numbered.then_some(id), at));
        Ok(View {
            model: Model::new(title, place, named),
            look: DrawOptions::from_environment(reach),
            hand: Hand::new(reach),
            screen: Screen::open().map_err(io)?,
            poll: Poll::new(sink.clone(), cluster.tls.keys.clone()),
            errands: Errands::new(&cluster, sink.clone()),
            load: None,
            seen,
            sink,
            began: Instant::now(),
            cluster,
        })
    }

    /// What is known.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How the process of a node is.
    pub fn process(&mut self, node: u64, process: Process) {
        self.observe(Observation::Process { node, process });
    }

    /// Something was done.
    pub fn tell(&mut self, tone: Tone, text: impl Into<String>) {
        self.observe(Observation::Told(StoryLine::new(tone, text)));
    }

    fn observe(&mut self, observation: Observation) {
        self.model.update(self.began.elapsed(), observation);
    }

    /// Draws what is known, waits for keys for a moment, and takes in what was seen meanwhile. What any client can
    /// do is done; other wishes are handed over.
    pub fn turn(&mut self) -> Result<Vec<KeyAction>, CliError> {
        self.poll.follow(&self.model.endpoints());
        let (model, look) = (&self.model, &self.look);
        self.screen.draw(|frame| draw::draw(model, look, frame)).map_err(io)?;
        let wishes = self.keys().map_err(io)?;
        while let Ok((at, observation)) = self.seen.try_recv() {
            self.model.update(at.saturating_duration_since(self.began), observation);
        }
        if self.load.take_if(|load| load.has_ended()).is_some() {
            self.observe(Observation::Load(Load::Off));
        }
        self.model.tick(self.began.elapsed());
        Ok(wishes.into_iter().filter(|wish| !self.grant(*wish)).collect())
    }

    /// Waits for a key for a moment; what all that were pressed ask for.
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
                Pressed::Wish(wish) => wishes.push(wish),
                Pressed::Once((key, does)) => self.tell(Tone::Plain, format!("{key} once more: {does}")),
                Pressed::Nothing => {}
            }
        }
        Ok(wishes)
    }

    /// Does what any client can; whether it was that.
    fn grant(&mut self, wish: KeyAction) -> bool {
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
            Some(load) if load.is_ending() => self.tell(Tone::Plain, "the load is still ending"),
            Some(load) => {
                load.end();
                self.tell(Tone::Plain, "load off");
            }
            None => {
                self.load = Some(Writer::start(&self.cluster, self.sink.clone()));
                self.observe(Observation::Load(Load::On(Sample::default())));
                self.tell(Tone::Plain, "load on");
            }
        }
    }

    /// Gives the terminal back. A load that is on ends before, and takes its counters with it if it can.
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
