//! Pairs of pods with traffic between them: who is counted, and beside whom.

use std::{
    fs,
    io::Write as _,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcHookBuilder};
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};

use crate::{
    Result,
    floor::Floor,
    node::{self, Pod},
};

pub const BPF_DIR: &str = "/sys/fs/bpf/weir";

/// What is compared, in turns.
pub struct Pairs {
    /// Weir with all that it reads.
    pub counted: Pair,
    /// A program of the floor's, at the same places.
    pub layer4: Pair,
    /// No program.
    pub bare: Pair,
}

impl Pairs {
    pub fn start(floor: &Floor) -> Result<Self> {
        let pairs = Self {
            counted: Pair::start("counted", "seen", true)?,
            layer4: Pair::start("L4 only", "layer4", false)?,
            bare: Pair::start("no program", "unseen", false)?,
        };
        let program = floor.layer4()?;
        for link in &pairs.layer4.links {
            let mut hooks = TcHookBuilder::new(program.as_fd());
            hooks.ifindex(if_nametoindex(link.as_str())?.try_into()?).priority(1).handle(1);
            for side in [TC_INGRESS, TC_EGRESS] {
                let mut hook = hooks.hook(side);
                hook.create()?;
                hook.attach()?;
            }
        }
        Ok(pairs)
    }

    /// An error where the floor's program has not seen packets of both pods: loopback's are of runs without a device.
    pub fn check(&self, floor: &Floor) -> Result<()> {
        match floor.interfaces()?.checked_sub(1) {
            Some(seen) if seen == self.layer4.links.len() => Ok(()),
            seen => Err(format!("{}: packets of {seen:?} interfaces", self.layer4.name).into()),
        }
    }

    /// In the order of their turns; the last is what the others are compared with.
    pub fn all(&self) -> [&Pair; 3] {
        [&self.counted, &self.layer4, &self.bare]
    }
}

/// An nginx in one pod and a place for wrk in another.
pub struct Pair {
    /// In rows.
    pub name: &'static str,
    pub server: Pod,
    pub client: Pod,
    pub address: String,
    /// The node's ends of the pods' interfaces.
    links: Vec<String>,
    nginx: Child,
    /// How often nginx was asked for its status.
    asked: AtomicU64,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
    }
}

impl Pair {
    fn start(name: &'static str, dir: &str, counted: bool) -> Result<Self> {
        let pods = node::pods(dir, 2).map_err(|err| err.to_string())?;
        let mut pods = pods.into_iter();
        let (Some(server), Some(client)) = (pods.next(), pods.next()) else {
            return Err("no pods".into());
        };
        let reply = add(&server, &format!("{dir}-server"), counted)?;
        let other = add(&client, &format!("{dir}-client"), counted)?;
        let links = [&reply, &other].map(|reply| reply["interfaces"][0]["name"].as_str());
        let links = links.into_iter().flatten().map(str::to_owned).collect();
        let address = reply["ips"][0]["address"].as_str().unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default().to_owned();
        let dir = PathBuf::from("/run").join(dir);
        let nginx = nginx(&server, &dir)?;
        Ok(Self { name, server, client, address, links, nginx, asked: AtomicU64::new(0) })
    }

    /// Requests that nginx has read, by its own count, less those that asked for this number.
    pub fn served(&self) -> Result<u64> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        // Over the pod's loopback, which is not counted.
        let page = inside(&self.server, &["curl", "-sf", "http://127.0.0.1:8080/status"])?;
        let line = page.lines().nth(2).unwrap_or_default();
        let requests = line.split_whitespace().nth(2).ok_or("no requests in nginx's status")?;
        Ok(requests.parse::<u64>()?.saturating_sub(asked))
    }

    /// Requests a second.
    pub fn wrk(&self, time: Duration, more: &[&str]) -> Result<f64> {
        let time = format!("{}s", time.as_secs());
        let url = format!("http://{}/", self.address);
        let words = [&["wrk", "-t1", "-c32", "-d", &time][..], more, &[&url]].concat();
        let said = inside(&self.client, &words)?;
        let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        Ok(rate.ok_or_else(|| format!("wrk said no rate: {said}"))?.trim().parse()?)
    }
}

fn nginx(pod: &Pod, dir: &Path) -> Result<Child> {
    fs::create_dir_all(dir)?;
    let dir = dir.display();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000;\n\
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen 80; listen [::]:80; location / {{ return 200 hello; }} }}\n\
         server {{ listen 127.0.0.1:8080; location /status {{ stub_status; }} }} }}\n"
    );
    let file = format!("{dir}/nginx.conf");
    fs::write(&file, config)?;
    let child = command(pod, &["nginx", "-c", &file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    for _ in 0..100 {
        if inside(pod, &["curl", "-sf", "http://127.0.0.1:8080/status"]).is_ok() {
            return Ok(child);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err("nginx did not come up in 5 s".into())
}

/// A command in a pod's network.
pub fn command(pod: &Pod, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", pod.path().display())).arg("--").args(words);
    command
}

/// What a command in a pod says on stdout; an error if it fails.
pub fn inside(pod: &Pod, words: &[&str]) -> Result<String> {
    let output = command(pod, words).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{words:?}: {said}{}", String::from_utf8_lossy(&output.stderr)).into())
}

fn add(pod: &Pod, id: &str, counted: bool) -> Result<Value> {
    let config = json!({
        "cniVersion": "1.1.0", "name": "bench", "type": "weir",
        "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
                 "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]},
        "telemetry": {"enabled": counted, "required": counted},
        "stateDir": "/run/weir", "bpfDir": BPF_DIR,
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("ADD: {}", String::from_utf8_lossy(&output.stdout)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
