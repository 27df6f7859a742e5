//! Which network a runtime takes from its configuration directory, and whether an ADD of it could
//! begin. Pure but for the look-up of executables.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::Finding;
use crate::cni::{
    config,
    preview::{Preview, preview},
};

const CHECK: &str = "conflist";
/// A network to begin with, for whom has no copy of examples/ at hand.
const SMALLEST: &str = r#"{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"weir","ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.88.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}"#;

/// A file of the directory, in the order in which runtimes prefer them.
#[derive(Debug)]
pub struct File {
    /// Its name without the directory.
    pub name: String,
    /// What it says, or why it says nothing.
    pub network: Result<Value, String>,
}

impl File {
    /// Reads the text of a file.
    pub fn new(name: String, text: Result<String, String>) -> Self {
        let parse =
            |text: String| serde_json::from_str(&text).map_err(|why| format!("is not JSON: {why}"));
        Self { name, network: text.and_then(parse) }
    }

    /// Weir's place among its plugins, if it is one of them.
    pub fn position(&self) -> Option<usize> {
        weir_in(self.network.as_ref().ok()?)
    }

    /// Whether it is a list of plugins, which is what a `.conflist` has to be.
    pub fn is_list(&self) -> bool {
        self.network.as_ref().is_ok_and(|network| network.get("plugins").is_some())
    }

    /// Whether it is of that network.
    pub fn is_of(&self, network: &str) -> bool {
        let name = self.network.as_ref().ok().and_then(|network| network.get("name"));
        name.and_then(Value::as_str) == Some(network)
    }

    /// Whether weir is the last of its plugins.
    pub fn is_last(&self) -> bool {
        let all = self.network.as_ref().map_or(0, |network| plugins(network).len());
        self.position().is_some_and(|at| at + 1 == all)
    }

    /// Where weir's entry says that the list is.
    pub fn conf_dir(&self) -> Option<PathBuf> {
        let entry = plugins(self.network.as_ref().ok()?).get(self.position()?)?;
        Some(entry.get("confDir")?.as_str()?.into())
    }

    /// `stateDir` and `bpfDir` of weir's entry, if it has one, whether an ADD takes the rest or not.
    pub fn places(&self) -> Option<(PathBuf, PathBuf)> {
        Some(config::places(plugins(self.network.as_ref().ok()?).get(self.position()?)?))
    }

    /// The plugins that it asks for and that are not there.
    pub fn missing(&self, installed: &dyn Fn(&str) -> bool) -> Vec<String> {
        let Ok(network) = &self.network else { return Vec::new() };
        let missing: BTreeSet<_> = types(network).filter(|kind| !installed(kind)).collect();
        missing.into_iter().map(str::to_owned).collect()
    }

    /// What an ADD of its network would make of it.
    pub fn preview(&self) -> Option<crate::error::Result<Preview>> {
        let network = self.network.as_ref().ok()?;
        let at = weir_in(network)?;
        Some(preview(entry(network, at), at > 0))
    }
}

/// Judges the files; also tells what an ADD would read of the one that uses weir. `installed` tells
/// whether there is a plugin of that name.
pub fn judge(
    dir: &Path,
    files: &[File],
    installed: &dyn Fn(&str) -> bool,
) -> (Finding, Option<Preview>) {
    let Some(first) = files.first() else {
        let says = format!("no configuration in {}", dir.display());
        return (Finding::warn(CHECK, says, write_one()), None);
    };
    let name = &first.name;
    if let Err(why) = &first.network {
        let mend =
            "correct or remove it: the runtime takes the first file by name, and no pod starts";
        return (Finding::fail(CHECK, format!("{name} {why}"), mend), None);
    }
    let preview = match first.preview() {
        Some(Err(why)) => {
            let mend = "correct it: ADD refuses it, and no pod starts";
            return (Finding::fail(CHECK, format!("{name}: {why}"), mend), None);
        }
        Some(Ok(preview)) => Some(preview),
        None => None,
    };
    let missing = first.missing(installed);
    if !missing.is_empty() {
        let says = format!("{name} asks for a plugin {}, which is not there", missing.join(", "));
        let mend =
            "correct the type, or install it where the runtime looks (--bin-dir): no pod starts";
        return (Finding::fail(CHECK, says, mend), preview);
    }
    match preview {
        Some(preview) if !preview.unknown.is_empty() => {
            let (network, keys) = (&preview.network, preview.unknown.join(", "));
            let says = format!(
                "{name}: network {network} uses weir, and has keys that weir doesn't know and that do nothing: {keys}"
            );
            let mend = "correct them, or take them out unless another tool reads them";
            (Finding::warn(CHECK, says, mend), Some(preview))
        }
        Some(preview) => {
            let says = format!("{name}: network {} uses weir", preview.network);
            (Finding::ok(CHECK, says), Some(preview))
        }
        None => without_weir(name, files),
    }
}

/// The runtime has a network, but not one of weir's.
fn without_weir(name: &str, files: &[File]) -> (Finding, Option<Preview>) {
    match files.iter().find(|file| file.position().is_some()) {
        Some(later) => {
            let says =
                format!("the runtime takes {name}, the first by name, and not {}", later.name);
            let mend = format!("remove {name}, or rename it so that it comes later");
            (Finding::warn(CHECK, says, mend), later.preview().and_then(Result::ok))
        }
        None => (Finding::warn(CHECK, format!("{name} does not use weir"), write_one()), None),
    }
}

fn write_one() -> String {
    format!("write 10-weir.conflist there, with ranges of this node's own: {SMALLEST}")
}

fn plugins(network: &Value) -> &[Value] {
    match network.get("plugins").and_then(Value::as_array) {
        Some(listed) => listed,
        None => std::slice::from_ref(network),
    }
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str)
}

/// The executables that a network needs; weir's own allocator is none.
fn types(network: &Value) -> impl Iterator<Item = &str> {
    let main = plugins(network).iter().filter_map(kind);
    let ipam = plugins(network).iter().filter_map(|plugin| plugin.get("ipam").and_then(kind));
    main.chain(ipam.filter(|name| *name != "weir"))
}

/// The position of weir among the plugins.
fn weir_in(network: &Value) -> Option<usize> {
    plugins(network).iter().position(|plugin| kind(plugin) == Some("weir"))
}

/// What the plugin at that position gets on stdin (CNI spec 1.1.0, section 4): its entry, with the
/// list's name and version.
fn entry(network: &Value, at: usize) -> Value {
    let mut entry = plugins(network).get(at).cloned().unwrap_or_default();
    if network.get("plugins").is_some()
        && let Some(entry) = entry.as_object_mut()
    {
        for key in ["name", "cniVersion"] {
            entry.insert(key.to_owned(), network.get(key).cloned().unwrap_or(json!(null)));
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    fn judged(files: &[(&str, &str)]) -> (Finding, Option<Preview>) {
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| File::new((*name).to_owned(), Ok((*text).to_owned())))
            .collect();
        judge(Path::new("/etc/cni/net.d"), &files, &|kind| ["weir", "bridge"].contains(&kind))
    }

    const CHAINED: &str =
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},{"type":"weir"}]}"#;
    const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;

    #[test]
    fn weir_is_found_alone_in_front_and_behind() {
        let alone =
            r#"{"cniVersion":"1.0.0","name":"n","type":"weir","ipam":{"subnet":"10.0.0.0/24"}}"#;
        for network in [SMALLEST, CHAINED, alone] {
            let (finding, preview) = judged(&[("10.conflist", network), ("20.conflist", BRIDGE)]);
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
            assert_eq!(preview.unwrap().state_dir, Path::new("/run/weir"));
        }
    }

    #[test]
    fn what_no_pod_starts_with_fails_and_is_named() {
        let wrong = SMALLEST.replace("/24", "/33");
        let typo = SMALLEST.replacen("\"weir\"", "\"wier\"", 1);
        let host_local = SMALLEST.replace("\"ipam\":{", "\"ipam\":{\"type\":\"host-local\",");
        let nameless = SMALLEST.replace("podnet", "");
        let cut = SMALLEST.get(..40).unwrap();
        for (text, named) in [
            (&*wrong, "10.88.0.0/33"),
            (&*typo, "wier"),
            (&*host_local, "host-local"),
            (&*nameless, "name is \"\""),
            (cut, "10.conflist is not JSON"),
            ("", "10.conflist is not JSON"),
        ] {
            let (finding, _) = judged(&[("10.conflist", text), ("20.conflist", SMALLEST)]);
            assert_eq!(finding.verdict, Verdict::Fail, "{finding:?}");
            assert!(finding.says.contains(named), "{finding:?}");
        }
    }

    #[test]
    fn a_key_that_does_nothing_is_named_with_the_one_that_was_meant() {
        let typo = SMALLEST.replace("}]]", ",\"rangeStrat\":\"10.88.0.9\"}]]");
        let (finding, preview) = judged(&[("10.conflist", &typo)]);
        assert!(finding.verdict == Verdict::Warn && preview.is_some(), "{finding:?}");
        assert!(
            finding.says.ends_with(": ipam.ranges[0][0].rangeStrat (rangeStart?)"),
            "{finding:?}"
        );
    }

    #[test]
    fn the_first_by_name_is_what_counts() {
        let (finding, preview) = judged(&[("05-b.conf", BRIDGE), ("10-w.conflist", SMALLEST)]);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.says.contains("05-b.conf") && finding.says.contains("10-w.conflist"));
        assert_eq!(preview.unwrap().network, "podnet");
        for files in [&[("05-b.conf", BRIDGE)][..], &[]] {
            let (finding, preview) = judged(files);
            assert!(finding.verdict == Verdict::Warn && preview.is_none());
            assert!(finding.mend.unwrap().contains(SMALLEST));
        }
    }
}
