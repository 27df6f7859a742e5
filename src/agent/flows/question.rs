//! The name in a DNS question (RFC 1035, section 4.1.2).

use std::fmt::Write;

/// The longest name on the wire (RFC 1035, section 2.3.4).
const LONGEST: usize = 255;

/// The name that `bytes` begins with, in the presentation of RFC 1035, section 5.1: `\.` for a dot
/// in a label, `\DDD` for what is not visible; `.` for the root. `None` for what is no name, a
/// compressed one included: a question comes first and has nothing to refer to.
pub fn name(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes.get(..bytes.len().min(LONGEST))?;
    let mut text = String::new();
    loop {
        let (&length, behind) = rest.split_first()?;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        let label = behind.get(..length.into())?;
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
                _ if byte.is_ascii_graphic() => text.push(char::from(byte)),
                // A String takes all that is written.
                _ => drop(write!(text, "\\{byte:03}")),
            }
        }
        rest = behind.get(length.into()..)?;
    }
    Some(if text.is_empty() { ".".to_owned() } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_in_a_zone_file() {
        assert_eq!(name(b"\x07example\x03org\x00\x00\x01").as_deref(), Some("example.org"));
        assert_eq!(name(b"\0").as_deref(), Some("."));
        assert_eq!(name(b"\x05a.b\\\x1b\x02\xff\"\0").as_deref(), Some("a\\.b\\\\\\027.\\255\""));
    }

    #[test]
    fn what_is_no_name_is_none() {
        for bytes in [&b""[..], b"\x05abc", b"\xc0\x0c", b"\x40", b"\x03abc"] {
            assert_eq!(name(bytes), None, "{bytes:?}");
        }
        assert_eq!(name(&[1; 400]), None, "longer than any name");
    }
}
