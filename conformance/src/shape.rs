//! The shape that an ADD's result has in each version of the specification.

use serde_json::Value;

use crate::{Result, protocol::Asked, version::at_least};

/// A field of a part of a result.
struct Field {
    name: &'static str,
    /// Whether it must be there.
    required: bool,
    /// The first version that has it.
    since: &'static str,
    /// The first version that hasn't any more.
    until: Option<&'static str>,
    form: fn(&Value) -> bool,
}

const fn field(
    name: &'static str,
    required: bool,
    since: &'static str,
    form: fn(&Value) -> bool,
) -> Field {
    Field { name, required, since, until: None, form }
}

const RESULT: [Field; 5] = [
    field("cniVersion", true, "0.3.0", Value::is_string),
    field("interfaces", true, "0.3.0", is_list),
    field("ips", false, "0.3.0", is_list),
    field("routes", false, "0.3.0", is_list),
    field("dns", false, "0.3.0", Value::is_object),
];

const INTERFACE: [Field; 6] = [
    field("name", true, "0.3.0", is_words),
    field("mac", false, "0.3.0", is_mac),
    field("sandbox", false, "0.3.0", Value::is_string),
    field("mtu", false, "1.1.0", Value::is_u64),
    field("socketPath", false, "1.1.0", Value::is_string),
    field("pciID", false, "1.1.0", Value::is_string),
];

const IP: [Field; 4] = [
    Field {
        name: "version",
        required: true,
        since: "0.3.0",
        until: Some("1.0.0"),
        form: is_family,
    },
    field("address", true, "0.3.0", is_cidr),
    field("gateway", false, "0.3.0", is_address),
    field("interface", false, "0.3.0", Value::is_u64),
];

const ROUTE: [Field; 7] = [
    field("dst", true, "0.3.0", is_cidr),
    field("gw", false, "0.3.0", is_address),
    field("mtu", false, "1.1.0", Value::is_u64),
    field("advmss", false, "1.1.0", Value::is_u64),
    field("priority", false, "1.1.0", Value::is_u64),
    field("table", false, "1.1.0", Value::is_u64),
    field("scope", false, "1.1.0", Value::is_u64),
];

const DNS: [Field; 4] = [
    field("nameservers", false, "0.3.0", is_list),
    field("domain", false, "0.3.0", Value::is_string),
    field("search", false, "0.3.0", is_list),
    field("options", false, "0.3.0", is_list),
];

/// Checks a result against the version that was asked for: required and allowed fields, their forms,
/// the interfaces' sandboxes, and that each address belongs to an interface that is listed.
///
/// # Errors
/// The first thing that is wrong.
pub fn of_result(result: &Value, asked: Asked<'_>) -> Result<()> {
    let version = asked.version;
    part("the result", result, &RESULT, version)?;
    if result["cniVersion"] != version {
        return Err(format!("cniVersion is {}, asked was {version:?}", result["cniVersion"]));
    }
    part("dns", &result["dns"], &DNS, version)?;
    for (list, fields) in [("interfaces", &INTERFACE[..]), ("ips", &IP[..]), ("routes", &ROUTE[..])]
    {
        for (at, entry) in elements(&result[list]).enumerate() {
            part(&format!("{list}[{at}]"), entry, fields, version)?;
        }
    }
    let at = container_interface(result, asked.ifname, asked.netns).ok_or_else(|| {
        let (name, sandbox) = (asked.ifname, asked.netns);
        format!(
            "interfaces has none with name {name:?} and sandbox {sandbox:?}, CNI_NETNS verbatim"
        )
    })?;
    for (number, ip) in elements(&result["ips"]).enumerate() {
        let family =
            if ip["address"].as_str().is_some_and(|ip| ip.contains(':')) { "6" } else { "4" };
        if !at_least(version, "1.0.0") && ip["version"] != family {
            return Err(format!("ips[{number}].version is {}: {ip}", ip["version"]));
        }
        if ip["interface"] != at {
            let index = &ip["interface"];
            return Err(format!("ips[{number}].interface is {index}, the container's is {at}"));
        }
    }
    Ok(())
}

/// The index of the container's interface.
pub fn container_interface(result: &Value, ifname: &str, netns: &str) -> Option<usize> {
    elements(&result["interfaces"])
        .position(|interface| interface["name"] == ifname && interface["sandbox"] == netns)
}

/// The index of the first interface of that name, whatever its sandbox.
pub fn interface(result: &Value, ifname: &str) -> Option<usize> {
    elements(&result["interfaces"]).position(|interface| interface["name"] == ifname)
}

/// The name of the host's end: the last interface outside of any sandbox, since a bridge comes first.
pub fn host_interface(result: &Value) -> Option<&str> {
    let outside = |interface: &&Value| interface["sandbox"].as_str().unwrap_or_default().is_empty();
    elements(&result["interfaces"]).rfind(outside)?["name"].as_str()
}

/// A list's elements; none if it is no list.
pub fn elements(list: &Value) -> std::slice::Iter<'_, Value> {
    list.as_array().map_or([].iter(), |list| list.iter())
}

fn part(name: &str, value: &Value, fields: &[Field], version: &str) -> Result<()> {
    for field in fields {
        let known = at_least(version, field.since)
            && field.until.is_none_or(|until| !at_least(version, until));
        let label = field.name;
        match &value[label] {
            Value::Null if known && field.required => {
                return Err(format!("{name} lacks {label}: {value}"));
            }
            Value::Null => {}
            _ if !known => return Err(format!("{name} has {label}, which {version} has not")),
            found if !(field.form)(found) => return Err(format!("{name}.{label} is {found}")),
            _ => {}
        }
    }
    Ok(())
}

fn is_list(value: &Value) -> bool {
    value.is_array()
}

fn is_words(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn is_family(value: &Value) -> bool {
    value == "4" || value == "6"
}

fn is_address(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok())
}

fn is_cidr(value: &Value) -> bool {
    let parts = value.as_str().and_then(|text| text.split_once('/'));
    parts.is_some_and(|(ip, bits)| {
        let most = if ip.contains(':') { 128 } else { 32 };
        ip.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    })
}

fn is_mac(value: &Value) -> bool {
    let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    value.as_str().is_some_and(|text| text.is_empty() || text.split(':').all(pair))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(version: &str, result: &Value) -> Result<()> {
        let asked = Asked { verb: "ADD", version, ifname: "eth0", netns: "/run/netns/a" };
        of_result(result, asked)
    }

    fn result(version: &str) -> Value {
        let mut result = json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "veth0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a"},
            ],
            "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {},
        });
        if !at_least(version, "1.0.0") {
            result["ips"][0]["version"] = json!("4");
        }
        result
    }

    #[test]
    fn each_versions_own_shape_passes_and_another_ones_does_not() {
        for version in crate::version::OF_CASES {
            shape(version, &result(version)).unwrap();
            let mut newer = result(version);
            newer["interfaces"][0]["mtu"] = json!(1500);
            assert_eq!(shape(version, &newer).is_ok(), version == "1.1.0", "{version}");
            let mut family = result(version);
            let old = family["ips"][0].as_object_mut().unwrap().remove("version").is_some();
            assert_eq!(shape(version, &family).is_err(), old, "{version}");
        }
        assert!(shape("1.1.0", &result("0.4.0")).unwrap_err().contains("ersion"));
    }

    #[test]
    fn what_a_runtime_would_stumble_over_is_named() {
        for (pointer, value, named) in [
            ("/ips/0/interface", json!(7), "ips[0].interface"),
            ("/ips/0/interface", json!(0), "ips[0].interface"),
            ("/ips/0/address", json!("10.0.0.2"), "ips[0].address"),
            ("/interfaces/1/name", json!("eth1"), "eth0"),
            ("/interfaces/1/sandbox", json!("/var/run/netns/a"), "sandbox"),
            ("/interfaces/0/mac", json!("x"), "mac"),
            ("/cniVersion", json!("0.4.0"), "cniVersion"),
            ("/dns", json!([]), "dns"),
        ] {
            let mut wrong = result("1.0.0");
            *wrong.pointer_mut(pointer).unwrap() = value;
            let why = shape("1.0.0", &wrong).unwrap_err();
            assert!(why.contains(named), "{pointer}: {why}");
        }
        assert_eq!(host_interface(&result("1.0.0")), Some("veth0"));
    }
}
