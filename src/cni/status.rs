//! STATUS: could an ADD be served now? Cheap, and behind no lock: a runtime may ask every half second
//! and hold its own locks meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;

use super::{
    Call,
    args::Args,
    counting::Counting,
    reclaim, teardown,
    wanted::{Ipam, Wanted, WhenFull},
};
use crate::{
    error::{Error, Kind, Result},
    ipam::{
        delegate::Delegate,
        pool::Pool,
        range::{self, RangeSet},
    },
    net::{self, Claims, claim},
    record::{self, Entry},
    spec::Version,
    state, telemetry,
};

/// How long another IPAM plugin may hold the answer up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of how many pods the hooks are looked for: some milliseconds.
const ASKED_ABOUT: usize = 64;

/// Says why not, or nothing.
pub fn run(call: &Call) -> Result<()> {
    let config = &call.config;
    config.require(Version::V1_1_0, "STATUS")?;
    let counting = Counting::parse(config)?;
    config.conf_dir()?;
    // Behind another plugin weir leases nothing, and has no `ipam`.
    let wanted = match config.root().get("ipam") {
        Some(_) => Some(Wanted::parse(config, &Args::default())?),
        None => None,
    };
    match wanted.map(|wanted| wanted.ipam) {
        Some(Ipam::Pool { sets, when_full, .. }) => {
            if range::subnets(&sets).iter().any(IpNetwork::is_ipv6) && !net::sysctl::has_ipv6() {
                let why = "the network has an IPv6 range, and this node's kernel has no IPv6: take the range \
                           out, or boot without ipv6.disable=1";
                return Err(Error::new(Kind::Unavailable, why));
            }
            has_addresses(call, &sets, when_full)?;
            // A note, whose failure is another: an ADD can be served all the same.
            match claim::overlaps(&range::subnets(&sets)) {
                Ok(overlaps) => overlaps.iter().for_each(|overlap| eprintln!("weir: {overlap}")),
                Err(err) => eprintln!(
                    "weir: can't tell whether the ranges overlap a network of the node: {err}"
                ),
            }
        }
        Some(Ipam::Delegate(plugin)) => {
            let delegate = Delegate::find(&plugin, &call.request.path, &call.stdin)?;
            delegate.within(PATIENCE).forward("STATUS").map_err(|err| match err.kind() {
                Kind::TryAgain => unavailable(&err),
                _ => err,
            })?;
        }
        None => {}
    }
    state::probe(&config.state_dir).map_err(|err| unavailable(&err))?;
    if counting.enabled
        && let Err(err) = telemetry::probe(&config.bpf_dir)
    {
        if counting.required {
            return Err(unavailable(&err));
        }
        eprintln!("weir: pods go uncounted: {err}");
    }
    if counting.enabled {
        note_detached(call)?;
    }
    Ok(())
}

/// Says of the network's pods that were counted and are not: something else took a hook off. An ADD can
/// be served all the same.
fn note_detached(call: &Call) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let turn = usize::try_from(now.as_millis()).unwrap_or_default();
    let records = record::some(&call.config.state_dir, ASKED_ABOUT, turn)?.into_iter();
    let hooked = records.filter_map(|(attachment, entry)| match entry {
        Entry::Record(record) if record.network == call.config.name && !record.under_way => {
            Some((attachment, record.host_ifindex?, record.telemetry?, record))
        }
        _ => None,
    });
    for (attachment, index, attached, record) in hooked {
        match telemetry::verify_at_once(&record.bpf_dir, index, &attached) {
            Err(err) if err.kind() == Kind::Difference && !teardown::still_there(&record) => {
                let name = &record.host_ifname;
                eprintln!("weir: interface {name} of {attachment} is gone; make the pod anew");
            }
            Err(err) if err.kind() == Kind::Difference => {
                eprintln!("weir: {attachment} is not counted any more; mend it: weir reconcile");
            }
            // Somebody loads or swaps programs; whether anything is wrong is the next STATUS's to say.
            Err(err) if err.kind() == Kind::TryAgain => break,
            _ => {}
        }
    }
    Ok(())
}

fn unavailable(why: &Error) -> Error {
    Error::new(Kind::Unavailable, why.to_string())
}

/// Whether the allocator could serve an ADD: from what is free, or from what the dead have.
fn has_addresses(call: &Call, sets: &[RangeSet], when_full: WhenFull) -> Result<()> {
    let pool = Pool { state_dir: &call.config.state_dir, network: &call.config.name };
    let mut claims = Claims::new()?;
    match pool.check_free(sets, &mut |ip| claims.taken(ip, None)) {
        Err(full) if full.kind() == Kind::Exhausted && reclaim::would_help(call)? => Ok(()),
        Err(full) if full.kind() == Kind::Exhausted && when_full == WhenFull::Ready => {
            eprintln!("weir: {full}; the next ADD will fail, unless a pod ends before");
            Ok(())
        }
        free => free.map_err(|err| unavailable(&err)),
    }
}
