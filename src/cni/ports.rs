//! The capability `portMappings`: read, given to the pod, compared, taken away.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Call, field::Field, reclaim};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    net::{
        conntrack, link, names,
        nft::hostport::{self, Deletion, Refused},
    },
    record::{self, Entry, Plumbing},
    spec::capability::{PortMapping, Protocol},
};

/// The most mappings of one pod.
const MAX_PORTS: usize = 4096;
/// Any address of either family.
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
/// How many dead owners an ADD takes ports from before it gives up.
const MAX_DEAD: usize = 64;

/// Reads `runtimeConfig.portMappings`; none where there is no such key.
///
/// # Errors
/// [`Kind::Config`] naming key and value.
pub fn parse(runtime: Option<&Field<'_>>) -> Result<Vec<PortMapping>> {
    let Some(list) = runtime.and_then(|runtime| runtime.get_any_case("portMappings")) else {
        return Ok(Vec::new());
    };
    let fields = list.list()?;
    if fields.len() > MAX_PORTS {
        return Err(list.wrong(format!("must be {MAX_PORTS} mappings at most")));
    }
    // What a mapping is for, the port that it leads to, and which of the list it is. One without an address is
    // for any of both families, whether that is said by two mappings or by one.
    let mut ports = BTreeMap::new();
    for (at, field) in fields.iter().enumerate() {
        let port = mapping(field)?;
        let both = ANY.into_iter().filter(|_| port.host_ip.is_none());
        for host_ip in port.host_ip.into_iter().chain(both) {
            let key = (host_ip, port.protocol, port.host_port);
            let (leads, earlier) = *ports.entry(key).or_insert((port.container_port, at));
            if leads != port.container_port {
                let msg = format!("portMappings[{earlier}] leads the same port to {leads}");
                return Err(field.wrong(msg));
            }
        }
    }
    let mut mappings = Vec::new();
    for (&(host_ip, protocol, host_port), &(container_port, _)) in &ports {
        let leads_there = |any| {
            let there = ports.get(&(any, protocol, host_port));
            there.is_some_and(|&(leads, _)| leads == container_port)
        };
        let any = host_ip.is_unspecified() && ANY.into_iter().all(leads_there);
        // Of the two that are one, the first stands for both.
        if !any || host_ip.is_ipv4() {
            let host_ip = (!any).then_some(host_ip);
            mappings.push(PortMapping { host_port, container_port, protocol, host_ip });
        }
    }
    Ok(mappings)
}

fn mapping(field: &Field<'_>) -> Result<PortMapping> {
    let number = |key: &str| {
        let missing = || field.wrong(format!("has no {key}"));
        let port = field.get_any_case(key).ok_or_else(missing)?;
        let number = port.value().as_u64().and_then(|port| u16::try_from(port).ok());
        number.filter(|&port| port > 0).ok_or_else(|| port.wrong("must be 1 to 65535"))
    };
    let protocol = match field.get_any_case("protocol") {
        Some(name) if !name.text()?.is_empty() => {
            Protocol::parse(name.text()?).ok_or_else(|| name.wrong("must be tcp, udp or sctp"))?
        }
        _ => Protocol::Tcp,
    };
    let host_ip = match field.get_any_case("hostIP") {
        Some(ip) if !ip.text()?.is_empty() => Some(ip.read(str::parse::<IpAddr>)?),
        _ => None,
    };
    Ok(PortMapping {
        host_port: number("hostPort")?,
        container_port: number("containerPort")?,
        protocol,
        host_ip: host_ip.map(|ip| ip.to_canonical()),
    })
}

/// Makes the ports lead to the pod, and flows that were going elsewhere with them. A port that a dead
/// attachment has is taken from it.
///
/// # Errors
/// [`Kind::Config`]: one of them is taken; the message names by whom. [`Kind::Kernel`].
pub fn expose(call: &Call, attachment: &Attachment, plumbing: &Plumbing) -> Result<()> {
    let (ports, addresses) = (&plumbing.ports, &plumbing.addresses);
    if ports.is_empty() {
        return Ok(());
    }
    for _ in 0..MAX_DEAD {
        match hostport::expose(attachment, ports, addresses) {
            Ok(()) => {
                told(conntrack::forget_others(ports, addresses));
                return Ok(());
            }
            Err(Refused::Failed(err)) => return Err(err),
            Err(Refused::Taken { port, owner: Some(owner) }) if bury(call, attachment, &owner)? => {
                eprintln!("weir: took {port} from {owner}, which is dead");
            }
            Err(Refused::Taken { port, owner }) => return Err(taken(&port, owner.as_ref())),
        }
    }
    let msg = "host ports of too many dead attachments are in the way: run weir reconcile";
    Err(Error::new(Kind::Kernel, msg))
}

fn taken(port: &str, owner: Option<&Attachment>) -> Error {
    let who = owner.map_or("somebody else".into(), Attachment::to_string);
    let msg = format!("runtimeConfig.portMappings: {port} is taken by {who}");
    Error::new(Kind::Config, msg)
}

/// Takes away an owner of ports that is dead; says whether it was. One without a record is, unless its
/// link is there: its record may be in another state directory.
fn bury(call: &Call, attachment: &Attachment, owner: &Attachment) -> Result<bool> {
    if owner == attachment {
        // Left by an earlier ADD of the same ids, whose record is gone.
        return hostport::evict(owner).map(|_| true);
    }
    match record::find(&call.config.state_dir, owner)? {
        Entry::Record(_) => reclaim::end_dead(call, owner),
        Entry::Absent
            if link::by_name(&mut link::socket()?, &names::host_ifname(owner))?.is_none() =>
        {
            hostport::evict(owner).map(|_| true)
        }
        _ => Ok(false),
    }
}

/// Makes those of the ports lead to the pod again that don't any more.
///
/// # Errors
/// [`Kind::Config`]: another has one of them by now; the message names both. The others lead to the pod
/// again. [`Kind::Kernel`].
pub fn mend(attachment: &Attachment, plumbing: &Plumbing) -> Result<()> {
    let (ports, addresses) = (&plumbing.ports, &plumbing.addresses);
    let mended = hostport::mend(attachment, ports, addresses);
    told(conntrack::forget_others(ports, addresses));
    mended.map_err(|refused| match refused {
        Refused::Failed(err) => err,
        Refused::Taken { port, owner } => {
            let who = owner.map_or("somebody else".into(), |owner| owner.to_string());
            let msg = format!(
                "{port} of {attachment} was given to {who} while it led nowhere: one of the two has to end"
            );
            Error::new(Kind::Config, msg)
        }
    })
}

/// Compares the kernel with what [`expose`] leaves.
///
/// # Errors
/// [`Kind::Difference`], [`Kind::Kernel`].
pub fn check(attachment: &Attachment, plumbing: &Plumbing) -> Result<()> {
    if plumbing.ports.is_empty() {
        return Ok(());
    }
    hostport::check(attachment, &plumbing.ports, &plumbing.addresses)
}

/// Takes the ports away again, and the flows that go through them. A pod without ports pays nothing.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn withdraw(attachment: &Attachment, plumbing: &Plumbing) -> Result<Option<Deletion>> {
    let (ports, addresses) = (&plumbing.ports, &plumbing.addresses);
    if ports.is_empty() || addresses.is_empty() {
        return Ok(None);
    }
    let mut deletion = hostport::withdraw(attachment, ports, addresses)?;
    told(conntrack::forget_mapped(&mut deletion.0, ports, addresses));
    Ok(Some(deletion))
}

/// A flow that goes astray for half a minute is no reason to keep a pod from starting or ending.
fn told(forgotten: Result<()>) {
    if let Err(err) = forgotten {
        eprintln!("weir: UDP flows to a host port may go where they went before: {err}");
    }
}

/// Takes away whatever ports an attachment has whose record doesn't say which, and says whether there
/// were any; the flows stay.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn evict(attachment: &Attachment) -> Result<bool> {
    hostport::evict(attachment)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(list: Value) -> Result<Vec<String>> {
        let runtime = json!({"portMappings": list});
        let ports = parse(Some(&Field::root(&runtime)))?.into_iter();
        Ok(ports.map(|port| format!("{port} to {}", port.container_port)).collect())
    }

    #[test]
    fn both_dialects_say_the_same() {
        let containerd =
            json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
        let crio =
            json!([{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": null}]);
        let bare = json!([{"hostPort": 8080, "containerPort": 80}]);
        for list in [containerd, crio, bare] {
            assert_eq!(shown(list).unwrap(), ["8080/tcp to 80"]);
        }
        let address = json!([{"HostPort": 53, "ContainerPort": 5353, "Protocol": "UDP", "HostIP": "::ffff:192.0.2.1"}]);
        assert_eq!(shown(address).unwrap(), ["53/udp of 192.0.2.1 to 5353"]);
        assert!(shown(json!(null)).unwrap().is_empty());
        assert!(parse(None).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_mapping_is_named() {
        let good = json!({"hostPort": 1, "containerPort": 1});
        for (key, value) in [
            ("hostPort", json!(0)),
            ("hostPort", json!(-1)),
            ("hostPort", json!(65536)),
            ("hostPort", json!("80")),
            ("hostPort", json!(null)),
            ("containerPort", json!(0)),
            ("containerPort", json!(1.5)),
            ("protocol", json!("icmp")),
            ("protocol", json!(6)),
            ("hostIP", json!("localhost")),
            ("hostIP", json!("10.0.0.0/8")),
        ] {
            let mut wrong = good.clone();
            wrong[key] = value.clone();
            let err = shown(json!([good, wrong])).unwrap_err();
            assert_eq!(err.kind(), Kind::Config);
            assert!(err.msg().contains(key) && err.msg().contains("portMappings[1]"), "{err}");
        }
        for wrong in [json!({}), json!("80"), json!([80]), json!([[]])] {
            assert_eq!(shown(wrong).unwrap_err().kind(), Kind::Config);
        }
    }

    #[test]
    fn the_same_port_twice_is_one_or_refused() {
        let one = |container: u16| json!({"hostPort": 80, "containerPort": container});
        assert_eq!(shown(json!([one(80), one(80)])).unwrap().len(), 1);
        let of = |ip: &str, port: u16| json!({"hostPort": 80, "containerPort": port, "hostIP": ip});
        let apart = json!([of("192.0.2.1", 81), of("::", 81), of("0.0.0.0", 80)]);
        assert_eq!(
            shown(apart).unwrap(),
            ["80/tcp to 80", "80/tcp of 192.0.2.1 to 81", "80/tcp to 81"]
        );
        for all in
            [json!([one(80), of("0.0.0.0", 80), of("::", 80)]), json!([of("::", 80), one(80)])]
        {
            assert_eq!(shown(all).unwrap(), ["80/tcp to 80"]);
        }
        for other in ["", "0.0.0.0", "::"] {
            let err = shown(json!([one(80), of(other, 81)])).unwrap_err();
            let (first, second) = ("portMappings[0] leads", "portMappings[1] is");
            assert!(err.msg().contains(first) && err.msg().contains(second), "{err}");
        }
        let many: Vec<_> = (0..=MAX_PORTS).map(|_| one(1)).collect();
        assert!(shown(json!(many)).unwrap_err().msg().contains("4096"));
    }
}
