//! `docs/metrics.md`, printed from the table of families so that it can't say anything else.
//!
//! `WEIR_WRITE_DOCS=1 cargo test --lib agent::docs` writes it anew.

use std::fmt::Write;

use super::{
    budget,
    families::{self, Flavor},
    family::{Family, Kind, Source, Start},
};
use crate::telemetry::histogram::CLASSIC_NS;

const HEAD: &str = "\
# Metrics

<!-- Printed from src/agent/families: WEIR_WRITE_DOCS=1 cargo test --lib agent::docs -->

`weir agent` serves these at `/metrics`: as OpenMetrics 1.0.0 to a client that accepts
`application/openmetrics-text`, as Prometheus' protocol buffers to one that accepts
`application/vnd.google.protobuf` (of `io.prometheus.client.MetricFamily`, delimited), else as Prometheus text
0.0.4; compressed to one that accepts gzip. OpenMetrics and protocol buffers also have the time at which the pod was
attached (`_created`), and exemplars. A page is at most a second old: however many scrape, the maps are read once a
second.

The totals are the kernel's. They start with the pod, and neither a restart of the agent nor its absence
changes them.
";

const TAIL: &str = "\
## What labels mean

- `namespace`, `pod`: whose traffic it is, as the runtime said in `CNI_ARGS`; without Kubernetes the namespace is
  empty and the pod is the container id. They are the names of the *counted* pod, so scrape with
  `honor_labels: true`.
- `role`: the pod's part in the exchange. Traffic between two pods of a node is counted at both, once as `client`
  and once as `server`: a sum over pods should choose one role.
- `direction`: as the pod sees it; `rx` is towards the pod.
- `status` `0`: the exchange ended without a response. `method` `_OTHER`, `qtype` `other`, `rcode` `other`:
  anything that is not listed above.
- No address, port, path or query name is a label, nor a server's name unless asked for.
- `protocol` is that of the request's own words. One that asked for another protocol and was answered `101` (a WebSocket)
  has its version of HTTP/1, and that status; what the connection carries then is not looked at. With `Upgrade: h2c` the
  request that asked is counted as `1.0` or `1.1` with the status that came on stream 1 and not with `101`, and those
  that follow are `2`. A `CONNECT` has the version that it was sent in, and a tunnel of HTTP/1 is not looked at; in HTTP/2 a
  tunnel (a WebSocket's too, RFC 8441) is a request with the method `CONNECT` that lasts until its stream ends.

## Names of TLS servers

`weir agent --tls-sni-top N` adds `weir_tls_server_names_total`. The names are what clients send, so each pod and role has
N places (at most 50): the first N names have them, each counted exactly from its first handshake on. A place for which
nobody asked in an hour goes to the next new name, and what was counted in it to `server_name=\"__other__\"`, as are
handshakes without a name, with one that is no host's name, and whatever found no place. So there are no more than N
new series of a pod and role an hour, whoever floods, and what is over a place's time stays in the sum. Names are in
lower case. The agent counts these, from live records: they begin at 0 with the agent, and what the ring of records had
no room for (`weir_events_lost_total`, sources `records` and `heads`) is missing. Without the option there
is no such family, and the kernel tells of handshakes only while somebody listens; with it, of every exchange.

## After a gap

A stream with a hole in it that is never filled, or that was too much to follow, is a gap in `weir_parse_gaps_total`. What
waits for an answer is counted as `malformed`, of databases as `unknown`. Then, by protocol:

- `http1`, `redis`, `postgresql`, `mysql`: the connection is read again from the next segment of the client's that begins
  as only a request does, when both sides have all that the other said and the server has said something since the gap.
  Of HTTP/1 that is a request line with a known method and a header behind it in the same segment; of MySQL one of the
  commands to query, prepare, execute, choose a database, ping or reset, alone in its segment.
- `http2`, `kafka`, and DNS over TCP: nothing more of the connection is counted, since what follows can't be told without
  what was missed (HPACK's table, the ids that wait, the place of the next length). The next connection is.
- `tls`: a handshake with a gap in the server's answer is not counted; behind that nothing is read anyway.

A hole within bytes that are passed over and whose number is known, such as a body's, is no gap.

What the pod itself would drop is no gap either: a segment to it far out of its window is passed over until the pod
acknowledges what is there, and a reset to it that has not the next byte's number ends the connection only when the pod has
said nothing for a minute after.

A connection is `established` when each side has acknowledged the other's SYN, or when a pod that was asked answers with
bytes; what acknowledges anything else is passed over. The bytes of a SYN (TCP Fast Open) are kept until then: of at most 8
handshakes of a node at a time, of others they are a gap if the server took them. A handshake of which the pod's side shows
that it is through though a part of it never passed here is a gap, too, and its connection is not counted.

A connection that ends before both sides have shown what they speak, where only one has said something or neither enough, is
`unknown` in `weir_l7_connections_total`. One that says nothing for 8,000 s, no keep-alive either, is taken to be gone; what it
says later is bytes and packets only. In HTTP/2, what refers to a header field older than the newest 128 of a table
(which takes a peer with a table of more than the protocol's 4,096 bytes) is not known: the status is `unknown`, the method
`_OTHER`, and a call is not seen to be one of gRPC.

## What is not followed

Some of what is legal, and rare, is told of as above or as said here:

- A head of HTTP/1 of more than 64 KiB (most servers take 8 to 16, Go's 1 MiB) is a gap, `malformed`. So are more than 32,768 steps in
  one GSO segment, `steps`: some thousand requests of HTTP/2 whose header blocks have no literal.
- A connection of HTTP/2 with more than 2,048 open streams: the further ones are in no counter of requests, and in
  `weir_events_lost_total{source=\"http2_streams\"}`.
- Of DNS the return code is that of the header: an extended one (RFC 6891, 6.1.3), such as BADVERS, is shown by its lower four bits. Of a
  zone transfer in several messages (RFC 5936) each behind the first is a `weir_dns_unmatched_responses_total`.
- Of Kafka a Produce with a transactional id of more than 126 characters, and what follows SaslHandshake of version 0, are a gap.
- A frame to a pod with two VLAN tags, or whose IP header is followed by an Authentication Header, is in no counter of requests, the
  former neither in those of bytes and packets.

## What a request to a database is

A connection is taken for a database's when both its sides spoke as that database does, whatever its port; what was asked
before is counted then. `outcome` is `no_response` where the connection ended first, and `unknown` where there is no
answer or the answer does not tell. `operation` is `unknown` where nothing that was seen tells it.

- `redis` (and what speaks its protocol): a command. An error inside of an EXEC's or a script's answer is no error of its
  own. Behind a SUBSCRIBE, MONITOR or PSYNC that went well, nothing more of the connection is read. A command whose answer
  the client switched off is `unknown` and has no duration.
- `postgresql`: a statement of a simple query, or an Execute of the extended protocol, by the server's own word for what it
  did; a failed one by the first word of its text, if that came with it. Others that the server discarded because of a
  failure before them are errors too. It lasts until the server is ready again, its commit included.
- `mysql` (and MariaDB): a command; one with a text by the text's first word, a prepared one as `PREPARE`, `EXECUTE` and
  `FETCH`. Commands without an answer (to close a statement, to send a long value, to quit) are not counted. A connection
  with compression is a gap, `encoded`.
- `kafka`: a request by its API key; `ok` and `error` for those whose response has one error code at a fixed place, as that
  of a group's or a transaction's has, else `unknown`. A Produce without acknowledgement has no duration.

What any of them sends through TLS is not seen: such a connection is `tls`, also where it began in the clear.

## When series come and go

Series marked *from 0* are there as soon as the pod is attached, at 0, so that `rate()` sees the first event. Others
begin with their first event. All stay while the pod lives, idle or not, and keep their last value for 60 seconds
after DEL. A pod that is started anew under the same name begins again at 0; two networks of one pod are added up.
";

const HISTOGRAMS: &str = "\
## Histograms, classic and native

Each duration is counted in the kernel, in one of 116 cells. Their bounds are those of the classic buckets above and
those of Prometheus' native histograms of schema 2 (each bucket 19 % wider than the one before it) from 1.1 µs to
64 s, so that both are exact sums of cells. What is shorter is in the native zero bucket; what is longer, in the bucket
behind 64 s.

Native histograms are in the protocol buffers, beside the classic ones, for which Prometheus asks with
`--enable-feature=native-histograms` (2.40 and newer; from 3.8 on, `scrape_native_histograms: true`). It then takes the
native ones alone, unless told otherwise (from 2.45 on `scrape_classic_histograms: true`, from 3.0 on
`always_scrape_classic_histograms: true`):

```
histogram_quantile(0.99, sum by (pod) (rate(weir_http_request_duration_seconds{role=\"client\"}[5m])))
```

A bucket of `weir_http_request_duration_seconds` and `weir_grpc_request_duration_seconds` has an exemplar, `trace_id`, of
the last request in it that came with a sampled, valid `traceparent`. The agent knows of these only while somebody
listens to live records: `weir observe`, the page, or `--otlp-endpoint`. Prometheus keeps them with
`--enable-feature=exemplar-storage`.

";

const OTEL: &str = "
## As OpenTelemetry calls them

`/metrics?flavor=otel` names these by OpenTelemetry's semantic conventions (1.45), as Prometheus writes them: a name with
`server` or `client` has the pods of that role. The conventions count requests by status in the histogram of their
duration; the kernel counts them apart, so there is a counter beside it. An attribute that is absent is an empty label.
All other families are there as above; the labels `namespace` and `pod` are the same.
";

const HUBBLE: &str = "
## As Hubble calls them

`/metrics?flavor=hubble` has what of Cilium's Hubble can be filled truthfully, and nothing else. `reporter` is the role;
`namespace` and `pod` are those of the pod that reports. There is no `source` and `destination`, as no metric is counted
by the other side, no `ips_returned`, and none of Hubble's metrics of flows, drops and TCP flags.
";

fn document() -> String {
    let mut text = HEAD.to_owned();
    let (of_pods, of_node): (Vec<&Family>, Vec<_>) =
        families::all().partition(|family| !matches!(family.source, Source::Node(_)));
    text.push_str(
        "\n## Of a pod\n\nAll have the labels `namespace` and `pod` besides their own.\n",
    );
    table(&mut text, &of_pods);
    text.push_str("\n## Of the node and of Weir itself\n");
    table(&mut text, &of_node);
    let buckets: Vec<_> =
        CLASSIC_NS.iter().map(|bound| format!("{}", *bound as f64 / 1e9)).collect();
    let _ = write!(
        text,
        "\nBuckets of all histograms, in seconds: {}.\n\n{HISTOGRAMS}{TAIL}",
        buckets.join(", ")
    );
    let _ = write!(
        text,
        "\n## How many series\n\n\
         A family has at most {} samples on a page, and a pod at most {} label sets in a family with an open label \
         (`status`, `method`,\n`qtype`). What is over that is folded: first the open label becomes `__other__`, for \
         the pod that has too many, then for\nall; then the youngest pods of a namespace become `pod=\"__other__\"`. \
         Sums stay right, and\n`weir_cardinality_overflow_total`, which is there at 0 for each family, grows while \
         anything is folded.\n",
        budget::FAMILY,
        budget::POD,
    );
    for (about, flavor) in [(OTEL, Flavor::Otel), (HUBBLE, Flavor::Hubble)] {
        text.push_str(about);
        let ours: Vec<_> = families::all().map(std::ptr::from_ref).collect();
        let renamed =
            flavor.families().filter(|family| !ours.contains(&std::ptr::from_ref(*family)));
        table(&mut text, &renamed.collect::<Vec<_>>());
    }
    text
}

fn table(text: &mut String, families: &[&Family]) {
    text.push_str("\n| metric | type | labels | what |\n|---|---|---|---|\n");
    for family in families {
        let labels: Vec<_> = family.labels.iter().map(label).collect();
        let zero = if family.start == Start::Zero { " (from 0)" } else { "" };
        let _ = writeln!(
            text,
            "| `{}{}` | {} | {} | {}{zero} |",
            family.name,
            family.suffix(),
            match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
                Kind::Info => "info",
            },
            labels.join(", "),
            family.help,
        );
    }
}

fn label(label: &super::family::Label) -> String {
    let values: Vec<_> = label.values.iter().map(|value| format!("`{value}`")).collect();
    if values.is_empty() {
        return format!("`{}`", label.name);
    }
    format!("`{}`: {}", label.name, values.join(" "))
}

#[test]
fn the_document_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    if std::env::var_os("WEIR_WRITE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == document(),
        "docs/metrics.md is stale: WEIR_WRITE_DOCS=1 cargo test --lib agent::docs"
    );
}
