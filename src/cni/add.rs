//! ADD: validate all, journal and lease, create, count, connect, masquerade, answer. Whatever fails,
//! what the record names by then is taken away again.

use std::path::Path;

use super::{
    Call,
    args::Args,
    behind::Behind,
    chain,
    config::Config,
    counting::Counting,
    keys, ports, reclaim, reply, teardown,
    wanted::{Ipam, Wanted},
};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    ipam::{
        Lease,
        pool::Pool,
        range::{self, RangeSet},
        resolv,
    },
    net::{self, Claims, Netns, Plan, Undo, names, nft},
    record::{Begun, Delegated, NetnsRef, Plumbing, PodName, Record},
    spec::{Address, Dns, Route},
    telemetry::limit,
};

/// Makes the attachment and answers with its result.
pub fn run(call: &Call, attachment: &Attachment, path: &Path) -> Result<()> {
    keys::warn(&call.config.json);
    let args = Args::parse(&call.request.args);
    let behind = Behind::look(&call.config, &args)?;
    let counting = Counting::parse(&call.config)?.beside(&behind);
    if let Some(prev_result) = chain::interfaces_before(&call.config)? {
        return chain::add(call, attachment, path, &counting, args.pod, prev_result);
    }
    let wanted = Wanted::parse(&call.config, &args)?.beside(&behind);
    let dns = dns(&wanted)?;
    let netns = Netns::open(path)?;
    let mtu = wanted.mtu.map_or_else(net::default_mtu, Ok)?;
    let mtu = behind.tuning.mtu.map_or(mtu, |theirs| theirs.max(mtu));

    let mut record = begin_record(&call.config, attachment, &netns, args.pod)?;
    record.host_ifname = names::host_ifname(attachment);
    record.telemetry = counting.intend();
    let plumbing = Plumbing {
        mtu,
        mac: wanted.mac.map(|mac| mac.to_string()),
        addresses: Vec::new(),
        routes: Vec::new(),
        masquerade: Vec::new(),
        delegate: None,
        ports: wanted.ports.clone(),
        bandwidth: wanted.bandwidth,
        guarded: false,
    };
    let mut attempt = Attempt { call, attachment, record, plumbing, begun: None };
    let done = attempt.lease(&wanted, dns).and_then(|lease| {
        let plan = attempt.plumb(&wanted, &netns, &counting)?;
        reply::write(&reply::result(call.config.version, &plan, path, &lease))
    });
    done.inspect_err(|_| attempt.roll_back())
}

/// A record of a call that is about to begin.
///
/// # Errors
/// [`Kind::Io`].
pub fn begin_record(
    config: &Config,
    attachment: &Attachment,
    netns: &Netns,
    pod: PodName,
) -> Result<Record> {
    let id = netns.identity();
    let netns = NetnsRef { path: netns.path().to_owned(), dev: id.dev, ino: id.ino };
    let mut record = Record::new(attachment, &config.name, netns)?;
    record.pod = pod;
    record.bpf_dir.clone_from(&config.bpf_dir);
    Ok(record)
}

/// An ADD under way: the record says at each moment what there may be to take away.
struct Attempt<'a> {
    call: &'a Call,
    attachment: &'a Attachment,
    record: Record,
    plumbing: Plumbing,
    /// Before that nothing exists that would be ours: a record found in the way is another ADD's.
    begun: Option<Begun>,
}

impl Attempt<'_> {
    /// Writes the record for the first time.
    fn begin(&mut self) -> Result<&Begun> {
        self.record.plumbing = Some(self.plumbing.clone());
        let begun = self.record.begin(&self.call.config.state_dir)?;
        Ok(self.begun.insert(begun))
    }

    /// Writes the record again.
    fn save(&mut self) -> Result<()> {
        self.record.plumbing = Some(self.plumbing.clone());
        self.begun.as_mut().map_or(Ok(()), |begun| begun.update(&self.record))
    }

    /// Gets the addresses, after the record that will lead to them.
    fn lease(&mut self, wanted: &Wanted, dns: Option<Dns>) -> Result<Lease> {
        let mut lease = match self.lease_once(wanted) {
            // The record in the way is that of an ADD which was killed.
            Err(err)
                if err.kind() == Kind::NameTaken
                    && reclaim::finish_dead(self.call, self.attachment)? =>
            {
                self.lease_once(wanted)?
            }
            leased => leased?,
        };
        if let Some(dns) = dns {
            lease.dns = dns;
        }
        Ok(lease)
    }

    fn lease_once(&mut self, wanted: &Wanted) -> Result<Lease> {
        match &wanted.ipam {
            Ipam::Pool { sets, routes, .. } => {
                self.plumbing.routes.clone_from(routes);
                if wanted.masquerade {
                    // What leaves all of them is masqueraded, wherever the pod's own address is from.
                    self.plumbing.masquerade = range::subnets(sets);
                }
                self.lease_from_pool(wanted, sets, routes)
            }
            Ipam::Delegate(plugin) => self.lease_from_plugin(wanted, plugin),
        }
    }

    fn lease_from_pool(
        &mut self,
        wanted: &Wanted,
        sets: &[RangeSet],
        routes: &[Route],
    ) -> Result<Lease> {
        let (call, attachment) = (self.call, self.attachment);
        let pool = Pool { state_dir: &call.config.state_dir, network: &call.config.name };
        let mut claims = Claims::new()?;
        let own = names::host_ifname(attachment);
        let mut allocate = || {
            let claimed = &mut |ip| claims.taken(ip, Some(&own));
            pool.allocate(attachment, sets, &wanted.requested, claimed, |addresses| {
                self.plumbing.addresses = addresses.to_vec();
                self.begin().map(drop)
            })
        };
        let addresses = match allocate() {
            Err(full) if full.kind() == Kind::Exhausted => {
                // Also where there was nobody to take away: others may have done it meanwhile.
                reclaim::reclaim(call)?;
                allocate()?
            }
            leased => leased?,
        };
        Ok(Lease { addresses, routes: routes.to_vec(), dns: Dns::default() })
    }

    fn lease_from_plugin(&mut self, wanted: &Wanted, plugin: &str) -> Result<Lease> {
        let stdin = &self.call.stdin;
        let delegate = self.call.delegate(plugin, stdin)?;
        // It was parsed as JSON, which is UTF-8.
        let config = String::from_utf8_lossy(stdin).into_owned();
        self.plumbing.delegate = Some(Delegated { plugin: plugin.to_owned(), config });
        // Should we be killed, the plugin goes on; whoever takes our place waits for its end.
        self.begin()?.bequeath()?;
        // A plugin that is full need not be: no DEL came for the dead, and nobody else tells it.
        let first = delegate.add().or_else(|err| {
            // One that hangs is not full.
            if err.kind() == Kind::TryAgain || !reclaim::reclaim(self.call)? {
                return Err(err);
            }
            self.call.delegate(plugin, stdin)?.del(self.attachment)?;
            self.call.delegate(plugin, stdin)?.add()
        });
        let lease = first.inspect_err(|_| self.give_back(plugin))?;
        self.plumbing.addresses.clone_from(&lease.addresses);
        self.plumbing.routes.clone_from(&lease.routes);
        if wanted.masquerade {
            self.plumbing.masquerade = lease.addresses.iter().map(Address::subnet).collect();
        }
        self.save()?;
        spare(plugin, &lease)?;
        Ok(lease)
    }

    /// Has a plugin that gave no lease release it all the same, as the specification wants.
    ///
    /// Told here, it is not told again by the roll-back, and a plugin that refuses even this (its
    /// configuration is wrong, say) keeps no record alive. One that hangs may have leased: for it the record
    /// stays, and leads the next DEL, GC or ADD there.
    fn give_back(&mut self, plugin: &str) {
        let delegate = self.call.delegate(plugin, &self.call.stdin);
        let told = delegate.and_then(|delegate| delegate.del(self.attachment));
        let hangs = matches!(&told, Err(err) if err.kind() == Kind::TryAgain);
        if let Err(err) = told {
            eprintln!("weir: rolling back: {err}");
        }
        if hangs {
            self.begun = None;
        } else {
            self.plumbing.delegate = None;
        }
    }

    /// Makes the pod's network, counted from its first packet on.
    fn plumb(&mut self, wanted: &Wanted, netns: &Netns, counting: &Counting) -> Result<Plan> {
        let plan = Plan::new(&net::Request {
            network: &self.call.config.name,
            attachment: self.attachment,
            mtu: self.plumbing.mtu,
            mac: wanted.mac,
            addresses: &self.plumbing.addresses,
            routes: &self.plumbing.routes,
            ports: &self.plumbing.ports,
            bandwidth: self.plumbing.bandwidth,
        })?;
        let mut undo = Undo::new();
        let pair = net::create(&plan, netns, &mut undo)?;
        // From here on the record leads to the link.
        undo.disarm();
        self.record.host_ifindex = Some(pair.links.host_ifindex);
        self.count(counting, pair.links.host_ifindex)?;
        self.limit(pair.links.host_ifindex)?;
        pair.connect()?;
        nft::masquerade_ensure(&self.plumbing.masquerade)?;
        ports::expose(self.call, self.attachment, &self.plumbing)?;
        self.record.under_way = false;
        self.save()?;
        Ok(plan)
    }

    /// Hooks the pod to the programs.
    fn count(&mut self, counting: &Counting, host_ifindex: u32) -> Result<()> {
        let (call, attachment) = (self.call, self.attachment);
        let (pod, intent) = (self.record.pod.clone(), self.record.telemetry);
        self.record.telemetry =
            counting.attach(&call.config, attachment, &pod, host_ifindex, intent, |attached| {
                self.record.telemetry = Some(attached);
                self.save()
            })?;
        Ok(())
    }

    /// Puts the buckets of the pod's limit on the same hook. Where that fails its queues hold it, and a
    /// pod that may change its own network could do without; stderr says so.
    fn limit(&mut self, host_ifindex: u32) -> Result<()> {
        let bandwidth = self.plumbing.bandwidth;
        if !bandwidth.is_limited() {
            return Ok(());
        }
        self.plumbing.guarded = true;
        self.save()?;
        let bpf_dir = &self.call.config.bpf_dir;
        let Err(err) = limit::attach(bpf_dir, host_ifindex, &bandwidth) else { return Ok(()) };
        eprintln!("weir: the pod is held to its bandwidth by queues alone: {err}");
        limit::forget(bpf_dir, host_ifindex)?;
        self.plumbing.guarded = false;
        self.save()
    }

    fn roll_back(&mut self) {
        if self.begun.is_none() {
            return;
        }
        self.record.plumbing = Some(self.plumbing.clone());
        if let Err(err) = teardown::recorded(self.call, self.attachment, &self.record) {
            eprintln!("weir: rolling back: {err}; the record stays for DEL to finish");
        }
    }
}

/// Refuses a lease of another IPAM plugin that would cost the node an address it needs.
fn spare(plugin: &str, lease: &Lease) -> Result<()> {
    let mut claims = Claims::new()?;
    for ip in lease.addresses.iter().map(Address::ip) {
        if let Some(why) = claims.reason(ip)? {
            let msg = format!("address {ip} of {plugin} {why}; keep it out of the plugin's ranges");
            return Err(Error::new(Kind::Config, msg));
        }
    }
    Ok(())
}

/// Name resolution that replaces what an IPAM plugin says: the configuration's own, else the
/// resolver file's.
///
/// # Errors
/// Those of reading that file.
pub fn dns(wanted: &Wanted) -> Result<Option<Dns>> {
    match (&wanted.dns, &wanted.ipam) {
        (Some(dns), _) => Ok(Some(dns.clone())),
        (None, Ipam::Pool { resolv_conf: Some(file), .. }) => resolv::read(file).map(Some),
        _ => Ok(None),
    }
}
