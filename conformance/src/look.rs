//! What a step looks at, once the plugin has answered.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use crate::{
    Context, Result, kernel,
    node::OUTSIDE,
    play::Player,
    shape,
    step::{See, Sight},
};

impl Player<'_> {
    /// Looks at what a step names.
    ///
    /// # Errors
    /// What is otherwise.
    pub(crate) fn see(&mut self, see: &See) -> Result<()> {
        match see.see {
            Sight::Clean => match &self.remembered {
                Some(remembered) => remembered.await_same(&self.node),
                None => Err("nothing was remembered".into()),
            },
            Sight::Distinct => self.distinct(),
            _ => {
                let keys: Vec<_> = self.results.keys().cloned().collect();
                let wanted = keys.into_iter().filter(|(pod, ifname)| match &see.pod {
                    Some(wanted) => pod == wanted && *ifname == see.ifname,
                    None => true,
                });
                let wanted: Vec<_> = wanted.collect();
                if wanted.is_empty() {
                    return self.look(see, see.pod.as_deref().unwrap_or_default(), &see.ifname);
                }
                wanted.iter().try_for_each(|(pod, ifname)| {
                    self.look(see, pod, ifname).context(|| pod.clone())
                })
            }
        }
    }

    /// One look at one pod.
    fn look(&mut self, see: &See, pod: &str, ifname: &str) -> Result<()> {
        if see.see == Sight::Detached {
            return kernel::detached(self.pod(pod)?, ifname);
        }
        let key = (pod.to_owned(), ifname.to_owned());
        let result = self.results.get(&key).cloned().ok_or("no ADD gave a result")?;
        if see.see == Sight::Gone {
            let host = shape::host_interface(&result).ok_or("the result has no host interface")?;
            return self.await_gone(host);
        }
        let at = shape::interface(&result, ifname);
        let at = at.ok_or_else(|| format!("the result has no interface {ifname} of the pod"))?;
        match (see.see, &see.to) {
            (Sight::Attached, _) => kernel::attached(self.pod(pod)?, ifname, &result, at),
            (Sight::Reachable, _) => {
                let ips = kernel::ips(&result, at)?;
                let (node, pod) = (&self.node.space, self.pods.get(pod).ok_or("no such pod")?);
                ips.into_iter().try_for_each(|ip| kernel::talk(node, pod, ip))
            }
            (Sight::Port | Sight::NoPort, Some(ports)) => self.port(see.see, pod, ports),
            (_, Some(to)) => {
                let other = self.results.get(&(to.clone(), ifname.to_owned()));
                let other = other.ok_or("no ADD gave the other a result")?;
                let at = shape::interface(other, ifname);
                let ips = kernel::ips(other, at.ok_or("the other has no such interface")?)?;
                let client = self.pods.get(pod).ok_or("no such pod")?;
                let server = self.pods.get(to).ok_or("no such pod")?;
                ips.into_iter().try_for_each(|ip| kernel::talk(client, server, ip))
            }
            (_, None) => Err("to whom?".into()),
        }
    }

    /// Checks that no two results share an address, a MAC or a host interface.
    fn distinct(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for ((_, ifname), result) in &self.results {
            let at = shape::interface(result, ifname).ok_or("no such interface")?;
            let mac = result["interfaces"][at]["mac"].as_str().map(|mac| format!("MAC {mac}"));
            let host = shape::host_interface(result).map(|host| format!("host interface {host}"));
            let ips = kernel::ips(result, at)?.into_iter().map(|ip| format!("address {ip}"));
            for thing in ips.chain(mac).chain(host) {
                if !seen.insert(thing.clone()) {
                    return Err(format!("two have {thing}"));
                }
            }
        }
        Ok(())
    }

    /// Whether a port of the node, asked from outside, leads to one of the pod: `8080:80`.
    fn port(&self, sight: Sight, pod: &str, ports: &str) -> Result<()> {
        let (node, of_pod) = ports.split_once(':').ok_or("ports are like 8080:80")?;
        let number = |text: &str| text.parse::<u16>().context(|| format!("port {text:?}"));
        let target = SocketAddr::from((OUTSIDE, number(node)?));
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number(of_pod)?));
        if sight == Sight::NoPort {
            return kernel::silent(&self.node.world, target);
        }
        let server = self.pods.get(pod).ok_or("no such pod")?;
        kernel::talk_through(&self.node.world, server, target, listen)
    }
}
