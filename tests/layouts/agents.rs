//! What agents and `weir pods` say between an upgrade and its reload, and after it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::version::{Upgraded, Version};

const OTHERS: &str = "pods are counted by the programs of another version of Weir";
const NEVER: &str = "no pod has been counted yet";

/// Starts an agent of this version, and waits for it to say on `/readyz` that all this is not as it should be.
pub fn finds(node: &Upgraded, words: &[&str]) {
    let agent = Agent::start(node, Version::This);
    let answer = agent.says("/readyz", words);
    assert!(answer.starts_with("HTTP/1.0 503 "), "{answer}");
}

/// A running agent of a version's. It ends with its handle.
struct Agent<'a> {
    node: &'a Upgraded,
    child: Child,
    log: PathBuf,
}

impl<'a> Agent<'a> {
    fn start(node: &'a Upgraded, version: Version) -> Self {
        let state_dir = node.host.state_dir();
        let log = state_dir.with_file_name(format!("agent-{version:?}.log"));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", node.host.node.path().display())).arg(version.weir());
        command.args(["agent", "--listen", "127.0.0.1:9920", "--state-dir"]).arg(&state_dir);
        command.arg("--bpf-dir").arg(node.bpf_dir()).stdin(Stdio::null());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { node, child, log }
    }

    /// The answer, with its head.
    fn get(&self, path: &str) -> Option<String> {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        self.node.host.node.run(|| {
            let mut stream = TcpStream::connect("127.0.0.1:9920").ok()?;
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// Asks until the answer has all this in it.
    fn says(&self, path: &str, words: &[&str]) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path).unwrap_or_default();
            if words.iter().all(|word| answer.contains(word)) {
                return answer;
            }
            assert!(Instant::now() < end, "{path} never says {words:?}, but {answer}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn logged(&self, text: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a version's `weir pods` says besides the list.
fn remarks(node: &Upgraded, version: Version) -> String {
    let (weir, state_dir) = (version.weir(), node.host.state_dir());
    let places = format!("--state-dir {} --bpf-dir", state_dir.display());
    let words = format!("{} pods {places} {}", weir.display(), node.bpf_dir().display());
    let output = node.host.node.command(&words);
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// The layout that a version says that its maps have.
fn layout(version: Version) -> String {
    let output = Command::new(version.weir()).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("layout of the maps: "));
    line.unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn telemetry(pods: &[(&str, &str)]) -> Vec<(String, String)> {
    pods.iter().map(|(pod, word)| ((*pod).to_owned(), (*word).to_owned())).collect()
}

#[test]
fn before_the_reload_the_new_version_says_who_counts_the_pods() {
    let node = Upgraded::new("agents-before", "clsact");
    let [a, b] = ["a", "b"].map(|id| node.host.container(id));
    node.call(Version::This, "ADD", &a).succeed();
    let agent = Agent::start(&node, Version::Other);
    let ready = agent.says("/readyz", &[OTHERS, "weir reload"]);
    assert!(ready.contains(" 503 ") && !ready.contains(NEVER), "{ready}");
    // Which layout is whose can be asked of each executable.
    let [this, other] = [Version::This, Version::Other].map(layout);
    let named = format!("({this}, where this version's is {other})");
    assert!(ready.contains(&named) && this != other, "{ready}");
    let status = |pod: &str, status: u8| {
        format!("weir_attach_status{{namespace=\"\",pod=\"{pod}\",hook=\"clsact\"}} {status}\n")
    };
    let waiting = |pods: u8| format!("weir_attachments{{telemetry=\"other-version\"}} {pods}\n");
    // What the other version counts is not on this page.
    agent.says("/metrics", &[&status("a", 0), &waiting(1)]);
    assert_eq!((agent.logged(OTHERS), agent.logged(NEVER)), (1, 0));
    let said = remarks(&node, Version::Other);
    assert!(said.contains(OTHERS) && said.contains("weir reload"), "{said}");
    assert!(said.contains(&named), "{said}");
    assert_eq!(node.pods(Version::Other), telemetry(&[("a", "other-version")]));
    // The first pod of the new version brings maps of its own, and the others wait on.
    node.call(Version::Other, "ADD", &b).succeed();
    agent.says("/metrics", &[&status("a", 0), &status("b", 1), &waiting(1), "weir_maps_open 1\n"]);
    thread::sleep(Duration::from_millis(1_500));
    let ready = agent.says("/readyz", &[OTHERS, ": a; weir reload"]);
    assert!(ready.contains(" 503 "), "{ready}");
    assert_eq!((agent.logged("reading the maps"), agent.logged(OTHERS)), (1, 1));
    let said = remarks(&node, Version::Other);
    assert!(said.contains(OTHERS) && said.contains(": a; weir reload"), "{said}");
    let both = [("a", "other-version"), ("b", "counted")];
    assert_eq!(node.pods(Version::Other), telemetry(&both));
    // Also of a pod of another version's it is seen that somebody took its filter off.
    let links = node.host.node.ip("link show type veth");
    let alias = |link: &&serde_json::Value| link["ifalias"] == "weir:podnet/a/eth0";
    let link = links.as_array().unwrap().iter().find(alias).unwrap()["ifname"].clone();
    node.host.node.succeed(&format!("tc qdisc del dev {} clsact", link.as_str().unwrap()));
    assert_eq!(node.pods(Version::Other)[0], telemetry(&[("a", "detached")])[0]);
    let detached = "weir_attachments{telemetry=\"detached\"} 1\n";
    agent.says("/metrics", &[&status("a", 0), detached, &waiting(0)]);
    // A reload takes the totals along, and leaves the filter to whoever mends, by name.
    let (weir, state_dir) = (Version::Other.weir(), node.host.state_dir());
    let places =
        format!("--bpf-dir {} --state-dir {}", node.bpf_dir().display(), state_dir.display());
    let output = node.host.node.command(&format!("{} reload {places}", weir.display()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(": a; weir reconcile"), "{said}");
    let carried = format!("carried the counts over from layout {this} to {other}\n");
    assert!(String::from_utf8(output.stdout).unwrap().ends_with(&carried));
    assert_eq!(node.pods(Version::Other), telemetry(&[("a", "detached"), ("b", "counted")]));
    node.says(Version::Other, "reconcile");
    assert_eq!(node.pods(Version::Other), telemetry(&[("a", "counted"), ("b", "counted")]));
}

#[test]
fn a_reload_makes_ready_who_waited_for_it() {
    let node = Upgraded::new("agents-ready", "clsact");
    let [a, b] = ["a", "b"].map(|id| node.host.container(id));
    node.call(Version::This, "ADD", &a).succeed();
    node.call(Version::Other, "ADD", &b).succeed();
    let agent = Agent::start(&node, Version::Other);
    agent.says("/readyz", &[" 503 ", OTHERS, ": a; weir reload"]);
    let done = node.says(Version::Other, "reload");
    assert_eq!((&done["pods"], node.layouts().len()), (&serde_json::json!(2), 1), "{done}");
    agent.says("/readyz", &[" 200 "]);
    agent.says("/metrics", &[r#"pod="a",hook="clsact"} 1"#, r#"pod="b",hook="clsact"} 1"#]);
    assert_eq!((agent.logged(OTHERS), agent.logged(NEVER)), (1, 0));
}

#[test]
fn an_agent_whose_maps_were_taken_over_asks_to_be_restarted() {
    let node = Upgraded::new("agents-after", "clsact");
    let a = node.host.container("a");
    node.call(Version::This, "ADD", &a).succeed();
    let mut agent = Agent::start(&node, Version::This);
    agent.says("/readyz", &[" 200 "]);
    node.says(Version::Other, "reload");
    assert_eq!(remarks(&node, Version::Other), "");
    assert_eq!(node.pods(Version::Other), telemetry(&[("a", "counted")]));
    let over = "has taken the maps";
    let [this, other] = [Version::This, Version::Other].map(layout);
    let layouts = format!("with maps of layout {other} where this agent's is {this}");
    let ready = agent.says("/readyz", &[over, &layouts, "restart this agent"]);
    assert!(ready.contains(" 503 "), "{ready}");
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!((agent.logged(over), agent.logged(NEVER), agent.logged(OTHERS)), (1, 0, 0));
    assert!(agent.child.try_wait().unwrap().is_none());
    drop(agent);
    // By the executable that is there now.
    let agent = Agent::start(&node, Version::Other);
    agent.says("/readyz", &[" 200 "]);
    agent.says("/metrics", &[r#"weir_attach_status{namespace="",pod="a",hook="clsact"} 1"#]);
}
