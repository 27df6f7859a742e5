//! What the configuration wants of an ADD: checked key by key before anything is done.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::json;

use super::{
    args::{self, Args},
    bandwidth,
    behind::Behind,
    config::Config,
    field::Field,
    ports,
};
use crate::{
    error::{Error, Kind, Result},
    ipam::range::{self, Range, RangeSet},
    net::{Mac, plan::MTU_RULE},
    spec::{
        self, Dns, Route,
        capability::{Bandwidth, PortMapping},
    },
};

/// A pod's network as the configuration wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// MTU in bytes; none takes the default route's.
    pub mtu: Option<u32>,
    /// Whether what leaves the network goes under the node's address.
    pub masquerade: bool,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// Name resolution that replaces what the IPAM says.
    pub dns: Option<Dns>,
    /// The pod side's MAC, if one was asked for.
    pub mac: Option<Mac>,
    /// The addresses that were asked for.
    pub requested: Vec<IpAddr>,
    /// The node's ports that are to lead to the pod.
    pub ports: Vec<PortMapping>,
    /// What the pod's traffic is to be limited to.
    pub bandwidth: Bandwidth,
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Ipam {
    /// The embedded allocator.
    Pool {
        /// One address of each is given.
        sets: Vec<RangeSet>,
        /// The pod's routes.
        routes: Vec<Route>,
        /// A file to take name resolution from.
        resolv_conf: Option<String>,
        /// What STATUS says where no address is left.
        when_full: WhenFull,
    },
    /// The plugin of that name.
    Delegate(String),
}

/// What STATUS says of a range that is full (`ipam.statusWhenFull`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// That no ADD can be served, as the spec has it. containerd then says that the network isn't ready, and
    /// Kubernetes that the node isn't.
    #[default]
    Unavailable,
    /// Nothing but a note: the pods that are there have all they need, and the ADD that is too many says so.
    Ready,
}

impl Wanted {
    /// Checks all keys that an ADD acts on.
    ///
    /// # Errors
    /// [`Kind::Config`], or [`Kind::Environment`], naming key and value.
    pub fn parse(config: &Config, args: &Args) -> Result<Self> {
        let root = config.root();
        let runtime = root.get("runtimeConfig").map(Field::object).transpose()?;
        let by_hand = root.get("args").and_then(|args| args.get("cni"));
        let ports = ports::parse(runtime.as_ref())?;
        let bandwidth = bandwidth::parse(runtime.as_ref())?;
        // CONVENTIONS.md: what the runtime was told beats what the user's args say, beats CNI_ARGS.
        // Go writes an empty text or list for what was not said.
        let said = |field: &Field<'_>| *field.value() != json!("") && *field.value() != json!([]);
        let asked = |key: &str| {
            let of_runtime = runtime.as_ref().and_then(|runtime| runtime.get_any_case(key));
            of_runtime.filter(said).or_else(|| by_hand.as_ref()?.get_any_case(key).filter(said))
        };
        let mac = match asked("mac") {
            Some(mac) => Some(mac.read(str::parse)?),
            None => args.mac()?,
        };
        let requested = match asked("ips") {
            Some(ips) => ips.list()?.iter().map(requested).collect::<Result<_>>()?,
            None => args.ip()?.into_iter().collect(),
        };
        Ok(Self {
            mtu: mtu(&root)?,
            masquerade: root.get("ipMasq").map_or(Ok(false), |flag| flag.flag())?,
            ipam: ipam(&root, runtime.as_ref())?,
            dns: match runtime.as_ref().map(runtime_dns).transpose()?.flatten() {
                None => dns(&root)?,
                said => said,
            },
            mac,
            requested,
            ports,
            bandwidth,
        })
    }
}

impl Wanted {
    /// The same without what a plugin behind us does, and with what one sets.
    pub fn beside(mut self, behind: &Behind) -> Self {
        self.mac = behind.tuning.mac.or(self.mac);
        if behind.shapes {
            self.bandwidth = Bandwidth::default();
        }
        self
    }
}

/// The type of the IPAM plugin to call, if it is not the embedded allocator.
///
/// # Errors
/// [`Kind::Config`]: it is no file name.
pub fn delegate(root: &Field<'_>) -> Result<Option<String>> {
    let Some(kind) = root.get("ipam").and_then(|ipam| ipam.get("type")) else {
        return Ok(None);
    };
    let name = kind.text()?;
    let plain =
        !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
    if !plain {
        return Err(kind.wrong("must be the name of a plugin"));
    }
    Ok((name != "weir").then(|| name.to_owned()))
}

fn mtu(root: &Field<'_>) -> Result<Option<u32>> {
    let Some(field) = root.get("mtu") else { return Ok(None) };
    let number = field.value().as_u64().and_then(|number| u32::try_from(number).ok());
    match number {
        Some(0) => Ok(None),
        Some(mtu @ 68..=65_535) => Ok(Some(mtu)),
        _ => Err(field.wrong(MTU_RULE)),
    }
}

fn requested(field: &Field<'_>) -> Result<IpAddr> {
    field.read(|text| args::address(text).ok_or("must be an address"))
}

/// What the runtime says with the capability `dns` (CONVENTIONS.md), or nothing.
fn runtime_dns(runtime: &Field<'_>) -> Result<Option<Dns>> {
    let Some(field) = runtime.get_any_case("dns") else { return Ok(None) };
    let field = field.object()?;
    let list = |key: &str| -> Result<Vec<String>> {
        let Some(field) = field.get_any_case(key) else { return Ok(Vec::new()) };
        field.list()?.iter().map(|text| text.text().map(str::to_owned)).collect()
    };
    let (nameservers, search, options) = (list("servers")?, list("searches")?, list("options")?);
    // Go writes all three for a pod of which nothing was said.
    let said = !(nameservers.is_empty() && search.is_empty() && options.is_empty());
    Ok(said.then(|| Dns { nameservers, search, options, domain: String::new() }))
}

fn dns(root: &Field<'_>) -> Result<Option<Dns>> {
    let Some(field) = root.get("dns") else { return Ok(None) };
    let dns: Dns = field.decode()?;
    // As in ptp: an empty list that was written out replaces what the IPAM says.
    let lists = ["nameservers", "search", "options"];
    let said = !dns.domain.is_empty() || lists.iter().any(|key| field.get(key).is_some());
    Ok(said.then_some(dns))
}

fn ipam(root: &Field<'_>, runtime: Option<&Field<'_>>) -> Result<Ipam> {
    let missing = || {
        let msg = "ipam.ranges is missing: which addresses to give? Only behind another plugin of the \
                   list, whose prevResult comes with the call, weir needs none";
        Error::new(Kind::Config, msg)
    };
    let ipam = root.get("ipam").ok_or_else(missing)?.object()?;
    if let Some(plugin) = delegate(root)? {
        return Ok(Ipam::Delegate(plugin));
    }
    // host-local's order: what the runtime adds, then the old style's one range, then the ranges.
    let mut sets = Vec::new();
    if let Some(ranges) = runtime.and_then(|runtime| runtime.get_any_case("ipRanges")) {
        sets.extend(range_sets(&ranges)?);
    }
    if ipam.get("subnet").is_some() {
        let range = range(&ipam)?;
        sets.push(RangeSet::new(vec![range])?);
    }
    if let Some(ranges) = ipam.get("ranges") {
        sets.extend(range_sets(&ranges)?);
    }
    if sets.is_empty() {
        return Err(missing());
    }
    range::check_disjoint(&sets).map_err(|err| ipam.wrong(err))?;
    let routes = match ipam.get("routes") {
        Some(routes) => routes.list()?.iter().map(Field::decode).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let resolv_conf = ipam.get("resolvConf").map(|file| file.text()).transpose()?;
    let resolv_conf = resolv_conf.filter(|file| !file.is_empty()).map(str::to_owned);
    let when_full = ipam.get("statusWhenFull");
    let when_full = when_full.map_or(Ok(WhenFull::default()), |field| field.decode())?;
    Ok(Ipam::Pool { sets, routes, resolv_conf, when_full })
}

fn range_sets(field: &Field<'_>) -> Result<Vec<RangeSet>> {
    let set = |field: &Field<'_>| {
        let ranges = field.list()?.iter().map(range).collect::<Result<_>>()?;
        RangeSet::new(ranges).map_err(|err| field.wrong(err))
    };
    field.list()?.iter().map(set).collect()
}

/// In any case: a runtime in Go sends its own field names where nobody gave it others.
fn range(field: &Field<'_>) -> Result<Range> {
    let missing = || field.wrong("has no subnet");
    let subnet = field.get_any_case("subnet").ok_or_else(missing)?.read(spec::cidr)?;
    let ip = |key: &str| match field.get_any_case(key) {
        // Go's net.IP reads an empty text as no address.
        Some(ip) if !ip.text()?.is_empty() => ip.read(str::parse).map(Some),
        _ => Ok(None),
    };
    let (start, end, gateway) = (ip("rangeStart")?, ip("rangeEnd")?, ip("gateway")?);
    Range::new(subnet, start, end, gateway).map_err(|err| field.wrong(err))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn config(mut keys: Value) -> Config {
        keys["cniVersion"] = json!("1.1.0");
        keys["name"] = json!("n");
        Config::parse(keys).unwrap()
    }

    fn wanted(keys: Value) -> Result<Wanted> {
        Wanted::parse(&config(keys), &Args::default())
    }

    fn refusal(keys: Value) -> String {
        let err = wanted(keys).unwrap_err();
        assert_eq!(err.kind(), Kind::Config, "{err}");
        err.msg().to_owned()
    }

    fn ranges() -> Value {
        json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]])
    }

    fn sets(wanted: &Wanted) -> Vec<String> {
        let Ipam::Pool { sets, .. } = &wanted.ipam else { panic!("delegated") };
        sets.iter().map(|set| set.ranges()[0].subnet().to_string()).collect()
    }

    #[test]
    fn a_wrong_value_is_refused_naming_key_and_value() {
        for (keys, named) in [
            (json!({}), "ipam.ranges is missing"),
            (
                json!({"ipam": {"ranges": ranges(), "statusWhenFull": "never"}}),
                "ipam.statusWhenFull is \"never\": unknown variant `never`, expected `unavailable` or `ready`",
            ),
            (json!({"ipam": {}}), "ipam.ranges is missing"),
            (json!({"ipam": 7}), "ipam is 7"),
            (json!({"ipam": {"type": "../x"}}), "ipam.type is \"../x\""),
            (json!({"ipam": {"type": ""}}), "ipam.type is \"\""),
            (json!({"ipam": {"ranges": {}}}), "ipam.ranges is {}"),
            (json!({"ipam": {"ranges": [[]]}}), "ipam.ranges[0] is []"),
            (json!({"ipam": {"ranges": [[{}]]}}), "ipam.ranges[0][0] is {}"),
            (json!({"ipam": {"subnet": "10.0.0.1/24"}}), "host bits"),
            (json!({"ipam": {"subnet": "10.0.0.0/33"}}), "ipam.subnet is \"10.0.0.0/33\""),
            (json!({"ipam": {"subnet": "10.0.0.0/24", "gateway": "x"}}), "ipam.gateway is \"x\""),
            (json!({"ipam": {"subnet": "10.0.0.0/8", "ranges": ranges()}}), "overlaps"),
            (json!({"ipam": {"ranges": ranges(), "routes": [{"dst": "x"}]}}), "ipam.routes[0]"),
            (json!({"mtu": -1}), "mtu is -1"),
            (json!({"mtu": 67}), "mtu is 67: must be 0, or 68"),
            (json!({"mtu": 65536}), "mtu is 65536"),
            (json!({"mtu": "1500"}), "mtu is \"1500\""),
            (json!({"ipMasq": "yes", "ipam": {"ranges": ranges()}}), "ipMasq is \"yes\""),
            (json!({"runtimeConfig": []}), "runtimeConfig is []"),
            (json!({"runtimeConfig": {"MAC": "x"}}), "runtimeConfig.mac is \"x\""),
            (json!({"runtimeConfig": {"ips": ["x"]}}), "runtimeConfig.ips[0] is \"x\""),
            (
                json!({"runtimeConfig": {"PortMappings": [{"HostPort": 80}]}}),
                "portMappings[0] is {",
            ),
            (
                json!({"runtimeConfig": {"bandwidth": {"IngressRate": 1}}}),
                "bandwidth.ingressRate is 1",
            ),
            (json!({"dns": {"search": "x"}, "ipam": {"ranges": ranges()}}), "dns is"),
        ] {
            let msg = refusal(keys.clone());
            assert!(msg.contains(named), "{keys}: {msg}");
        }
    }

    #[test]
    fn ranges_of_runtime_flat_and_listed_come_in_host_locals_order() {
        let all = wanted(json!({
            "ipam": {"subnet": "10.1.0.0/24", "gateway": "", "ranges": ranges()},
            "runtimeConfig": {"IPRanges": [[{"Subnet": "10.2.0.0/24"}]], "portMappings": []},
        }));
        assert_eq!(sets(&all.unwrap()), ["10.2.0.0/24", "10.1.0.0/24", "10.0.0.0/24", "fd00::/64"]);
    }

    #[test]
    fn the_runtime_beats_args_and_args_beat_the_environment() {
        let environment = Args::parse("IP=10.0.0.3;MAC=02:00:00:00:00:03");
        let mut keys = json!({"ipam": {"ranges": ranges()}});
        let mut found = Vec::new();
        let args = json!({"cni": {"ips": ["10.0.0.2/24"], "mac": "02:00:00:00:00:02"}});
        let runtime = json!({"IPS": ["10.0.0.1"], "Mac": "02:00:00:00:00:01"});
        for (key, value) in [("unknown", json!(7)), ("args", args), ("runtimeConfig", runtime)] {
            keys[key] = value;
            let wanted = Wanted::parse(&config(keys.clone()), &environment).unwrap();
            found.push(format!("{} {}", wanted.requested[0], wanted.mac.unwrap()));
        }
        assert_eq!(
            found,
            [
                "10.0.0.3 02:00:00:00:00:03",
                "10.0.0.2 02:00:00:00:00:02",
                "10.0.0.1 02:00:00:00:00:01"
            ]
        );
    }

    #[test]
    fn what_is_empty_was_not_said() {
        let environment = Args::parse("IP=10.0.0.3;MAC=02:00:00:00:00:03");
        let nothing = json!({"IPS": [], "Mac": ""});
        let ipam = json!({"ranges": ranges()});
        let keys = json!({"ipam": ipam, "args": {"cni": nothing}, "runtimeConfig": nothing});
        let wanted = Wanted::parse(&config(keys), &environment).unwrap();
        assert_eq!(
            (wanted.requested, wanted.mac),
            (vec![environment.ip().unwrap().unwrap()], environment.mac().unwrap())
        );
    }

    #[test]
    fn what_another_source_overrides_is_not_judged() {
        let environment = Args::parse("IP=junk;MAC=junk");
        let mut keys = json!({"ipam": {"ranges": ranges()}});
        assert_eq!(
            Wanted::parse(&config(keys.clone()), &environment).unwrap_err().kind(),
            Kind::Environment
        );
        keys["runtimeConfig"] = json!({"ips": ["10.0.0.1"], "mac": "02:00:00:00:00:01"});
        assert!(Wanted::parse(&config(keys), &environment).is_ok());
    }

    #[test]
    fn the_runtimes_dns_beats_the_configurations_in_both_dialects() {
        let said = |runtime: Value| {
            let dns = json!({"nameservers": ["192.0.2.1"], "domain": "a.example"});
            let keys = json!({"dns": dns, "ipam": {"ranges": ranges()}, "runtimeConfig": runtime});
            wanted(keys).map(|wanted| wanted.dns.unwrap())
        };
        let pascal = json!({"Servers": ["192.0.2.9"], "Searches": ["b"], "Options": ["ndots:2"]});
        let camel = json!({"servers": ["192.0.2.9"], "searches": ["b"], "options": ["ndots:2"]});
        for dns in [pascal, camel] {
            let dns = said(json!({"dns": dns})).unwrap();
            assert_eq!(
                (&*dns.nameservers, &*dns.search),
                (&["192.0.2.9".into()][..], &["b".into()][..])
            );
            assert_eq!((&*dns.options, &*dns.domain), (&["ndots:2".into()][..], ""));
        }
        for nothing in [json!(null), json!({}), json!({"Servers": null, "Searches": []})] {
            assert_eq!(said(json!({"dns": nothing})).unwrap().nameservers, ["192.0.2.1"]);
        }
        for wrong in
            [json!({"dns": 1}), json!({"dns": {"servers": "x"}}), json!({"dns": {"servers": [1]}})]
        {
            assert_eq!(said(wrong).unwrap_err().kind(), Kind::Config);
        }
    }

    #[test]
    fn dns_replaces_only_where_something_is_said() {
        let dns = |dns: Value| {
            wanted(json!({"dns": dns, "ipam": {"ranges": ranges()}})).unwrap().dns.is_some()
        };
        assert!(
            !dns(json!(null)) && !dns(json!({})) && !dns(json!({"search": null, "domain": ""}))
        );
        assert!(dns(json!({"nameservers": []})) && dns(json!({"domain": "a.example"})));
    }
}
