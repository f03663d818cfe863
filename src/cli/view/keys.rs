//! What each key asks for: one table, which makes the line of help as well.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyAction {
    /// kill -9 of the leader; it comes back by itself.
    KillLeader,
    /// kill -9 of that node, or its start if it is away.
    KillOrStart(u64),
    /// SIGSTOP of the leader; SIGCONT of whoever is frozen.
    FreezeOrThaw,
    /// Another leads.
    Transfer,
    /// Load on, or off.
    Load,
    /// All nodes take a snapshot.
    Snapshot,
    /// The end.
    Quit,
}

/// What the view may do to the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Their processes are ours, to play with.
    Processes,
    /// They are somebody's: what any client may ask for, and only when it is asked for twice.
    Client,
}

/// Where a key is of use, and how readily it does what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Where the processes are ours.
    Ours,
    /// Everywhere; elsewhere it has to be pressed twice.
    Careful,
    /// Everywhere, at once.
    Everywhere,
}

/// What may be pressed.
enum Key {
    Char(char),
    Digit,
}

struct Binding {
    key: Key,
    /// How the key is called, and what it does, for people.
    help: (&'static str, &'static str),
    usable: Use,
    wish: fn(u64) -> KeyAction,
}

const fn on(key: char, help: (&'static str, &'static str), usable: Use, wish: fn(u64) -> KeyAction) -> Binding {
    Binding { key: Key::Char(key), help, usable, wish }
}

/// All keys, in the order in which help names them.
const BINDINGS: &[Binding] = &[
    on('k', ("k", "kill leader"), Use::Ours, |_| KeyAction::KillLeader),
    Binding { key: Key::Digit, help: ("1-9", "kill/start"), usable: Use::Ours, wish: KeyAction::KillOrStart },
    on('z', ("z", "freeze"), Use::Ours, |_| KeyAction::FreezeOrThaw),
    on('t', ("t", "transfer"), Use::Careful, |_| KeyAction::Transfer),
    on('b', ("b", "load"), Use::Careful, |_| KeyAction::Load),
    on('s', ("s", "snapshot"), Use::Careful, |_| KeyAction::Snapshot),
    on('q', ("q", "quit"), Use::Everywhere, |_| KeyAction::Quit),
];

impl Binding {
    fn is_usable(&self, reach: Reach) -> bool {
        self.usable != Use::Ours || reach == Reach::Processes
    }

    /// What it asks for, if that character is its key.
    fn wish(&self, pressed: char) -> Option<KeyAction> {
        match self.key {
            Key::Char(key) => (key == pressed).then(|| (self.wish)(0)),
            Key::Digit => pressed.to_digit(10).filter(|digit| *digit > 0).map(|digit| (self.wish)(digit.into())),
        }
    }
}

/// The keys in words, in their order: how each is called, and what it does.
pub fn help(reach: Reach) -> impl Iterator<Item = (&'static str, &'static str)> {
    BINDINGS.iter().filter(move |binding| binding.is_usable(reach)).map(|binding| binding.help)
}

/// What a key that was pressed comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressed {
    /// It asks for nothing.
    Nothing,
    /// It asks for that, if it is pressed once more; how it is called, and what it does.
    Once((&'static str, &'static str)),
    /// It asks for that.
    Wish(KeyAction),
}

/// Whoever sits at the keyboard.
pub struct Hand {
    reach: Reach,
    /// What was asked for once, and has to be asked for again.
    once: Option<KeyAction>,
}

impl Hand {
    /// With that reach, and nothing pressed yet.
    pub fn new(reach: Reach) -> Hand {
        Hand { reach, once: None }
    }

    /// How far it reaches.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// A key was pressed. Any other key takes back what was asked for once.
    pub fn press(&mut self, event: KeyEvent) -> Pressed {
        if event.kind == KeyEventKind::Release {
            return Pressed::Nothing;
        }
        let once = self.once.take();
        // The terminal sends no signal meanwhile: this key is that signal.
        if event.modifiers.contains(KeyModifiers::CONTROL) {
            return if event.code == KeyCode::Char('c') { Pressed::Wish(KeyAction::Quit) } else { Pressed::Nothing };
        }
        let KeyCode::Char(pressed) = event.code else { return Pressed::Nothing };
        let usable = BINDINGS.iter().filter(|binding| binding.is_usable(self.reach));
        let Some((binding, wish)) = usable.filter_map(|binding| Some((binding, binding.wish(pressed)?))).next() else {
            return Pressed::Nothing;
        };
        if binding.usable == Use::Careful && self.reach == Reach::Client && once != Some(wish) {
            self.once = Some(wish);
            return Pressed::Once(binding.help);
        }
        Pressed::Wish(wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(hand: &mut Hand, key: char) -> Pressed {
        hand.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE))
    }

    #[test]
    fn each_key_of_the_help_does_something_and_no_two_are_the_same() {
        let mut hand = Hand::new(Reach::Processes);
        let first = |(key, _): (&'static str, _)| key.chars().next().unwrap();
        let wishes: Vec<Pressed> = help(Reach::Processes).map(first).map(|key| press(&mut hand, key)).collect();
        assert_eq!(
            wishes,
            [
                KeyAction::KillLeader,
                KeyAction::KillOrStart(1),
                KeyAction::FreezeOrThaw,
                KeyAction::Transfer,
                KeyAction::Load,
                KeyAction::Snapshot,
                KeyAction::Quit
            ]
            .map(Pressed::Wish)
        );
        assert_eq!(press(&mut hand, '9'), Pressed::Wish(KeyAction::KillOrStart(9)));
        assert_eq!(press(&mut hand, '0'), Pressed::Nothing);
        assert_eq!(press(&mut hand, 'x'), Pressed::Nothing);
    }

    #[test]
    fn with_control_only_c_asks_for_something() {
        let mut hand = Hand::new(Reach::Processes);
        for (key, comes_to) in [
            ('c', Pressed::Wish(KeyAction::Quit)),
            ('k', Pressed::Nothing),
            ('z', Pressed::Nothing),
            ('s', Pressed::Nothing),
        ] {
            assert_eq!(hand.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL)), comes_to, "{key}");
        }
    }

    #[test]
    fn what_changes_a_cluster_that_is_not_ours_is_asked_for_twice() {
        let mut hand = Hand::new(Reach::Client);
        for key in ['k', '1', 'z'] {
            assert_eq!(press(&mut hand, key), Pressed::Nothing);
        }
        for (key, wish) in [('t', KeyAction::Transfer), ('b', KeyAction::Load), ('s', KeyAction::Snapshot)] {
            assert!(matches!(press(&mut hand, key), Pressed::Once(_)));
            assert_eq!(press(&mut hand, key), Pressed::Wish(wish));
            // Twice again, for once more; and whatever comes between takes it back.
            assert!(matches!(press(&mut hand, key), Pressed::Once(_)));
            assert_eq!(press(&mut hand, 'x'), Pressed::Nothing);
            assert!(matches!(press(&mut hand, key), Pressed::Once(_)));
        }
        assert_eq!(press(&mut hand, 'q'), Pressed::Wish(KeyAction::Quit));
    }
}
