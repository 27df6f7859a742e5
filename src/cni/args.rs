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
};

/// What `CNI_ARGS` said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// The Kubernetes names.
    pub pod: PodName,
    /// `IP`: the address to give.
    pub ip: Option<IpAddr>,
    /// `MAC`: the pod side's MAC.
    pub mac: Option<Mac>,
}

impl Args {
    /// Reads the pairs; what is not a pair is passed over, of a repeated key the last one counts.
    ///
    /// # Errors
    /// [`Kind::Environment`] naming key and value.
    pub fn parse(text: &str) -> Result<Self> {
        let mut args = Self::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            let wrong =
                || Error::new(Kind::Environment, format!("CNI_ARGS {key}={value:?} is wrong"));
            match key {
                "K8S_POD_NAMESPACE" => args.pod.namespace = value.to_owned(),
                "K8S_POD_NAME" => args.pod.name = value.to_owned(),
                "K8S_POD_UID" => args.pod.uid = value.to_owned(),
                "IP" => args.ip = Some(address(value).ok_or_else(wrong)?),
                "MAC" => args.mac = Some(value.parse().map_err(|err| wrong().details(err))?),
                _ => {}
            }
        }
        Ok(args)
    }
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
            let pod = Args::parse(text).unwrap().pod;
            assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("ns", "p", "u"), "{text}");
        }
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn an_address_may_have_a_prefix_and_a_wrong_one_is_named() {
        for text in ["IP=10.0.0.5", "IP=10.0.0.5/24"] {
            assert_eq!(Args::parse(text).unwrap().ip, Some("10.0.0.5".parse().unwrap()));
        }
        for text in ["IP=10.0.0", "IP=", "MAC=nope"] {
            let err = Args::parse(text).unwrap_err();
            assert_eq!(err.kind(), Kind::Environment);
            assert!(err.msg().contains(text.split_once('=').unwrap().0), "{err}");
        }
    }
}
