//! One line a fact, on stderr: the agent's log, and what a failed command has to say.

use std::{
    fmt,
    io::{self, Write},
};

/// Writes one line. A stderr that is gone must not end the agent, so failing to write is ignored.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "weir: {line}");
}

/// A name with what is not visible written out: whoever starts a pod must not move a reader's cursor.
pub fn visible(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// The last thing that the agent said about something, so that it is said once.
#[derive(Debug, Default)]
pub struct Said(String);

impl Said {
    /// Says it, unless it is what was said last.
    pub fn say(&mut self, line: String) {
        if self.0 != line {
            say(format_args!("agent: {line}"));
            self.0 = line;
        }
    }

    /// Says it, unless something was said under this key last, with whatever reason.
    pub fn say_once(&mut self, key: &str, line: String) {
        if self.0 != key {
            say(format_args!("agent: {line}"));
            key.clone_into(&mut self.0);
        }
    }

    /// Forgets it; whether there was anything.
    pub fn forget(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}
