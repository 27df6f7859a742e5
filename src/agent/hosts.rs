//! By which names the page may be called, and what it asks for.
//!
//! Whoever owns a name can have it mean 127.0.0.1 a moment after a browser loaded a site from it, and what
//! answers there is that site's then, to read and to send on (DNS rebinding). But the browser goes on saying
//! the site's name. So who asks has to name this machine: by an address, which nobody else can give a meaning,
//! or by a name that is known here to be its own.
//!
//! And a site may have a browser ask for what it will not be given to read: each such stream takes a listener's
//! place, and has the kernel tell of every request. A browser says for whom it asks of an agent on its own machine.

use std::{collections::BTreeSet, net::IpAddr, str::FromStr};

use hyper::{
    Uri,
    header::{HOST, HeaderMap, HeaderName, HeaderValue},
    http::uri::Authority,
};

/// A host's name as a browser says it: in lower case, without a port and a last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    fn of(host: &str) -> Self {
        Self(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let name = Self::of(text);
        let labels = name.0.split('.').all(|label| (1..=63).contains(&label.len()));
        if labels && name.0.len() <= 253 && name.0.bytes().all(known) {
            return Ok(name);
        }
        Err(format!(
            "{text:?} is no host name, such as node-1.example.org: it has neither a scheme nor a port"
        ))
    }
}

/// Fetch Metadata Request Headers, section 2.4.
const FOR_WHOM: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the page itself asks, or a person who typed it, or what is no browser, and no other site.
///
/// # Errors
/// That, and the mend.
pub fn asked_by_the_page(headers: &HeaderMap) -> Result<(), &'static str> {
    let own = |site: &HeaderValue| site == "same-origin" || site == "none";
    if headers.get_all(FOR_WHOM).iter().all(own) {
        return Ok(());
    }
    Err(
        "another site has your browser ask for this: open it by its address, or from the page at /\n",
    )
}

/// The names of this machine.
#[derive(Debug, Clone, Default)]
pub struct Hosts(BTreeSet<Name>);

impl Hosts {
    /// `localhost`, the machine's own name, with its domain if it has one and without, and those that were
    /// allowed besides.
    pub fn new(own: &str, allowed: Vec<Name>) -> Self {
        let own = Name::of(own);
        let short = own.0.split('.').next().map(Name::of);
        let known = [Some(Name::of("localhost")), short, Some(own)].into_iter().flatten();
        // A machine without a name isn't called by none.
        Self(known.chain(allowed).filter(|name| !name.0.is_empty()).collect())
    }

    /// Whether a request is meant for this machine. One that names nobody is none of a browser's.
    ///
    /// # Errors
    /// Whom it is for, and the mend.
    pub fn meant(&self, target: &Uri, headers: &HeaderMap) -> Result<(), String> {
        if let Some(authority) = target.authority() {
            self.known(authority)?;
        }
        for host in headers.get_all(HOST) {
            let read = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            self.known(&read.ok_or("Host: it names no host\n")?)?;
        }
        Ok(())
    }

    fn known(&self, authority: &Authority) -> Result<(), String> {
        let host = authority.host();
        // Nothing before it, as a user's name, and behind it nothing but a port.
        let rest = authority.as_str().strip_prefix(host).ok_or("Host: it names no host\n")?;
        let alone = rest.is_empty() || rest.starts_with(':');
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if alone && (bare.parse::<IpAddr>().is_ok() || self.0.contains(&Name::of(host))) {
            return Ok(());
        }
        // It is said again to be typed into a shell: nothing that is no name gets there.
        let Name(name) = host.parse().map_err(|wrong| format!("Host: {wrong}\n"))?;
        Err(format!(
            "this agent doesn't know itself as {name}: ask for it by its address, or start it with --allow-host {name}\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(target: &str, hosts: &[&str]) -> Result<(), String> {
        let known = Hosts::new("Node-1.example.org", vec!["weir.example.net".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        known.meant(&target.parse().unwrap(), &headers)
    }

    #[test]
    fn a_machine_is_called_by_address_or_by_its_own_names() {
        for host in [
            "127.0.0.1:9920",
            "192.0.2.1",
            "[::1]:9920",
            "[2001:db8::1]",
            "localhost:9920",
            "LocalHost.",
            "node-1:9920",
            "node-1.example.org",
            "weir.example.net:80",
        ] {
            assert_eq!(meant("/", &[host]), Ok(()), "{host}");
        }
        assert_eq!(meant("/", &[]), Ok(()));
        for host in [
            "evil.example:9920",
            "node-1.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.1",
            "2130706433",
            "[::1].evil.example",
            "node-1@evil.example",
            "",
            " ",
            "\u{e9}",
        ] {
            assert!(meant("/", &[host]).is_err(), "{host}");
        }
        assert!(meant("/", &["evil.example"]).unwrap_err().contains("--allow-host evil.example"));
    }

    #[test]
    fn no_name_hides_behind_another() {
        assert!(meant("/", &["127.0.0.1", "evil.example"]).is_err());
        assert!(meant("http://evil.example/", &["127.0.0.1"]).is_err());
        assert_eq!(meant("http://127.0.0.1/", &["127.0.0.1"]), Ok(()));
    }

    #[test]
    fn who_asks_for_another_site_is_told_from_all_others() {
        let asked = |sites: &[&'static str]| {
            let sites = sites.iter().map(|site| (FOR_WHOM, HeaderValue::from_static(site)));
            asked_by_the_page(&sites.collect())
        };
        for sites in [&[][..], &["same-origin"], &["none"]] {
            assert_eq!(asked(sites), Ok(()), "{sites:?}");
        }
        for sites in [&["cross-site"][..], &["same-site"], &[""], &["same-origin", "cross-site"]] {
            assert!(asked(sites).unwrap_err().ends_with('\n'), "{sites:?}");
        }
    }

    #[test]
    fn a_machine_without_a_name_is_not_called_by_none() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(":9920"))]);
        assert!(Hosts::new("", Vec::new()).meant(&"/".parse().unwrap(), &headers).is_err());
    }

    #[test]
    fn what_is_no_name_is_answered_with_one() {
        assert_eq!("Node-1.".parse(), Ok(Name("node-1".into())));
        for text in ["", ".", "a..b", "http://a", "a:80", "*", "a b", &"a".repeat(64)] {
            assert!(text.parse::<Name>().unwrap_err().contains("such as"), "{text}");
        }
    }
}
