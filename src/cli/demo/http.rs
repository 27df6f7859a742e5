//! What both ends of the demo's HTTP/1 have in common: a message read off a connection, and a count
//! of exchanges that knows nothing of the kernel's.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// No step of the demo takes this long unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A head larger than this is not one of ours.
const MAX_HEAD: usize = 16 * 1024;
/// Nor is a body.
const MAX_BODY: usize = 1 << 20;

/// Exchanges by method as sent, protocol (`1.0`, `1.1`) and response status.
pub type Tally = BTreeMap<(String, &'static str, u16), u64>;

/// How a message says where its body ends (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// `Content-Length`.
    Sized(usize),
    /// `Transfer-Encoding: chunked`, of this many bytes in all.
    Chunked(usize),
    /// A response that ends with its connection.
    UntilClose(usize),
}

impl Body {
    /// The header field that announces the body.
    pub fn field(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Sized(len) => format!("Content-Length: {len}\r\n"),
            Self::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
            Self::UntilClose(_) => "Connection: close\r\n".to_owned(),
        }
    }

    /// The body as it travels. Its text looks like the heads of more messages, so that a counter
    /// that reads bodies would count too many.
    pub fn bytes(self) -> Vec<u8> {
        let text = |len: usize| b"GET /decoy HTTP/1.1\r\n\r\n".iter().copied().cycle().take(len);
        match self {
            Self::None => Vec::new(),
            Self::Sized(len) | Self::UntilClose(len) => text(len).collect(),
            Self::Chunked(len) => {
                let mut wire = Vec::with_capacity(len + 64);
                let content: Vec<u8> = text(len).collect();
                for chunk in content.chunks(1000) {
                    wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    wire.extend_from_slice(chunk);
                    wire.extend_from_slice(b"\r\n");
                }
                wire.extend_from_slice(b"0\r\n\r\n");
                wire
            }
        }
    }
}

/// The start line and the fields of a message.
#[derive(Debug)]
pub struct Head {
    /// Without its line end.
    pub start: String,
    fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { start, fields }
    }

    /// The value of a field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Whether the sender will close the connection.
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection whose messages are read one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Read but not yet consumed: a pipelined peer sends ahead.
    ahead: Vec<u8>,
}

impl Connection {
    /// Takes over a connected stream; every later step fails after [`PATIENCE`].
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // A head and a body sent apart would otherwise wait for a delayed acknowledgement.
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// Sends all of `bytes` in one call.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next head, or `None` when the peer closed before one.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..at + 4).collect();
                return Ok(Some(Head::parse(&String::from_utf8_lossy(&head))));
            }
            if self.ahead.len() > MAX_HEAD {
                return Err(invalid("a head without an end"));
            }
            if self.more()? == 0 {
                return if self.ahead.is_empty() { Ok(None) } else { Err(invalid("half a head")) };
            }
        }
    }

    /// Reads the body that `head` announces, to its end; returns its length without framing.
    pub fn body(&mut self, head: &Head, without_length: Body) -> io::Result<usize> {
        if head.field("transfer-encoding").is_some() {
            return self.chunks();
        }
        if let Some(length) = head.field("content-length") {
            let length = length.parse().map_err(|_| invalid("a length that is no number"))?;
            self.take(length)?;
            return Ok(length);
        }
        if without_length == Body::None {
            return Ok(0);
        }
        while self.more()? > 0 {
            bounded(self.ahead.len())?;
        }
        Ok(std::mem::take(&mut self.ahead).len())
    }

    fn chunks(&mut self) -> io::Result<usize> {
        let mut total = 0;
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).map_err(|_| invalid("a bad chunk size"))?;
            total += bounded(size)?;
            self.take(size + 2)?;
            if size == 0 {
                return bounded(total);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..at + 2).take(at).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.some_more()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<()> {
        bounded(length)?;
        while self.ahead.len() < length {
            self.some_more()?;
        }
        self.ahead.drain(..length);
        Ok(())
    }

    fn some_more(&mut self) -> io::Result<()> {
        if self.more()? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let got = self.stream.read(&mut chunk)?;
        self.ahead.extend_from_slice(&chunk[..got]);
        Ok(got)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn bounded(length: usize) -> io::Result<usize> {
    if length > MAX_BODY { Err(invalid("a body beyond all bounds")) } else { Ok(length) }
}

/// A peer that does not speak HTTP as the demo's own ends do.
pub fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
