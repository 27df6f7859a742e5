//! What an ADD would make of a plugin's configuration, told without doing any of it: for the one who
//! judges a node.

use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::{
    add,
    args::Args,
    config::Config,
    counting::Counting,
    keys,
    wanted::{Ipam, Wanted},
};
use crate::{
    attachment::Attachment,
    error::Result,
    ipam::range::{self, RangeSet},
    net::{self, Plan},
    spec::Address,
};

/// A link's MTU where only the form of the rest is in question.
const ANY_MTU: u32 = 1500;

/// A configuration that an ADD would accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The network's name.
    pub network: String,
    /// `stateDir`.
    pub state_dir: PathBuf,
    /// `bpfDir`.
    pub bpf_dir: PathBuf,
    /// Whether pods are to be counted at all.
    pub counted: bool,
    /// Whether a pod that can't be counted must not start.
    pub required: bool,
    /// Keys that do nothing, each with the one that was likely meant.
    pub unknown: Vec<String>,
    /// What the embedded allocator gives addresses from; empty where another plugin gives them.
    pub subnets: Vec<IpNetwork>,
}

/// Checks the configuration as an ADD checks it, up to the first thing that it would ask of the
/// kernel. Behind another plugin, an ADD has no use for `ipam`.
///
/// # Errors
/// Those of such an ADD.
pub fn preview(json: Value, behind_another: bool) -> Result<Preview> {
    let unknown = keys::unknown(&json).iter().map(ToString::to_string).collect();
    let config = Config::parse(json)?;
    let counting = Counting::parse(&config)?;
    config.conf_dir()?;
    let subnets = if behind_another { Vec::new() } else { plumbing(&config)? };
    Ok(Preview {
        network: config.name,
        state_dir: config.state_dir,
        bpf_dir: config.bpf_dir,
        counted: counting.enabled,
        required: counting.enabled && counting.required,
        unknown,
        subnets,
    })
}

/// Plans the first pod of the network.
fn plumbing(config: &Config) -> Result<Vec<IpNetwork>> {
    let wanted = Wanted::parse(config, &Args::default())?;
    add::dns(&wanted)?;
    let Ipam::Pool { sets, routes, .. } = &wanted.ipam else { return Ok(Vec::new()) };
    let first = |set: &RangeSet| set.round(None).next();
    let addresses: Vec<Address> = sets.iter().filter_map(first).collect();
    Plan::new(&net::Request {
        network: &config.name,
        attachment: &Attachment::new("preview", "eth0")?,
        mtu: wanted.mtu.unwrap_or(ANY_MTU),
        mac: wanted.mac,
        addresses: &addresses,
        routes,
        ports: &wanted.ports,
        bandwidth: wanted.bandwidth,
    })?;
    Ok(range::subnets(sets))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(keys: Value, behind_another: bool) -> Result<Preview> {
        let mut json = json!({"cniVersion": "1.0.0", "name": "n", "type": "weir"});
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        preview(json, behind_another)
    }

    #[test]
    fn what_an_add_refuses_is_refused() {
        let v6 = json!([[{"subnet": "fd00::/64"}]]);
        for (keys, named) in [
            (json!({"ipam": {"subnet": "10.88.0.0/33"}}), "10.88.0.0/33"),
            (json!({"name": "../x"}), "../x"),
            (json!({"telemetry": {"attach": "xdp"}}), "xdp"),
            (json!({"stateDir": "run"}), "stateDir"),
            (json!({"ipam": {"ranges": v6}, "mtu": 1279}), "1279"),
            (json!({"ipam": {"ranges": v6, "routes": [{"dst": "0.0.0.0/0"}]}}), "0.0.0.0/0"),
            (json!({"ipam": {"ranges": v6, "resolvConf": "/no/such"}}), "/no/such"),
        ] {
            let err = seen(keys, false).unwrap_err().to_string();
            assert!(err.contains(named), "{err}");
        }
        assert!(seen(json!({}), false).is_err() && seen(json!({}), true).is_ok());
    }

    #[test]
    fn what_it_says_of_the_node_is_told() {
        let keys = json!({
            "ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.0.0.0/24"}]]},
            "bpfDir": "/sys/fs/bpf/other", "telemetry": {"required": true},
        });
        let preview = seen(keys, false).unwrap();
        let subnets: Vec<_> = preview.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.0.0.0/24", "10.1.0.0/24"]);
        assert!(preview.counted && preview.required);
        assert_eq!(preview.bpf_dir, PathBuf::from("/sys/fs/bpf/other"));
        let off = seen(json!({"telemetry": {"enabled": false, "required": true}}), true).unwrap();
        assert!(!off.counted && !off.required && off.subnets.is_empty());
    }
}
