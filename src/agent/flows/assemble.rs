//! From the ring's records to flows.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use super::{
    blocks::Blocks,
    flow::{Flow, Word, word},
    head::Head,
    heads::Heads,
    question,
};
use crate::{
    agent::labels,
    telemetry::wire::{Family, HttpError, HttpStatus, L7Protocol, Record, RecordKind},
};

/// Puts records together.
#[derive(Debug)]
pub struct Assembly {
    heads: Heads,
    blocks: Blocks,
}

impl Assembly {
    /// With nothing known.
    pub fn new() -> Self {
        Self { heads: Heads::new(), blocks: Blocks::new() }
    }

    /// Takes a record; returns the exchange that it ends. Who the pod is and when it was are left
    /// to the caller.
    pub fn take(&mut self, record: &Record, bytes: &[u8]) -> Option<Flow> {
        if u32::from(record.kind) == RecordKind::RECORD_HEAD.0 {
            if is(record, L7Protocol::L7_HTTP2) {
                self.blocks.piece(record, bytes, &mut self.heads);
            } else {
                self.heads.piece(record, bytes);
            }
            return None;
        }
        if u32::from(record.kind) != RecordKind::RECORD_EXCHANGE.0 {
            return None;
        }
        let mut flow = ends(record);
        if is(record, L7Protocol::L7_HTTP1) || is(record, L7Protocol::L7_HTTP2) {
            let head = self.heads.http(record.conn, record.number).unwrap_or_default();
            http(&mut flow, record, head);
        } else if is(record, L7Protocol::L7_TLS) {
            flow.tls_version = Some(word(labels::tls_version(record.status.into())));
            flow.duration_seconds = None;
            if let Some(hello) = self.heads.hello(record.conn, record.number) {
                flow.server_name = hello.server_name;
                flow.alpn = hello.alpn;
                flow.offered_versions = hello.versions;
            }
        } else if is(record, L7Protocol::L7_DNS) {
            flow.name = question::name(bytes);
            flow.qtype = Some(word(labels::dns_qtype(record.status.into())));
            flow.rcode = Some(word(labels::dns_rcode(record.code.into())));
            flow.transport = Some(word(labels::transport(record.method.into())));
        } else if labels::DB_SYSTEMS.contains(&flow.protocol.as_ref()) {
            flow.operation = Some(word(labels::db_operation(record.method.into())));
            flow.outcome = Some(word(labels::db_outcome(record.code.into())));
        }
        flow.failed = flow.fails();
        Some(flow)
    }
}

fn is(record: &Record, protocol: L7Protocol) -> bool {
    u32::from(record.protocol) == protocol.0
}

/// What every record has.
fn ends(record: &Record) -> Flow {
    let protocol = word(labels::l7_protocol(record.protocol.into()));
    Flow {
        role: word(labels::role(record.role.into())),
        protocol: if protocol.starts_with("http") { Word::Borrowed("http") } else { protocol },
        duration_seconds: (record.duration_ns != u64::MAX)
            .then(|| Duration::from_nanos(record.duration_ns).as_secs_f64()),
        peer: peer(record).map(|peer| peer.to_string()),
        port: (record.pod_port != 0).then_some(record.pod_port),
        ..Flow::default()
    }
}

fn http(flow: &mut Flow, record: &Record, head: Head) {
    flow.version = Some(word(labels::http_version(record.version.into())));
    flow.method = Some(word(labels::http_method(record.method.into())));
    let unknown = [HttpStatus::HTTP_STATUS_NONE.0, HttpStatus::HTTP_STATUS_UNKNOWN.0];
    flow.status = (!unknown.contains(&record.status.into())).then_some(record.status);
    flow.error = (u32::from(record.error) != HttpError::HTTP_ERROR_NONE.0)
        .then(|| word(labels::http_error(record.error.into())));
    // The kernel side says 0 for a call that went well and for what is no call.
    if head.grpc || record.code != 0 {
        flow.protocol = Cow::Borrowed("grpc");
        flow.grpc_status = Some(word(labels::grpc_status(record.code.into())));
    }
    flow.path = head.path;
    flow.host = head.host;
    if let Some(trace) = head.trace {
        flow.trace_id = Some(trace.trace_id);
        flow.parent_id = Some(trace.parent_id);
        flow.sampled = trace.sampled;
    }
}

/// The other side, where the record has it.
pub fn peer(record: &Record) -> Option<SocketAddr> {
    let octets = record.peer_addr;
    if record.peer_port == 0 && octets == [0; 16] {
        return None;
    }
    let address = if u32::from(record.family) == Family::FAMILY_IPV4.0 {
        Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()
    } else {
        Ipv6Addr::from(octets).into()
    };
    Some(SocketAddr::new(address, record.peer_port))
}

/// A time in the form of [`Flow::time`].
pub fn rfc3339(time: SystemTime) -> String {
    // Before 1970 and after 9999 there is no such form, and no such clock is worth a failure.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_micros(time.clamp(SystemTime::UNIX_EPOCH, latest)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::wire::{DbOperation, DbOutcome, HttpMethod, HttpVersion, Role};

    fn byte(number: u32) -> u8 {
        u8::try_from(number).unwrap()
    }

    fn exchange(protocol: L7Protocol) -> Record {
        Record {
            kind: byte(RecordKind::RECORD_EXCHANGE.0),
            protocol: byte(protocol.0),
            role: byte(Role::ROLE_CLIENT.0),
            conn: 3,
            number: 1,
            duration_ns: 1_500_000,
            ..Record::default()
        }
    }

    #[test]
    fn an_exchange_has_what_its_head_said() {
        let mut assembly = Assembly::new();
        let mut head = exchange(L7Protocol::L7_HTTP1);
        (head.kind, head.code, head.duration_ns) = (byte(RecordKind::RECORD_HEAD.0), 1, 0);
        assert_eq!(assembly.take(&head, b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"), None);
        let mut ended = exchange(L7Protocol::L7_HTTP1);
        (ended.method, ended.version) =
            (byte(HttpMethod::HTTP_METHOD_GET.0), byte(HttpVersion::HTTP_VERSION_1_1.0));
        (ended.status, ended.peer_port, ended.pod_port) = (404, 80, 4_000);
        ended.peer_addr[..4].copy_from_slice(&[10, 88, 0, 9]);
        let flow = assembly.take(&ended, b"").unwrap();
        let expected = serde_json::json!({
            "time": "", "namespace": "", "pod": "", "role": "client", "protocol": "http",
            "version": "1.1", "method": "GET", "path": "/a", "host": "h", "status": 404,
            "duration_seconds": 0.0015, "peer": "10.88.0.9:80", "port": 4_000,
        });
        assert_eq!(serde_json::to_value(&flow).unwrap(), expected);
        assert_eq!(assembly.take(&ended, b"").unwrap().path, None);
    }

    #[test]
    fn a_call_is_grpc_by_its_type_or_its_status() {
        let mut assembly = Assembly::new();
        let mut ended = exchange(L7Protocol::L7_HTTP2);
        ended.status = 200;
        assert_eq!(assembly.take(&ended, b"").unwrap().protocol, "http");
        ended.code = 14;
        let flow = assembly.take(&ended, b"").unwrap();
        assert_eq!((flow.protocol.as_ref(), flow.grpc_status.as_deref()), ("grpc", Some("14")));
        let mut grpc = Head::default();
        grpc.field(b":path", b"/s/m");
        grpc.field(b"content-type", b"application/grpc+proto");
        assembly.heads.know(3, 1, grpc);
        ended.code = 0;
        assert_eq!(assembly.take(&ended, b"").unwrap().grpc_status.as_deref(), Some("0"));
    }

    #[test]
    fn what_was_not_seen_is_left_out() {
        let mut ended = exchange(L7Protocol::L7_HTTP1);
        ended.error = byte(HttpError::HTTP_ERROR_RESET.0);
        let flow = Assembly::new().take(&ended, b"").unwrap();
        assert_eq!((flow.status, flow.peer, flow.error.as_deref()), (None, None, Some("reset")));
        let flow = Assembly::new().take(&exchange(L7Protocol::L7_TLS), b"").unwrap();
        assert_eq!((flow.duration_seconds, flow.tls_version.as_deref()), (None, Some("other")));
    }

    #[test]
    fn a_look_up_has_its_name() {
        let mut ended = exchange(L7Protocol::L7_DNS);
        (ended.status, ended.code) = (28, 3);
        let flow = Assembly::new().take(&ended, b"\x01a\x03org\0\0\x1c\0\x01").unwrap();
        assert_eq!(flow.name.as_deref(), Some("a.org"));
        assert_eq!(
            (flow.qtype.as_deref(), flow.rcode.as_deref()),
            (Some("AAAA"), Some("NXDOMAIN"))
        );
        assert_eq!(flow.transport.as_deref(), Some("udp"));
    }

    #[test]
    fn a_request_to_a_database_has_its_operation_and_outcome() {
        let mut ended = exchange(L7Protocol::L7_REDIS);
        (ended.method, ended.code) = (byte(DbOperation::DB_HGETALL.0), byte(DbOutcome::DB_ERROR.0));
        let flow = Assembly::new().take(&ended, b"").unwrap();
        let expected = serde_json::json!({
            "time": "", "namespace": "", "pod": "", "role": "client", "protocol": "redis",
            "operation": "HGETALL", "outcome": "error", "failed": true, "duration_seconds": 0.0015,
        });
        assert_eq!(serde_json::to_value(&flow).unwrap(), expected);
        ended.duration_ns = u64::MAX;
        assert_eq!(Assembly::new().take(&ended, b"").unwrap().duration_seconds, None);
    }

    #[test]
    fn times_are_written_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123456Z");
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00.000000Z"
        );
    }
}
