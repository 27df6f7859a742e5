//! A pseudo-terminal with a program in it, and what a person would see.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::node::PATIENCE;

/// The terminal. The program ends with it.
pub struct Screen {
    parser: vt100::Parser,
    keys: File,
    output: Receiver<Vec<u8>>,
    program: Child,
}

impl Screen {
    /// Starts a program of weir's in a terminal of this size.
    pub fn new(rows: u16, columns: u16, arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(Some(&size), None).unwrap();
        let slave = || terminal.slave.try_clone().unwrap();
        let program = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_weir")])
            .args(arguments)
            .env("TERM", "xterm-256color")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let mut output = File::from(terminal.master.try_clone().unwrap());
        let (send, receive) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4_096];
            // The last one to hold the other side being gone reads as an error.
            while let Ok(read) = output.read(&mut bytes) {
                if read == 0 || send.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let parser = vt100::Parser::new(rows, columns, 0);
        Self { parser, keys: terminal.master.into(), output: receive, program }
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen is right, and returns it.
    pub fn until(&mut self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.parser.screen().contents();
            if right(&text) {
                return text;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(why) => panic!("{why}: never {what}, but\n{text}"),
            }
        }
    }

    /// The colour of a character.
    pub fn colour(&self, row: u16, column: usize) -> vt100::Color {
        let cell = self.parser.screen().cell(row, column.try_into().unwrap());
        cell.unwrap().fgcolor()
    }

    /// Whether the program has a screen of its own, as full-screen programs do.
    pub fn alternate(&self) -> bool {
        self.parser.screen().alternate_screen()
    }

    /// Waits for the program to end; returns its status.
    pub fn end(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
                    self.parser.process(&bytes);
                }
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.parser.screen().contents());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal's hang-up ends what is in it.
        let _ = kill(Pid::from_raw(i32::try_from(self.program.id()).unwrap()), Signal::SIGHUP);
        let _ = self.program.wait();
    }
}
