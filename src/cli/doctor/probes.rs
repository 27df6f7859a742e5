//! The looks at the host. None of them writes to a file, a map or the host's network.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::utsname::uname,
    unistd::{AccessFlags, access},
};

use super::{Finding, checks, trial};
use crate::telemetry;

/// More than a configuration is; what is bigger is not read to its end.
const CONF_BYTES: u64 = 1024 * 1024;

/// Looks at everything, in the order of the output.
pub fn look(state_dir: &Path, bpf_dir: &Path, conf_dir: &Path) -> Vec<Finding> {
    let release = release();
    let read = |path: &str| fs::read_to_string(path).ok();
    let [hooks, nftables] = match trial::run() {
        Ok(tried) => [checks::hooks(&release, &tried.clsact), checks::nftables(&tried.masquerade)],
        Err(reason) => ["hooks", "nftables"].map(|check| checks::untried(check, &reason)),
    };
    let number = |path: &str| read(path)?.trim().parse().ok();
    vec![
        checks::kernel(&release),
        checks::privileges(&read("/proc/self/status").unwrap_or_default()),
        bpffs(bpf_dir),
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
        state(state_dir),
        checks::conflist(conf_dir, &configurations(conf_dir)),
    ]
}

fn release() -> String {
    let name = uname();
    let release = name.as_ref().map(|name| name.release().to_string_lossy().into_owned());
    release.unwrap_or_default()
}

fn bpffs(bpf_dir: &Path) -> Finding {
    match telemetry::probe(bpf_dir) {
        Ok(()) => Finding::ok("bpffs", format!("{} is on a bpffs", bpf_dir.display())),
        Err(err) => {
            let text = err.to_string();
            let (says, mend) = text.split_once("; ").unwrap_or((&text, "look at its details"));
            Finding::fail("bpffs", says, mend)
        }
    }
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
            "make it writable for root, or choose another with stateDir and --state-dir",
        ),
    }
}

/// The files that a runtime would read, in the order in which it prefers them.
fn configurations(dir: &Path) -> Vec<(String, String)> {
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
    files.iter().filter_map(|path| Some((name(path), read_bounded(path)?))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_bounded(path: &Path) -> Option<String> {
    // Opening a pipe would wait for a writer.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(CONF_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}
