//! A child process that is given its input, a time, and no more than that.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{Context, Result};

/// The most that is read of an output.
const MAX_OUTPUT: u64 = 1 << 20;
/// How long the outputs may stay open once the process has ended.
const GRACE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);

/// What came of a process.
#[derive(Debug)]
pub struct Answer {
    /// How it ended; `None`: it was still running when its time was over.
    pub status: Option<ExitStatus>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it logged.
    pub stderr: Vec<u8>,
    /// An output was still open seconds after the process had ended.
    pub held_open: bool,
    /// Its stdout went elsewhere.
    pub unheard: bool,
    /// The time that it had.
    pub patience: Duration,
    /// The time that it took.
    pub took: Duration,
}

/// Runs a command to its end or to the end of its time; whatever it started then ends with it.
///
/// # Errors
/// It can't be started.
pub fn finish(
    command: &mut Command,
    input: &[u8],
    stdout: Option<Stdio>,
    patience: Duration,
) -> Result<Answer> {
    let unheard = stdout.is_some();
    let began = Instant::now();
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(stdout.unwrap_or_else(Stdio::piped))
        .stderr(Stdio::piped())
        .spawn()
        .context(|| format!("can't run {}", command.get_program().display()))?;
    feed(&mut child, input.to_vec());
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let status = wait(&mut child, began + patience);
    let took = began.elapsed();
    let mut held_open = false;
    let mut read = |output: Option<Receiver<Vec<u8>>>| {
        let Some(output) = output else { return Vec::new() };
        let whole = if status.is_some() { output.recv_timeout(GRACE).ok() } else { None };
        held_open |= whole.is_none() && status.is_some();
        whole.unwrap_or_default()
    };
    let (stdout, stderr) = (read(out), read(err));
    end_group(&child);
    if status.is_none() {
        let _ = child.wait();
    }
    Ok(Answer { status, stdout, stderr, held_open, unheard, patience, took })
}

fn feed(child: &mut Child, input: Vec<u8>) {
    let stdin = child.stdin.take();
    // On a thread of its own, since a child may print before it reads; it may also not read at all.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
}

fn drain(output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut output = output;
        let _ = output.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
        // Who prints more than that is let print, so that it ends.
        let _ = std::io::copy(&mut output, &mut std::io::sink());
        sender.send(bytes)
    });
    receiver
}

fn wait(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    while Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(POLL),
            Err(_) => return None,
        }
    }
    None
}

/// Ends what is left of the child's process group.
fn end_group(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience_ms: u64) -> Answer {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        finish(&mut command, b"input", None, Duration::from_millis(patience_ms)).unwrap()
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let answer = shell("cat; echo log >&2; exit 3", 5000);
        assert_eq!(answer.status.unwrap().code(), Some(3));
        assert_eq!((&*answer.stdout, &*answer.stderr), (&b"input"[..], &b"log\n"[..]));
        assert!(!answer.held_open);
    }

    #[test]
    fn one_that_hangs_and_one_that_leaves_somebody_behind_are_told() {
        assert!(shell("sleep 30", 200).status.is_none());
        let answer = shell("sleep 30 & exit 0", 5000);
        assert!(answer.status.unwrap().success() && answer.held_open);
    }
}
