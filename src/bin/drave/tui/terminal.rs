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
pub fn is_there() -> bool {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !dumb
}

/// The alternate screen of the terminal, without echo. The previous screen is restored when this is dropped, and when
/// any thread panics.
pub struct Screen {
    /// Never dropped: its `Drop` prints an error if it cannot show the cursor, and printing panics if the terminal is
    /// gone. [`restore`] shows the cursor instead.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Switches the terminal to raw mode and the alternate screen.
    pub fn open() -> io::Result<Screen> {
        restore_at_panic();
        let opened = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match opened {
            Ok(terminal) => Ok(Screen { terminal: ManuallyDrop::new(terminal) }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Draws a frame in the current size of the terminal.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_drawn| ())
    }

    /// Waits up to `wait` for input from the terminal. Input that has been read from it already is returned after
    /// `wait` at the latest.
    pub fn input(&mut self, wait: Duration) -> io::Result<Input> {
        let stdin = io::stdin();
        let mut looked_at = [PollFd::new(&stdin, PollFlags::IN)];
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut looked_at, Some(&wait)) {
            // A signal: its flag is checked between turns.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // The hangup is checked here because crossterm (0.29) loops forever when it reads at the end of a terminal.
        if looked_at[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(Input::End);
        }
        if event::poll(Duration::ZERO)?
            && let Event::Key(key) = event::read()?
        {
            return Ok(Input::Key(key));
        }
        Ok(Input::Nothing)
    }
}

/// Input from the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// No key in time. After a resize event, the next frame is drawn in the new size.
    Nothing,
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal was closed.
    End,
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal. Errors are ignored: the terminal may be gone.
fn restore() {
    let _there_may_be_none = disable_raw_mode();
    // The alternate screen is cleared first: some terminals (tmux) keep a line of it if they were resized meanwhile.
    let _there_may_be_none = execute!(io::stdout(), Clear(ClearType::All), LeaveAlternateScreen, Show);
}

/// Restores the terminal before a panic message is printed, so that it stays visible: the process does not unwind, and
/// the [`Screen`] is not dropped.
fn restore_at_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            tell(panic);
        }));
    });
}
