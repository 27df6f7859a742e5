//! A 48-bit hardware address.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::error::{Error, Kind};

/// An Ethernet address in the order of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether a network interface may own this address: neither a group address nor all zero.
    pub fn is_assignable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Reads six two-digit hexadecimal octets between colons.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::new(Kind::Config, format!("{text:?} is not a MAC address"));
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(invalid)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        let mac: Mac = "0A:00:ff:01:02:03".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:00:ff:01:02:03");
        assert!(mac.is_assignable());
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in
            ["", "0a", "0a:00:ff:01:02", "0a:00:ff:01:02:03:04", "0a:00:ff:01:02:+3", "é0:00"]
        {
            assert_eq!(bad.parse::<Mac>().unwrap_err().kind(), Kind::Config, "{bad}");
        }
        assert!(!Mac([1, 0, 0, 0, 0, 0]).is_assignable());
        assert!(!Mac([0; 6]).is_assignable());
    }
}
