//! `wrk` in one pod against nginx in another: requests counted beside requests served, and the
//! throughput beside a pair of pods that nobody counts.

use std::{
    fmt::{self, Display, Formatter, Write as _},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use weir::telemetry::{
    reader::Maps,
    reload::reload,
    wire::{CounterKind, Role},
};

use crate::{
    Result, millicores,
    node::{self, Pod},
    streams,
};

const TURNS: usize = 3;
/// Requests that are served while programs are swapped, and turns of wrk that this may take.
const RELOADED: u64 = 1_000_000;
const MOST_TURNS: usize = 100;
const RELOAD_PAUSE: Duration = Duration::from_millis(200);
pub const BPF_DIR: &str = "/sys/fs/bpf/weir";

/// How wrk uses connections.
const MODES: [(&str, &[&str]); 2] =
    [("keep-alive", &[]), ("connection per request", &["-H", "Connection: close"])];

/// An nginx in one pod and a place for wrk in another.
pub struct Pair {
    pub server: Pod,
    pub client: Pod,
    pub address: String,
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
    fn start(name: &str, counted: bool) -> Result<Self> {
        let mut pods = node::pods(name, 2)?.into_iter();
        let (Some(server), Some(client)) = (pods.next(), pods.next()) else {
            return Err("no pods".into());
        };
        let reply = add(&server, &format!("{name}-server"), counted)?;
        add(&client, &format!("{name}-client"), counted)?;
        let address = reply["ips"][0]["address"].as_str().unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default().to_owned();
        let dir = PathBuf::from("/run").join(name);
        let nginx = nginx(&server, &dir)?;
        Ok(Self { server, client, address, nginx, asked: AtomicU64::new(0) })
    }

    /// Requests that nginx has read, by its own count, less those that asked for this number.
    fn served(&self) -> Result<u64> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        // Over the pod's loopback, which is not counted.
        let page = inside(&self.server, &["curl", "-sf", "http://127.0.0.1:8080/status"])?;
        let line = page.lines().nth(2).unwrap_or_default();
        let requests = line.split_whitespace().nth(2).ok_or("no requests in nginx's status")?;
        Ok(requests.parse::<u64>()?.saturating_sub(asked))
    }

    /// Requests a second.
    fn wrk(&self, time: Duration, more: &[&str]) -> Result<f64> {
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

/// HTTP requests counted in a role, and those of them without a status.
fn counted(role: Role) -> Result<(u64, u64)> {
    let snapshot = Maps::open(Path::new(BPF_DIR))?.snapshot()?;
    let (mut all, mut without) = (0, 0);
    for (key, n) in snapshot.counters {
        let http = u32::from(key.kind) == CounterKind::COUNTER_HTTP_REQUESTS.0;
        if http && u32::from(key.role) == role.0 {
            all += n;
            without += if key.c == 0 { n } else { 0 };
        }
    }
    Ok((all, without))
}

/// What was served and what was counted, since the beginning or between two looks.
#[derive(Clone, Copy)]
struct Sums {
    served: u64,
    server: u64,
    client: u64,
    unanswered: u64,
}

impl Sums {
    fn of(pair: &Pair) -> Result<Self> {
        let ((server, unanswered), (client, _)) =
            (counted(Role::ROLE_SERVER)?, counted(Role::ROLE_CLIENT)?);
        Ok(Self { served: pair.served()?, server, client, unanswered })
    }

    fn since(pair: &Pair, before: Self) -> Result<Self> {
        let now = Self::of(pair)?;
        Ok(Self {
            served: now.served - before.served,
            server: now.server - before.server,
            client: now.client - before.client,
            unanswered: now.unanswered - before.unanswered,
        })
    }
}

impl Display for Sums {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { served, server, client, unanswered } = self;
        writeln!(f, "  served (nginx)    {served:>9}")?;
        writeln!(f, "  counted, server   {server:>9}  of which {unanswered} without a response")?;
        writeln!(f, "  counted, client   {client:>9}")
    }
}

/// Measures and prints.
pub fn report(time: Duration) -> Result<String> {
    let seen = Pair::start("seen", true)?;
    let unseen = Pair::start("unseen", false)?;
    let mut text = String::from("wrk, 1 thread, 32 connections, against nginx, pod to pod\n\n");
    for (mode, more) in MODES {
        let before = Sums::of(&seen)?;
        let (mut with, mut without) = (0.0, 0.0);
        for _ in 0..TURNS {
            with += seen.wrk(time, more)?;
            without += unseen.wrk(time, more)?;
        }
        let turns = f64::from(u8::try_from(TURNS)?);
        writeln!(
            text,
            "{mode}\n{}  requests a second {:>9.0} counted, {:.0} uncounted, ratio {:.3}\n",
            Sums::since(&seen, before)?,
            with / turns,
            without / turns,
            with / without
        )?;
    }
    text.push_str(&streams::report(&seen, &unseen, time)?);
    text.push_str(&millicores::report(&seen, time)?);
    text.push_str(&reloaded(&seen, time)?);
    let stats = Maps::open(Path::new(BPF_DIR))?.snapshot()?.stats;
    writeln!(text, "self-statistics (gaps first): {stats:?}")?;
    Ok(text)
}

/// The programs are swapped again and again, until enough requests were served meanwhile.
fn reloaded(pair: &Pair, time: Duration) -> Result<String> {
    let before = Sums::of(pair)?;
    let over = AtomicBool::new(false);
    let (reloads, served) = thread::scope(|scope| {
        let reloader = scope.spawn(|| -> Result<u32, String> {
            let mut reloads = 0;
            while !over.load(Ordering::Relaxed) {
                reload(Path::new(BPF_DIR)).map_err(|err| err.to_string())?;
                reloads += 1;
                thread::sleep(RELOAD_PAUSE);
            }
            Ok(reloads)
        });
        let served = (0..MOST_TURNS)
            .map(|_| pair.wrk(time, &[]).and_then(|_| Sums::since(pair, before)))
            .find(|sums| sums.as_ref().map_or(true, |sums| sums.served >= RELOADED));
        over.store(true, Ordering::Relaxed);
        let reloads = reloader.join().map_err(|_| "the reloading thread panicked")??;
        Ok::<_, Box<dyn std::error::Error>>((reloads, served.transpose()?))
    })?;
    let served = match served {
        Some(_) => Sums::since(pair, before)?,
        None => return Err(format!("fewer than {RELOADED} requests in {MOST_TURNS} turns").into()),
    };
    Ok(format!("keep-alive, while the programs were swapped {reloads} times\n{served}\n"))
}
