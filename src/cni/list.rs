//! The network's list, as the runtime has it in a directory: the specification gives a plugin its own entry
//! and tells it nothing of the others.

use std::{
    env,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;
use serde_json::Value;

use super::config::Config;
use crate::error::Result;

/// Where runtimes look for lists unless they are told otherwise, in the order in which Weir looks: containerd,
/// CRI-O, podman, RKE2 and k0s; k3s with its own flannel; MicroK8s; CRI-O as OpenShift has it; Multus, for
/// networks of its own; nerdctl 2, in its namespace `default`.
pub const PLACES: [&str; 6] = [
    "/etc/cni/net.d",
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "/var/snap/microk8s/current/args/cni-network",
    "/etc/kubernetes/cni/net.d",
    "/etc/cni/multus/net.d",
    "/etc/cni/net.d/default",
];
/// Names another one to libcni's own tools and to nerdctl, and so to us.
const VARIABLE: &str = "NETCONFPATH";
/// The most lists of a directory that are looked into, and the most of each, in bytes.
const MAX_LISTS: usize = 64;
const MAX_BYTES: u64 = 256 << 10;

/// Where the network's list may be: where the configuration says, else where the environment says, else in one
/// of the [usual](PLACES) places.
///
/// # Errors
/// [`Kind::Config`](crate::error::Kind::Config) naming `confDir`.
pub fn places(config: &Config) -> Result<Vec<PathBuf>> {
    if let Some(directory) = config.conf_dir()? {
        return Ok(vec![directory]);
    }
    let told = env::var_os(VARIABLE).filter(|path: &OsString| !path.is_empty());
    Ok(told.map_or_else(|| PLACES.map(PathBuf::from).to_vec(), |path| vec![path.into()]))
}

/// The plugins of the first list of that name that has one of that type, from this one on; none if no such list
/// is to be found.
///
/// A place that isn't there costs one failed system call.
pub fn plugins(places: &[PathBuf], network: &str, kind: &str) -> Option<Vec<Value>> {
    let quoted = format!("\"{network}\"");
    let mut files = places.iter().flat_map(|directory| lists(directory));
    files.find_map(|path| {
        let text = read(&path)?;
        // To parse the lists of other networks would cost the most.
        text.contains(&quoted).then_some(())?;
        from(&serde_json::from_str(&text).ok()?, network, kind)
    })
}

/// The plugins from ours of that type on, in a list of that name.
pub(crate) fn from(list: &Value, network: &str, kind: &str) -> Option<Vec<Value>> {
    if list.get("name").and_then(Value::as_str) != Some(network) {
        return None;
    }
    let plugins = list.get("plugins")?.as_array()?;
    let ours = plugins.iter().position(|plugin| is(plugin, kind))?;
    plugins.get(ours..).map(<[Value]>::to_vec)
}

/// Whether a plugin is of that type.
pub fn is(plugin: &Value, kind: &str) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(kind)
}

/// The lists of a directory, in the order in which runtimes take them.
fn lists(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let lists = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conflist"));
    let mut lists: Vec<_> = lists.collect();
    lists.sort_unstable();
    lists.truncate(MAX_LISTS);
    lists
}

fn read(path: &Path) -> Option<String> {
    // Without O_NONBLOCK a FIFO of that name would hold the call up for ever.
    let file =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_list_of_our_name_with_our_plugin_counts_from_there_on() {
        let of = |name: &str, plugins: Value| {
            from(&json!({"name": name, "plugins": plugins}), "n", "weir")
        };
        let (ours, theirs) = (json!({"type": "weir"}), json!({"type": "bandwidth"}));
        assert_eq!(of("n", json!([ours, theirs])), Some(vec![ours.clone(), theirs.clone()]));
        assert_eq!(of("n", json!([theirs, ours])), Some(vec![ours.clone()]));
        assert_eq!(of("m", json!([ours, theirs])), None);
        assert_eq!(of("n", json!([theirs])), None);
        for odd in
            [json!(null), json!([]), json!({"name": "n"}), json!({"name": "n", "plugins": 7})]
        {
            assert!(from(&odd, "n", "weir").is_none());
        }
    }

    #[test]
    fn the_first_place_that_has_one_is_the_place() {
        let root = env::temp_dir().join(format!("weir-places-{}", std::process::id()));
        let places = ["a", "none", "b", "c"].map(|name| root.join(name));
        let put = |place: &PathBuf, name: &str, behind: &str| {
            fs::create_dir_all(place).unwrap();
            let plugins = json!([{"type": "weir"}, {"type": behind}]);
            let list = json!({"name": name, "plugins": plugins});
            fs::write(place.join("10.conflist"), list.to_string()).unwrap();
        };
        let found = || Some(plugins(&places, "n", "weir")?[1]["type"].as_str()?.to_owned());
        put(&places[0], "n-else", "x");
        let mut seen = vec![found()];
        put(&places[3], "n", "c");
        seen.push(found());
        put(&places[2], "n", "b");
        seen.push(found());
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(seen, [None, Some("c".to_owned()), Some("b".to_owned())]);
    }

    #[test]
    fn what_is_no_list_is_passed_over() {
        let directory = env::temp_dir().join(format!("weir-behind-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("20-b.conflist"), "{").unwrap();
        fs::write(directory.join("10-a.conf"), "{}").unwrap();
        fs::create_dir(directory.join("05-c.conflist")).unwrap();
        nix::unistd::mkfifo(&directory.join("00.conflist"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = lists(&directory);
        let texts: Vec<_> = found.iter().map(|path| read(path)).collect();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(texts, [None, None, Some("{".to_owned())]);
        assert!(lists(&directory).is_empty());
    }
}
