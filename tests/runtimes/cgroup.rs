//! The machine's control groups, without which no runtime runs anything: whether some can be made, and
//! those that there are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const MOUNTED: &str = "/sys/fs/cgroup";

/// What to do where [`probe`] fails.
pub const MEND: &str = "Containers of the tests are put into control groups of their own: run them on a machine, \
     or in a container with --privileged --cgroupns=host; or leave containerd and podman out, \
     which `make test WITHOUT_RUNTIMES=1` does";

/// Makes a control group in each hierarchy, puts a process into it, and takes it away again. An error
/// says where that failed.
pub fn probe() -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    // Of the second version there is one hierarchy, which has no controllers where those of the first do.
    let of = |kind: &str| -> Vec<PathBuf> {
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let below = fields.filter(|fields| fields[2] == kind && fields[1].starts_with(MOUNTED));
        below.map(|fields| PathBuf::from(fields[1])).collect()
    };
    match (of("cgroup"), of("cgroup2")) {
        (first, second) if first.is_empty() && second.is_empty() => {
            Err(format!("no control groups are mounted below {MOUNTED}"))
        }
        (first, second) if first.is_empty() => {
            second.iter().try_for_each(|hierarchy| try_group(hierarchy, true))
        }
        (first, _) => first.iter().try_for_each(|hierarchy| try_group(hierarchy, false)),
    }
}

/// Tries one hierarchy. `unified`: it is of the second version, where a group gives its controllers on
/// only if it has no processes of its own, as that has which a container sees as its root.
fn try_group(hierarchy: &Path, unified: bool) -> Result<(), String> {
    // Tests at the same time are to be told apart.
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    let group = hierarchy.join(format!("weirtest-{}-{thread}", std::process::id()));
    fs::create_dir(&group).map_err(|err| format!("{} can't be made: {err}", group.display()))?;
    let tried = if unified { try_controllers(hierarchy) } else { Ok(()) }
        .and_then(|()| try_process(&group));
    let removed = fs::remove_dir(&group);
    tried.and(removed.map_err(|err| format!("{} can't be removed: {err}", group.display())))
}

/// memory stands for those that a group with processes can't give on.
fn try_controllers(hierarchy: &Path) -> Result<(), String> {
    let [offered, given] =
        ["cgroup.controllers", "cgroup.subtree_control"].map(|file| hierarchy.join(file));
    let names = fs::read_to_string(&offered)
        .map_err(|err| format!("{} can't be read: {err}", offered.display()))?;
    if !names.split_whitespace().any(|name| name == "memory") {
        return Err(format!("{} lists no memory", offered.display()));
    }
    fs::write(&given, "+memory")
        .map_err(|err| format!("{} refuses +memory: {err}", given.display()))
}

fn try_process(group: &Path) -> Result<(), String> {
    // cpuset's groups of the first version take nobody before they have been given processors.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let of_parent = fs::read(group.parent().unwrap().join(file));
        if let Some(text) = of_parent.ok().filter(|_| group.join(file).exists()) {
            let _ = fs::write(group.join(file), text);
        }
    }
    let mut sleeper = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let procs = group.join("cgroup.procs");
    let put = fs::write(&procs, sleeper.id().to_string());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    put.map_err(|err| format!("{} takes no process: {err}", procs.display()))
}

/// All that there are, the shallow before the deep.
pub fn all() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![PathBuf::from(MOUNTED)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                dirs.push(entry.path());
            }
        }
    }
    found
}
