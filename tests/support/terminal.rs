//! A pseudoterminal for a program with a screen interface: reads the program's screen and sends keys to the program.
#![allow(dead_code, reason = "each test file uses only some of these helpers")]

use crate::support::{ChildGuard, wait_until};
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

/// A pseudoterminal with a program that runs in it.
pub struct Terminal {
    pub program: ChildGuard,
    /// The user's side of the terminal, which sends keys and receives the program's output.
    master: OwnedFd,
    /// The program's side, kept open so that its modes can be read after the program has ended.
    slave: File,
    /// The screen as the program's output so far has drawn it.
    pub screen: Arc<Mutex<vt100::Parser>>,
    /// When set, the thread that updates the screen ends and closes its copy of the user's side.
    close_requested: Arc<AtomicBool>,
}

fn window_size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Updates the screen from the program's output until `close_requested` is set or the output ends.
fn update_screen(mut output: File, screen: &Mutex<vt100::Parser>, close_requested: &AtomicBool) {
    let mut bytes = [0; 4096];
    let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !close_requested.load(Ordering::Relaxed) {
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
        let slave_path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(slave_path).unwrap();
        tcsetwinsize(&master, window_size(columns, rows)).unwrap();
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
        let program = ChildGuard::start(command);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let close_requested = Arc::new(AtomicBool::new(false));
        let output = File::from(master.try_clone().unwrap());
        let (shared_screen, shared_request) = (screen.clone(), close_requested.clone());
        std::thread::spawn(move || update_screen(output, &shared_screen, &shared_request));
        Terminal { program, master, slave, screen, close_requested }
    }

    /// Closes the terminal. Returns the program, which keeps running until it notices that its terminal is closed.
    pub fn close(self) -> ChildGuard {
        self.close_requested.store(true, Ordering::Relaxed);
        self.program
    }

    /// Sends key presses: each character is one key.
    pub fn press(&self, keys: &str) {
        File::from(self.master.try_clone().unwrap()).write_all(keys.as_bytes()).unwrap();
    }

    /// Changes the size of the terminal, which sends SIGWINCH to the program.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.master, window_size(columns, rows)).unwrap();
    }

    /// The text on the screen, without colors.
    pub fn screen_text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until `matches` returns true for a line of the screen, and returns that line. If no such line appears, the
    /// test fails with `description`.
    pub fn wait_for_line(&self, description: &str, matches: impl Fn(&str) -> bool) -> String {
        let matching_line =
            || self.screen_text().lines().map(str::trim_end).find(|line| matches(line)).map(str::to_owned);
        wait_until(description, matching_line, || self.screen_text())
    }

    /// Whether the terminal echoes input and shows the main screen again, as before the program started.
    pub fn is_restored(&self) -> bool {
        let screen = self.screen.lock().unwrap();
        let modes = tcgetattr(self.slave.as_fd()).unwrap().local_modes;
        let is_main_screen = !screen.screen().alternate_screen() && !screen.screen().hide_cursor();
        is_main_screen && modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits until the program has ended and the terminal is as before. Returns the exit code, or `None` if a signal
    /// ended the program.
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        let screen = self.screen.clone();
        let code = self.program.wait(|| screen.lock().unwrap().screen().contents()).code();
        wait_until("the terminal is restored", || self.is_restored().then_some(()), || self.screen_text());
        code
    }
}
