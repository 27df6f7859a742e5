//! Keys of a configuration that Weir doesn't know, each with the known one that was likely meant.
//!
//! The specification has a plugin ignore what it doesn't know, as others read the same entry; and so a range's
//! `rangeStrat` gives the whole subnet away without a word.

use std::fmt;

use serde_json::Value;

/// Of the entry itself, and of a list that is given whole (CNI spec 1.1.0, section 1).
const ENTRY: &[&str] = &[
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
    "mtu",
    "ipMasq",
    "ipam",
    "telemetry",
    "stateDir",
    "bpfDir",
    "confDir",
    "capabilities",
    "runtimeConfig",
    "args",
    "dns",
    "prevResult",
];
/// Host-local's `dataDir` is of no use here, and does no harm.
const IPAM: &[&str] = &[
    "type",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "ranges",
    "routes",
    "resolvConf",
    "statusWhenFull",
    "dataDir",
];
const RANGE: &[&str] = &["subnet", "rangeStart", "rangeEnd", "gateway"];
const ROUTE: &[&str] = &["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];
const TELEMETRY: &[&str] = &["enabled", "required", "attach"];
const DNS: &[&str] = &["nameservers", "domain", "search", "options"];

/// So many letters may be wrong in a key that was meant.
const TYPOS: usize = 2;

/// A key that Weir doesn't know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Where it is, such as `ipam.ranges[0][0].rangeStrat`.
    path: String,
    /// The known key of its place that it is nearly.
    pub near: Option<&'static str>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever a name has in it, it drives no terminal.
        write!(f, "{}", self.path.escape_debug())?;
        self.near.map_or(Ok(()), |near| write!(f, " ({near}?)"))
    }
}

/// The keys of a plugin's entry that are neither Weir's nor by their form somebody else's.
pub fn unknown(entry: &Value) -> Vec<Unknown> {
    let mut found = Vec::new();
    look(entry, "", ENTRY, false, &mut found);
    look(&entry["telemetry"], "telemetry", TELEMETRY, false, &mut found);
    look(&entry["dns"], "dns", DNS, false, &mut found);
    let ipam = &entry["ipam"];
    // Another IPAM plugin has keys of its own.
    if ipam.get("type").is_none_or(|kind| kind == "weir") {
        look(ipam, "ipam", IPAM, false, &mut found);
        for (at, route) in items(&ipam["routes"]) {
            look(route, &format!("ipam.routes[{at}]"), ROUTE, false, &mut found);
        }
        for (set, ranges) in items(&ipam["ranges"]) {
            for (at, range) in items(ranges) {
                look(range, &format!("ipam.ranges[{set}][{at}]"), RANGE, true, &mut found);
            }
        }
    }
    found
}

/// Says on stderr which keys are nearly one of Weir's: in a call nobody else is told, and of others' keys nothing is
/// to be said.
pub fn warn(entry: &Value) {
    for key in unknown(entry).iter().filter(|key| key.near.is_some()) {
        eprintln!("weir: the configuration has a key that does nothing: {key}");
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

fn look(
    section: &Value,
    path: &str,
    known: &'static [&'static str],
    in_any_case: bool,
    found: &mut Vec<Unknown>,
) {
    let keys = section.as_object().into_iter().flat_map(|section| section.keys());
    for key in keys.filter(|key| !is_others(key)) {
        let is = |known: &&str| *known == key || (in_any_case && known.eq_ignore_ascii_case(key));
        if !known.iter().any(is) {
            let dot = if path.is_empty() { "" } else { "." };
            found.push(Unknown { path: format!("{path}{dot}{key}"), near: near(key, known) });
        }
    }
}

/// Keys of others have their domain in them, by the specification, and comments begin with what no key does.
fn is_others(key: &str) -> bool {
    key.contains(['.', '/']) || key.starts_with(['_', '$', '#'])
}

/// The known key that this one most likely was meant to be.
fn near(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let lower = key.to_ascii_lowercase();
    // A long one is none, and costs the square of its length.
    let far = |known: &str| known.len().abs_diff(lower.len()) > TYPOS;
    let all = known.iter().filter(|known| !far(known));
    let all = all.map(|known| (distance(&lower, &known.to_ascii_lowercase()), *known));
    let (typos, known) = all.min_by_key(|(typos, _)| *typos)?;
    // In a short word two wrong letters are another word.
    (typos <= TYPOS && typos * 3 < known.len().max(4)).then_some(known)
}

/// How many letters were left out, put in, mistaken, or swapped with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let first = |i: usize| (0..=b.len()).map(|j| if i == 0 { j } else { i }).collect::<Vec<_>>();
    let mut rows: Vec<_> = (0..=a.len()).map(first).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let mistaken = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = mistaken.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(entry: Value) -> Vec<String> {
        unknown(&entry).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_misspelt_key_is_told_with_what_was_meant() {
        let entry = json!({
            "cniVersion": "1.1.0", "name": "n", "type": "weir", "ipmasq": true, "state_dir": "/x",
            "telemetry": {"enable": false}, "dns": {"nameserver": []},
            "ipam": {
                "range": [], "routes": [{"dst": "::/0", "via": "::1"}],
                "ranges": [[{"subnet": "10.0.0.0/24", "rangeStrat": "10.0.0.9", "RangeEnd": "10.0.0.99"}]],
            },
        });
        assert_eq!(
            said(entry),
            [
                "ipmasq (ipMasq?)",
                "state_dir (stateDir?)",
                "telemetry.enable (enabled?)",
                "dns.nameserver (nameservers?)",
                "ipam.range (ranges?)",
                "ipam.routes[0].via",
                "ipam.ranges[0][0].rangeStrat (rangeStart?)",
            ]
        );
    }

    #[test]
    fn what_is_known_or_by_its_form_others_is_not_told() {
        let example: Value =
            serde_json::from_str(include_str!("../../examples/10-weir.conflist")).unwrap();
        assert!(said(example["plugins"][0].clone()).is_empty() && said(example).is_empty());
        let others = json!({
            "cni.dev/valid-attachments": [], "example.com/x": 1, "_comment": "", "//": "",
            "ipam": {"type": "whereabouts", "range": "10.0.0.0/8"},
            "capabilities": {"anything": true}, "args": {"cni": {}}, "runtimeConfig": {"x": 1},
        });
        assert!(said(others).is_empty());
        for odd in
            [json!(null), json!([]), json!({"ipam": 7}), json!({"ipam": {"ranges": [7, [7]]}})]
        {
            assert!(said(odd).is_empty());
        }
        assert_eq!(said(json!({"tool": 1, "gate": 1})), ["gate", "tool"]);
        assert_eq!(said(json!({"a\u{1b}[2J": 1})), ["a\\u{1b}[2J"]);
    }

    #[test]
    fn distances() {
        for (a, b, typos) in [("", "", 0), ("ab", "ba", 1), ("abc", "ac", 1), ("x", "yz", 2)] {
            assert_eq!(distance(a, b), typos, "{a} {b}");
        }
    }
}
