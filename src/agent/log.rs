//! One line a fact, on stderr: the agent's log, and what a failed command has to say.

use std::{
    fmt,
    io::{self, Write},
};

/// Writes one line. A stderr that is gone must not end the agent, so failing to write is ignored.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "weir: {line}");
}
