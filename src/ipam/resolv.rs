//! `ipam.resolvConf`: a resolver file to report to the runtime, read as host-local reads it.

use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt};

use nix::fcntl::OFlag;

use crate::{
    error::{Context, Error, Kind, Result},
    spec::Dns,
};

/// A resolver file has some hundred bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Reads a resolver file.
///
/// # Errors
/// [`Kind::Config`]: the file can be none, being no regular file, no text or longer than 64 KiB;
/// [`Kind::Io`]: it can't be read. Both name it.
pub fn read(path: &str) -> Result<Dns> {
    let unreadable = || format!("can't read ipam.resolvConf {path:?}");
    let no_resolver_file = |why: &str| {
        Err(Error::new(Kind::Config, format!("ipam.resolvConf is {path:?}, which is {why}")))
    };
    // Without O_NONBLOCK a FIFO of that name would hold the call up for ever.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .context(Kind::Io, unreadable)?;
    if !file.metadata().context(Kind::Io, unreadable)?.is_file() {
        return no_resolver_file("no regular file");
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).context(Kind::Io, unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return no_resolver_file("longer than 64 KiB");
    }
    std::str::from_utf8(&bytes).map_or_else(|_| no_resolver_file("no text"), |text| Ok(parse(text)))
}

/// Reads the text of a resolv.conf(5). Lines that say nothing to CNI are passed over; a repeated
/// `domain` replaces the one before, everything else adds up.
pub(crate) fn parse(text: &str) -> Dns {
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
