//! CHECK: compares the kernel, the leases and the hooks with the plan made from the record, and the
//! record with `prevResult`. Changes nothing, asks no daemon.

use std::{net::IpAddr, path::Path};

use ipnetwork::IpNetwork;

use super::{Call, chain, counting::Counting, field::Field, ports};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    ipam::{delegate::Delegate, pool::Pool},
    net::{self, Mac, Netns, Plan, nft},
    record::{self, Entry, Plumbing, Record},
    spec::{self, Route, Version},
    telemetry,
};

/// Compares the attachment with what its ADD made.
pub fn run(call: &Call, attachment: &Attachment, path: &Path) -> Result<()> {
    let config = &call.config;
    config.require(Version::V0_4_0, "CHECK")?;
    let counting = Counting::parse(config)?;
    let missing =
        || Error::new(Kind::Config, "prevResult is missing: CHECK needs the ADD's result");
    let prev_result = config.prev_result()?.ok_or_else(missing)?;
    let netns = Netns::open(path)?;

    let record = match record::find(&config.state_dir, attachment)? {
        Entry::Record(record) => *record,
        Entry::Absent => return difference(format!("{attachment} has no record: no ADD made it")),
        Entry::Unreadable(why) if why.kind() == Kind::Decode => {
            return difference(why.to_string());
        }
        // Whether anything differs can't be told.
        Entry::Unreadable(why) | Entry::OutOfReach(why) => return Err(why),
    };
    let id = netns.identity();
    if (record.netns.dev, record.netns.ino) != (id.dev, id.ino) {
        let was = record.netns.path.display();
        return difference(format!("{netns} is another namespace than {was} was at ADD"));
    }
    if counting.enabled && counting.required && record.telemetry.is_none() {
        return difference("telemetry is required, but the pod goes uncounted".into());
    }
    match &record.plumbing {
        Some(plumbing) => {
            plumbed(call, attachment, &netns, &prev_result, &record, plumbing)?;
            match (&record.telemetry, record.host_ifindex) {
                (Some(attached), Some(index)) => counting.verify(&record.bpf_dir, index, attached),
                _ => Ok(()),
            }
        }
        None => chain::check(attachment, &netns, &counting, &prev_result, &record),
    }
}

fn difference<T>(msg: String) -> Result<T> {
    Err(Error::new(Kind::Difference, msg))
}

fn plumbed(
    call: &Call,
    attachment: &Attachment,
    netns: &Netns,
    prev_result: &Field<'_>,
    record: &Record,
    plumbing: &Plumbing,
) -> Result<()> {
    consult(prev_result, attachment, record)?;
    let mac = plumbing.mac.as_deref().map(str::parse).transpose()?;
    let mut plan = Plan::new(&net::Request {
        network: &record.network,
        attachment,
        mtu: plumbing.mtu,
        mac,
        addresses: &plumbing.addresses,
        routes: &plumbing.routes,
        ports: &plumbing.ports,
        bandwidth: plumbing.bandwidth,
    })?;
    as_reported(prev_result, attachment, plumbing, &mut plan)?;
    net::compare(&plan, netns, record.host_ifindex)?;
    match &plumbing.delegate {
        Some(delegated) => {
            Delegate::find(&delegated.plugin, &call.request.path, &call.stdin)?.forward("CHECK")?;
        }
        None => {
            let pool = Pool { state_dir: &call.config.state_dir, network: &record.network };
            pool.check(attachment, record.addresses())?;
        }
    }
    if !plumbing.masquerade.is_empty() {
        nft::masquerade_check(&plumbing.masquerade)?;
    }
    ports::check(attachment, plumbing)?;
    if let (true, Some(index)) = (plumbing.guarded, record.host_ifindex) {
        match telemetry::limit::verify(&record.bpf_dir, index, &plumbing.bandwidth) {
            // The queues hold the pod all the same.
            Err(err) if err.kind() == Kind::TryAgain => {
                eprintln!("weir: whether the pod's limit is in force is not known: {err}");
            }
            verified => verified?,
        }
    }
    Ok(())
}

/// Takes over what the plugins behind us say that they have changed. A route that the chain's result lacks
/// was taken away by one of them, and isn't looked for. A MAC that isn't the pod's is a difference: who sets
/// one sets it in the kernel, too.
fn as_reported(
    prev_result: &Field<'_>,
    attachment: &Attachment,
    plumbing: &Plumbing,
    plan: &mut Plan,
) -> Result<()> {
    let mac = chain::mac(prev_result.value(), attachment.ifname())
        .and_then(|mac| mac.parse::<Mac>().ok());
    if let Some(mac) = mac.filter(|mac| *mac != plan.pod_mac) {
        let (ifname, is) = (attachment.ifname(), plan.pod_mac);
        return difference(format!("prevResult says that {ifname} has MAC {mac}, and it has {is}"));
    }
    let routes = prev_result.get("routes").map(|routes| routes.list()).transpose()?;
    let listed: Vec<IpNetwork> = routes
        .unwrap_or_default()
        .iter()
        .filter_map(|route| route.get("dst")?.read(spec::cidr).ok())
        .collect();
    let is_gone = |route: &Route| {
        plumbing.routes.iter().any(|ours| ours.dst == route.dst) && !listed.contains(&route.dst)
    };
    plan.pod_routes.retain(|route| !is_gone(route));
    Ok(())
}

/// Checks that the chain's result still has what our ADD reported; plugins behind us add to it.
pub fn consult(prev_result: &Field<'_>, attachment: &Attachment, record: &Record) -> Result<()> {
    let ifname = attachment.ifname();
    if !chain::is_listed(prev_result.value(), ifname) {
        return difference(format!("prevResult lists no interface {ifname} in the container"));
    }
    let ips = prev_result.get("ips").map(|ips| ips.list()).transpose()?.unwrap_or_default();
    let listed: Vec<IpAddr> = ips
        .iter()
        .filter_map(|entry| Some(entry.get("address")?.read(spec::cidr).ok()?.ip()))
        .collect();
    match record.addresses().find(|ip| !listed.contains(ip)) {
        Some(ip) => difference(format!("prevResult lacks address {ip}")),
        None => Ok(()),
    }
}
