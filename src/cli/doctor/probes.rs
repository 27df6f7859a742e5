//! The looks at the host. None of them writes to a file, a map or the host's network.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use nix::{
    errno::Errno,
    sys::utsname::uname,
    unistd::{AccessFlags, access, geteuid},
};

use super::{Args, Finding, checks, conflist, lists, pods, ranges, strays, trial};
use crate::{
    cli::places::Found,
    telemetry::{self, pin, whole},
};

/// More than a configuration is; what is bigger is not read to its end.
const CONF_BYTES: u64 = 1024 * 1024;

/// Looks at everything, in the order of the output.
pub fn look(args: &Args) -> Vec<Finding> {
    let release = release();
    let read = |path: &str| fs::read_to_string(path).ok();
    let [hooks, nftables] = match trial::run() {
        Ok(tried) => [checks::hooks(&release, &tried.clsact), checks::nftables(&tried.masquerade)],
        Err(reason) => ["hooks", "nftables"].map(|check| checks::untried(check, &reason)),
    };
    let number = |path: &str| read(path)?.trim().parse().ok();
    let installed = |plugin: &str| is_installed(&args.bin_dir, plugin);
    let conf_dir = args.conf_dir.find();
    let (conflist, network) = conflist::judge(&conf_dir, &configurations(&conf_dir), &installed);
    let Found { state_dir, bpf_dir } = args.places.find(&conf_dir);
    let all = args.places.find_all(&conf_dir).into_iter().map(|found| found.state_dir);
    let state_dirs: BTreeSet<PathBuf> = all.chain([state_dir.clone()]).collect();
    let counted = network.as_ref().is_none_or(|network| network.counted);
    let required = network.as_ref().is_some_and(|network| network.required);
    let mut findings = vec![
        checks::kernel(&release),
        checks::privileges(&read("/proc/self/status").unwrap_or_default()),
        checks::bpffs(&bpf_dir, &telemetry::probe(&bpf_dir), counted, required),
        checks::btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        checks::jit(read("/proc/sys/net/core/bpf_jit_enable").as_deref()),
        hooks,
        nftables,
        checks::conntrack(
            number("/proc/sys/net/netfilter/nf_conntrack_count"),
            number("/proc/sys/net/netfilter/nf_conntrack_max"),
        ),
        checks::forwarding(
            read("/proc/sys/net/ipv4/ip_forward").as_deref(),
            read("/proc/sys/net/ipv6/conf/all/forwarding").as_deref(),
        ),
        state(&state_dir),
        conflist,
    ];
    findings.extend(lists::look(&state_dir, args.conf_dir.given()));
    findings.extend(pods::look(&state_dir, &bpf_dir));
    findings.extend(strays::look(&state_dirs, &bpf_dir, &subnets(&conf_dir)));
    findings.extend(checks::pins(&bpf_dir, &whole::torn(&bpf_dir).unwrap_or_default()));
    findings.extend(checks::layouts(&pin::other_layouts(&bpf_dir).unwrap_or_default()));
    findings.extend(network.iter().flat_map(|network| ranges::look(&network.subnets)));
    findings
}

/// Those of all networks of Weir's.
fn subnets(conf_dir: &Path) -> Vec<IpNetwork> {
    let networks = configurations(conf_dir);
    let taken = networks.iter().filter_map(|file| file.preview()?.ok());
    taken.flat_map(|network| network.subnets).collect()
}

fn release() -> String {
    let name = uname();
    let release = name.as_ref().map(|name| name.release().to_string_lossy().into_owned());
    release.unwrap_or_default()
}

/// The plugin makes the directory, so the nearest one that exists has to be writable.
fn state(state_dir: &Path) -> Finding {
    let mut place = state_dir;
    while !place.exists() {
        match place.parent() {
            Some(parent) => place = parent,
            None => break,
        }
    }
    let writable = if place.is_dir() {
        access(place, AccessFlags::W_OK | AccessFlags::X_OK)
    } else {
        Err(Errno::ENOTDIR)
    };
    match writable {
        Ok(()) => Finding::ok("state", format!("{} is writable", place.display())),
        Err(err) => Finding::fail(
            "state",
            format!("{} is not writable: {}", place.display(), err.desc()),
            if geteuid().is_root() {
                "make it writable for root, or choose another with stateDir and --state-dir"
            } else {
                "call doctor as root, as who the plugin runs"
            },
        ),
    }
}

/// The files that a runtime would read, in the order in which it prefers them.
pub fn configurations(dir: &Path) -> Vec<conflist::File> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .collect();
    files.sort();
    files.iter().map(|path| conflist::File::new(name(path), read_bounded(path))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let unreadable = |err: std::io::Error| format!("can't be read: {err}");
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(CONF_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Whether there is an executable of that name in one of the directories.
pub fn is_installed(dirs: &[PathBuf], plugin: &str) -> bool {
    // A name with a slash would lead out of them; the runtimes refuse it.
    !plugin.contains('/')
        && dirs.iter().any(|dir| access(&dir.join(plugin), AccessFlags::X_OK).is_ok())
}
