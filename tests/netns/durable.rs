//! What `weir install` has put somewhere is there after a power cut, whole: by the system calls, in their order.

use std::{fs, path::Path};

use crate::plugin::Host;

/// What the calls do with the files below a directory, by names, as `strace -y` tells of them.
fn deeds(log: &str, below: &Path) -> Vec<String> {
    let below = format!("{}/", below.display());
    let mut deeds: Vec<String> = log
        .lines()
        .filter_map(|line| {
            let (call, rest) = line.split_once(' ')?.1.trim_start().split_once('(')?;
            // What it returned may be a descriptor, with its path.
            let (rest, _) = rest.rsplit_once(") = ")?;
            // A path is between quotes or, of a descriptor, between angle brackets.
            let paths: Vec<&str> = rest.split(&below).skip(1).collect();
            let name = |path: &&str| path.split(['"', '>']).next().unwrap().to_owned();
            let names = paths.iter().map(name).collect::<Vec<_>>().join(" ");
            let deed = match call {
                "openat" if rest.contains("O_CREAT") => "make",
                "write" => "write",
                "fsync" | "fdatasync" => "sync",
                "rename" | "renameat" | "renameat2" => "rename",
                _ => return None,
            };
            (!names.is_empty()).then(|| format!("{deed} {names}"))
        })
        .collect();
    deeds.dedup();
    deeds
}

#[test]
fn what_is_installed_is_on_the_disk_before_it_is_found_and_so_is_its_name_before_the_next() {
    let host = Host::new("durable");
    let site = host.state_dir().with_file_name("site");
    fs::create_dir(&site).unwrap();
    for dir in ["bin", "net.d"] {
        fs::create_dir(site.join(dir)).unwrap();
    }
    let log = site.with_file_name("log");
    host.node.succeed(&format!(
        "strace -f -y -qq -o {} -e trace=openat,write,fsync,fdatasync,/^rename {} install --bin-dir {site}/bin --conf-dir {site}/net.d",
        log.display(),
        env!("CARGO_BIN_EXE_weir"),
        site = site.display(),
    ));
    let deeds = deeds(&fs::read_to_string(&log).unwrap(), &site);
    let made: Vec<_> = deeds.iter().filter_map(|deed| deed.strip_prefix("make ")).collect();
    let [first, second] = made[..] else { panic!("{deeds:#?}") };
    let put = |temporary: &str, name: &str| {
        let (dir, _) = name.split_once('/').unwrap();
        // Such names containerd and CRI-O would load of net.d, half as they are.
        assert!(![".conf", ".conflist", ".json"].iter().any(|end| temporary.ends_with(end)));
        assert_eq!(temporary.split_once('/').unwrap().0, dir, "another file system, it may be");
        ["make", "write", "sync"]
            .map(|deed| format!("{deed} {temporary}"))
            .into_iter()
            .chain([format!("rename {temporary} {name}"), format!("sync {dir}")])
            .collect::<Vec<_>>()
    };
    let all = [put(first, "bin/weir"), put(second, "net.d/10-weir.conflist")].concat();
    assert_eq!(deeds, all);
}
