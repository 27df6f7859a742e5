//! Another IPAM plugin answers: found on `CNI_PATH`, run as the spec's "Plugin Delegation" says.
//!
//! It gets our environment and the whole configuration. Its time and its output are bounded; what it
//! says on stderr goes to ours. Its own error, with its own code, is what the caller sees.

use std::{
    env,
    ffi::OsStr,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;

use super::Lease;
use crate::{
    attachment::Attachment,
    error::{Context, Error, Kind, Result},
};

/// Less than any runtime gives us, so that a hanging delegate still ends in an error and a roll-back.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer is some hundred bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// An IPAM plugin that was found, and the configuration to call it with.
#[derive(Debug)]
pub struct Delegate<'a> {
    plugin: &'a str,
    path: &'a OsStr,
    file: PathBuf,
    config: &'a [u8],
    patience: Duration,
}

/// The spec's error object.
#[derive(Debug, Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: Option<String>,
}

impl<'a> Delegate<'a> {
    /// Searches the directories of `path` (`CNI_PATH`) for a regular file named `plugin`.
    ///
    /// # Errors
    /// [`Kind::Environment`]: no `CNI_PATH`; [`Kind::Config`]: no such file in it.
    pub fn find(plugin: &'a str, path: &'a OsStr, config: &'a [u8]) -> Result<Self> {
        if path.is_empty() {
            let msg = format!("required env variables [CNI_PATH] missing, to find IPAM {plugin:?}");
            return Err(Error::new(Kind::Environment, msg));
        }
        let found = env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(plugin))
            .find(|file| file.is_file());
        match found {
            Some(file) => Ok(Self { plugin, path, file, config, patience: PATIENCE }),
            None => {
                let msg = format!("ipam.type is {plugin:?}: no such plugin in CNI_PATH {path:?}");
                Err(Error::new(Kind::Config, msg))
            }
        }
    }

    /// Gives it another time than 30 s to answer.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// ADD: has addresses leased. After an error the plugin must be told to [`del`](Self::del).
    ///
    /// # Errors
    /// [`Kind::Delegate`] with the plugin's own code; [`Kind::Decode`] when its answer is none;
    /// [`Kind::TryAgain`] when it takes longer than its time; [`Kind::Io`].
    pub fn add(&self) -> Result<Lease> {
        lease(self.plugin, &self.call("ADD", None)?)
    }

    /// DEL: has the attachment's addresses released, whichever verb we were called with.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn del(&self, attachment: &Attachment) -> Result<()> {
        self.call("DEL", Some(attachment)).map(drop)
    }

    /// CHECK, GC or STATUS, with the parameters that we were called with.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn forward(&self, verb: &str) -> Result<()> {
        self.call(verb, None).map(drop)
    }

    fn call(&self, verb: &str, attachment: Option<&Attachment>) -> Result<Vec<u8>> {
        let failed = || format!("can't run IPAM plugin {}", self.file.display());
        let mut command = Command::new(&self.file);
        // `weir reconcile` has no CNI_PATH of a runtime's, and Debian's plugins don't do without.
        command.env("CNI_PATH", self.path);
        command.env("CNI_COMMAND", verb).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(attachment) = attachment {
            command.env("CNI_CONTAINERID", attachment.container_id());
            command.env("CNI_IFNAME", attachment.ifname());
            if !is_calls_own(attachment) {
                // Namespace and arguments that we were called with are not this one's. Its own may be gone, for
                // which the specification leaves the namespace empty.
                command.env("CNI_NETNS", "").env_remove("CNI_ARGS");
            }
        }
        // In a group of its own, what it starts can be ended with it.
        let until = Instant::now() + self.patience;
        let mut child = spawn(command.process_group(0), until).context(Kind::Io, failed)?;
        let answer = converse(&mut child, self.config, until);
        if !matches!(answer, Ok(Some(_)))
            && let Ok(group) = i32::try_from(child.id()).map(Pid::from_raw)
        {
            // The group may have ended just now, which is as good.
            let _ = killpg(group, Signal::SIGKILL);
        }
        let Some((status, output)) = answer.context(Kind::Io, failed)? else {
            let msg = format!("IPAM plugin {} did not finish in {:?}", self.plugin, self.patience);
            return Err(Error::new(Kind::TryAgain, msg));
        };
        if status.success() {
            return Ok(output);
        }
        Err(refusal(self.plugin, status, &output))
    }
}

/// Whether it is the attachment that we were called for, and not one whose end an ADD, a GC or `weir reconcile`
/// brings.
fn is_calls_own(attachment: &Attachment) -> bool {
    let is = |name: &str, value: &str| env::var_os(name).is_some_and(|own| own == value);
    is("CNI_CONTAINERID", attachment.container_id()) && is("CNI_IFNAME", attachment.ifname())
}

/// What a plugin printed for an ADD that went well.
pub(crate) fn lease(plugin: &str, output: &[u8]) -> Result<Lease> {
    let garbled = || format!("IPAM plugin {plugin} gave no result");
    let lease: Option<Lease> = serde_json::from_slice(output).context(Kind::Decode, garbled)?;
    match lease {
        Some(lease) if !lease.addresses.is_empty() => Ok(lease),
        _ => Err(Error::new(Kind::Decode, format!("IPAM plugin {plugin} gave no address"))),
    }
}

/// What a plugin printed before it failed.
pub(crate) fn refusal(plugin: &str, status: ExitStatus, output: &[u8]) -> Error {
    let from = format!("from IPAM plugin {plugin}");
    match serde_json::from_slice::<Refusal>(output) {
        Ok(refusal) => {
            let error = Error::new(Kind::Delegate(refusal.code), refusal.msg);
            refusal
                .details
                .filter(|text| !text.is_empty())
                .into_iter()
                .chain([from])
                .fold(error, Error::details)
        }
        Err(_) => {
            let msg = format!("IPAM plugin {plugin} failed without an error message");
            Error::new(Kind::Io, msg).details(status)
        }
    }
}

/// Starts a plugin. One that is being replaced is open for writing for a moment (ETXTBSY), over
/// which libcni, too, tries again.
fn spawn(command: &mut Command, until: Instant) -> io::Result<Child> {
    const PAUSE: Duration = Duration::from_millis(20);
    const MOST: Duration = Duration::from_secs(2);
    let until = until.min(Instant::now() + MOST);
    loop {
        match command.spawn() {
            Err(err)
                if err.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() + PAUSE < until =>
            {
                thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Gives the child its configuration, and waits for its answer and its end; `None` if that is not so in time.
///
/// All of it in this thread: a child that writes before it reads must not block us, but another thread takes
/// memory at its start, and where that is missing the standard library knows nothing better than to abort.
fn converse(
    child: &mut Child,
    config: &[u8],
    until: Instant,
) -> io::Result<Option<(ExitStatus, Vec<u8>)>> {
    const PAUSE: Duration = Duration::from_millis(1);
    let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take());
    for fd in [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd)] {
        fd.map(|fd| fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))).transpose()?;
    }
    let (mut rest, mut output) = (config, Vec::new());
    loop {
        if stdin.as_mut().is_some_and(|stdin| !write_some(stdin, &mut rest)) {
            stdin = None;
        }
        if let Some(pipe) = &mut stdout
            && !read_some(pipe, &mut output)?
        {
            stdout = None;
        }
        // Whoever holds its stdout open goes on for it.
        if stdout.is_none()
            && let Some(status) = child.try_wait()?
        {
            return Ok(Some((status, output)));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut fds = Vec::with_capacity(2);
        fds.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // Its end is no event of a pipe.
        let wait = if stdout.is_some() { left } else { left.min(PAUSE) };
        match poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Writes as much as the pipe takes; whether there is any left. A child may well answer without reading to
/// the end.
fn write_some(pipe: &mut impl Write, rest: &mut &[u8]) -> bool {
    while !rest.is_empty() {
        match pipe.write(rest) {
            Ok(written) if written > 0 => *rest = &rest[written..],
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return true,
            _ => return false,
        }
    }
    false
}

/// Reads as much as the pipe has; whether more may come, which after [`MAX_OUTPUT`] is of no interest.
fn read_some(pipe: &mut impl Read, output: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while output.len() < MAX_OUTPUT {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => output.extend(&buffer[..read]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(err) => return Err(err),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A directory with an IPAM plugin `ipam`, a script.
    struct Plugins(PathBuf);

    impl Plugins {
        fn new(name: &str, script: &str) -> Self {
            let dir = env::temp_dir().join(format!("weir-ipam-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("ipam"), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(dir.join("ipam"), fs::Permissions::from_mode(0o755)).unwrap();
            Self(dir)
        }

        fn with<T>(&self, config: &[u8], call: impl FnOnce(Delegate<'_>) -> T) -> T {
            let path = format!("relative:/nowhere:{}", self.0.display());
            call(Delegate::find("ipam", path.as_ref(), config).unwrap())
        }

        fn add(&self) -> Result<Lease> {
            self.with(b"{}", |delegate| delegate.add())
        }
    }

    impl Drop for Plugins {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_answer_becomes_a_lease_whatever_else_it_has() {
        let answer = r#"{"ips": [{"version": "4", "address": "10.0.0.7/24", "gateway": null}],
            "routes": null, "dns": {"nameservers": ["192.0.2.1"]}, "new": 1}"#;
        let plugins = Plugins::new("answer", &format!("cat > /dev/null; echo '{answer}'"));
        let lease = plugins.add().unwrap();
        assert_eq!(lease.addresses[0].address.to_string(), "10.0.0.7/24");
        assert_eq!(lease.dns.nameservers, ["192.0.2.1"]);
    }

    #[test]
    fn one_that_writes_much_before_it_reads_much_gets_all_and_is_heard() {
        let script = "head -c 300000 /dev/zero | tr '\\0' ' '; wc -c > $(dirname $0)/read; \
                      echo '{\"ips\":[{\"address\":\"10.0.0.2/24\"}]}'";
        let plugins = Plugins::new("much", script);
        let config = vec![b' '; 400_000];
        let lease = plugins.with(&config, |delegate| delegate.add()).unwrap();
        assert_eq!(lease.addresses.len(), 1);
        assert_eq!(fs::read_to_string(plugins.0.join("read")).unwrap().trim(), "400000");
    }

    #[test]
    fn it_gets_the_configuration_and_the_verb_and_the_attachment() {
        let plugins = Plugins::new("stdin", "cd $(dirname $0); (env; cat) > seen");
        let config = vec![b'x'; 300_000];
        let attachment = Attachment::new("c7", "net1").unwrap();
        plugins.with(&config, |delegate| delegate.del(&attachment)).unwrap();
        let seen = fs::read_to_string(plugins.0.join("seen")).unwrap();
        assert!(seen.contains("CNI_COMMAND=DEL\n"));
        assert!(seen.contains("CNI_CONTAINERID=c7\n") && seen.contains("CNI_IFNAME=net1\n"));
        assert!(seen.ends_with(&"x".repeat(config.len())));
    }

    #[test]
    fn one_that_is_being_replaced_is_waited_for() {
        let plugins = Plugins::new("busy", "exit 0");
        let writer = fs::OpenOptions::new().append(true).open(plugins.0.join("ipam")).unwrap();
        let started = Instant::now();
        let replacing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(writer);
        });
        let attachment = Attachment::new("c8", "eth0").unwrap();
        plugins.with(b"{}", |delegate| delegate.del(&attachment)).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100));
        replacing.join().unwrap();
    }

    #[test]
    fn its_own_error_passes_through_with_its_code() {
        let refusal = r#"{"code": 7, "msg": "no ranges", "details": "none at all"}"#;
        let plugins = Plugins::new("refusal", &format!("echo '{refusal}'; exit 1"));
        let err = plugins.add().unwrap_err();
        assert_eq!((err.kind(), err.msg()), (Kind::Delegate(7), "no ranges"));
        assert_eq!(err.details_text(), Some("none at all; from IPAM plugin ipam"));
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_names_the_plugin() {
        for (name, script, kind) in [
            ("null", "echo null", Kind::Decode),
            ("empty", "", Kind::Decode),
            ("garbage", "echo what", Kind::Decode),
            ("no-ips", "echo '{}'", Kind::Decode),
            ("bad-ip", r#"echo '{"ips":[{"address":"10.0.0.7"}]}'"#, Kind::Decode),
            ("silent", "exit 3", Kind::Io),
            ("killed", "kill -9 $$", Kind::Io),
            ("endless", "exec yes", Kind::Io),
        ] {
            let err = Plugins::new(name, script).add().unwrap_err();
            assert_eq!(err.kind(), kind, "{name}: {err}");
            assert!(err.msg().contains("ipam"), "{name}: {err}");
        }
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_it_started() {
        let plugins =
            Plugins::new("hang", "cd $(dirname $0); sleep 60 & echo $! > child; sleep 61");
        let began = Instant::now();
        let err = plugins
            .with(b"{}", |delegate| delegate.within(Duration::from_millis(700)).add().unwrap_err());
        assert_eq!(err.kind(), Kind::TryAgain);
        assert!(began.elapsed() < Duration::from_secs(10));
        let child = fs::read_to_string(plugins.0.join("child")).unwrap();
        let status = format!("/proc/{}/stat", child.trim());
        let ended = || fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
        assert!((0..100).any(|_| ended() || {
            thread::sleep(Duration::from_millis(10));
            false
        }));
    }

    #[test]
    fn one_that_is_not_there_is_named_with_the_path() {
        let err = Delegate::find("ipam", OsStr::new(""), b"").unwrap_err();
        assert_eq!(err.kind(), Kind::Environment);
        let err = Delegate::find("no-such-ipam", OsStr::new("/usr:/etc"), b"").unwrap_err();
        assert_eq!(err.kind(), Kind::Config);
        assert!(err.msg().contains("no-such-ipam") && err.msg().contains("/usr:/etc"), "{err}");
    }
}
