//! Kernel settings under /proc/sys/net.
//!
//! A write to a new interface's directory costs tens of microseconds, so Weir sets as few as
//! possible: forwarding on the node once, and one setting on its own host-side interface. It never
//! touches a setting of another's interface, nor `all` except for IPv6 forwarding, which has no
//! other switch.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::error::{Error, Kind, Result};

/// Where the kernel shows the settings of the caller's network namespace.
const ROOT: &str = "/proc/sys/net";

/// A setting of the calling thread's network namespace and the value it must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    /// The path under /proc/sys/net, such as `ipv4/ip_forward`.
    pub key: String,
    /// The value, as it is written.
    pub value: &'static str,
    /// Whether it is the whole node's, and so likely to have the value already.
    pub shared: bool,
}

impl Sysctl {
    /// A setting of the whole namespace, such as forwarding: read first, written only if it differs.
    pub fn shared(key: impl Into<String>, value: &'static str) -> Self {
        Self { key: key.into(), value, shared: true }
    }

    /// A setting of a new interface of our own.
    pub fn own(key: impl Into<String>, value: &'static str) -> Self {
        Self { key: key.into(), value, shared: false }
    }

    /// Gives the setting its value. One that the kernel doesn't have, for want of IPv6 on the node or
    /// on the interface (whose MTU is below 1280), is passed over: what it guards against can't
    /// happen.
    ///
    /// # Errors
    /// [`Kind::Kernel`] naming the setting, when it has another value and can't be changed.
    pub fn set(&self) -> Result<()> {
        let path = self.path();
        if self.shared && self.holds() {
            return Ok(());
        }
        match fs::write(&path, self.value) {
            Ok(()) => Ok(()),
            Err(_) if self.holds() => Ok(()),
            Err(_) if self.absent() => Ok(()),
            Err(err) => Err(Error::new(
                Kind::Kernel,
                format!("can't set {} to {}", path.display(), self.value),
            )
            .details(err)),
        }
    }

    /// Compares the kernel's value.
    ///
    /// # Errors
    /// [`Kind::Difference`] naming the setting and both values, [`Kind::Io`] where it can't be read.
    pub fn check(&self) -> Result<()> {
        if self.absent() {
            return Ok(());
        }
        let path = self.path();
        let is = fs::read_to_string(&path).map_err(|err| {
            let gone = err.kind() == io::ErrorKind::NotFound;
            let kind = if gone { Kind::Difference } else { Kind::Io };
            Error::new(kind, format!("can't read {}", path.display())).details(err)
        })?;
        let is = is.trim();
        if is == self.value {
            return Ok(());
        }
        let msg = format!("{} is {is} and should be {}", path.display(), self.value);
        Err(Error::new(Kind::Difference, msg))
    }

    fn holds(&self) -> bool {
        // One reading gives it whole.
        let mut bytes = [0; 32];
        let read = fs::File::open(self.path()).and_then(|mut file| file.read(&mut bytes));
        read.is_ok_and(|length| bytes[..length].trim_ascii() == self.value.as_bytes())
    }

    /// Only IPv6 can be absent: not built in, or `ipv6.disable=1` was booted with, or the interface
    /// can't carry it.
    fn absent(&self) -> bool {
        let dir_is_there = || self.path().parent().is_some_and(Path::exists);
        self.key.starts_with("ipv6/") && !dir_is_there()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(ROOT).join(&self.key)
    }
}

/// Whether the kernel has IPv6: built in, and not booted with `ipv6.disable=1`.
pub fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6").exists()
}

/// Whether the kernel sets IPv6 up on a link of that MTU: it has IPv6, and the link can carry it
/// (RFC 8200, section 5).
pub fn ipv6_on_links(mtu: u32) -> bool {
    mtu >= 1280 && has_ipv6()
}
