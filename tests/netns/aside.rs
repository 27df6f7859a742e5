//! The process that a call leaves with the kernel, to wait for a link's end, while it is stuck there.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::plugin::{Container, Host};

/// The words under which that process is held up for a minute before it has asked for anything, and its caller
/// is killed as it waits for it. The first `poll` is the Rust library's.
fn stuck(log: &str) -> Vec<String> {
    let words = ["strace", "-f", "-o", log, "-e", "trace=setsid,poll"];
    let injected = ["inject=setsid:delay_enter=60000000", "inject=poll:signal=KILL:when=2"];
    let injected = injected.into_iter().flat_map(|inject| ["-e", inject]);
    words.into_iter().chain(injected).map(str::to_owned).collect()
}

/// The process that `strace` says is in `setsid`, once it says that another one was killed.
fn left_aside(log: &str) -> Option<i32> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let of = |what: &str| {
        let line = text.lines().find(|line| line.contains(what))?;
        line.split(' ').next()?.parse::<i32>().ok()
    };
    of("+++ killed by SIGKILL").and(of("setsid("))
}

fn open_files(process: i32) -> Vec<PathBuf> {
    let all = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    all.map(|fd| fs::read_link(fd.unwrap().path()).unwrap()).collect()
}

#[test]
fn whoever_reads_its_callers_stdout_does_not_wait_for_it() {
    let host = Host::new("aside-stdout");
    let log = host.state_dir().with_file_name("log");
    let log = log.to_str().unwrap();
    let pod = host.container("pod");
    let before = host.footprint();
    host.add(&pod);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd())).unwrap();
    thread::scope(|scope| {
        let del = host.call("DEL", Some(&pod)).under(stuck(log)).within(90);
        scope.spawn(move || del.answer_on(theirs));
        let begun = Instant::now();
        let process = loop {
            if let Some(process) = left_aside(log) {
                break process;
            }
            assert!(begun.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(10));
        };
        let files = open_files(process);
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
        for process in [tracer.unwrap().parse().unwrap(), process] {
            kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        }
        // Netfilter's and the link's stay.
        assert!(files.iter().any(|file| file.to_string_lossy().starts_with("socket:")));
        assert!(!files.contains(&name), "{name:?} in {files:?}");
    });
    drop(ours);
    host.del(&pod);
    fs::remove_file(log).unwrap();
    host.footprint().assert_is(&before, "afterwards");
}

#[test]
fn it_holds_no_lock_that_another_call_needs() {
    let host = Host::new("aside");
    let log = host.state_dir().with_file_name("log");
    let log = log.to_str().unwrap();
    let [owner, pod] = ["owner", "pod"].map(|id| host.container(id));
    let port =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let call = |verb: &str, pod: &Container, ports: &Value| {
        host.call(verb, Some(pod)).key("runtimeConfig", ports.clone()).within(90)
    };
    call("ADD", &owner, &port).succeed();
    let before = host.footprint();
    // Of an ADD it is the roll-back that waits: the port is taken.
    for verb in ["ADD", "DEL"] {
        if verb == "DEL" {
            call("ADD", &pod, &json!({})).succeed();
        }
        thread::scope(|scope| {
            scope.spawn(|| call(verb, &pod, &port).under(stuck(log)).answer());
            let begun = Instant::now();
            let process = loop {
                if let Some(process) = left_aside(log) {
                    break process;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "{verb}");
                thread::sleep(Duration::from_millis(10));
            };
            let free = |path: PathBuf| File::open(path).unwrap().try_lock();
            let record = free(host.record(&pod));
            let records = free(host.state_dir().join("attachments"));
            let files = open_files(process);
            let since = Instant::now();
            let ended = call("DEL", &pod, &json!({})).answer();
            let took = since.elapsed();
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:\t"));
            let alive = tracer.is_some();
            for process in tracer.into_iter().map(|tracer| tracer.parse().unwrap()).chain([process])
            {
                kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
            }
            assert!(alive, "{verb}: it is not stuck any more");
            assert!(record.is_ok() && records.is_ok(), "{verb}: {record:?} {records:?} {files:?}");
            assert_eq!(ended.code, Some(0), "{verb}: {ended:?}");
            assert!(took < Duration::from_secs(5), "{verb}: {took:?}");
            let own = |file: &PathBuf| {
                let name = file.to_string_lossy();
                name.starts_with("socket:") || name.starts_with("pipe:")
            };
            assert!(files.iter().all(own), "{verb}: {files:?}");
        });
        fs::remove_file(log).unwrap();
        host.footprint().assert_is(&before, verb);
    }
}
