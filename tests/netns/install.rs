//! `weir install` and `weir uninstall` on a node in use.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};

use crate::{
    counted::Counted,
    plugin::{Host, ips},
};

/// Before the command that takes away what an uninstallation couldn't.
const LEFT: &str = "weir: what is left goes by a copy of the executable: weir ";

/// Where things are put, on a node with a bpffs.
struct Site {
    counted: Counted,
    dir: PathBuf,
}

impl Site {
    fn new(label: &str) -> Self {
        let counted = Counted::new(label);
        let dir = counted.host.state_dir().with_file_name("site");
        fs::create_dir(&dir).unwrap();
        Self { counted, dir }
    }

    fn host(&self) -> &Host {
        &self.counted.host
    }

    fn binary(&self) -> PathBuf {
        self.dir.join("bin/weir")
    }

    fn conflist(&self) -> PathBuf {
        self.dir.join("net.d/10-weir.conflist")
    }

    /// Another version of the executable: the loader doesn't look behind the end of the last segment.
    fn version(&self, number: u8) -> PathBuf {
        let mut bytes = fs::read(env!("CARGO_BIN_EXE_weir")).unwrap();
        bytes.push(number);
        let path = self.dir.join(format!("version{number}"));
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn run(&self, weir: &Path, words: &str) -> Output {
        let (weir, dir) = (weir.display(), self.dir.display());
        let dirs = format!("--bin-dir {dir}/bin --conf-dir {dir}/net.d -o json");
        self.host().node.command(&format!("{weir} {words} {dirs}"))
    }

    fn succeed(&self, weir: &Path, words: &str) -> Value {
        let output = self.run(weir, words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What `weir uninstall` took away, sorted.
    fn uninstall(&self, words: &str) -> Vec<String> {
        let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
        let (state, bpffs) = (self.host().state_dir(), &self.counted.bpffs);
        let places = format!("--state-dir {} --bpf-dir {}/weir", state.display(), bpffs.display());
        let dropped = self.succeed(&weir, &format!("uninstall {words} {places}"));
        let dropped = dropped["dropped"].as_array().unwrap().iter();
        let mut dropped: Vec<_> = dropped.map(|it| it["what"].as_str().unwrap().into()).collect();
        dropped.sort();
        dropped
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    fs::read_dir(dir).unwrap().map(name).map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn executable_and_configuration_are_put_and_an_existing_one_is_kept() {
    let site = Site::new("install");
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let put = site.succeed(&weir, "install");
    assert_eq!(
        (&put["binary"]["done"], &put["conflist"]["done"]),
        (&json!("written"), &json!("written"))
    );
    assert_eq!((mode(&site.binary()), mode(&site.conflist())), (0o755, 0o644));
    assert_eq!(fs::read(site.binary()).unwrap(), fs::read(&weir).unwrap());
    assert_eq!(fs::read(site.conflist()).unwrap(), fs::read("examples/10-weir.conflist").unwrap());
    let put = site.succeed(&site.binary(), "install");
    assert_eq!(
        (&put["binary"]["done"], &put["conflist"]["done"]),
        (&json!("unchanged"), &json!("unchanged"))
    );
    let own = fs::read_to_string("examples/10-weir.conflist").unwrap().replace("10.88.", "10.99.");
    fs::write(site.conflist(), &own).unwrap();
    let other = site.version(1);
    let put = site.succeed(&other, "install");
    assert_eq!(
        (&put["binary"]["done"], &put["conflist"]["done"]),
        (&json!("replaced"), &json!("kept"))
    );
    assert_eq!(fs::read_to_string(site.conflist()).unwrap(), own);
    let file = site.dir.join("mine.conflist");
    fs::write(&file, own.replace("10.99.", "10.77.")).unwrap();
    let put = site.succeed(&other, &format!("install --force --conf {}", file.display()));
    assert_eq!(put["conflist"]["done"], "replaced");
    assert!(fs::read_to_string(site.conflist()).unwrap().contains("10.77."));
    assert_eq!(names(&site.dir.join("bin")), ["weir"]);
    assert_eq!(names(&site.dir.join("net.d")), ["10-weir.conflist"]);
}

#[test]
fn a_configuration_that_no_add_would_take_stops_all() {
    let site = Site::new("install-bad");
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let file = site.dir.join("bad.conflist");
    for (text, why) in [
        ("{", "is not JSON"),
        (r#"{"cniVersion":"1.0.0","name":"n","type":"weir"}"#, "is no list"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#, "does not use weir"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"weir","mtu":-1}]}"#, "mtu"),
    ] {
        fs::write(&file, text).unwrap();
        let output = site.run(&weir, &format!("install --conf {}", file.display()));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(why), "{said}");
        assert!(!site.dir.join("bin").exists() && !site.dir.join("net.d").exists());
    }
}

/// What happens to files of the two directories, in the order in which the kernel tells of it, by names. Only
/// what is made under a name, put there by renaming, or taken away.
fn watched(site: &Site, act: impl FnOnce()) -> Vec<String> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    let kinds = [
        (AddWatchFlags::IN_CREATE, "made"),
        (AddWatchFlags::IN_MODIFY, "written"),
        (AddWatchFlags::IN_MOVED_TO, "renamed to"),
        (AddWatchFlags::IN_DELETE, "deleted"),
    ];
    let all = kinds.iter().fold(AddWatchFlags::empty(), |all, (kind, _)| all | *kind);
    for dir in ["bin", "net.d"] {
        inotify.add_watch(&site.dir.join(dir), all).unwrap();
    }
    act();
    let mut told: Vec<String> = Vec::new();
    while let Ok(events) = inotify.read_events() {
        for event in events {
            let (_, kind) = kinds.iter().find(|(kind, _)| event.mask.contains(*kind)).unwrap();
            told.push(format!("{kind} {}", event.name.unwrap().into_string().unwrap()));
        }
    }
    told.dedup();
    told
}

/// A configuration whose plugin isn't there yet, or not any more, would fail every pod that starts meanwhile; and so
/// would half a file.
#[test]
fn the_executable_comes_before_the_configuration_and_goes_after_it() {
    let site = Site::new("order");
    for dir in ["bin", "net.d"] {
        fs::create_dir(site.dir.join(dir)).unwrap();
    }
    let put = [
        "made .weir.new",
        "written .weir.new",
        "renamed to weir",
        "made .10-weir.conflist.new",
        "written .10-weir.conflist.new",
        "renamed to 10-weir.conflist",
    ];
    let first = site.version(1);
    let told = watched(&site, || {
        site.succeed(&first, "install");
    });
    assert_eq!(told, put);
    // Likewise over what is there.
    let file = site.dir.join("mine.conflist");
    let example = fs::read_to_string("examples/10-weir.conflist").unwrap();
    fs::write(&file, example.replace("10.88.", "10.77.")).unwrap();
    let second = site.version(2);
    let told = watched(&site, || {
        site.succeed(&second, &format!("install --force --conf {}", file.display()));
    });
    assert_eq!(told, put);
    let told = watched(&site, || {
        site.uninstall("");
    });
    assert_eq!(told, ["deleted 10-weir.conflist", "deleted weir"]);
}

/// How many loops there are, and for how long they go on at least.
const LOOPS: usize = 50;
const WHILE: Duration = Duration::from_secs(4);

#[test]
fn upgrades_under_fifty_loops_of_add_and_del_fail_none() {
    let site = Site::new("upgrade");
    let versions = [site.version(1), site.version(2)];
    site.succeed(&versions[0], "install");
    let host = site.host();
    let (over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let started = Instant::now();
    let upgrades = thread::scope(|scope| {
        for number in 0..LOOPS {
            let (site, over, calls) = (&site, &over, &calls);
            scope.spawn(move || {
                let container = host.container(&format!("c{number}"));
                while !over.load(Ordering::Relaxed) {
                    for verb in ["ADD", "DEL"] {
                        let call = host.call(verb, Some(&container));
                        call.key("ipMasq", json!(true))
                            .by(site.dir.join("bin").to_str().unwrap(), "weir")
                            .succeed();
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut upgrades = 0;
        let enough = |calls: usize, upgrades| {
            started.elapsed() > WHILE && calls >= 4 * LOOPS && upgrades >= 5
        };
        while !enough(calls.load(Ordering::Relaxed), upgrades) && started.elapsed() < 10 * WHILE {
            let put = site.succeed(&versions[(upgrades + 1) % 2], "install --force");
            assert_eq!(put["binary"]["done"], "replaced");
            upgrades += 1;
        }
        over.store(true, Ordering::Relaxed);
        upgrades
    });
    assert!(upgrades >= 5, "{upgrades} upgrades");
    assert!(calls.into_inner() >= 4 * LOOPS);
    assert!(host.leases("podnet").is_empty());
}

#[test]
fn uninstalled_nothing_is_left_but_the_network_of_those_that_run() {
    let site = Site::new("uninstall");
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    site.succeed(&weir, "install");
    let host = site.host();
    let (a, b) = (host.container("a"), host.container("b"));
    let add = |container, attach| {
        let call = site.counted.call("ADD", Some(container), attach);
        call.key("ipMasq", json!(true)).by(site.dir.join("bin").to_str().unwrap(), "weir").succeed()
    };
    let reply = add(&a, "clsact");
    add(&b, "tcx");
    let name = reply["interfaces"][0]["name"].as_str().unwrap();
    let address: std::net::IpAddr = ips(&reply)[0].parse().unwrap();
    assert_eq!(site.uninstall(""), ["configuration", "executable", "pins"]);
    assert!(!site.binary().exists() && !site.conflist().exists());
    assert_eq!(site.counted.filters(name), [0, 0]);
    assert!(!site.counted.bpffs.join("weir").exists());
    // Whom nobody counts any more is reached all the same, and masqueraded.
    crate::node::talk(&host.node, &a.space, address);
    assert!(host.node.succeed("nft list table inet weir").contains("10.88.0.0/24"));
    assert_eq!(site.uninstall(""), [""; 0]);
    // Also where their records are not where they are looked for.
    let elsewhere = host.state_dir().with_file_name("elsewhere");
    fs::rename(host.state_dir(), &elsewhere).unwrap();
    assert_eq!(site.uninstall(""), [""; 0]);
    assert!(host.node.succeed("nft list table inet weir").contains("10.88.0.0/24"));
    fs::rename(&elsewhere, host.state_dir()).unwrap();
    // A version that comes back knows them.
    host.del(&b);
    assert_eq!(site.uninstall("--purge"), ["attachment", "state", "table"]);
    assert_eq!((a.space.links().len(), host.node.links().len()), (1, 1));
    assert!(!host.state_dir().exists());
    assert!(!host.node.command("nft list table inet weir").status.success());
    assert_eq!(site.uninstall("--purge"), [""; 0]);
}

#[test]
fn commands_find_the_directories_of_the_configuration() {
    let site = Site::new("configured");
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let (host, bpf_dir) = (site.host(), site.counted.bpffs.join("own"));
    let file = site.dir.join("mine.conflist");
    let mut list: Value =
        serde_json::from_slice(&fs::read("examples/10-weir.conflist").unwrap()).unwrap();
    list["plugins"][0]["stateDir"] = json!(host.state_dir());
    list["plugins"][0]["bpfDir"] = json!(bpf_dir);
    fs::write(&file, list.to_string()).unwrap();
    site.succeed(&weir, &format!("install --conf {}", file.display()));
    let a = host.container("a");
    let call = site.counted.call("ADD", Some(&a), "clsact").key("bpfDir", json!(bpf_dir));
    call.succeed();
    let says = |command: &str| {
        let (weir, conf_dir) = (weir.display(), site.dir.join("net.d"));
        let words = format!("{weir} {command} -o json --conf-dir {}", conf_dir.display());
        serde_json::from_str::<Value>(&host.node.succeed(&words)).unwrap()
    };
    assert_eq!(says("reload")["pods"], 1);
    assert_eq!(says("pods")[0]["telemetry"], "counted");
    host.end(a);
    let dropped = says("reconcile");
    assert_eq!(dropped["dropped"][0]["what"], "attachment");
    assert_eq!(says("pods")[0]["telemetry"], "deleted");
    // Locked by somebody who loads: what is left is to be found again, without the configuration.
    let locked = fs::File::open(&bpf_dir).unwrap();
    locked.lock().unwrap();
    let output = site.run(&weir, "uninstall");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!site.conflist().exists() && bpf_dir.exists());
    let again = said.lines().find_map(|line| line.strip_prefix(LEFT));
    drop(locked);
    site.succeed(&weir, again.expect(&said));
    assert!(!bpf_dir.exists() && !host.state_dir().exists());
}

#[test]
fn uninstall_finds_the_directories_of_every_configuration_also_of_one_that_add_refuses() {
    let site = Site::new("configured-all");
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let (host, bpffs) = (site.host(), &site.counted.bpffs);
    site.succeed(&weir, "install --no-conf");
    fs::create_dir(site.dir.join("net.d")).unwrap();
    let second = host.state_dir().with_file_name("second");
    let places = [(host.state_dir(), bpffs.join("first")), (second, bpffs.join("second"))];
    // What can't be a state dir, or is none of ours, keeps the others from nothing.
    let stale = json!({"cniVersion": "1.0.0", "name": "stale", "plugins": [
        {"type": "weir", "stateDir": weir, "bpfDir": bpffs.join("stale")}]});
    fs::write(site.dir.join("net.d/00-stale.conflist"), stale.to_string()).unwrap();
    for (number, (state_dir, bpf_dir)) in places.iter().enumerate() {
        let mut list: Value =
            serde_json::from_slice(&fs::read("examples/10-weir.conflist").unwrap()).unwrap();
        list["plugins"][0]["stateDir"] = json!(state_dir);
        list["plugins"][0]["bpfDir"] = json!(bpf_dir);
        let pod = host.container(&format!("pod{number}"));
        let call = site.counted.call("ADD", Some(&pod), "clsact");
        call.key("bpfDir", json!(bpf_dir)).key("stateDir", json!(state_dir)).succeed();
        assert!(bpf_dir.exists() && state_dir.join("attachments").exists());
        if number == 0 {
            // Somebody's mistake since.
            list["plugins"][0]["mtu"] = json!(-1);
        }
        fs::write(site.dir.join(format!("net.d/{number}.conflist")), list.to_string()).unwrap();
    }
    let output = site.run(&weir, "uninstall --purge");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains(weir.to_str().unwrap()), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let dropped: Vec<_> =
        report["dropped"].as_array().unwrap().iter().map(|it| it["what"].clone()).collect();
    for (what, times) in [("configuration", 3), ("attachment", 2), ("pins", 2), ("state", 2)] {
        assert_eq!(dropped.iter().filter(|it| **it == what).count(), times, "{dropped:?}");
    }
    for (state_dir, bpf_dir) in places {
        assert!(!bpf_dir.exists() && !state_dir.exists());
    }
    assert_eq!(host.node.links().len(), 1);
}

#[test]
fn what_is_counted_where_no_interface_is_left_goes_too() {
    let site = Site::new("unrecorded");
    let host = site.host();
    let a = host.container("a");
    site.counted.call("ADD", Some(&a), "clsact").succeed();
    fs::remove_dir_all(host.state_dir()).unwrap();
    // It takes the link, and with it the filters.
    assert_eq!(site.uninstall("--purge"), ["link", "pins"]);
    assert!(!site.counted.bpffs.join("weir").exists());
    assert_eq!(site.uninstall("--purge"), [""; 0]);
}

#[test]
fn the_hint_is_the_next_command_with_the_directories_that_were_given() {
    let site = Site::new("hint");
    let (host, bpf_dir) = (site.host(), site.counted.bpffs.join("own"));
    let file = site.dir.join("mine.conflist");
    let example = fs::read_to_string("examples/10-weir.conflist").unwrap();
    let mut list: Value = serde_json::from_str(&example).unwrap();
    list["plugins"][0]["bpfDir"] = json!(bpf_dir);
    fs::write(&file, list.to_string()).unwrap();
    let hints = |version: &Path, words: &str| {
        let output = site.run(version, &format!("install {words}"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let commands = said.lines().filter_map(|line| line.rsplit_once(": weir "));
        commands.map(|(_, command)| command.to_owned()).collect::<Vec<_>>().join(", ")
    };
    let shown = site.dir.display();
    let conf_dir = format!("--conf-dir {shown}/net.d");
    let (doctor, reload) =
        (format!("doctor --bin-dir {shown}/bin {conf_dir}"), format!("reload {conf_dir}"));
    let [first, second, third] = [1, 2, 3].map(|number| site.version(number));
    assert_eq!(hints(&first, &format!("--conf {}", file.display())), doctor);
    // No pod was counted yet.
    assert_eq!(hints(&second, "--no-conf"), doctor);
    let a = host.container("a");
    site.counted.call("ADD", Some(&a), "clsact").key("bpfDir", json!(bpf_dir)).succeed();
    assert_eq!(hints(&second, "--no-conf"), doctor);
    assert_eq!(hints(&third, "--no-conf"), reload);
    assert_eq!(hints(&first, ""), format!("{reload}, {doctor}"));
    let words = format!("{} {reload}", site.binary().display());
    let said = host.node.succeed(&words);
    assert!(said.starts_with("swapped the programs of 1 pod in "), "{said}");
}

#[test]
fn what_others_wrote_is_not_cut_up() {
    let site = Site::new("uninstall-chained");
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    site.succeed(&weir, "install");
    let chained = site.dir.join("net.d/05-bridge.conflist");
    let text = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"weir"}]}"#;
    fs::write(&chained, text).unwrap();
    let output = site.run(&weir, "uninstall");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("05-bridge.conflist"), "{said}");
    assert!(site.binary().exists() && site.conflist().exists());
    fs::remove_file(chained).unwrap();
    let foreign = site.counted.bpffs.join("weir");
    fs::create_dir(&foreign).unwrap();
    fs::create_dir(foreign.join("others")).unwrap();
    assert_eq!(site.uninstall(""), ["configuration", "executable"]);
    assert!(foreign.join("others").exists(), "pins of others stay");
}
