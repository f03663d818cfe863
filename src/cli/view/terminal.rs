//! The terminal while the view has it, and that it is given back however that ends.

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

/// Whether there is somebody who sees the view and can press keys, at a terminal that can move its cursor.
pub fn is_there() -> bool {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !dumb
}

/// A second screen of the terminal, without echo; what stood there before comes back when this is dropped, and
/// when any thread panics.
pub struct Screen {
    /// Never dropped: it would say that it cannot show the cursor, and where the terminal is gone even saying so
    /// panics. The cursor is shown by [`restore`].
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    /// Takes the terminal.
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

    /// Draws, in the size that the terminal has now.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_drawn| ())
    }

    /// Waits so long for something to come from the terminal. What has come already is had without waiting, at the
    /// latest when nothing comes in that time.
    pub fn input(&mut self, wait: Duration) -> io::Result<Input> {
        let stdin = io::stdin();
        let mut looked_at = [PollFd::new(&stdin, PollFlags::IN)];
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut looked_at, Some(&wait)) {
            // A signal: what it wants is looked at between turns.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Looked for here: crossterm (0.29) reads at the end of a terminal again and again, and never comes back.
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

/// What came from the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Nothing, in time; or nothing but another size, in which it is drawn the next time.
    Nothing,
    /// A key was pressed.
    Key(KeyEvent),
    /// Its end: nobody can see or press anything any more.
    End,
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back. Where there is none any more, nothing is left to do.
fn restore() {
    let _there_may_be_none = disable_raw_mode();
    // Empty, because some terminals that were resized meanwhile (tmux) would leave a line of it behind.
    let _there_may_be_none = execute!(io::stdout(), Clear(ClearType::All), LeaveAlternateScreen, Show);
}

/// What a panic says must be seen, and the process does not unwind.
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
