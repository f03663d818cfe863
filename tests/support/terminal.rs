//! A pseudoterminal for a program with a screen interface: reads its screen and sends keys.
#![allow(dead_code, reason = "each test uses only some of it")]

use crate::support::{Guarded, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, ioctl_tiocsctty, set_parent_process_death_signal, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A terminal with a running program.
pub struct Terminal {
    pub program: Guarded,
    /// The user's side.
    master: OwnedFd,
    /// The program's side, kept open so that its modes can be read after the program has ended.
    slave: File,
    pub screen: Arc<Mutex<vt100::Parser>>,
    /// Set to make the thread that reads the screen close the terminal.
    closed: Arc<AtomicBool>,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Updates the screen from the program's output until the terminal is closed.
fn read(mut output: File, screen: &Mutex<vt100::Parser>, closed: &AtomicBool) {
    let mut bytes = [0; 4096];
    let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !closed.load(Ordering::Relaxed) {
        if poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&timeout)).unwrap() > 0 {
            let Ok(n @ 1..) = output.read(&mut bytes) else { return };
            screen.lock().unwrap().process(&bytes[..n]);
        }
    }
}

impl Terminal {
    /// Runs the command in a new terminal, as the leader of its own session.
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        tcsetwinsize(&master, size(columns, rows)).unwrap();
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let stdio = || slave.try_clone().unwrap();
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: between fork and exec only async-signal-safe system calls are made.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                ioctl_tiocsctty(std::io::stdin())?;
                Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        let program = Guarded::start(command);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let closed = Arc::new(AtomicBool::new(false));
        let (output, parser, close) = (File::from(master.try_clone().unwrap()), screen.clone(), closed.clone());
        std::thread::spawn(move || read(output, &parser, &close));
        Terminal { program, master, slave, screen, closed }
    }

    /// Closes the terminal. Returns the program, which is then without one.
    pub fn close(self) -> Guarded {
        self.closed.store(true, Ordering::Relaxed);
        self.program
    }

    pub fn press(&self, keys: &str) {
        File::from(self.master.try_clone().unwrap()).write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.master, size(columns, rows)).unwrap();
    }

    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until a line of the screen matches, and returns it.
    pub fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let line = || self.text().lines().map(str::trim_end).find(|line| wanted(line)).map(str::to_owned);
        until(what, line, || self.text())
    }

    /// Whether the terminal echoes input and shows the main screen again, as before the program started.
    pub fn is_restored(&self) -> bool {
        let screen = self.screen.lock().unwrap();
        let modes = tcgetattr(self.slave.as_fd()).unwrap().local_modes;
        let is_main_screen = !screen.screen().alternate_screen() && !screen.screen().hide_cursor();
        is_main_screen && modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits until the program has ended and the terminal is as before. Returns the exit code, unless a signal ended
    /// it.
    pub fn end(&mut self) -> Option<i32> {
        let screen = self.screen.clone();
        let code = self.program.end(|| screen.lock().unwrap().screen().contents()).code();
        until("the terminal is restored", || self.is_restored().then_some(()), || self.text());
        code
    }
}
