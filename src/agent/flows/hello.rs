//! What a TLS client says in the clear (RFC 8446, section 4.1.2): the name that it wants (RFC 6066),
//! the protocols that it would speak (RFC 7301), the versions that it offers.

use super::flow::Word;
use crate::agent::labels;
use crate::telemetry::wire::TlsVersion;

/// The message's length, the version and the random; what comes before is looked at in the kernel.
const FIXED: usize = 3 + 2 + 32;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// Protocols and versions that are told, at most.
const LISTED: usize = 8;

/// A ClientHello, as far as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// The host's name.
    pub server_name: Option<String>,
    /// Names of protocols.
    pub alpn: Vec<String>,
    /// As `weir_tls_handshakes_total` names them, in the client's order.
    pub versions: Vec<Word>,
}

/// A type and a version, and a length: what precedes each TLS record (RFC 8446, section 5.1).
const RECORD: usize = 5;
const HANDSHAKE: u8 = 22;

/// The message without the headers of the records that it goes on in. `first` is the length of the one that it
/// begins in, with the message's type, which these bytes are behind; 0 where nobody knows.
pub fn unframed(bytes: &[u8], first: u16) -> Vec<u8> {
    let Some(first) = usize::from(first).checked_sub(1) else { return bytes.to_vec() };
    let (message, mut rest) = bytes.split_at(first.min(bytes.len()));
    let mut message = message.to_vec();
    while let Some((&[kind, _, _, high, low], behind)) = rest.split_first_chunk::<RECORD>() {
        if kind != HANDSHAKE {
            break;
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (part, further) = behind.split_at(length.min(behind.len()));
        message.extend_from_slice(part);
        rest = further;
    }
    message
}

/// How many bytes the ClientHello has that these begin, once it can be told.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<3>()?;
    Some(length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)) + 3)
}

/// Reads a ClientHello behind its type, up to where it ends or makes no sense.
pub fn parse(bytes: &[u8]) -> Option<Hello> {
    let end = length(bytes)?.min(bytes.len());
    let legacy = u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?]);
    let mut hello = Hello::default();
    // What there is of it is told, however it ends.
    let _ = extensions(bytes.get(..end)?, &mut hello);
    if hello.versions.is_empty() {
        hello.versions.push(version(legacy));
    }
    Some(hello)
}

fn extensions(bytes: &[u8], hello: &mut Hello) -> Option<()> {
    let mut reader = Reader(bytes.get(FIXED..)?);
    let session = reader.byte()?;
    reader.take(session.into())?;
    let suites = reader.number()?;
    reader.take(suites.into())?;
    let compressions = reader.byte()?;
    reader.take(compressions.into())?;
    reader.number()?;
    loop {
        let (kind, length) = (reader.number()?, reader.number()?);
        extension(kind, Reader(reader.take(length.into())?), hello);
    }
}

fn extension(kind: u16, mut body: Reader<'_>, hello: &mut Hello) -> Option<()> {
    match kind {
        SERVER_NAME => {
            body.number()?;
            // A host's name is of type 0, and the only type there is.
            if body.byte()? == 0 {
                let length = body.number()?;
                hello.server_name = Some(text(body.take(length.into())?));
            }
        }
        ALPN => {
            body.number()?;
            while hello.alpn.len() < LISTED {
                let length = body.byte()?;
                hello.alpn.push(text(body.take(length.into())?));
            }
        }
        SUPPORTED_VERSIONS => {
            body.byte()?;
            while hello.versions.len() < LISTED {
                let offered = body.number()?;
                // Values that only test the server (RFC 8701) offer nothing.
                if offered & 0x0f0f != 0x0a0a {
                    hello.versions.push(version(offered));
                }
            }
        }
        _ => {}
    }
    Some(())
}

fn version(wire: u16) -> Word {
    let code = match wire {
        0x0301 => TlsVersion::TLS_VERSION_1_0,
        0x0302 => TlsVersion::TLS_VERSION_1_1,
        0x0303 => TlsVersion::TLS_VERSION_1_2,
        0x0304 => TlsVersion::TLS_VERSION_1_3,
        _ => TlsVersion::TLS_VERSION_OTHER,
    };
    super::flow::word(labels::tls_version(code.0))
}

/// Visible ASCII, and anything else as `\xNN`; what is beyond 255 characters of that is cut.
fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().take(255).map(char::from).collect()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ClientHello, behind its type, with these extensions (type, body) behind one cipher suite.
    pub fn client_hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut listed = Vec::new();
        for (kind, body) in extensions {
            listed.extend(kind.to_be_bytes());
            listed.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            listed.extend(*body);
        }
        let mut hello = vec![3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
        hello.extend(u16::try_from(listed.len()).unwrap().to_be_bytes());
        hello.extend(listed);
        let length = u16::try_from(hello.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], &hello].concat()
    }

    pub const NAMED: &[(u16, &[u8])] = &[
        (0, b"\0\x0e\0\0\x0bexample.org"),
        (16, b"\0\x0c\x02h2\x08http/1.1"),
        (43, b"\x06\x5a\x5a\x03\x04\x03\x03"),
    ];

    #[test]
    fn name_protocols_and_versions_are_told() {
        let hello = parse(&client_hello(NAMED)).unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("example.org"));
        assert_eq!(hello.alpn, ["h2", "http/1.1"]);
        assert_eq!(hello.versions, ["1.3", "1.2"]);
        assert_eq!(parse(&client_hello(&[])).unwrap().versions, ["1.2"]);
    }

    #[test]
    fn a_hello_that_is_cut_anywhere_tells_a_part_of_the_whole() {
        let whole = client_hello(NAMED);
        let known = parse(&whole).unwrap();
        assert_eq!(length(&whole), Some(whole.len()));
        for end in 0..whole.len() {
            let Some(part) = parse(&whole[..end]) else { continue };
            assert!(part.server_name.is_none() || part.server_name == known.server_name);
            assert!(known.alpn.starts_with(&part.alpn));
        }
    }

    #[test]
    fn records_that_it_is_cut_into_are_put_together_however_small() {
        let whole = client_hello(NAMED);
        for size in 1..whole.len() {
            let (first, rest) = whole.split_at(size.min(whole.len()));
            let framed = rest.chunks(size).fold(first.to_vec(), |mut framed, part| {
                let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                framed.extend([HANDSHAKE, 3, 3, length[0], length[1]]);
                framed.extend(part);
                framed
            });
            let length = u16::try_from(size + 1).unwrap();
            assert_eq!(unframed(&framed, length), whole, "{size}");
            for end in 0..framed.len() {
                assert!(whole.starts_with(&unframed(&framed[..end], length)), "{size} {end}");
            }
        }
        assert_eq!(unframed(&whole, 0), whole);
        assert_eq!(unframed(&[&whole[..9], &[23, 3, 3, 0, 1, 7]].concat(), 10), whole[..9]);
    }

    #[test]
    fn lengths_that_lie_and_hostile_names_do_no_harm() {
        let mut whole = client_hello(&[(0, b"\xff\xff\0\0\x05a\x1b\xff\n\""), (16, b"\0\0\xff")]);
        let hello = parse(&whole).unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("a\\x1b\\xff\\n\\\""));
        for at in 0..whole.len() {
            let was = whole[at];
            for value in [0, 1, 0x7f, 0xff] {
                whole[at] = value;
                let _ = parse(&whole);
            }
            whole[at] = was;
        }
    }
}
