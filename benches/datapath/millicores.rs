//! What counting costs a node that is asked steadily: the programs' time by the kernel's own statistics,
//! at both pods, and the agent's, scraped each second.

use std::{
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use libbpf_rs::{Program, query::ProgInfoIter};
use nix::sched::{CloneFlags, setns};

use weir::telemetry::pin;

use crate::{
    Result,
    pair::{BPF_DIR, Pair},
    process,
    report::{Row, Rows, row::nanos},
};

/// Requests a second, over this many connections.
const RATE: u32 = 10_000;
const CONNECTIONS: u32 = 16;
/// What programs and agent together may take, in thousandths of a processor.
const MOST: f64 = 60.0;
const AGENT: &str = "127.0.0.1:9920";
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel keeps time of all its programs while this lives, if it did not before.
struct Statistics {
    before: String,
}

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS)?;
        fs::write(STATISTICS, "1")?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, &self.before);
    }
}

/// An agent, ended when dropped.
struct Agent(Child);

impl Agent {
    fn start() -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["agent", "--listen", AGENT, "--state-dir", "/run/weir", "--bpf-dir", BPF_DIR])
            .stderr(Stdio::null())
            .spawn()?;
        let agent = Self(child);
        for _ in 0..100 {
            if scrape().is_ok() {
                return Ok(agent);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err("the agent did not come up in 5 s".into())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scrape() -> Result<()> {
    let mut stream = TcpStream::connect(AGENT)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    if page.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err("no page".into()) }
}

/// Runs of the pods' programs, and the time of them.
fn runs() -> Result<(u64, Duration)> {
    let mut ours = Vec::new();
    for name in ["weir_from_pod", "weir_to_pod"] {
        let program = pin::program(Path::new(BPF_DIR), name)?.ok_or("no pinned programs")?;
        ours.push(Program::id_from_fd(program.as_fd())?);
    }
    let programs = ProgInfoIter::default().filter(|program| ours.contains(&program.id));
    Ok(programs.fold((0, Duration::ZERO), |(runs, time), program| {
        (runs + program.run_cnt, time + Duration::from_nanos(program.run_time_ns))
    }))
}

/// Asks on one connection at its share of the rate.
fn ask(pod: PathBuf, to: SocketAddr, over: &AtomicBool, asked: &AtomicU64) -> Result<(), String> {
    let run = || -> Result<()> {
        setns(fs::File::open(&pod)?.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let pause = Duration::from_secs(1) * CONNECTIONS / RATE;
        let mut next = Instant::now();
        let mut answer = [0; 1024];
        while !over.load(Ordering::Relaxed) {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nUser-Agent: bench\r\n\r\n")?;
            // nginx sends its short answers whole.
            if stream.read(&mut answer)? == 0 {
                return Err("nginx closed".into());
            }
            asked.fetch_add(1, Ordering::Relaxed);
            next += pause;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    };
    run().map_err(|err| err.to_string())
}

/// Measures for so long and tells.
pub fn tell(pair: &Pair, time: Duration, rows: &mut Rows) -> Result<()> {
    eprintln!("datapath: {RATE} requests a second");
    let to: SocketAddr = format!("{}:80", pair.address).parse()?;
    let _statistics = Statistics::on()?;
    let agent = Agent::start()?;
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let asking: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (pod, over, asked) = (pair.client.path().to_owned(), &over, &asked);
                scope.spawn(move || ask(pod, to, over, asked))
            })
            .collect();
        let measured = measure(&agent, &asked, time, rows);
        over.store(true, Ordering::Relaxed);
        for one in asking {
            one.join().map_err(|_| "a client panicked")??;
        }
        measured
    })
}

fn measure(agent: &Agent, asked: &AtomicU64, time: Duration, rows: &mut Rows) -> Result<()> {
    thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let before = (asked.load(Ordering::Relaxed), runs()?, process::time(agent.0.id())?);
    while begun.elapsed() < time {
        scrape()?;
        thread::sleep(Duration::from_secs(1));
    }
    let (elapsed, now) =
        (begun.elapsed(), (asked.load(Ordering::Relaxed), runs()?, process::time(agent.0.id())?));
    let thousandths = |of: Duration| of.as_secs_f64() / elapsed.as_secs_f64() * 1e3;
    let rate = (now.0 - before.0) as f64 / elapsed.as_secs_f64();
    let (counting, serving) = (now.1.1 - before.1.1, now.2 - before.2);
    let took = (now.1.1 - before.1.1) / u32::try_from((now.1.0 - before.1.0).max(1))?;
    let name = |what: &str| format!("{RATE} requests/s, agent scraped each second: {what}");
    let asked = Row::one(name("sent"), "1/s", rate).ratio("what was asked for", f64::from(RATE));
    rows.add(asked)?;
    let counting = thousandths(counting);
    rows.add(Row::one(name("programs of both pods"), "millicores", counting))?;
    rows.add(Row::one(name("a run, with the statistics' clock"), "ns", nanos(took)))?;
    let serving = thousandths(serving);
    rows.add(Row::one(name("agent"), "millicores", serving))?;
    let both = counting + serving;
    rows.add(Row::one(name("programs and agent"), "millicores", both).at_most(MOST))?;
    Ok(())
}
