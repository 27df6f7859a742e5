//! Live records of real requests to one listener, at a rate and as fast as they go: each is told, or counted
//! as lost.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result, http,
    node::Agent,
    process,
    report::{Row, Rows},
    served::{self, Served},
};

/// Requests a second that are asked for, and for how long.
const RATE: u32 = 50_000;
const TIME: Duration = Duration::from_secs(4);
/// Requests in one segment: so many a millisecond make the rate.
const BEAT: Duration = Duration::from_millis(1);
const AT_ONCE: u32 = RATE / 1_000;
/// Between those of 10,000 requests a second.
pub const SLOW_BEAT: Duration = Duration::from_millis(5);
/// For the last of them to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

const REQUEST: &str = "GET /stock/17 HTTP/1.1\r\nHost: shop.example\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok";

/// What a listener has been told so far.
#[derive(Default)]
struct Told {
    records: AtomicU64,
    lost: AtomicU64,
}

/// Measures both and tells.
pub fn tell(pod: &Served, agent: &Agent, rows: &mut Rows) -> Result<()> {
    for (name, beat) in [(format!("{RATE} requests/s"), Some(BEAT)), ("no pause".into(), None)] {
        eprintln!("agent: live records, {name}");
        let told = listen()?;
        let used = process::time(agent.pid())?;
        let begun = Instant::now();
        let asked = exchange(pod, beat, TIME)?;
        let took = begun.elapsed();
        let (records, lost) = all(&told, asked);
        let used = process::time(agent.pid())?.saturating_sub(used);
        let name = |what: &str| format!("live records, one listener, {name}: {what}");
        let rate = asked as f64 / took.as_secs_f64();
        rows.add(Row::one(name("requests"), "1/s", rate).ratio("asked for", f64::from(RATE)))?;
        let share = Row::one(name("told"), "records", records as f64);
        rows.add(share.ratio("requests", asked as f64))?;
        let accounted =
            Row::one(name("told or counted as lost"), "records", (records + lost) as f64);
        rows.add(accounted.ratio("requests", asked as f64).exactly(1.0))?;
        let each = used.as_secs_f64() * 1e6 / records.max(1) as f64;
        rows.add(Row::one(name("the agent's processor, a record"), "us", each))?;
    }
    Ok(())
}

/// Traced requests on one connection to the pod for so long, in beats or without a pause; says how many.
pub fn exchange(pod: &Served, beat: Option<Duration>, time: Duration) -> Result<u64> {
    thread::scope(|scope| {
        let serving = scope.spawn(|| serve(pod).map_err(|err| err.to_string()));
        let asked = ask(beat, time);
        serving.join().map_err(|_| "the server panicked")??;
        asked
    })
}

/// A listener whose thread counts until the agent ends.
fn listen() -> Result<Arc<Told>> {
    let mut stream = TcpStream::connect(Agent::address())?;
    stream.write_all(b"GET /api/flows HTTP/1.0\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    while lines.next().ok_or("the agent ended the stream")?? != ": listening" {}
    let told = Arc::new(Told::default());
    let counted = Arc::clone(&told);
    thread::spawn(move || {
        let mut event = String::new();
        while let Some(Ok(line)) = lines.next() {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                if std::mem::take(&mut event).is_empty() {
                    counted.records.fetch_add(1, Relaxed);
                } else if let Ok(lost) = serde_json::from_str::<serde_json::Value>(data) {
                    counted.lost.fetch_add(lost["records"].as_u64().unwrap_or_default(), Relaxed);
                }
            }
        }
    });
    Ok(told)
}

/// Waits for what was asked to be told or said to be lost; for more of it than that, too.
fn all(told: &Told, asked: u64) -> (u64, u64) {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = (told.records.load(Relaxed), told.lost.load(Relaxed));
        if now.0 + now.1 >= asked || Instant::now() >= until {
            thread::sleep(Duration::from_millis(500));
            return (told.records.load(Relaxed), told.lost.load(Relaxed));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Answers one connection until its client is done.
fn serve(pod: &Served) -> Result<()> {
    let (mut stream, _) = pod.tcp.accept()?;
    stream.set_nodelay(true)?;
    let (mut bytes, mut rest) = (vec![0; 256 << 10], 0);
    let answers = ANSWER.repeat(bytes.len() / REQUEST.len() + 1);
    loop {
        let read = stream.read(&mut bytes)?;
        if read == 0 {
            return Ok(());
        }
        rest += read;
        stream.write_all(&answers.as_bytes()[..rest / REQUEST.len() * ANSWER.len()])?;
        rest %= REQUEST.len();
    }
}

fn ask(beat: Option<Duration>, time: Duration) -> Result<u64> {
    let mut stream = http::connect(format!("{}:80", served::SERVER).parse()?);
    stream.set_nodelay(true)?;
    let requests = REQUEST.repeat(AT_ONCE as usize);
    let mut answers = vec![0; ANSWER.len() * AT_ONCE as usize];
    let begun = Instant::now();
    let mut beats = 0;
    while begun.elapsed() < time {
        stream.write_all(requests.as_bytes())?;
        stream.read_exact(&mut answers)?;
        beats += 1;
        if let Some(beat) = beat {
            thread::sleep((begun + beat * beats).saturating_duration_since(Instant::now()));
        }
    }
    Ok(u64::from(beats) * u64::from(AT_ONCE))
}
