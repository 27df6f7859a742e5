//! `CNI_ARGS`: `K=V;K=V`, from which weir takes a pod's names and what may be asked for by hand.
//!
//! Kubernetes sends its five keys in any order; others are none of our business, with or without
//! `IgnoreUnknown`.

use std::net::IpAddr;

use crate::{
    error::{Error, Kind, Result},
    net::Mac,
    record::PodName,
    spec,
    telemetry::wire::{RawAttachment, field, text},
};

/// What `CNI_ARGS` said. What may be asked for is judged only where it is asked for: other sources come
/// before it, and a list in which weir leases nothing has no use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// The Kubernetes names.
    pub pod: PodName,
    ip: String,
    mac: String,
}

impl Args {
    /// Reads the pairs; what is not a pair is passed over, of a repeated key the last one counts.
    pub fn parse(text: &str) -> Self {
        let mut args = Self::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = value.to_owned();
            match key {
                "K8S_POD_NAMESPACE" => args.pod.namespace = value,
                "K8S_POD_NAME" => args.pod.name = value,
                "K8S_POD_UID" => args.pod.uid = value,
                "IP" => args.ip = value,
                "MAC" => args.mac = value,
                _ => {}
            }
        }
        args.pod = as_in_the_maps(&args.pod);
        args
    }

    /// `IP`: the address to give. An empty one was not said.
    ///
    /// # Errors
    /// [`Kind::Environment`] naming key and value.
    pub fn ip(&self) -> Result<Option<IpAddr>> {
        let ip = Some(&self.ip).filter(|ip| !ip.is_empty());
        ip.map(|ip| address(ip).ok_or_else(|| wrong("IP", ip))).transpose()
    }

    /// `MAC`: the pod side's MAC, likewise.
    ///
    /// # Errors
    /// As [`ip`](Self::ip).
    pub fn mac(&self) -> Result<Option<Mac>> {
        let mac = Some(&self.mac).filter(|mac| !mac.is_empty());
        mac.map(|mac| mac.parse().map_err(|err| wrong("MAC", mac).details(err))).transpose()
    }
}

/// As much of each name as the maps hold: a pod has one name wherever it is shown, and no name fills a page.
fn as_in_the_maps(pod: &PodName) -> PodName {
    let raw = RawAttachment {
        pod_namespace: field(&pod.namespace),
        pod_name: field(&pod.name),
        pod_uid: field(&pod.uid),
        ..RawAttachment::default()
    };
    PodName {
        namespace: text(&raw.pod_namespace),
        name: text(&raw.pod_name),
        uid: text(&raw.pod_uid),
    }
}

fn wrong(key: &str, value: &str) -> Error {
    Error::new(Kind::Environment, format!("CNI_ARGS {key}={value:?} is wrong"))
}

/// An address with or without a prefix length, which is the range's anyhow.
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| Some(spec::cidr(text).ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_names_come_in_any_order_among_anything() {
        for text in [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u",
            "K8S_POD_UID=u;K8S_POD_NAME=p;NEW=a=b;;junk;K8S_POD_NAMESPACE=ns;",
        ] {
            let pod = Args::parse(text).pod;
            assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("ns", "p", "u"), "{text}");
        }
        assert_eq!(Args::parse(""), Args::default());
    }

    #[test]
    fn an_address_may_have_a_prefix_and_a_wrong_one_is_named() {
        for text in ["IP=10.0.0.5", "IP=10.0.0.5/24"] {
            assert_eq!(Args::parse(text).ip().unwrap(), Some("10.0.0.5".parse().unwrap()));
        }
        for text in ["IP=10.0.0;MAC=nope", "MAC=0;IP=x"] {
            let args = Args::parse(text);
            for (key, err) in [("IP", args.ip().unwrap_err()), ("MAC", args.mac().unwrap_err())] {
                assert_eq!(err.kind(), Kind::Environment);
                assert!(err.msg().contains(key), "{err}");
            }
        }
        let empty = Args::parse("IP=;MAC=");
        assert_eq!((empty.ip().unwrap(), empty.mac().unwrap()), (None, None));
    }
}
