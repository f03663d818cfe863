//! The key bindings: one table that maps keys to actions, and from which the help line is generated.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// An action that a key requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyAction {
    /// kill -9 of the leader, which is restarted automatically.
    KillLeader,
    /// kill -9 of this node, or its start if it is down.
    KillOrStart(u64),
    /// SIGSTOP of the leader, or SIGCONT of a frozen node.
    FreezeOrThaw,
    /// Transfers leadership to another node.
    TransferLeadership,
    /// Switches the load on or off.
    ToggleLoad,
    /// Requests a snapshot on all nodes.
    TakeSnapshots,
    /// Closes the view; `drave demo` then stops its nodes as well.
    Quit,
}

/// The actions that the view may perform on the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeControl {
    /// The nodes are child processes: all actions.
    ChildProcesses,
    /// The nodes were started elsewhere: only client requests, and only if the key is pressed twice.
    ClientOnly,
}

/// When a key is available, and whether it needs confirmation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Availability {
    /// Available if the nodes are child processes.
    ChildProcessesOnly,
    /// Always available. The key must be pressed twice with [`NodeControl::ClientOnly`].
    ConfirmedInClientView,
    /// Always available, without confirmation.
    Always,
}

/// The key or keys that a binding matches.
enum KeyPattern {
    Char(char),
    /// A digit from 1 to 9, which is passed to the action.
    Digit,
}

struct KeyBinding {
    key: KeyPattern,
    /// The label of the key and the description of its action, for the help line.
    label_and_description: (&'static str, &'static str),
    availability: Availability,
    /// Returns the action. The argument is the digit pressed, or 0 for a key that is not a digit.
    action: fn(u64) -> KeyAction,
}

const fn char_binding(
    key: char,
    label_and_description: (&'static str, &'static str),
    availability: Availability,
    action: fn(u64) -> KeyAction,
) -> KeyBinding {
    KeyBinding { key: KeyPattern::Char(key), label_and_description, availability, action }
}

/// All bindings, in the order of the help line.
const BINDINGS: &[KeyBinding] = &[
    char_binding('k', ("k", "kill leader"), Availability::ChildProcessesOnly, |_| KeyAction::KillLeader),
    KeyBinding {
        key: KeyPattern::Digit,
        label_and_description: ("1-9", "kill/start"),
        availability: Availability::ChildProcessesOnly,
        action: KeyAction::KillOrStart,
    },
    char_binding('z', ("z", "freeze"), Availability::ChildProcessesOnly, |_| KeyAction::FreezeOrThaw),
    char_binding('t', ("t", "transfer"), Availability::ConfirmedInClientView, |_| KeyAction::TransferLeadership),
    char_binding('b', ("b", "load"), Availability::ConfirmedInClientView, |_| KeyAction::ToggleLoad),
    char_binding('s', ("s", "snapshot"), Availability::ConfirmedInClientView, |_| KeyAction::TakeSnapshots),
    char_binding('q', ("q", "quit"), Availability::Always, |_| KeyAction::Quit),
];

impl KeyBinding {
    /// Whether the binding applies to nodes that are controlled in this way.
    fn is_usable(&self, control: NodeControl) -> bool {
        self.availability != Availability::ChildProcessesOnly || control == NodeControl::ChildProcesses
    }

    /// The action, if the character is the key of this binding.
    fn action_for(&self, pressed: char) -> Option<KeyAction> {
        match self.key {
            KeyPattern::Char(key) => (key == pressed).then(|| (self.action)(0)),
            KeyPattern::Digit => {
                pressed.to_digit(10).filter(|digit| *digit > 0).map(|digit| (self.action)(digit.into()))
            }
        }
    }
}

/// The label and the description of each available key, in order.
pub fn help_texts(control: NodeControl) -> impl Iterator<Item = (&'static str, &'static str)> {
    BINDINGS.iter().filter(move |binding| binding.is_usable(control)).map(|binding| binding.label_and_description)
}

/// Whether a key press requests an action at once, after a second press, or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyEffect {
    /// The key is not bound, or not available.
    Nothing,
    /// The action is performed if the key is pressed once more. Holds the key's label and description.
    NeedsSecondPress((&'static str, &'static str)),
    /// The action is requested, and confirmed if that is necessary.
    Action(KeyAction),
}

/// Maps key presses to actions, and remembers a first press that awaits confirmation.
pub struct KeyHandler {
    control: NodeControl,
    /// The action that awaits confirmation by a second press.
    pending_action: Option<KeyAction>,
}

impl KeyHandler {
    /// A handler before the first key press.
    pub fn new(control: NodeControl) -> KeyHandler {
        KeyHandler { control, pending_action: None }
    }

    /// Handles a key press. Any other key cancels an action that awaits confirmation.
    pub fn handle_press(&mut self, event: KeyEvent) -> KeyEffect {
        if event.kind == KeyEventKind::Release {
            return KeyEffect::Nothing;
        }
        let pending_action = self.pending_action.take();
        // In raw mode Ctrl-C sends no SIGINT: it arrives as this key.
        if event.modifiers.contains(KeyModifiers::CONTROL) {
            return if event.code == KeyCode::Char('c') {
                KeyEffect::Action(KeyAction::Quit)
            } else {
                KeyEffect::Nothing
            };
        }
        let KeyCode::Char(pressed) = event.code else { return KeyEffect::Nothing };
        let usable_bindings = BINDINGS.iter().filter(|binding| binding.is_usable(self.control));
        let Some((binding, action)) =
            usable_bindings.filter_map(|binding| Some((binding, binding.action_for(pressed)?))).next()
        else {
            return KeyEffect::Nothing;
        };
        if binding.availability == Availability::ConfirmedInClientView
            && self.control == NodeControl::ClientOnly
            && pending_action != Some(action)
        {
            self.pending_action = Some(action);
            return KeyEffect::NeedsSecondPress(binding.label_and_description);
        }
        KeyEffect::Action(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(key_handler: &mut KeyHandler, key: char) -> KeyEffect {
        key_handler.handle_press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE))
    }

    #[test]
    fn each_key_in_help_has_a_distinct_action() {
        let mut key_handler = KeyHandler::new(NodeControl::ChildProcesses);
        let first_char = |(key, _): (&'static str, _)| key.chars().next().unwrap();
        let actions: Vec<KeyEffect> =
            help_texts(NodeControl::ChildProcesses).map(first_char).map(|key| press(&mut key_handler, key)).collect();
        assert_eq!(
            actions,
            [
                KeyAction::KillLeader,
                KeyAction::KillOrStart(1),
                KeyAction::FreezeOrThaw,
                KeyAction::TransferLeadership,
                KeyAction::ToggleLoad,
                KeyAction::TakeSnapshots,
                KeyAction::Quit
            ]
            .map(KeyEffect::Action)
        );
        assert_eq!(press(&mut key_handler, '9'), KeyEffect::Action(KeyAction::KillOrStart(9)));
        assert_eq!(press(&mut key_handler, '0'), KeyEffect::Nothing);
        assert_eq!(press(&mut key_handler, 'x'), KeyEffect::Nothing);
    }

    #[test]
    fn ctrl_c_quits_and_other_control_keys_are_ignored() {
        let mut key_handler = KeyHandler::new(NodeControl::ChildProcesses);
        for (key, effect) in [
            ('c', KeyEffect::Action(KeyAction::Quit)),
            ('k', KeyEffect::Nothing),
            ('z', KeyEffect::Nothing),
            ('s', KeyEffect::Nothing),
        ] {
            assert_eq!(
                key_handler.handle_press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL)),
                effect,
                "{key}"
            );
        }
    }

    #[test]
    fn key_of_client_only_view_needs_a_second_press() {
        let mut key_handler = KeyHandler::new(NodeControl::ClientOnly);
        for key in ['k', '1', 'z'] {
            assert_eq!(press(&mut key_handler, key), KeyEffect::Nothing);
        }
        for (key, action) in
            [('t', KeyAction::TransferLeadership), ('b', KeyAction::ToggleLoad), ('s', KeyAction::TakeSnapshots)]
        {
            assert!(matches!(press(&mut key_handler, key), KeyEffect::NeedsSecondPress(_)));
            assert_eq!(press(&mut key_handler, key), KeyEffect::Action(action));
            // To repeat the action, press the key twice again; another key in between cancels the first press.
            assert!(matches!(press(&mut key_handler, key), KeyEffect::NeedsSecondPress(_)));
            assert_eq!(press(&mut key_handler, 'x'), KeyEffect::Nothing);
            assert!(matches!(press(&mut key_handler, key), KeyEffect::NeedsSecondPress(_)));
        }
        assert_eq!(press(&mut key_handler, 'q'), KeyEffect::Action(KeyAction::Quit));
    }
}
