//! How an attachment is called in the kernel.
//!
//! Everything is derived from (container id, interface name) alone, never from the pod's name: a
//! late DEL of an old container can then never name an interface of its successor. The hash is
//! FNV-1a with 64 bits, because it must give the same name in every build: the names are contract.

use serde::Serialize;

use super::mac::Mac;
use crate::attachment::Attachment;

/// 11 hexadecimal digits; with "weir" before them 15 bytes, the longest interface name.
const NAME_BITS: u32 = 44;

/// What marks a host-side interface as an attachment's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// Its name: `weir` and 11 hexadecimal digits.
    pub host_ifname: String,
    /// Its MAC.
    pub host_mac: Mac,
    /// Its alias: `weir:<network>/<container id>/<ifname>`.
    pub alias: String,
}

impl Mark {
    /// The mark of an attachment to `network`.
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        Self {
            host_ifname: host_ifname(attachment),
            host_mac: host_mac(attachment),
            alias: attachment.alias(network),
        }
    }

    /// Whether an interface with this alias and MAC is the attachment's, whatever it is called now.
    ///
    /// The kernel takes an alias only after creation: should the call be killed in between, the MAC,
    /// of as many random bits as the name, stands for it.
    pub fn is_on(&self, alias: &str, mac: Option<Mac>) -> bool {
        alias == self.alias || (alias.is_empty() && mac == Some(self.host_mac))
    }
}

/// The host side's name: `weir` and 11 hexadecimal digits.
pub fn host_ifname(attachment: &Attachment) -> String {
    let hash = fnv1a(attachment, "");
    // FNV's own advice for a width that is no power of two: fold the surplus bits in by xor.
    let folded = (hash >> NAME_BITS) ^ (hash & ((1 << NAME_BITS) - 1));
    format!("weir{folded:011x}")
}

/// The host side's MAC: locally administered, the same for the same attachment.
pub fn host_mac(attachment: &Attachment) -> Mac {
    mac(fnv1a(attachment, "host"))
}

/// The pod side's MAC: locally administered, the same for the same attachment.
pub fn pod_mac(attachment: &Attachment) -> Mac {
    mac(fnv1a(attachment, "pod"))
}

fn mac(hash: u64) -> Mac {
    let [_, _, mut first, b, c, d, e, f] = hash.to_be_bytes();
    // IEEE 802: bit 1 of the first octet is "locally administered", bit 0 "group address".
    first = (first | 0b10) & !0b01;
    Mac([first, b, c, d, e, f])
}

/// FNV-1a over both names, each closed by a zero byte, which neither can contain, and then over what
/// tells one hash of the pair from another (also closed, unless empty).
fn fnv1a(attachment: &Attachment, purpose: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    [attachment.container_id(), attachment.ifname(), purpose]
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(|part| part.bytes().chain([0]))
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pair(container_id: &str, ifname: &str) -> Attachment {
        Attachment::new(container_id, ifname).unwrap()
    }

    #[test]
    fn names_never_change() {
        // Other programs find the interface by this name: a failure here breaks the contract.
        assert_eq!(host_ifname(&pair("c1", "eth0")), "weir96f196d4e8b");
        assert_eq!(host_mac(&pair("c1", "eth0")).to_string(), "06:63:ef:3e:71:70");
        assert_eq!(pod_mac(&pair("c1", "eth0")).to_string(), "ba:21:a1:8d:d8:ab");
    }

    #[test]
    fn names_are_valid_and_differ() {
        let mut seen = HashSet::new();
        for container in 0..2_000 {
            for ifname in ["eth0", "eth1", "net1"] {
                let attachment = pair(&format!("{container:064x}"), ifname);
                let name = host_ifname(&attachment);
                assert_eq!(name.len(), 15);
                assert!(seen.insert(name));
                assert!(seen.insert(host_mac(&attachment).to_string()));
                assert!(seen.insert(pod_mac(&attachment).to_string()));
                assert!(pod_mac(&attachment).is_assignable());
            }
        }
        assert_ne!(host_ifname(&pair("a", "be")), host_ifname(&pair("ab", "e")));
    }

    #[test]
    fn a_mark_is_the_alias_or_before_that_the_mac() {
        let mark = Mark::new("net", &pair("c1", "eth0"));
        assert!(mark.is_on("weir:net/c1/eth0", None));
        assert!(mark.is_on("", Some(mark.host_mac)));
        assert!(!mark.is_on("", Some(pod_mac(&pair("c1", "eth0")))));
        assert!(!mark.is_on("weir:net/c2/eth0", Some(mark.host_mac)));
        assert!(!mark.is_on("", None));
    }
}
