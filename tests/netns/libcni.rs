//! The plugin under the real libcni: Debian's Go library, driven by conformance/libcni.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::{
    answer::{Server, tcp},
    node::{Node, Space, talk},
    plugin::Footprint,
};

/// The versions that Debian's libcni (1.1.2) speaks and weir too.
const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// The compiled driver; built once a run.
pub fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let driver = tmp.join("libcni-driver");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/libcni");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&driver)
            .arg(".")
            .current_dir(source)
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", tmp.join("go-cache"))
            .output()
            .expect("go is missing: install golang-go and golang-github-appc-cni-dev");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        driver
    })
}

/// One network on a node, with everything that it and libcni keep on disk.
pub struct Network {
    pub node: Node,
    /// Of the list `podnet.conflist`, `state`, and the bpffs `bpf`.
    pub dir: PathBuf,
    /// Whether each pod gets a host port. Of two families Debian's portmap (1.1.1) can't check one.
    pub ports: bool,
}

impl Network {
    /// With Weir alone.
    pub fn new(version: &str) -> Self {
        let node = Node::new("libcni");
        node.succeed("ip addr add 192.0.2.1/32 dev lo");
        node.succeed("ip addr add 2001:db8::1/128 dev lo nodad");
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = tmp.join(node.path().file_name().unwrap());
        fs::create_dir_all(dir.join("bpf")).unwrap();
        let bpf = dir.join("bpf");
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let list = json!({
            "cniVersion": version,
            "name": "podnet",
            "plugins": [{
                "type": "weir",
                "mtu": 1400,
                "capabilities": {"portMappings": true},
                "ipMasq": true,
                "ipam": {
                    "type": "weir",
                    "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
                "telemetry": {"enabled": true, "required": true},
                "stateDir": dir.join("state"),
                "bpfDir": bpf.join("weir"),
            }],
        });
        fs::write(dir.join("podnet.conflist"), list.to_string()).unwrap();
        Self { node, dir, ports: true }
    }

    /// The node's port that leads to container `id`'s port 80, another one for each.
    fn port(&self, id: &str) -> Value {
        let number = 8000 + id.bytes().map(u16::from).sum::<u16>();
        json!({"hostPort": number, "containerPort": 80, "protocol": "tcp"})
    }

    fn footprint(&self) -> Footprint {
        Footprint::of(&self.node, &self.dir)
    }

    /// A pod that was there, and with it the programs and maps that stay: what there is without one.
    fn used(&self) -> Footprint {
        let pod = self.node.pod("first");
        self.succeed("add", "first", &text(&pod));
        self.succeed("del", "first", &text(&pod));
        drop(pod);
        self.footprint()
    }

    /// One verb for container `id`; what the driver printed, with its exit status in it.
    fn call(&self, verb: &str, id: &str, netns: &str) -> Value {
        let plugins = Path::new(env!("CARGO_BIN_EXE_weir")).parent().unwrap();
        let file = |name| self.dir.join(name).display().to_string();
        let (conf, cache) = (file("podnet.conflist"), file("cache"));
        let ports: Vec<_> = self.ports.then(|| self.port(id)).into_iter().collect();
        let arguments = [
            driver().display().to_string(),
            format!("-conf={conf}"),
            format!("-cache={cache}"),
            format!("-path={}:/usr/lib/cni", plugins.display()),
            format!("-id={id}"),
            format!("-netns={netns}"),
            format!("-capabilities={}", json!({"portMappings": ports})),
            format!("-args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={id}"),
            verb.into(),
        ];
        let Output { status, stdout, stderr } = self.node.command(&arguments.join(" "));
        let said: Value = serde_json::from_slice(&stdout)
            .unwrap_or_else(|err| panic!("{verb}: {err}: {}", String::from_utf8_lossy(&stderr)));
        assert_eq!(status.success(), said.get("error").is_none(), "{verb}: {said}");
        said
    }

    /// A verb that must succeed.
    pub fn succeed(&self, verb: &str, id: &str, netns: &str) -> Value {
        let said = self.call(verb, id, netns);
        assert!(said.get("error").is_none(), "{verb}: {said}");
        said
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = umount2(&self.dir.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A namespace as CNI names it.
pub fn text(space: &Space) -> String {
    space.path().display().to_string()
}

impl Network {
    /// The records, and after them the leases.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in ["attachments", "leases/podnet"] {
            let entries = fs::read_dir(self.dir.join("state").join(dir)).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
            names.sort();
            left.append(&mut names);
        }
        left
    }
}

/// The pod's addresses as the kernel shows them, without link-local ones.
pub fn addresses(pod: &Space) -> Vec<String> {
    let shown = pod.ip("addr show eth0 scope global");
    // ip leaves an empty object for each address that it was told not to show.
    let all = shown[0]["addr_info"].as_array().unwrap();
    all.iter().filter_map(|address| Some(address["local"].as_str()?.to_owned())).collect()
}

#[test]
fn a_pod_lives_and_dies_in_every_version() {
    for version in VERSIONS {
        let network = Network::new(version);
        let before = network.used();
        let pod = network.node.pod("a");
        let netns = text(&pod);

        let result = &network.succeed("add", "c1", &netns)["result"];
        assert_eq!(result["cniVersion"], version);
        let ips = result["ips"].as_array().unwrap();
        let replied: Vec<_> = ips.iter().map(|ip| ip["address"].as_str().unwrap()).collect();
        let bare: Vec<_> = replied.iter().map(|ip| ip.split('/').next().unwrap()).collect();
        assert_eq!(addresses(&pod), bare, "{version}");
        // The 0.x shapes alone say the family.
        let families: Vec<_> = ips.iter().map(|ip| ip["version"].clone()).collect();
        let want =
            if version == "1.0.0" { [Value::Null, Value::Null] } else { ["4".into(), "6".into()] };
        assert_eq!(families, want);
        let pod_interface = result["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .find(|interface| interface["sandbox"] == netns.as_str())
            .unwrap();
        assert_eq!(pod_interface["name"], "eth0");
        assert_eq!(pod_interface["mac"], pod.ip("link show eth0")[0]["address"]);
        for ip in bare {
            talk(&network.node, &pod, ip.parse().unwrap());
        }
        assert_eq!(network.left(), ["c1@eth0", "10.88.0.3", "fd00:88::3"], "{version}");
        {
            let _server = Server::new(&pod, "pod");
            let port = u16::try_from(network.port("c1")["hostPort"].as_u64().unwrap()).unwrap();
            for (ask, ip) in [(&pod, "192.0.2.1"), (&network.node, "2001:db8::1")] {
                let told = tcp(ask, ip, port);
                assert!(told.is_some_and(|told| told.starts_with("pod sees")), "{version}: {ip}");
            }
        }

        if version.starts_with("0.3.") {
            // CHECK came with 0.4.0: libcni refuses by itself.
            let refused = network.call("check", "c1", &netns);
            assert!(refused["error"]["msg"].as_str().unwrap().contains("does not support"));
        } else {
            network.succeed("check", "c1", &netns);
            pod.succeed("ip addr del 10.88.0.3/32 dev eth0");
            let refused = network.call("check", "c1", &netns);
            assert_eq!(refused["error"]["code"], 103, "{refused}");
            assert!(refused["error"]["msg"].as_str().unwrap().contains("10.88.0.3"), "{refused}");
        }

        network.succeed("del", "c1", &netns);
        network.footprint().assert_is(&before, version);
        network.succeed("del", "c1", "");
        network.succeed("del", "c1", "");
        network.footprint().assert_is(&before, version);
        assert_eq!(pod.links(), ["lo"]);
    }
}

#[test]
fn a_refusal_keeps_its_code_through_libcni() {
    let network = Network::new("1.0.0");
    let before = network.used();
    let pod = network.node.pod("a");
    let refused = network.call("add", "c1", "/run/netns/weirtest-none");
    assert_eq!(refused["error"]["code"], 8, "{refused}");
    let own = text(&network.node);
    let refused = network.call("add", "c1", &own);
    assert_eq!(refused["error"]["code"], 8, "{refused}");
    pod.succeed("ip link add eth0 type veth peer name other");
    let refused = network.call("add", "c1", &text(&pod));
    assert_eq!(refused["error"]["code"], 102, "{refused}");
    network.footprint().assert_is(&before, "refused");
}

#[test]
fn the_namespace_may_be_gone_before_the_first_del() {
    let network = Network::new("1.0.0");
    let before = network.used();
    let pod = network.node.pod("a");
    let netns = text(&pod);
    network.succeed("add", "c1", &netns);
    drop(pod);
    network.succeed("del", "c1", &netns);
    network.footprint().assert_is(&before, "after DEL");
    let next = network.node.pod("b");
    network.succeed("add", "c2", &text(&next));
    network.succeed("del", "c2", &text(&next));
}

/// A `weir agent` on the network's node.
struct Agent<'a> {
    network: &'a Network,
    child: Child,
}

const AGENT: &str = "127.0.0.1:9920";

impl<'a> Agent<'a> {
    /// Starts it and waits until it is ready.
    fn start(network: &'a Network) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network.node.path().display()));
        command.args([env!("CARGO_BIN_EXE_weir"), "agent", "--state-dir"]);
        command.arg(network.dir.join("state")).arg("--bpf-dir").arg(network.dir.join("bpf/weir"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let agent = Self { network, child };
        agent.await_answer("/readyz", |answer| answer.contains(" 200 "));
        agent
    }

    /// Asks until the answer is right.
    fn await_answer(&self, path: &str, right: impl Fn(&str) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.network.node.run(|| get(AGENT.parse().unwrap(), path));
            match answer {
                Ok(answer) if right(&answer) => return,
                answer => assert!(Instant::now() < until, "{path}: {answer:?}"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the page has the series of these labels, among others if there are any, with that value.
    fn await_value(&self, family: &str, labels: &[&str], value: u32) {
        let start = if labels.is_empty() { format!("{family} ") } else { format!("{family}{{") };
        let is_it = |line: &str| {
            line.starts_with(&start)
                && labels.iter().all(|label| line.contains(label))
                && line.ends_with(&format!(" {value}"))
        };
        self.await_answer("/metrics", |page| page.lines().any(is_it));
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// GET over HTTP/1.0: the whole answer.
fn get(server: SocketAddr, path: &str) -> std::io::Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Serves that many requests in a pod, one a connection.
fn serve(pod: &Space, address: IpAddr, requests: u32) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = pod.run(|| TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
    let bound = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.0 201 Created\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        }
    });
    (bound, serving)
}

#[test]
fn pods_talk_are_counted_by_their_kubernetes_names_and_leave_nothing() {
    let network = Network::new("1.0.0");
    let before = network.used();
    let pods = ["web", "client"].map(|id| network.node.pod(id));
    let [web, client] = &pods;
    let result = network.succeed("add", "web", &text(web))["result"].clone();
    network.succeed("add", "client", &text(client));
    let agent = Agent::start(&network);
    agent.await_value("weir_pods", &[], 2);
    let named = |pod: &str, role: &str| [format!("pod=\"{pod}\""), format!("role=\"{role}\"")];
    let ips = result["ips"].as_array().unwrap();
    assert_eq!(ips.len(), 2);
    for (ip, requests) in ips.iter().zip([3, 4]) {
        let ip = ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        let (server, serving) = serve(web, ip, requests);
        for _ in 0..requests {
            assert!(client.run(|| get(server, "/basket")).unwrap().ends_with("hello"));
        }
        serving.join().unwrap();
    }
    for (pod, role) in [("web", "server"), ("client", "client")] {
        let [pod, role] = named(pod, role);
        let common = ["namespace=\"default\"", &pod, &role];
        let http =
            [&common[..], &["method=\"GET\"", "protocol=\"1.0\"", "status=\"201\""]].concat();
        agent.await_value("weir_http_requests_total", &http, 7);
        let tcp = [&common[..], &["result=\"established\""]].concat();
        agent.await_value("weir_tcp_connections_total", &tcp, 7);
    }
    for (id, pod) in ["web", "client"].into_iter().zip(&pods) {
        network.succeed("del", id, &text(pod));
        assert_eq!(pod.links(), ["lo"]);
    }
    network.footprint().assert_is(&before, "after DEL");
    agent.await_value("weir_pods", &[], 0);
}
