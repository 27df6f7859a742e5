//! Who is compared: a plugin and a configuration.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{UsageWho, getrusage},
        time::TimeValLike,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};
use serde_json::{Value, json};

use crate::{Result, floor, node::Pod};

/// What is called in each round, in this order.
pub const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];
/// Debian's containernetworking-plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// What a call took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// From before the exec to after the exit.
    pub wall: Duration,
    /// Of the processors, by the plugin and what it started. Of calls that run beside others, theirs,
    /// too.
    pub cpu: Duration,
}

/// A plugin and its configuration.
pub struct Contender {
    /// Its row in the table.
    pub label: &'static str,
    plugin: PathBuf,
    role: Option<&'static str>,
    config: Value,
}

/// All of them.
pub struct Contenders {
    /// ptp and host-local, IPv4.
    pub ptp: Contender,
    /// The same with `ipMasq`.
    pub ptp_masq: Contender,
    /// bridge and host-local, IPv4.
    pub bridge: Contender,
    /// Weir, IPv4, uncounted.
    pub bare: Contender,
    /// Weir, IPv4, counted by filters of clsact.
    pub counted: Contender,
    /// Weir, IPv4, counted by tcx links.
    pub tcx: Contender,
    /// Weir, IPv4 with `ipMasq`, uncounted.
    pub masq: Contender,
    /// Weir, both families, uncounted.
    pub dual: Contender,
    /// Weir, both families, `ipMasq`, counted.
    pub all: Contender,
    /// Nothing but the kernel's part of `all` without the counting.
    pub netlink: Contender,
    /// Nothing.
    pub exec: Contender,
}

impl Contenders {
    pub fn new() -> Result<Self> {
        let weir = Path::new(env!("CARGO_BIN_EXE_weir"));
        let ptp = Path::new(REFERENCE).join("ptp");
        if !ptp.exists() {
            let msg = format!("{} is missing: install containernetworking-plugins", ptp.display());
            return Err(msg.into());
        }
        let v4 = |number: u8| {
            let subnet = format!("10.{number}.0.0/16");
            json!({"ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]})
        };
        let dual = |number: u8| {
            json!({
                "ranges": [
                    [{"subnet": format!("10.{number}.0.0/16")}],
                    [{"subnet": format!("fd00:{number}::/64")}],
                ],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            })
        };
        let host_local = |mut ipam: Value| {
            ipam["type"] = json!("host-local");
            ipam
        };
        let uncounted = json!({"enabled": false});
        let counted = json!({"required": true, "attach": "clsact"});
        let tcx = json!({"required": true, "attach": "tcx"});
        let telemetry = |how: &Value| json!({"telemetry": how});
        let masq = |mut more: Value| {
            more["ipMasq"] = json!(true);
            more
        };
        let all = masq(telemetry(&counted));
        Ok(Self {
            ptp: Contender::new("ptp, IPv4", &ptp, host_local(v4(71)), json!({})),
            ptp_masq: Contender::new(
                "ptp, IPv4, masquerade",
                &ptp,
                host_local(v4(72)),
                masq(json!({})),
            ),
            bridge: Contender::new(
                "bridge, IPv4",
                &Path::new(REFERENCE).join("bridge"),
                host_local(v4(73)),
                json!({"bridge": "cni0", "isGateway": true}),
            ),
            bare: Contender::new("weir, IPv4", weir, v4(81), telemetry(&uncounted)),
            counted: Contender::new("weir, IPv4, counted", weir, v4(82), telemetry(&counted)),
            tcx: Contender::new("weir, IPv4, counted by tcx", weir, v4(86), telemetry(&tcx)),
            masq: Contender::new(
                "weir, IPv4, masquerade",
                weir,
                v4(83),
                masq(telemetry(&uncounted)),
            ),
            dual: Contender::new("weir, IPv4 + IPv6", weir, dual(84), telemetry(&uncounted)),
            all: Contender::new("weir, IPv4 + IPv6, masquerade, counted", weir, dual(85), all),
            netlink: Contender::floor("floor: the netlink of IPv4 + IPv6, masq.", floor::NETLINK)?,
            exec: Contender::floor("floor: exec", floor::EXEC)?,
        })
    }

    /// The plugins, in the order of the table.
    pub fn listed(&self) -> [&Contender; 9] {
        let Self { ptp, ptp_masq, bridge, bare, counted, tcx, masq, dual, all, .. } = self;
        [ptp, ptp_masq, bridge, bare, counted, tcx, masq, dual, all]
    }

    /// Those that are called many at once.
    pub fn crowding(&self) -> [&Contender; 5] {
        let Self { ptp, ptp_masq, bridge, bare, all, .. } = self;
        [ptp, ptp_masq, bridge, bare, all]
    }

    /// Those that are called among others, and in how many blocks: a thousand ADDs and DELs of a
    /// reference plugin take minutes.
    pub fn among(&self) -> [(&Contender, usize); 5] {
        let Self { ptp, bridge, bare, tcx, all, .. } = self;
        [(ptp, 1), (bridge, 1), (bare, 4), (tcx, 4), (all, 4)]
    }
}

impl Contender {
    fn new(label: &'static str, plugin: &Path, ipam: Value, more: Value) -> Self {
        let kind = plugin.file_name().map(|name| name.to_string_lossy().into_owned());
        let name: String = label.chars().filter(char::is_ascii_alphanumeric).collect();
        let mut config = more;
        config["cniVersion"] = json!("1.0.0");
        config["name"] = json!(name);
        config["type"] = json!(kind);
        config["ipam"] = ipam;
        Self { label, plugin: plugin.to_owned(), role: None, config }
    }

    fn floor(label: &'static str, role: &'static str) -> Result<Self> {
        let plugin = floor::executable()?;
        Ok(Self { label, plugin, role: Some(role), config: json!({}) })
    }

    /// Calls the plugin as a runtime does; returns what that took, and what it printed.
    pub fn call(
        &self,
        verb: &str,
        id: &str,
        pod: &Pod,
        prev_result: Option<&[u8]>,
    ) -> Result<(Taken, Vec<u8>)> {
        self.call_for(verb, id, pod, "eth0", prev_result)
    }

    /// As [`call`](Self::call), with nothing of another call's under way; the processors' time is that of
    /// whatever it left behind, too: Weir's DEL answers before the kernel is done with the link.
    pub fn alone(
        &self,
        verb: &str,
        id: &str,
        pod: &Pod,
        prev_result: Option<&[u8]>,
    ) -> Result<(Taken, Vec<u8>)> {
        let used = children()?;
        let (taken, said) = self.call(verb, id, pod, prev_result)?;
        settle()?;
        Ok((Taken { cpu: children()?.saturating_sub(used), ..taken }, said))
    }

    /// As [`call`](Self::call), for another interface.
    pub fn call_for(
        &self,
        verb: &str,
        id: &str,
        pod: &Pod,
        ifname: &str,
        prev_result: Option<&[u8]>,
    ) -> Result<(Taken, Vec<u8>)> {
        let mut config = self.config.clone();
        if let Some(reply) = prev_result {
            config["prevResult"] = serde_json::from_slice(reply)?;
        }
        let config = config.to_string();
        let mut command = Command::new(&self.plugin);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", ifname)
            .env("CNI_PATH", REFERENCE)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(role) = self.role {
            command.env(floor::ROLE, role);
        }
        let used = children()?;
        let started = Instant::now();
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Neither the floor nor an answer to VERSION reads it; how it went the process itself says.
            match stdin.write_all(config.as_bytes()) {
                Err(err) if err.kind() != io::ErrorKind::BrokenPipe => return Err(err.into()),
                _ => {}
            }
        }
        let output = child.wait_with_output()?;
        let wall = started.elapsed();
        let cpu = children()?.saturating_sub(used);
        if !output.status.success() {
            let (said, logged) = (output.stdout, output.stderr);
            let words = [said, logged].concat();
            let words = String::from_utf8_lossy(&words).into_owned();
            return Err(format!("{}: {verb} of {id} failed: {words}", self.label).into());
        }
        Ok((Taken { wall, cpu }, output.stdout))
    }
}

/// Has what called plugins leave behind become children of this process.
pub fn adopt() -> Result<()> {
    prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Waits for the end of all that was left behind.
pub fn settle() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) if begun.elapsed() > PATIENCE => {
                return Err("what a plugin left behind doesn't end".into());
            }
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_micros(200)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The processors' time of all processes that were started and have ended.
pub fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.try_into()?))
}
