//! What there is on a node, a line a thing, so that two can be compared.
//!
//! Left out is what comes and goes by itself: link-local addresses and routes, learned neighbours,
//! states, counters.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Result,
    node::{HIDDEN, Node, Space},
    shape::elements,
};

/// The kernel ends a namespace, and some plugins a link, behind the caller's back.
const PATIENCE: Duration = Duration::from_secs(3);

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Looks at everything that a pod could leave behind: links, addresses, routes, neighbours,
    /// qdiscs, the firewall's rules, and the files of the node.
    ///
    /// # Errors
    /// A tool's words.
    pub fn of(node: &Node) -> Result<Self> {
        let space = &node.space;
        let mut seen = BTreeSet::new();
        for link in space.ip("addr show")? {
            let name = text(&link["ifname"]);
            seen.insert(format!("link {name}"));
            for address in elements(&link["addr_info"]).filter(|address| !is_link_local(address)) {
                let (ip, bits) = (text(&address["local"]), &address["prefixlen"]);
                seen.insert(format!("address {ip}/{bits} of {name}"));
            }
        }
        for family in ["-4", "-6"] {
            for route in space.ip(&format!("{family} route show table all"))? {
                let (dst, dev) = (text(&route["dst"]), text(&route["dev"]));
                let (via, table) = (text(&route["gateway"]), text(&route["table"]));
                // The table `local` is the kernel's shadow of the addresses.
                let noise = dst.starts_with("fe80:") || dst.starts_with("ff00:");
                if !noise && table != "local" {
                    seen.insert(format!("route {dst} dev {dev} via {via} table {table}"));
                }
            }
        }
        for neighbour in space.ip("neigh show nud permanent")? {
            seen.insert(format!("neighbour {} of {}", neighbour["dst"], neighbour["dev"]));
        }
        for qdisc in space.succeed("tc qdisc show")?.lines().filter(|qdisc| !is_default(qdisc)) {
            seen.insert(qdisc.to_owned());
        }
        seen.extend(rules(space));
        for dir in HIDDEN {
            files(Path::new(dir), &node.dir, &mut seen);
        }
        Ok(Self(seen))
    }

    /// Looks until the node is as this says, for a few seconds.
    ///
    /// # Errors
    /// What is there more and what less.
    pub fn await_same(&self, node: &Node) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Self::of(node)?;
            if now == *self {
                return Ok(());
            }
            if Instant::now() > until {
                let more: Vec<_> = now.0.difference(&self.0).map(String::as_str).collect();
                let less: Vec<_> = self.0.difference(&now.0).map(String::as_str).collect();
                return Err(told(&more, &less));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn told(more: &[&str], less: &[&str]) -> String {
    let list = |what: &str, lines: &[&str]| match lines.len() {
        0 => None,
        count => Some(format!("{what} {count}: {}", lines[..count.min(6)].join(" | "))),
    };
    let parts = [list("left behind", more), list("gone", less)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_link_local(address: &Value) -> bool {
    address["family"] == "inet6" && address["scope"] == "link"
}

fn is_default(qdisc: &str) -> bool {
    qdisc.starts_with("qdisc noqueue")
}

/// The firewall's rules without their counts; none where there is no `nft`.
fn rules(space: &Space) -> Vec<String> {
    let rules = space.succeed("nft list ruleset").unwrap_or_default();
    let mut lines: Vec<String> = Vec::new();
    let mut heads: Vec<&str> = Vec::new();
    for line in rules.lines().map(str::trim) {
        if line == "}" {
            heads.pop();
        } else if let Some(head) = line.strip_suffix('{') {
            heads.push(head);
            lines.push(format!("nft {}", heads.concat()));
        } else if !line.is_empty() {
            lines.push(format!("nft {}{}", heads.concat(), uncounted(line)));
        }
    }
    lines
}

/// A rule without `counter packets N bytes N`.
fn uncounted(rule: &str) -> String {
    let mut words = Vec::new();
    let mut rest = rule.split_whitespace();
    while let Some(word) = rest.next() {
        words.push(word);
        if word == "packets" || word == "bytes" {
            rest.next();
        }
    }
    words.join(" ")
}

/// The files below a directory, but for the run's own; a link counts by what it is called.
fn files(dir: &Path, own: &Path, seen: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if path == own || path.starts_with("/run/netns") {
            continue;
        }
        if is_dir {
            files(&path, own, seen);
        } else {
            seen.insert(format!("file {}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_cut_out_of_rules() {
        let rule = "ip saddr 10.0.0.2 counter packets 7 bytes 588 jump CNI-1";
        assert_eq!(uncounted(rule), "ip saddr 10.0.0.2 counter packets bytes jump CNI-1");
    }

    #[test]
    fn a_difference_is_told_both_ways() {
        assert_eq!(told(&["link a"], &[]), "left behind 1: link a");
        assert_eq!(told(&[], &["link b", "link c"]), "gone 2: link b | link c");
    }
}
