//! What there must be after a round, for the pods that live and for nobody else: asked of the kernel
//! and the file system, never of Weir.

use std::{collections::BTreeSet, fmt::Debug, fs, path::Path};

use serde_json::Value;

use crate::{ground::Ground, maps::Seen, pod::Pod};

/// A set of things, each as a line.
type Things = BTreeSet<String>;

/// The node as it is without any pod.
pub struct Bare {
    routes: Things,
    neighbours: Things,
    pins: Option<BTreeSet<String>>,
}

impl Bare {
    pub fn of(ground: &Ground) -> Self {
        Self { routes: routes(ground), neighbours: neighbours(ground), pins: None }
    }

    /// With the programs loaded, and nothing else pinned: their directory stays.
    pub fn with_pins(self, ground: &Ground) -> Self {
        Self { pins: Some(Seen::now(ground).others), ..self }
    }

    /// What is missing, and what is too much; empty where all is right.
    pub fn differences(&self, ground: &Ground, pods: &[&Pod]) -> Vec<String> {
        let state = ground.host.state_dir();
        let of = |each: fn(&Pod) -> Vec<String>| -> Things {
            pods.iter().flat_map(|pod| each(pod)).collect()
        };
        let with = |more: &str, things: Things| &things | &Things::from([more.to_owned()]);
        let looks: [(&str, Things, Things); 10] = [
            ("link", links(ground), with("lo ", of(|pod| vec![link(pod)]))),
            ("route", routes(ground), &self.routes | &of(routes_of)),
            (
                "neighbour",
                neighbours(ground),
                &self.neighbours | &of(|pod| to_pod(pod, "neighbour")),
            ),
            ("qdisc or filter", hooks(ground, pods), of(hooks_of)),
            ("host port", host_ports(ground), of(ports_of)),
            ("masquerade", masqueraded(ground), masquerade_of(pods)),
            ("record", names(&state.join("attachments")), of(|pod| vec![record(pod)])),
            ("lease", leases(&state.join("leases/podnet")), with("lock -> ", of(leases_of))),
            ("state", names(&state), ["attachments", "leases"].map(String::from).into()),
            ("address", addresses(pods), of(addresses_of)),
        ];
        let mut found = Vec::new();
        for (what, are, should) in looks {
            differ(&mut found, what, &are, &should);
        }
        self.maps(&mut found, ground, pods);
        found
    }

    fn maps(&self, found: &mut Vec<String>, ground: &Ground, pods: &[&Pod]) {
        let seen = Seen::now(ground);
        let indexes = interface_indexes(ground);
        let index =
            |pod: &Pod| indexes.iter().find(|(name, _)| name == pod.host_ifname()).map(|i| i.1);
        let counted: Things = seen
            .living
            .iter()
            .map(|c| format!("{} {:?}", c.container, Some(u64::from(c.ifindex))))
            .collect();
        let living = pods.iter().map(|pod| format!("{} {:?}", pod.id(), index(pod))).collect();
        differ(found, "map attachments", &counted, &living);
        let ids = |pod: &Pod| seen.living.iter().find(|c| c.container == pod.id()).map(|c| c.id);
        let tcx = pods.iter().filter(|pod| pod.shape.tcx);
        let pins = tcx
            .filter_map(|pod| ids(pod))
            .flat_map(|id| ["from", "to"].map(|side| format!("{id:08x}_{side}_pod")));
        differ(found, "pinned link", &seen.links, &pins.collect());
        let entered: BTreeSet<_> = seen.living.iter().map(|c| (c.ifindex, c.id)).collect();
        let missing: Vec<_> = entered.difference(&seen.interfaces).collect();
        if !missing.is_empty() {
            found.push(format!("map pods: missing {missing:x?}"));
        }
        let limited = pods.iter().filter(|pod| pod.shape.limited).filter_map(|pod| index(pod));
        let mut limited: Vec<_> = limited.flat_map(|index| [index; 2]).collect();
        limited.sort_unstable();
        let are: Vec<_> = seen.limited.iter().map(|index| u64::from(*index)).collect();
        if are != limited {
            found.push(format!("map limits: {are:?} instead of {limited:?}"));
        }
        if !seen.unowned.is_empty() {
            found.push(format!("elements of nobody: {:?}", seen.unowned));
        }
        if self.pins.as_ref().is_some_and(|pins| *pins != seen.others) {
            found.push(format!("pins: {:?} instead of {:?}", seen.others, self.pins));
        }
    }
}

fn differ<T: Ord + Debug>(
    found: &mut Vec<String>,
    what: &str,
    are: &BTreeSet<T>,
    should: &BTreeSet<T>,
) {
    for (word, things) in
        [("too much", are.difference(should)), ("missing", should.difference(are))]
    {
        let things: Vec<_> = things.collect();
        if !things.is_empty() {
            found.push(format!("{what}: {word} {things:?}"));
        }
    }
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        other => panic!("no list: {other}"),
    }
}

fn links(ground: &Ground) -> Things {
    let links = list(ground.host.node.ip("link"));
    links.iter().map(|link| format!("{} {}", word(link, "ifname"), word(link, "ifalias"))).collect()
}

fn interface_indexes(ground: &Ground) -> Vec<(String, u64)> {
    let links = list(ground.host.node.ip("link"));
    links
        .iter()
        .map(|link| (word(link, "ifname").to_owned(), link["ifindex"].as_u64().unwrap()))
        .collect()
}

fn link(pod: &Pod) -> String {
    format!("{} weir:podnet/{}/eth0", pod.host_ifname(), pod.id())
}

/// The routes that somebody made; the kernel's own come and go with addresses.
fn routes(ground: &Ground) -> Things {
    let both = ["route show table all", "-6 route show table all"];
    let routes = both.iter().flat_map(|words| list(ground.host.node.ip(words)));
    let made = routes.filter(|route| word(route, "protocol") != "kernel");
    made.map(|route| format!("route {} {}", word(&route, "dst"), word(&route, "dev"))).collect()
}

fn neighbours(ground: &Ground) -> Things {
    let entries = list(ground.host.node.ip("neighbour show nud permanent"));
    entries
        .iter()
        .map(|entry| format!("neighbour {} {}", word(entry, "dst"), word(entry, "dev")))
        .collect()
}

/// A host port comes with a route for the answers to what ::1 asks.
fn routes_of(pod: &Pod) -> Vec<String> {
    let mut routes = to_pod(pod, "route");
    routes.extend(pod.host_port().map(|_| format!("route ::1 {}", pod.host_ifname())));
    routes
}

fn to_pod(pod: &Pod, word: &str) -> Vec<String> {
    pod.ips().iter().map(|ip| format!("{word} {ip} {}", pod.host_ifname())).collect()
}

/// Qdiscs, and the filters on the interfaces of the pods.
fn hooks(ground: &Ground, pods: &[&Pod]) -> Things {
    let qdiscs = ground.host.node.succeed("tc -j qdisc show");
    let qdiscs = list(serde_json::from_str(&qdiscs).unwrap());
    let made = qdiscs.iter().filter(|qdisc| word(qdisc, "kind") != "noqueue");
    let mut hooks: Things =
        made.map(|qdisc| format!("{} {}", word(qdisc, "dev"), word(qdisc, "kind"))).collect();
    let sides =
        pods.iter().flat_map(|pod| ["ingress", "egress"].map(|side| (pod.host_ifname(), side)));
    let sides: Vec<_> = sides.collect();
    let asked: String =
        sides.iter().map(|(dev, side)| format!("filter show dev {dev} {side}\n")).collect();
    let batch = ground.host.state_dir().with_file_name("batch");
    fs::write(&batch, asked).unwrap();
    let told = ground.host.node.succeed(&format!("tc -j -force -b {}", batch.display()));
    let told: Vec<Value> =
        serde_json::Deserializer::from_str(&told).into_iter().map(Result::unwrap).collect();
    assert_eq!(told.len(), sides.len(), "tc answers once for each");
    for ((dev, side), filters) in sides.iter().zip(told) {
        // A filter with options, and not the line that says what kind of one is at the priority.
        for options in
            list(filters).iter().map(|f| &f["options"]).filter(|o| o["bpf_name"].is_string())
        {
            let name = word(options, "bpf_name");
            hooks.insert(format!("{dev} {side} {}", name.split(':').next().unwrap()));
        }
    }
    hooks
}

fn hooks_of(pod: &Pod) -> Vec<String> {
    let mut hooks = Vec::new();
    if !pod.shape.tcx {
        hooks.extend(["clsact", "ingress weir_from_pod", "egress weir_to_pod"]);
    }
    if pod.shape.limited {
        hooks.extend(["tbf", "ingress weir_limit_from", "egress weir_limit_to"]);
    }
    hooks.iter().map(|hook| format!("{} {hook}", pod.host_ifname())).collect()
}

fn host_ports(ground: &Ground) -> Things {
    let table = ground.host.node.succeed("nft list table inet weir");
    let quoted = table.split('"').skip(1).step_by(2);
    quoted.filter(|text| text.ends_with("/eth0")).map(str::to_owned).collect()
}

fn ports_of(pod: &Pod) -> Vec<String> {
    pod.host_port().map(|_| format!("{}/eth0", pod.id())).into_iter().collect()
}

/// The subnets of the network; reconcile takes them away with the last pod.
fn masqueraded(ground: &Ground) -> Things {
    let sets = ["masquerade4", "masquerade6"]
        .map(|set| ground.host.node.succeed(&format!("nft -j list set inet weir {set}")));
    let texts = sets.iter().flat_map(|set| {
        ["10.88.0.0", "fd00:88::"].into_iter().filter(|subnet| set.contains(subnet))
    });
    texts.map(str::to_owned).collect()
}

fn masquerade_of(pods: &[&Pod]) -> Things {
    let subnets = ["10.88.0.0", "fd00:88::"].map(String::from);
    if pods.is_empty() { Things::new() } else { subnets.into() }
}

fn names(dir: &Path) -> Things {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn record(pod: &Pod) -> String {
    format!("{}@eth0", pod.id())
}

/// Each with whose it is.
fn leases(dir: &Path) -> Things {
    let target = |name: &String| fs::read_link(dir.join(name)).unwrap_or_default();
    names(dir).iter().map(|name| format!("{name} -> {}", target(name).display())).collect()
}

fn leases_of(pod: &Pod) -> Vec<String> {
    pod.ips().iter().map(|ip| format!("{ip} -> ../../attachments/{}", record(pod))).collect()
}

/// The addresses in the pods. A set: what two have is missing at one of them, by its name.
fn addresses(pods: &[&Pod]) -> Things {
    let mut seen = Things::new();
    let mut given = Things::new();
    for pod in pods {
        let inside = list(pod.container.space.ip("address show dev eth0 scope global"));
        let infos = inside.iter().flat_map(|link| link["addr_info"].as_array().unwrap());
        // `ip` prints an empty object for an address that is not of the scope.
        for address in infos.map(|info| word(info, "local")).filter(|text| !text.is_empty()) {
            assert!(given.insert(address.to_owned()), "{address} was given twice");
            seen.insert(format!("{address} of {}", pod.id()));
        }
    }
    seen
}

fn addresses_of(pod: &Pod) -> Vec<String> {
    pod.ips().iter().map(|ip| format!("{ip} of {}", pod.id())).collect()
}
