//! What a listener is told of a request's head: four of its fields, and none of the others.

use super::trace::{self, TraceParent};

/// Headers that are looked at; what comes behind them is passed over.
const HEADERS: usize = 64;

/// Of a path or host, as they are told, what is beyond is cut: so many characters and two.
const TEXT: usize = 1_024;

/// What is known of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The target's path; with `…` behind it where it was cut. Of a target that begins with an authority
    /// and was cut within it, only `…`; of CONNECT, host and port.
    pub path: Option<String>,
    /// The authority of a target in absolute form, or else `Host` or `:authority`; none if there are two.
    /// Without the user and password before its `@`.
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
        let target = request_target(bytes).unwrap_or_default();
        let mut head = Self { path: target.path, ..Self::default() };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        // Of a head that is no valid one the request line is all that is told.
        if matches!(request.parse(bytes), Ok(_) | Err(httparse::Error::TooManyHeaders)) {
            for header in headers.iter().take_while(|header| !header.name.is_empty()) {
                head.field(header.name.as_bytes(), header.value);
            }
        }
        // What `Host` says besides is not to be believed (RFC 9112, section 3.2.2).
        if target.host.is_some() {
            head.host = target.host;
        }
        head
    }

    /// Takes a header, or a pseudo-header of HTTP/2.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        if name == b":path" {
            self.path = target(value, false).path;
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
        let host = authority(value);
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

/// What is told of a target.
#[derive(Debug, Default, PartialEq, Eq)]
struct Target {
    path: Option<String>,
    /// Of the absolute form.
    host: Option<String>,
}

/// The target in a request line, which may have any bytes in it: it begins behind the first space,
/// and ends at the last one of the line, behind which is the version.
fn request_target(bytes: &[u8]) -> Option<Target> {
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

/// A target of any form (RFC 9112, section 3.2), which may be cut: `/path?query`,
/// `scheme://user:password@host:port/path?query`, `host:port` or `*`.
fn target(bytes: &[u8], cut: bool) -> Target {
    let whole = bytes.split(|&byte| byte == b'?').next().unwrap_or_default();
    let cut = cut && whole.len() == bytes.len();
    if whole.starts_with(b"/") {
        return Target { path: Some(path(whole, cut)), host: None };
    }
    let scheme = whole.windows(3).position(|bytes| bytes == b"://");
    let rest = &whole[scheme.map_or(0, |at| at + 3)..];
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'/' | b'#')) else {
        return match scheme {
            // As far as it is there it may be a user and a password.
            _ if cut => Target { path: Some("…".into()), host: None },
            Some(_) => Target { path: Some("/".into()), host: named(rest) },
            None => Target { path: Some(path(without_user(rest), false)), host: None },
        };
    };
    let behind = if rest[end] == b'/' { &rest[end..] } else { b"/" };
    match scheme {
        Some(_) => Target { path: Some(path(behind, cut)), host: named(&rest[..end]) },
        None => Target { path: Some(path(without_user(rest), cut)), host: None },
    }
}

fn path(bytes: &[u8], cut: bool) -> String {
    let (mut text, whole) = visible(bytes);
    if cut || !whole {
        text.push('…');
    }
    text
}

/// The authority of a URL, which may be empty.
fn named(bytes: &[u8]) -> Option<String> {
    let host = authority(bytes);
    (!host.is_empty()).then_some(host)
}

/// Host and port, without who asks and the password.
fn authority(bytes: &[u8]) -> String {
    visible(without_user(bytes)).0
}

/// What is behind the last `@`: neither a host nor a port has one, and a password may.
fn without_user(bytes: &[u8]) -> &[u8] {
    bytes.rsplit(|&byte| byte == b'@').next().unwrap_or_default()
}

/// Visible ASCII as it is, and anything else percent-encoded (RFC 3986, section 2.1); whether that is all.
fn visible(bytes: &[u8]) -> (String, bool) {
    let mut text = String::with_capacity(bytes.len().min(TEXT));
    for &byte in bytes {
        if text.len() >= TEXT {
            return (text, false);
        }
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    (text, true)
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
    fn of_a_url_path_and_host_are_told_and_never_user_or_password() {
        let of = |method: &str, target: &str| {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: other:geheim@pod\r\n\r\n");
            let Head { path, host, .. } = Head::http1(head.as_bytes());
            (path.unwrap(), host.unwrap())
        };
        for (target, path, host) in [
            ("http://user:geheim@internal.example/abs?x=1", "/abs", "internal.example"),
            ("http://internal.example:8080/abs", "/abs", "internal.example:8080"),
            ("HTTP://geheim@geheim@[fd00::1]:80", "/", "[fd00::1]:80"),
            ("http://internal.example?geheim", "/", "internal.example"),
            ("http://user@internal.example#geheim", "/", "internal.example"),
            ("http://user:geheim@/abs", "/abs", "pod"),
            // A path may have anything in it.
            ("/a@b/http://c", "/a@b/http://c", "pod"),
            ("user:geheim@host/abs", "host/abs", "pod"),
            ("*", "*", "pod"),
        ] {
            assert_eq!(of("GET", target), (path.into(), host.into()), "{target}");
        }
        for target in ["a.example:443", "user:geheim@a.example:443"] {
            assert_eq!(of("CONNECT", target), ("a.example:443".into(), "pod".into()), "{target}");
        }
        let mut head = Head::default();
        head.field(b":path", b"http://user:geheim@internal.example/abs");
        head.field(b":authority", b"user:geheim@pod:80");
        head.field(b"host", b"pod:80");
        assert_eq!((head.path.as_deref(), head.host.as_deref()), (Some("/abs"), Some("pod:80")));
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
        for cut in ["http://user:geh", "user:geh", "http://user:geheim@internal", "htt"] {
            let head = Head::http1(format!("GET {cut}").as_bytes());
            assert_eq!((head.path.as_deref(), head.host), (Some("…"), None), "{cut}");
        }
        let head = Head::http1(b"GET http://user:geheim@internal/ab");
        assert_eq!((head.path.as_deref(), head.host.as_deref()), (Some("/ab…"), Some("internal")));
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
