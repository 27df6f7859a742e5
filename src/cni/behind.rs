//! Whether a plugin behind us in the chain needs the qdisc slot that clsact takes.
//!
//! The reference `bandwidth` plugin adds an `ingress` qdisc to the host side for a pod's egress limit,
//! and the kernel refuses it where a clsact qdisc sits. tcx leaves the slot free, but an ADD with it is
//! twenty times as slow: it is taken where that plugin is going to ask for the slot. The spec tells a
//! plugin nothing of the others, so that is read where the runtime has it from, in the network's list; a
//! pod's annotations, which a runtime sends to a plugin with that capability, tell whether this pod has
//! a limit. Where neither says anything, nobody else is expected.

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

/// Where containerd, CRI-O and podman look for networks, unless they are told otherwise.
const DIRECTORY: &str = "/etc/cni/net.d";
/// Names another one to libcni's own tools, and so to us.
const VARIABLE: &str = "NETCONFPATH";
/// The most lists that are looked into, and the most of each, in bytes.
const MAX_LISTS: usize = 64;
const MAX_BYTES: u64 = 256 << 10;
/// The plugin, which is also its capability, and its key for what is limited of every pod.
const SHAPER: &str = "bandwidth";
const FIXED: &str = "egressRate";
/// The capability by which annotations are sent, and the one that makes the runtime ask for a limit.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
const ANNOTATION: &str = "kubernetes.io/egress-bandwidth";

/// What is done behind us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Whether a plugin limits the bandwidth that the runtime asks for, so that we don't.
    pub shapes: bool,
    /// Whether it is going to ask for the qdisc slot for this pod.
    pub wants_slot: bool,
}

impl Behind {
    /// Looks for it, in a few files at most.
    pub fn look(config: &Config) -> Self {
        let shaper = shaper(config);
        Self { shapes: shaper.is_some(), wants_slot: wants_slot(config, shaper) }
    }
}

/// A plugin behind us that limits bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shaper {
    /// Whether it limits what every pod sends.
    always: bool,
    /// Whether it limits what the runtime asks for.
    asked: bool,
}

/// The plugin that limits bandwidth behind us, by the network's list; none if there is no such plugin,
/// or no such list to be found.
fn shaper(config: &Config) -> Option<Shaper> {
    let directory = env::var_os(VARIABLE).filter(|path| !path.is_empty());
    let directory = PathBuf::from(directory.unwrap_or_else(|| OsString::from(DIRECTORY)));
    let kind = config.json.get("type").and_then(Value::as_str)?;
    // In the order in which runtimes take them.
    lists(&directory).iter().find_map(|path| {
        let text = read(path)?;
        // Most networks have no such plugin: then there is nothing to parse.
        text.contains(SHAPER).then_some(())?;
        behind(&serde_json::from_str(&text).ok()?, &config.name, kind)
    })
}

/// Whether the plugin is going to ask for the slot for this pod.
fn wants_slot(config: &Config, shaper: Option<Shaper>) -> bool {
    let json = &config.json;
    let of_runtime = json.get("runtimeConfig");
    // The runtime tells us what it tells that plugin.
    let told = json.pointer("/capabilities/bandwidth").and_then(Value::as_bool) == Some(true);
    let asked = of_runtime.and_then(|runtime| number(any_case(runtime, SHAPER)?, FIXED)) > Some(0);
    let annotations = of_runtime.and_then(|runtime| any_case(runtime, ANNOTATIONS));
    let annotated = annotations.map(|all| all.get(ANNOTATION).is_some());
    match shaper {
        Some(shaper) if shaper.always || !shaper.asked => shaper.always,
        Some(_) if told => asked,
        Some(_) => annotated.unwrap_or(true),
        // Nobody but another plugin can be meant, if the runtime doesn't ask us.
        None => !told && annotated == Some(true),
    }
}

/// The plugin behind ours of that type in a list of that name.
fn behind(list: &Value, network: &str, kind: &str) -> Option<Shaper> {
    if list.get("name").and_then(Value::as_str) != Some(network) {
        return None;
    }
    let plugins = list.get("plugins")?.as_array()?;
    let is = |plugin: &Value, kind: &str| plugin.get("type").and_then(Value::as_str) == Some(kind);
    let mut after = plugins.iter().skip_while(|plugin| !is(plugin, kind)).skip(1);
    let plugin = after.find(|plugin| is(plugin, SHAPER))?;
    let asked = plugin.pointer("/capabilities/bandwidth").and_then(Value::as_bool) == Some(true);
    Some(Shaper { always: number(plugin, FIXED) > Some(0), asked })
}

fn number(object: &Value, key: &str) -> Option<u64> {
    any_case(object, key)?.as_u64()
}

fn any_case<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let mut entries = object.as_object()?.iter();
    entries.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

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

    fn config(keys: Value) -> Config {
        let mut json = json!({"cniVersion": "1.0.0", "name": "n", "type": "weir"});
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Config::parse(json).unwrap()
    }

    #[test]
    fn only_a_plugin_behind_ours_in_the_list_of_our_name_counts() {
        let list = |name: &str, plugins: Value| {
            behind(&json!({"name": name, "plugins": plugins}), "n", "weir")
        };
        let by_capability = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let fixed = json!({"type": "bandwidth", "egressRate": 8000, "egressBurst": 8000});
        let ours = json!({"type": "weir"});
        let asking = Some(Shaper { always: false, asked: true });
        let always = Some(Shaper { always: true, asked: false });
        assert_eq!(list("n", json!([ours, by_capability])), asking);
        assert_eq!(list("n", json!([ours, {"type": "tuning"}, fixed])), always);
        assert_eq!(list("m", json!([ours, fixed])), None);
        assert_eq!(list("n", json!([fixed, ours])), None);
        assert_eq!(list("n", json!([ours])), None);
        for odd in
            [json!(null), json!([]), json!({"name": "n"}), json!({"name": "n", "plugins": 7})]
        {
            assert_eq!(behind(&odd, "n", "weir"), None);
        }
    }

    #[test]
    fn the_slot_is_left_to_who_will_ask_for_it() {
        let asking = Some(Shaper { always: false, asked: true });
        let always = Some(Shaper { always: true, asked: false });
        let annotated = json!({"runtimeConfig": {ANNOTATIONS: {ANNOTATION: "10M"}}});
        let bare = json!({"runtimeConfig": {ANNOTATIONS: {"other": "1"}}});
        let told =
            |runtime: Value| json!({"capabilities": {"bandwidth": true}, "runtimeConfig": runtime});
        let limited = told(json!({"bandwidth": {"EgressRate": 8000}}));
        for (keys, [none, by_capability, fixed]) in [
            (json!({}), [false, true, true]),
            (annotated, [true, true, true]),
            (bare, [false, false, true]),
            (limited, [false, true, true]),
            (told(json!({"bandwidth": {"IngressRate": 8000}})), [false, false, true]),
            (told(json!(null)), [false, false, true]),
        ] {
            let config = config(keys.clone());
            assert_eq!(wants_slot(&config, None), none, "{keys}");
            assert_eq!(wants_slot(&config, asking), by_capability, "{keys}");
            assert_eq!(wants_slot(&config, always), fixed, "{keys}");
            let to_pods = Some(Shaper { always: false, asked: false });
            assert!(!wants_slot(&config, to_pods), "{keys}");
        }
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
