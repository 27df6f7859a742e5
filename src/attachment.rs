//! Who a call is about: a container id and an interface name, checked.
//!
//! Everything of ours is keyed by this pair and nothing else. A pod's name comes back with its next
//! sandbox, and a DEL may arrive under another network's configuration, but the pair is never shared.
//! It also names files, so what passes here is safe as a single path component.

use std::fmt;

use crate::error::{Error, Kind, Result};

/// Leaves room in a file name (255 bytes) for the interface name and a prefix.
const MAX_ID: usize = 200;
/// `IFNAMSIZ` without the terminating zero.
const MAX_IFNAME: usize = 15;

/// The longest interface alias, in bytes (`IFALIASZ` is 256 with the closing zero).
const MAX_ALIAS: usize = 255;

/// A checked (container id, interface name) pair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attachment {
    container_id: String,
    ifname: String,
}

impl Attachment {
    /// Checks both names: the id by CNI spec 1.1.0 ("Parameters"), the interface name by what the
    /// kernel's `dev_valid_name()` and libcni take.
    ///
    /// # Errors
    /// [`Kind::Environment`] naming the variable and its value.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self> {
        let bad = |variable: &str, value: &str, why: &str| {
            Err(Error::new(Kind::Environment, format!("{variable} {value:?} {why}")))
        };
        if !is_name(container_id) {
            let why = "must be letters, digits, '_', '.' or '-' and begin with a letter or digit";
            return bad("CNI_CONTAINERID", container_id, why);
        }
        if container_id.len() > MAX_ID {
            return bad("CNI_CONTAINERID", container_id, "is longer than 200 bytes");
        }
        if ifname.is_empty() || ifname.len() > MAX_IFNAME {
            return bad("CNI_IFNAME", ifname, "must be 1 to 15 bytes long");
        }
        // The kernel reads '%' as a template ("eth%d") and would make an interface of another name.
        let forbidden = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace();
        if ifname == "." || ifname == ".." || ifname.contains(forbidden) {
            return bad("CNI_IFNAME", ifname, "is not a name that the kernel takes");
        }
        Ok(Self { container_id: container_id.into(), ifname: ifname.into() })
    }

    /// `CNI_CONTAINERID`.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// `CNI_IFNAME`.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// The alias by which its interface on the node is known as ours, whatever it is called:
    /// `weir:<network>/<container id>/<ifname>`, cut to what the kernel keeps.
    pub fn alias(&self, network: &str) -> String {
        let mut alias = format!("weir:{network}/{}/{}", self.container_id, self.ifname);
        let end = (0..=MAX_ALIAS.min(alias.len())).rev().find(|&end| alias.is_char_boundary(end));
        alias.truncate(end.unwrap_or(0));
        alias
    }

    /// `<container id>@<interface name>`: one path component, and no two pairs share one, because
    /// an id has no `@`.
    pub fn file_name(&self) -> String {
        format!("{}@{}", self.container_id, self.ifname)
    }

    /// Reads a [`file_name`](Self::file_name) back; `None` if no pair has that one.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let (container_id, ifname) = name.split_once('@')?;
        Self::new(container_id, ifname).ok()
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {} interface {}", self.container_id, self.ifname)
    }
}

/// The spec's pattern for container ids and network names: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_or_confuse_the_kernel_are_refused() {
        for id in ["", "../x", ".x", "a/b", "-a", "a b", "a@b", "é", &"a".repeat(201)] {
            let err = Attachment::new(id, "eth0").unwrap_err();
            assert_eq!(err.kind(), Kind::Environment, "{id:?}");
            assert!(err.msg().contains("CNI_CONTAINERID"), "{err}");
        }
        for ifname in ["", ".", "..", "a/b", "a:b", "a b", "eth%d", "sixteen-bytes-xx"] {
            let err = Attachment::new("id", ifname).unwrap_err();
            assert_eq!(err.kind(), Kind::Environment, "{ifname:?}");
            assert!(err.msg().contains("CNI_IFNAME"), "{err}");
        }
    }

    #[test]
    fn an_alias_is_cut_to_what_the_kernel_keeps() {
        let own = Attachment::new("c1", "eth0").unwrap();
        assert_eq!(own.alias("net"), "weir:net/c1/eth0");
        let long = own.alias(&"é".repeat(200));
        assert_eq!(long.len(), 255);
        assert!(long.ends_with('é'));
    }

    #[test]
    fn file_names_come_back_as_the_pair_they_were_made_of() {
        for (id, ifname) in [("a", "eth0"), ("A-1_b.c", "x@y"), ("0", "fifteen-bytes-x")] {
            let pair = Attachment::new(id, ifname).unwrap();
            assert_eq!(Attachment::from_file_name(&pair.file_name()), Some(pair));
        }
        for name in ["", "a", "@eth0", ".a@eth0", "a@", "lock"] {
            assert_eq!(Attachment::from_file_name(name), None, "{name:?}");
        }
    }
}
