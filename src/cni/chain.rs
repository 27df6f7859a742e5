//! Behind another plugin: its interface is counted, nothing else is touched.

use std::{net::IpAddr, path::Path};

use serde_json::Value;

use super::{
    Call, add, bandwidth, config::Config, counting::Counting, field::Field, ports, reclaim, reply,
    teardown,
};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    net::{self, Netns, link::Link},
    record::{Begun, PodName, Record},
    spec,
};

/// The `prevResult` of a chained call, which is one that lists interfaces; `None` if weir is first.
///
/// # Errors
/// [`Kind::Config`]: there is one, but without an interface, so that it could only be dropped.
pub fn interfaces_before(config: &Config) -> Result<Option<Field<'_>>> {
    let Some(prev_result) = config.prev_result()? else { return Ok(None) };
    let interfaces = prev_result.get("interfaces").map(|list| list.list()).transpose()?;
    if interfaces.is_some_and(|list| !list.is_empty()) {
        return Ok(Some(prev_result));
    }
    let why = "lists no interface: weir must be first, or behind a plugin that makes one";
    Err(prev_result.wrong(why))
}

/// Whether the call of an end is that of a chained attachment, as far as it tells: its `prevResult` lists
/// interfaces without the one of that name on the node, which an ADD that is first makes; or there is no IPAM,
/// which such an ADD needs. What can't be read tells nothing.
pub fn is_behind_another(config: &Config, host_ifname: &str) -> bool {
    let has_ipam =
        config.json.get("ipam").and_then(Value::as_object).is_some_and(|ipam| !ipam.is_empty());
    let Ok(Some(result)) = interfaces_before(config) else { return !has_ipam };
    let listed = result.value().get("interfaces").and_then(Value::as_array);
    let is_ours =
        |interface: &Value| interface.get("name").and_then(Value::as_str) == Some(host_ifname);
    !listed.is_some_and(|listed| listed.iter().any(is_ours))
}

/// Counts the container's interface from its host side, and passes the result on.
pub fn add(
    call: &Call,
    attachment: &Attachment,
    path: &Path,
    counting: &Counting,
    pod: PodName,
    prev_result: Field<'_>,
) -> Result<()> {
    require_interface(&prev_result, attachment)?;
    tell_what_is_left(&call.config)?;
    let netns = Netns::open(path)?;
    let mut record = add::begin_record(&call.config, attachment, &netns, pod)?;
    let host = if counting.enabled {
        counting.tolerate(host_side(&netns, attachment.ifname()))?
    } else {
        None
    };
    if let Some(host) = &host {
        record.host_ifname.clone_from(&host.name);
        record.host_ifindex = Some(host.index);
        record.telemetry = counting.intend();
    }
    record.others_addresses = addresses(prev_result.value(), attachment.ifname());
    let mut begun = reclaim::begin(call, attachment, &record)?;
    let done = count(call, attachment, counting, &mut record, &mut begun).and_then(|()| {
        reply::write(&reply::passed_on(call.config.version, prev_result.value().clone()))
    });
    done.inspect_err(|_| {
        if let Err(err) = teardown::recorded(call, attachment, &record) {
            eprintln!("weir: rolling back: {err}; the record stays for DEL to finish");
        }
    })
}

/// Says what the runtime asked of us that is for a plugin that makes networks, or for one of its own.
fn tell_what_is_left(config: &Config) -> Result<()> {
    let runtime = config.root().get("runtimeConfig");
    for (asked, capability) in [
        (!ports::parse(runtime.as_ref())?.is_empty(), "portMappings"),
        (bandwidth::parse(runtime.as_ref())?.is_limited(), "bandwidth"),
    ] {
        if asked {
            eprintln!("weir: behind another plugin {capability} is left to the others");
        }
    }
    Ok(())
}

fn count(
    call: &Call,
    attachment: &Attachment,
    counting: &Counting,
    record: &mut Record,
    begun: &mut Begun,
) -> Result<()> {
    if let Some(index) = record.host_ifindex {
        let (pod, intent) = (record.pod.clone(), record.telemetry);
        record.telemetry =
            counting.attach(&call.config, attachment, &pod, index, intent, |attached| {
                record.telemetry = Some(attached);
                begun.update(record)
            })?;
    }
    record.under_way = false;
    begun.update(record)
}

/// Compares the hooks with what ADD left; the network is another plugin's to check.
pub fn check(
    attachment: &Attachment,
    netns: &Netns,
    counting: &Counting,
    prev_result: &Field<'_>,
    record: &Record,
) -> Result<()> {
    require_interface(prev_result, attachment)
        .map_err(|err| Error::new(Kind::Difference, err.msg()))?;
    let (Some(attached), Some(index)) = (&record.telemetry, record.host_ifindex) else {
        return Ok(());
    };
    let gone = |err: Error| Error::new(Kind::Difference, err.to_string());
    let host = host_side(netns, attachment.ifname()).map_err(gone)?;
    if host.index != index {
        let msg = format!(
            "the host side of {} is {} (number {}) instead of {} (number {index})",
            attachment.ifname(),
            host.name,
            host.index,
            record.host_ifname
        );
        return Err(Error::new(Kind::Difference, msg));
    }
    counting.verify(&record.bpf_dir, index, attached)
}

/// Checks that the result lists the container's interface.
fn require_interface(prev_result: &Field<'_>, attachment: &Attachment) -> Result<()> {
    if is_listed(prev_result.value(), attachment.ifname()) {
        return Ok(());
    }
    let why = format!("lists no interface {} in the container", attachment.ifname());
    Err(prev_result.wrong(why))
}

/// Whether a result has an interface of that name inside a container.
pub fn is_listed(result: &Value, ifname: &str) -> bool {
    interface(result, ifname).is_some()
}

/// The MAC that a result says of the container's interface.
pub fn mac<'a>(result: &'a Value, ifname: &str) -> Option<&'a str> {
    result.get("interfaces")?.get(interface(result, ifname)?)?.get("mac")?.as_str()
}

/// The position of the container's interface among those of a result.
fn interface(result: &Value, ifname: &str) -> Option<usize> {
    let text = |interface: &Value, key: &str| {
        interface.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    result.get("interfaces")?.as_array()?.iter().position(|interface| {
        text(interface, "name") == ifname && !text(interface, "sandbox").is_empty()
    })
}

/// The addresses of the container's interface by the result of another plugin, as far as they can be
/// read: they are shown to people, nothing depends on them. One that names no interface is taken for
/// one of this.
pub fn addresses(result: &Value, ifname: &str) -> Vec<IpAddr> {
    let Some(at) = interface(result, ifname) else { return Vec::new() };
    let ips = result.get("ips").and_then(Value::as_array);
    let of_interface = |ip: &&Value| match ip.get("interface").and_then(Value::as_u64) {
        Some(number) => usize::try_from(number) == Ok(at),
        None => true,
    };
    let read = |ip: &Value| Some(spec::cidr(ip.get("address")?.as_str()?).ok()?.ip());
    ips.into_iter().flatten().filter(of_interface).filter_map(read).collect()
}

/// The host's end of the container's interface.
fn host_side(netns: &Netns, ifname: &str) -> Result<Link> {
    net::host_side(netns, ifname)?.ok_or_else(|| {
        let msg =
            format!("interface {ifname} in {netns} is no veth with its other end on the host");
        Error::new(Kind::Telemetry, msg)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_those_of_the_containers_interface() {
        let result = json!({
            "interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/x"}, {"name": "net1", "sandbox": "/x"}],
            "ips": [
                {"address": "10.7.0.2/24", "interface": 1}, {"address": "10.8.0.2/24", "interface": 2},
                {"address": "fd00::2/64"}, {"address": "x"}, {"interface": 1}, 7,
            ],
        });
        let of = |ifname: &str| {
            let found = addresses(&result, ifname);
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            [of("eth0"), of("net1"), of("lo")],
            ["10.7.0.2 fd00::2", "10.8.0.2 fd00::2", ""]
        );
        assert!(addresses(&json!({"ips": 7}), "eth0").is_empty());
    }
}
