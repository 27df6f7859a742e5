//! `docs/metrics.md`, printed from the table of families so that it can't say anything else.
//!
//! `WEIR_WRITE_DOCS=1 cargo test --lib agent::docs` writes it anew.

use std::fmt::Write;

use super::{
    budget, families,
    family::{Family, Kind, Source, Start},
};
use crate::telemetry::histogram::CLASSIC_NS;

const HEAD: &str = "\
# Metrics

<!-- Printed from src/agent/families: WEIR_WRITE_DOCS=1 cargo test --lib agent::docs -->

`weir agent` serves these at `/metrics`: as OpenMetrics 1.0.0 to a client that accepts
`application/openmetrics-text`, else as Prometheus text 0.0.4. OpenMetrics also has `_created`, the time at
which the pod was attached.

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
- No address, port, path or query name is a label.

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
    let _ =
        write!(text, "\nBuckets of all histograms, in seconds: {}.\n\n{TAIL}", buckets.join(", "));
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
