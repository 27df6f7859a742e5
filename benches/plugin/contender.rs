//! Who is compared: a plugin and a configuration.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Result, node::Pod};

/// What is called in each round, in this order.
pub const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];
/// Debian's containernetworking-plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// A plugin and its configuration.
pub struct Contender {
    /// Its row in the table.
    pub label: &'static str,
    plugin: PathBuf,
    config: Value,
}

/// All of them; the first is what the others are measured against.
pub fn all() -> Result<Vec<Contender>> {
    let weir = Path::new(env!("CARGO_BIN_EXE_weir"));
    let ptp = Path::new(REFERENCE).join("ptp");
    if !ptp.exists() {
        return Err(
            format!("{} is missing: install containernetworking-plugins", ptp.display()).into()
        );
    }
    let v4 = json!({"ranges": [[{"subnet": "10.77.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let dual = json!({
        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let other = json!({"ranges": [[{"subnet": "10.89.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let host_local = with(&v4, "type", json!("host-local"));
    Ok(vec![
        Contender::new("ptp + host-local, IPv4", &ptp, host_local, json!({})),
        Contender::new(
            "weir, IPv4 + IPv6, masquerade, telemetry",
            weir,
            dual,
            json!({"ipMasq": true, "telemetry": {"enabled": true, "required": true}}),
        ),
        Contender::new("weir, IPv4 alone", weir, other, json!({"telemetry": {"enabled": false}})),
    ])
}

fn with(object: &Value, key: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[key] = value;
    object
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
        Self { label, plugin: plugin.to_owned(), config }
    }

    /// Calls the plugin as a runtime does; returns the time from before the exec to after the exit,
    /// and what it printed.
    pub fn call(
        &self,
        verb: &str,
        id: &str,
        pod: &Pod,
        prev_result: Option<&[u8]>,
    ) -> Result<(Duration, Vec<u8>)> {
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
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(config.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let took = started.elapsed();
        if !output.status.success() {
            let (said, logged) = (output.stdout, output.stderr);
            let words = [said, logged].concat();
            let words = String::from_utf8_lossy(&words).into_owned();
            return Err(format!("{}: {verb} of {id} failed: {words}", self.label).into());
        }
        Ok((took, output.stdout))
    }
}
