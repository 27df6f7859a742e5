//! What a listener is told of a request's head: four of its fields, and none of the others.

use super::trace::{self, TraceParent};

/// Headers that are looked at; what comes behind them is passed over.
const HEADERS: usize = 64;

/// Of a path or host, what is beyond is cut.
const TEXT: usize = 1_024;

/// What is known of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The target without its query; with `…` behind it where it was cut.
    pub path: Option<String>,
    /// `Host` or `:authority`; none if there are two.
    pub host: Option<String>,
    /// The trace context, if it is valid.
    pub trace: Option<TraceParent>,
    /// Whether the content is gRPC's.
    pub grpc: bool,
    hosts: u8,
    traces: u8,
}

impl Head {
    /// Reads a head of HTTP/1, which may be cut anywhere.
    pub fn http1(bytes: &[u8]) -> Self {
        let mut head = Self { path: request_target(bytes), ..Self::default() };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        // Of a head that is no valid one the request line is all that is told.
        if matches!(request.parse(bytes), Ok(_) | Err(httparse::Error::TooManyHeaders)) {
            for header in headers.iter().take_while(|header| !header.name.is_empty()) {
                head.field(header.name.as_bytes(), header.value);
            }
        }
        head
    }

    /// Takes a header, or a pseudo-header of HTTP/2.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        if name == b":path" {
            self.path = Some(target(value, false));
        } else if name == b":authority" || name.eq_ignore_ascii_case(b"host") {
            self.host(value);
        } else if name.eq_ignore_ascii_case(b"traceparent") {
            self.traces = self.traces.saturating_add(1);
            // Of several, none is to be believed (Trace Context, section 3.2).
            self.trace = (self.traces == 1).then(|| trace::parse(value)).flatten();
        } else if name.eq_ignore_ascii_case(b"content-type") {
            self.grpc = value.starts_with(b"application/grpc");
        }
    }

    fn host(&mut self, value: &[u8]) {
        let host = visible(&value[..value.len().min(TEXT)]);
        // `:authority` and an equal `host` are one (RFC 9113, section 8.3.1).
        if self.host.as_ref().is_some_and(|known| *known == host) {
            return;
        }
        self.hosts = self.hosts.saturating_add(1);
        self.host = (self.hosts == 1).then_some(host);
    }

    /// Bytes that its texts take.
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>() + text(&self.path) + text(&self.host)
    }
}

/// The target in a request line, which may have any bytes in it: it begins behind the first space,
/// and ends at the last one of the line, behind which is the version.
fn request_target(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty())?;
    let ended = bytes.len() > line.len()
        && !std::ptr::eq(bytes.as_ptr_range().end, line.as_ptr_range().end);
    let start = line.iter().position(|&byte| byte == b' ')? + 1;
    let rest = line.get(start..)?;
    if !ended {
        return (!rest.is_empty()).then(|| target(rest, true));
    }
    let end = rest.iter().rposition(|&byte| byte == b' ')?;
    Some(target(&rest[..end], false))
}

fn target(bytes: &[u8], cut: bool) -> String {
    let path = bytes.split(|&byte| byte == b'?').next().unwrap_or_default();
    let cut = (cut && path.len() == bytes.len()) || path.len() > TEXT;
    let mut text = visible(&path[..path.len().min(TEXT)]);
    if cut {
        text.push('…');
    }
    text
}

/// Visible ASCII as it is, and anything else percent-encoded (RFC 3986, section 2.1).
fn visible(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    text
}

fn digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or('0').to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn path(bytes: &[u8]) -> Option<String> {
        Head::http1(bytes).path
    }

    #[test]
    fn path_host_and_trace_are_told_and_the_query_is_not() {
        let head = format!(
            "GET /shop?token=secret HTTP/1.1\r\nhOst: a.example:80\r\nTraceparent: {TRACE}\r\nCookie: c\r\n\r\nbody"
        );
        let head = Head::http1(head.as_bytes());
        assert_eq!(head.path.as_deref(), Some("/shop"));
        assert_eq!(head.host.as_deref(), Some("a.example:80"));
        assert_eq!(head.trace.unwrap().parent_id, "b7ad6b7169203331");
    }

    #[test]
    fn any_byte_of_a_path_is_told_visibly() {
        assert_eq!(
            path(b"GET /\x1b[2J\"<\xff\xc3\xa9 b HTTP/1.1\r\n\r\n").as_deref(),
            Some("/%1B[2J\"<%FF%C3%A9%20b")
        );
        let host = Head::http1(b"GET / HTTP/1.1\r\nHost: a\xff\"b\r\n\r\n").host;
        assert_eq!(host.as_deref(), Some("a%FF\"b"));
    }

    #[test]
    fn two_hosts_and_two_traces_are_none() {
        let twice = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nHost: c\r\nTraceparent: {TRACE}\r\ntraceparent: {TRACE}\r\n\r\n"
        );
        let head = Head::http1(twice.as_bytes());
        assert_eq!((head.host, head.trace), (None, None));
    }

    #[test]
    fn a_cut_head_tells_what_is_whole() {
        assert_eq!(path(b"GET /lo").as_deref(), Some("/lo…"));
        assert_eq!(path(b"GET /lo?x").as_deref(), Some("/lo"));
        assert_eq!(path(b"GET "), None);
        assert_eq!(path(b"\r\nGET /a HTTP/1.1\r\n").as_deref(), Some("/a"));
        let head = Head::http1(b"GET /a HTTP/1.1\r\nHost: known\r\nTraceparent: 00-0af");
        assert_eq!((head.host.as_deref(), head.trace), (Some("known"), None));
        assert_eq!(Head::http1(b"GET /a HTTP/1.1\r\nHost: kno").host, None);
    }

    #[test]
    fn a_long_path_is_cut_and_says_so() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "p".repeat(5_000));
        let told = path(long.as_bytes()).unwrap();
        assert_eq!(told.chars().count(), TEXT + 1);
        assert!(told.ends_with("p…"));
    }
}
