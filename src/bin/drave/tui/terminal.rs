//! The terminal in raw mode, which is restored however the view ends.

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::prelude::CrosstermBackend;
use ratatui::{Frame, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, IsTerminal, Stdout};
use std::mem::ManuallyDrop;
use std::sync::Once;
use std::time::Duration;

/// Whether standard input and output are a terminal that can move its cursor.
pub fn is_interactive() -> bool {
    let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// The alternate screen of the terminal, without echo. The previous screen is restored when the value is dropped,
/// and when any thread panics.
pub struct Screen {
    /// Never dropped: `Drop` of [`Terminal`] prints an error if the cursor cannot be shown, and printing panics if the
    /// terminal is gone. [`restore_terminal`] shows the cursor instead.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Switches the terminal to raw mode and the alternate screen.
    pub fn open() -> io::Result<Screen> {
        restore_terminal_at_panic();
        let terminal = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match terminal {
            Ok(terminal) => Ok(Screen { terminal: ManuallyDrop::new(terminal) }),
            Err(error) => {
                restore_terminal();
                Err(error)
            }
        }
    }

    /// Draws a frame of the current size of the terminal.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_frame| ())
    }

    /// Waits up to `wait` for input from the terminal. Input that crossterm has read and not returned
    /// yet is returned after `wait` at the latest.
    pub fn wait_for_input(&mut self, wait: Duration) -> io::Result<TerminalInput> {
        let stdin = io::stdin();
        let mut poll_fds = [PollFd::new(&stdin, PollFlags::IN)];
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut poll_fds, Some(&wait)) {
            // A signal interrupts the wait; the caller checks the flag that the signal sets.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // The hangup is checked here because crossterm (0.29) loops forever when it reads at the end of a terminal.
        if poll_fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(TerminalInput::End);
        }
        if event::poll(Duration::ZERO)?
            && let Event::Key(key) = event::read()?
        {
            return Ok(TerminalInput::Key(key));
        }
        Ok(TerminalInput::Nothing)
    }
}

/// The result of [`Screen::wait_for_input`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TerminalInput {
    /// No key was pressed in time. After a resize event, the next frame is drawn in the new size.
    Nothing,
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal was closed.
    End,
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Restores the terminal. Errors are ignored: the terminal may be gone.
fn restore_terminal() {
    let _terminal_may_be_gone = disable_raw_mode();
    // The alternate screen is cleared first: some terminals (tmux) keep a line of it if they were resized before.
    let _terminal_may_be_gone = execute!(io::stdout(), Clear(ClearType::All), LeaveAlternateScreen, Show);
}

/// Restores the terminal before a panic message is printed, so that the message stays visible: the process does not
/// unwind, and the [`Screen`] is not dropped.
fn restore_terminal_at_panic() {
    static INSTALL_HOOK_ONCE: Once = Once::new();
    INSTALL_HOOK_ONCE.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore_terminal();
            default_hook(panic);
        }));
    });
}
