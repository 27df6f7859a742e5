//! systemd-networkd beside pods, on a node of the test's own: it takes their ends for interfaces of its own
//! where a file matches widely enough, and leaves them alone with the one in `examples/`.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    node::talk,
    plugin::{Host, ips},
};

/// What is meant for the node's own interfaces, and matches all.
const WIDE: [&str; 2] = [
    "[Match]\nName=*\n\n[Network]\nDHCP=yes\n",
    "[Match]\nType=ether\n\n[Network]\nLinkLocalAddressing=no\nAddress=203.0.113.7/24\n",
];
const OURS: &str = "examples/10-weir.network";

/// A running networkd, in the node's network and with mounts of its own: /sys is read-only, so that it waits
/// for no udev, and there is no bus to tell others by.
struct Networkd(Child);

impl Networkd {
    fn start(host: &Host, files: &[(&str, &str)]) -> Self {
        let dir = host.state_dir().with_file_name("networkd");
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        let script = format!(
            "mount -t sysfs -o ro sysfs /sys && mount -t tmpfs tmpfs /run && \
             {{ [ ! -d /etc/systemd/network ] || mount -t tmpfs tmpfs /etc/systemd/network; }} && \
             mkdir -p /run/systemd/network && cp {}/*.network /run/systemd/network/ && \
             exec /lib/systemd/systemd-networkd",
            dir.display()
        );
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", host.node.path().display()));
        command.args(["unshare", "-m", "--propagation", "private", "sh", "-c", &script]);
        let log = fs::File::create(log(host)).unwrap();
        Self(command.stdin(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// What it does with an interface, as networkctl shows it: `unmanaged`, `configured`, and others.
    fn administers(&mut self, host: &Host, name: &str) -> Option<String> {
        let ended = self.0.try_wait().unwrap();
        assert!(ended.is_none(), "networkd (Debian's package systemd): {ended:?}");
        let index = host.node.ip(&format!("link show {name}"))[0]["ifindex"].clone();
        let file = format!("/proc/{}/root/run/systemd/netif/links/{index}", self.0.id());
        let text = fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix("ADMIN_STATE=").map(str::to_owned))
    }

    /// Waits until it does that with it.
    fn await_state(&mut self, host: &Host, name: &str, wanted: &[&str]) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.administers(host, name);
            if state.as_deref().is_some_and(|state| wanted.contains(&state)) {
                return;
            }
            assert!(Instant::now() < until, "{name} is {state:?}, not {wanted:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Networkd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it says.
fn log(host: &Host) -> PathBuf {
    host.state_dir().with_file_name("networkd.log")
}

/// An interface of the node with its addresses and routes, as the kernel shows them.
fn seen(host: &Host, name: &str) -> [Value; 4] {
    let of = |what: &str| host.node.ip(&what.replace("NAME", name));
    [
        of("link show NAME"),
        of("addr show NAME"),
        of("route show dev NAME table all"),
        of("-6 route show dev NAME table all"),
    ]
}

fn interface(reply: &Value) -> String {
    reply["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

#[test]
fn a_wide_match_takes_a_pods_end_for_its_own() {
    for wide in WIDE {
        let host = Host::new("networkd-wide");
        let a = host.container("a");
        let name = interface(&host.add(&a));
        let before = seen(&host, &name);
        let mut networkd = Networkd::start(&host, &[("50-all.network", wide)]);
        networkd.await_state(&host, &name, &["configuring", "configured"]);
        let until = Instant::now() + Duration::from_secs(20);
        while seen(&host, &name) == before {
            assert!(Instant::now() < until, "it left {name} alone by itself: {wide}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn with_the_example_it_leaves_them_alone() {
    let ours = fs::read_to_string(OURS).unwrap();
    for wide in WIDE {
        let host = Host::new("networkd");
        let _world = host.node.outside();
        let (a, b) = (host.container("a"), host.container("b"));
        let replies = [host.add(&a)];
        let before = seen(&host, &interface(&replies[0]));
        let files = [("10-weir.network", ours.as_str()), ("50-all.network", wide)];
        let mut networkd = Networkd::start(&host, &files);
        // It works: the interface that the file is for is one of its own.
        networkd.await_state(&host, "out0", &["configuring", "configured"]);
        // One that comes while it runs.
        let [first] = replies;
        let second = host.add(&b);
        let before_of_second = seen(&host, &interface(&second));
        for (pod, reply, before) in [(&a, &first, before), (&b, &second, before_of_second)] {
            let name = interface(reply);
            networkd.await_state(&host, &name, &["unmanaged"]);
            assert_eq!(seen(&host, &name), before, "{wide}");
            for ip in ips(reply) {
                talk(&host.node, &pod.space, ip.parse().unwrap());
            }
        }
        host.check(&b, &second).succeed();
        // It names the file where a key of it is none.
        let said = fs::read_to_string(log(&host)).unwrap();
        assert!(!said.contains("10-weir.network:"), "{said}");
    }
}
