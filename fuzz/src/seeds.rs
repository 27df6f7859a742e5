//! What each decoder is begun from.

use weir::telemetry::wire::{L7Protocol, RecordKind};

/// A number of the wire's, in the byte that a record has for it.
fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap_or_default()
}

/// `struct record` of bpf/wire.h, field by field, and its data; behind the length of both.
fn element(kind: RecordKind, protocol: L7Protocol, code: u8, before: u64, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or_default();
    let mut bytes = Vec::new();
    bytes.extend([7u64, before, 3].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([1u32, 9].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([byte(kind.0), 1, byte(protocol.0), 1]);
    bytes.extend(200u16.to_le_bytes());
    bytes.extend([0, code]);
    bytes.extend([80u16, 4_000].iter().flat_map(|port| port.to_le_bytes()));
    bytes.extend([0, 2]);
    bytes.extend(length.to_le_bytes());
    bytes.extend([10, 88, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(data);
    let length = u16::try_from(bytes.len()).unwrap_or_default().to_le_bytes();
    [&length[..], &bytes].concat()
}

/// A head in pieces, and the exchange that it began.
fn told(protocol: L7Protocol, pieces: &[&[u8]], code: u8, data: &[u8]) -> Vec<u8> {
    let (mut all, mut before) = (Vec::new(), 0);
    for (nth, piece) in pieces.iter().enumerate() {
        let part = u8::from(nth == 0) | u8::from(nth + 1 == pieces.len()) << 1;
        all.extend(element(RecordKind::RECORD_HEAD, protocol, part, before, piece));
        before += piece.len() as u64;
    }
    all.extend(element(RecordKind::RECORD_EXCHANGE, protocol, code, 1_500_000, data));
    all
}

pub fn ring() -> Vec<Vec<u8>> {
    let http = b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\ntraceparent: \
                 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    // RFC 7541, C.4.1, and a field for the table.
    let block = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\
                  \x40\x0ccontent-type\x10application/grpc\xbe";
    let mut hello = vec![0, 0, 81, 3, 3];
    hello.extend([7; 32]);
    hello.extend(b"\0\0\x02\x13\x01\x01\0\0\x28\0\0\0\x10\0\x0e\0\0\x0bexample.org");
    hello.extend(b"\0\x10\0\x05\0\x03\x02h2\0\x2b\0\x05\x04\x03\x04\x03\x03");
    vec![
        told(L7Protocol::L7_HTTP1, &[&http[..30], &http[30..]], 0, b""),
        told(L7Protocol::L7_HTTP2, &[&block[..9], &block[9..]], 0, b""),
        told(L7Protocol::L7_TLS, &[&hello], 0, b""),
        told(L7Protocol::L7_DNS, &[], 3, b"\x07example\x03org\0\0\x1c\0\x01"),
        told(L7Protocol::L7_REDIS, &[], 1, b""),
        told(L7Protocol::L7_KAFKA, &[], 3, b""),
    ]
}

pub fn stdin() -> Vec<Vec<u8>> {
    let full = r#"{"cniVersion": "1.1.0", "name": "pods", "type": "weir", "mtu": 1500, "ipMasq": true,
        "stateDir": "/var/lib/weir", "bpfDir": "/sys/fs/bpf/weir",
        "capabilities": {"portMappings": true, "bandwidth": true, "ips": true, "mac": true},
        "telemetry": {"enabled": true, "required": false, "attach": "tcx"},
        "dns": {"nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["a"], "options": ["b"]},
        "ipam": {"type": "weir", "ranges": [[{"subnet": "10.88.0.0/24", "rangeStart": "10.88.0.10",
            "rangeEnd": "10.88.0.20", "gateway": "10.88.0.1"}], [{"subnet": "fd00::/64"}]],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}], "resolvConf": "/etc/resolv.conf"},
        "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp",
            "hostIP": "127.0.0.1"}], "bandwidth": {"ingressRate": 1000000, "ingressBurst": 800000,
            "egressRate": 2000000, "egressBurst": 1600000}, "ips": ["10.88.0.9/24"], "mac": "02:00:00:00:00:01"},
        "args": {"cni": {"ips": ["10.88.0.8"], "mac": "02:00:00:00:00:02", "labels": [{"key": "a"}]}},
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
        "cni.dev/attachments": []}"#;
    let chained = r#"{"cniVersion": "1.0.0", "name": "pods", "type": "weir",
        "ipam": {"type": "host-local"}, "prevResult": {
        "cniVersion": "1.0.0", "interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/proc/1/ns/net"}],
        "ips": [{"address": "10.88.0.2/32", "gateway": "10.88.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}}"#;
    vec![full.into(), chained.into()]
}

pub fn args() -> Vec<Vec<u8>> {
    vec![
        b"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=1b4e28ba".to_vec(),
        b"IP=10.88.0.9/24;MAC=02:00:00:00:00:01;IP=fd00::1;a=b=c;;=".to_vec(),
    ]
}

pub fn delegate() -> Vec<Vec<u8>> {
    let result = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"},
        {"address": "fd00::5/64"}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a"]}}"#;
    let refusal =
        r#"{"cniVersion": "1.0.0", "code": 11, "msg": "no address", "details": "of 10.1.0.0/16"}"#;
    vec![result.into(), refusal.into()]
}

pub fn record() -> Vec<Vec<u8>> {
    vec![weir::fuzzing::a_record()]
}

pub fn query() -> Vec<Vec<u8>> {
    vec![
        b"pod=shop%2Fweb&protocol=dns&status=4xx&path_prefix=%2Fa+%26&slower_than=1m+30s".to_vec(),
        b"status=503&since=5m&pod=web&slower_than=100ms".to_vec(),
    ]
}

pub fn events() -> Vec<Vec<u8>> {
    let flow =
        r#"{"time":"2026-01-02T03:04:05.678901Z","namespace":"shop","pod":"web","role":"server",
        "protocol":"http","method":"GET","path":"/a","host":"h","status":404,"error":"reset",
        "grpc_status":"0","name":"a.org","qtype":"A","rcode":"NOERROR","tls_version":"1.3",
        "server_name":"s","alpn":["h2"],"operation":"GET","outcome":"ok","duration_seconds":0.1,
        "peer":"10.0.0.1:9","port":80,"trace_id":"0af7","parent_id":"b7ad"}"#
            .replace('\n', "");
    let lost = "event: lost\ndata: {\"records\":12,\"where\":\"ring\"}\n\n";
    vec![format!(": listening\n\ndata: {flow}\n\n{lost}data: {flow}\n\n").into_bytes()]
}

pub fn accept() -> Vec<Vec<u8>> {
    vec![
        // Prometheus' own.
        b"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
          application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,\
          */*;q=0.1"
            .to_vec(),
        b"gzip;q=1.0, x-gzip, br;q=0, *;q=0.001".to_vec(),
    ]
}

pub fn conflist() -> Vec<Vec<u8>> {
    let list = r#"{"cniVersion": "1.1.0", "cniVersions": ["1.0.0"], "name": "pods", "disableCheck": false,
        "plugins": [{"type": "tuning", "sysctl": {}}, {"type": "weir", "ipMasq": true},
            {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
    vec![list.into()]
}

pub fn overview() -> Vec<Vec<u8>> {
    let answer = r#"{"interval_seconds": 10.0, "pods": [{"namespace": "shop", "pod": "web", "counted": true,
        "server": {"http": {"total": 7, "errors": 1, "rate": 0.7, "error_rate": 0.1, "p50_seconds": 0.01,
            "p99_seconds": 0.1}, "connections": 2}, "network": {"rx_bytes": 9, "rx_rate": 1e3}}]}"#;
    vec![answer.into()]
}

pub fn receiver() -> Vec<Vec<u8>> {
    // ExportTraceServiceResponse of opentelemetry-proto: partial_success, with its number and words.
    vec![b"\x0a\x0b\x08\x03\x12\x07too old".to_vec(), Vec::new()]
}

pub fn resolv() -> Vec<Vec<u8>> {
    vec![b"# a\nnameserver 10.0.0.1\nsearch a.b c\ndomain d\noptions ndots:5 edns0\n".to_vec()]
}
