//! The key bindings: one table, which the help line is generated from as well.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyAction {
    /// kill -9 of the leader, which is restarted automatically.
    KillLeader,
    /// kill -9 of this node, or its start if it is down.
    KillOrStart(u64),
    /// SIGSTOP of the leader, or SIGCONT of a frozen node.
    FreezeOrThaw,
    /// Transfers leadership to another node.
    Transfer,
    /// Switches the load on or off.
    Load,
    /// Requests a snapshot on all nodes.
    Snapshot,
    /// Quits the view.
    Quit,
}

/// The actions that the view may perform on the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The nodes are child processes: all actions.
    Processes,
    /// The nodes were started elsewhere: only client requests, and only if the key is pressed twice.
    Client,
}

/// The reach in which a key is available, and whether it needs confirmation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Available if the nodes are child processes.
    Ours,
    /// Always available; must be pressed twice unless the nodes are child processes.
    Careful,
    /// Always available, without confirmation.
    Everywhere,
}

/// The keys of a binding.
enum Key {
    Char(char),
    Digit,
}

struct Binding {
    key: Key,
    /// The label of the key and the description of its action, for the help line.
    help: (&'static str, &'static str),
    usable: Use,
    wish: fn(u64) -> KeyAction,
}

const fn on(key: char, help: (&'static str, &'static str), usable: Use, wish: fn(u64) -> KeyAction) -> Binding {
    Binding { key: Key::Char(key), help, usable, wish }
}

/// All bindings, in the order of the help line.
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

    /// The action, if the character is the key of this binding.
    fn action_for(&self, pressed: char) -> Option<KeyAction> {
        match self.key {
            Key::Char(key) => (key == pressed).then(|| (self.wish)(0)),
            Key::Digit => pressed.to_digit(10).filter(|digit| *digit > 0).map(|digit| (self.wish)(digit.into())),
        }
    }
}

/// The label and the description of each available key, in order.
pub fn help(reach: Reach) -> impl Iterator<Item = (&'static str, &'static str)> {
    BINDINGS.iter().filter(move |binding| binding.is_usable(reach)).map(|binding| binding.help)
}

/// The effect of a key press.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyEffect {
    /// No effect.
    Nothing,
    /// The action is performed if the key is pressed once more. Holds the key's label and description.
    Once((&'static str, &'static str)),
    /// The action is requested.
    Wish(KeyAction),
}

/// Maps key presses to actions.
pub struct KeyHandler {
    reach: Reach,
    /// The action that awaits confirmation by a second press.
    once: Option<KeyAction>,
}

impl KeyHandler {
    /// A hand with this reach and no key pressed yet.
    pub fn new(reach: Reach) -> KeyHandler {
        KeyHandler { reach, once: None }
    }

    /// Handles a key press. Any other key cancels an action that awaits confirmation.
    pub fn press(&mut self, event: KeyEvent) -> KeyEffect {
        if event.kind == KeyEventKind::Release {
            return KeyEffect::Nothing;
        }
        let once = self.once.take();
        // In raw mode Ctrl-C sends no SIGINT: it arrives as this key.
        if event.modifiers.contains(KeyModifiers::CONTROL) {
            return if event.code == KeyCode::Char('c') {
                KeyEffect::Wish(KeyAction::Quit)
            } else {
                KeyEffect::Nothing
            };
        }
        let KeyCode::Char(pressed) = event.code else { return KeyEffect::Nothing };
        let usable = BINDINGS.iter().filter(|binding| binding.is_usable(self.reach));
        let Some((binding, wish)) = usable.filter_map(|binding| Some((binding, binding.action_for(pressed)?))).next()
        else {
            return KeyEffect::Nothing;
        };
        if binding.usable == Use::Careful && self.reach == Reach::Client && once != Some(wish) {
            self.once = Some(wish);
            return KeyEffect::Once(binding.help);
        }
        KeyEffect::Wish(wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(hand: &mut KeyHandler, key: char) -> KeyEffect {
        hand.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE))
    }

    #[test]
    fn each_key_in_help_has_a_distinct_action() {
        let mut hand = KeyHandler::new(Reach::Processes);
        let first = |(key, _): (&'static str, _)| key.chars().next().unwrap();
        let wishes: Vec<KeyEffect> = help(Reach::Processes).map(first).map(|key| press(&mut hand, key)).collect();
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
            .map(KeyEffect::Wish)
        );
        assert_eq!(press(&mut hand, '9'), KeyEffect::Wish(KeyAction::KillOrStart(9)));
        assert_eq!(press(&mut hand, '0'), KeyEffect::Nothing);
        assert_eq!(press(&mut hand, 'x'), KeyEffect::Nothing);
    }

    #[test]
    fn ctrl_c_quits_and_other_control_keys_are_ignored() {
        let mut hand = KeyHandler::new(Reach::Processes);
        for (key, comes_to) in [
            ('c', KeyEffect::Wish(KeyAction::Quit)),
            ('k', KeyEffect::Nothing),
            ('z', KeyEffect::Nothing),
            ('s', KeyEffect::Nothing),
        ] {
            assert_eq!(hand.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL)), comes_to, "{key}");
        }
    }

    #[test]
    fn key_in_top_needs_a_second_press() {
        let mut hand = KeyHandler::new(Reach::Client);
        for key in ['k', '1', 'z'] {
            assert_eq!(press(&mut hand, key), KeyEffect::Nothing);
        }
        for (key, wish) in [('t', KeyAction::Transfer), ('b', KeyAction::Load), ('s', KeyAction::Snapshot)] {
            assert!(matches!(press(&mut hand, key), KeyEffect::Once(_)));
            assert_eq!(press(&mut hand, key), KeyEffect::Wish(wish));
            // A repetition needs two presses again; any key in between cancels the first.
            assert!(matches!(press(&mut hand, key), KeyEffect::Once(_)));
            assert_eq!(press(&mut hand, 'x'), KeyEffect::Nothing);
            assert!(matches!(press(&mut hand, key), KeyEffect::Once(_)));
        }
        assert_eq!(press(&mut hand, 'q'), KeyEffect::Wish(KeyAction::Quit));
    }
}
