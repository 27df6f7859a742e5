//! What one reading of the maps asks of the kernel, and how long it may take: by strace, on the one thread of the
//! agent that reads them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir::telemetry::wire::{CounterKind, HttpMethod, HttpVersion};

use super::{
    fill::Pod,
    http::get,
    node::{Agent, Node, eventually},
};

/// strace on the thread that reads the maps.
struct Watch {
    strace: Child,
    log: PathBuf,
}

impl Watch {
    /// With these words more; it watches once this returns.
    fn new(node: &Node, agent: &Agent, words: &[&str]) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
        let named = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap() == "totals\n";
        let task = tasks.map(|task| task.unwrap().path()).find(named).unwrap();
        let log = node.path("strace");
        let mut strace = Command::new("strace");
        strace.args(["-e", "trace=bpf", "-p", task.file_name().unwrap().to_str().unwrap()]);
        strace.args(words).arg("-o").arg(&log).stderr(Stdio::piped());
        let mut strace = strace.spawn().unwrap_or_else(|err| panic!("strace is needed: {err}"));
        let mut said = String::new();
        BufReader::new(strace.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("attached"), "{said}");
        Self { strace, log }
    }

    /// Lets go of the thread; returns what it called.
    fn end(mut self) -> String {
        kill(Pid::from_raw(self.strace.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.strace.wait().unwrap();
        fs::read_to_string(&self.log).unwrap()
    }
}

/// A counter of a pod, and what the page has of it.
fn count(pod: &Pod) -> String {
    let (get, one) = (HttpMethod::HTTP_METHOD_GET.0, HttpVersion::HTTP_VERSION_1_1.0);
    pod.count(CounterKind::COUNTER_HTTP_REQUESTS, get, one, 200, 7);
    r#"weir_http_requests_total{namespace="shop",pod="p0",role="server",method="GET",protocol="1.1",status="200"} 7"#
        .to_owned()
}

#[test]
fn a_scrape_reads_every_map_at_once() {
    let node = Node::new("reading-batch");
    let pods = Pod::many(&node, 130);
    let line = count(&pods[0]);
    let mut agent = node.agent();
    agent.wait_for("reading the maps");
    // Past what is kept of the reading before.
    get("/metrics");
    thread::sleep(Duration::from_millis(1_100));
    let watch = Watch::new(&node, &agent, &[]);
    let page = get("/metrics").body;
    let calls = watch.end();
    assert!(page.contains(&line) && page.contains("\nweir_pods 130\n"), "{page}");
    let of = |command: &str| calls.lines().filter(|line| line.contains(command)).count();
    assert!(of("BPF_MAP_LOOKUP_BATCH") >= 5, "{calls}");
    // Some of the pods are asked about one by one: whether their hooks are where they should be.
    assert_eq!((of("BPF_MAP_LOOKUP_ELEM"), of("BPF_MAP_GET_NEXT_KEY")), (64, 0), "{calls}");
}

#[test]
fn a_reading_that_takes_too_long_is_an_answer_after_ten_seconds_and_holds_up_nothing_else() {
    let node = Node::new("reading-slow");
    let pods = Pod::many(&node, 1);
    let line = count(&pods[0]);
    let mut agent = node.agent();
    agent.wait_for("reading the maps");
    // Each of its calls takes longer than a scrape may.
    let watch = Watch::new(&node, &agent, &["-e", "inject=bpf:delay_enter=15000000"]);
    let slow = thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let asked = Instant::now();
            (get("/metrics"), get("/api/pods"), asked.elapsed())
        });
        thread::sleep(Duration::from_secs(6));
        let asked = Instant::now();
        assert_eq!(get("/healthz").status, 200);
        let ready = get("/readyz");
        assert!(ready.status == 503 && ready.body.contains("last swept"), "{}", ready.body);
        assert_eq!(get("/").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        slow.join().unwrap()
    });
    let (metrics, pods, took) = slow;
    for answer in [metrics, pods] {
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(answer.body.starts_with("reading the maps takes over 10s"), "{}", answer.body);
    }
    assert!((20..22).contains(&took.as_secs()), "{took:?}");
    watch.end();
    eventually("it is ready again", || get("/readyz").status == 200);
    let page = get("/metrics");
    assert!(page.status == 200 && page.body.contains(&line), "{}", page.body);
}
