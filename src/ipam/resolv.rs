//! `ipam.resolvConf`: a resolver file to report to the runtime, read as host-local reads it.

use crate::spec::Dns;

/// Reads the text of a resolv.conf(5). Lines that say nothing to CNI are passed over; a repeated
/// `domain` replaces the one before, everything else adds up.
pub fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or(dns.domain),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_read_and_the_rest_passed_over() {
        let dns = parse(
            "# nameserver 192.0.2.9\nnameserver 192.0.2.1\n nameserver\tfd00::1 \nsortlist x\n\
             domain a.example\nsearch a.example b.example\noptions ndots:5\noptions edns0\nnameserver",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "fd00::1"]);
        assert_eq!(dns.domain, "a.example");
        assert_eq!(dns.search, ["a.example", "b.example"]);
        assert_eq!(dns.options, ["ndots:5", "edns0"]);
    }
}
