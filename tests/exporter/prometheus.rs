//! Debian's Prometheus scrapes the agent: an independent parser of each page, and what is made of it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weir::telemetry::wire::{CounterKind, HistogramKind};

use super::{
    fill::Pod,
    http::{self, get, get_openmetrics},
    node::{Node, Service, eventually, run},
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// A Prometheus of the test's own, with the example's configuration but for the interval.
pub struct Prometheus {
    service: Service,
    address: SocketAddr,
}

impl Prometheus {
    fn start(node: &Node) -> Self {
        Self::with(node, 9090, &[])
    }

    /// On a port of its own, with more arguments.
    pub fn with(node: &Node, port: u16, arguments: &[&str]) -> Self {
        Self::of(node, port, "weir", arguments)
    }

    /// Which scrapes the page under the names of a flavor.
    pub fn of(node: &Node, port: u16, flavor: &str, arguments: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let example = fs::read_to_string(format!("{EXAMPLES}/prometheus.yaml")).unwrap();
        let often = example.replace("scrape_interval: 15s", "scrape_interval: 1s");
        assert_ne!(often, example);
        let job = "job_name: weir\n";
        assert!(often.contains(job), "{often}");
        let asked = format!("{job}    params: {{flavor: [{flavor}]}}\n");
        let often = often.replacen(job, &asked, 1);
        let config = node.path(&format!("prometheus-{port}.yaml"));
        fs::write(&config, often).unwrap();
        let alerts = "prometheus-alerts.yaml";
        fs::copy(format!("{EXAMPLES}/{alerts}"), node.path(alerts)).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(argument("--config.file", &config));
        command.arg(argument("--storage.tsdb.path", &node.path(&format!("tsdb-{port}"))));
        command.arg(format!("--web.listen-address={address}")).args(arguments);
        let mut service = Service::start(command);
        service.wait_for("Server is ready to receive web requests");
        Self { service, address }
    }

    /// The data that an endpoint of its API has for an expression.
    pub fn ask(&self, endpoint: &str, expression: &str) -> Value {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = http::get_from(self.address, &format!("/api/v1/{endpoint}query={encoded}"));
        let mut json: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(json["status"], "success", "{json}");
        json["data"].take()
    }

    /// What it was told of each family: type, help and unit.
    pub fn metadata(&self) -> BTreeMap<String, [String; 3]> {
        let mut stream = http::connect(self.address);
        // HTTP/1.0 knows no chunks.
        stream.write_all(b"GET /api/v1/metadata HTTP/1.0\r\n\r\n").unwrap();
        let answer = http::read(stream).unwrap();
        let json: Value = serde_json::from_str(&answer.body).unwrap();
        let families = json["data"].as_object().unwrap().iter();
        let told = |of: &Value| {
            ["type", "help", "unit"].map(|what| of[0][what].as_str().unwrap().to_owned())
        };
        families.map(|(name, of)| (name.clone(), told(of))).collect()
    }

    /// The samples of an instant query: labels to value.
    pub fn query(&self, expression: &str) -> BTreeMap<BTreeMap<String, String>, String> {
        let data = self.ask("query?", expression);
        let samples = data["result"].as_array().unwrap().iter();
        samples
            .map(|sample| {
                let labels = serde_json::from_value(sample["metric"].clone()).unwrap();
                (labels, sample["value"][1].as_str().unwrap().to_owned())
            })
            .collect()
    }

    /// The one value of a query that has one.
    pub fn value(&self, expression: &str) -> Option<f64> {
        let samples = self.query(expression);
        assert!(samples.len() < 2, "{samples:#?}");
        samples.into_values().next().map(|value| value.parse().unwrap())
    }
}

fn argument(name: &str, path: &Path) -> String {
    format!("{name}={}", path.to_str().unwrap())
}

#[test]
fn prometheus_takes_every_sample_of_the_page() {
    let node = Node::new("scrape");
    let web = Pod::new(&node, "web");
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 1_234_567);
    web.observe(HistogramKind::HISTOGRAM_HTTP_REQUEST, 1, &[(20_000_000, 75), (200_000_000, 25)]);
    let _agent = node.agent();
    eventually("a pod", || get("/metrics").body.contains("\nweir_pods 1\n"));
    let prometheus = Prometheus::start(&node);
    eventually("a scrape", || prometheus.value("up") == Some(1.0));
    let lines = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
    let samples = lines(&get_openmetrics().body);
    assert!(samples > lines(&get("/metrics").body), "OpenMetrics has creation times besides");
    assert_eq!(prometheus.value("scrape_samples_scraped"), Some(samples as f64));
    assert_eq!(prometheus.value("scrape_samples_post_metric_relabeling"), Some(samples as f64));

    let requests = prometheus.query("weir_http_requests_total");
    let expected = [
        ("__name__", "weir_http_requests_total"),
        ("instance", "127.0.0.1:9920"),
        ("job", "weir"),
        ("method", "GET"),
        ("namespace", "shop"),
        ("pod", "web"),
        ("protocol", "1.1"),
        ("role", "server"),
        ("status", "200"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(requests, [(expected, "1234567".to_owned())].into());

    // Three quarters of the durations are in (0.01, 0.025], so the median is two thirds into it.
    let median = "histogram_quantile(0.5, weir_http_request_duration_seconds_bucket)";
    let median = prometheus.value(median).unwrap();
    assert!((median - 0.02).abs() < 1e-9, "{median}");
    let mean = "weir_http_request_duration_seconds_sum / weir_http_request_duration_seconds_count";
    assert_eq!(prometheus.value(mean), Some(0.065));
    let created = prometheus.value("weir_http_requests_created").unwrap();
    assert!((created - now()).abs() < 60.0, "{created}");
    let (status, log) = prometheus.service.stop(Signal::SIGTERM);
    assert_eq!(status, Some(0));
    let complains = |line: &&String| line.contains("level=warn") || line.contains("level=error");
    let complaint = log.iter().filter(complains).find(|line| !line.contains("Received SIGTERM"));
    assert_eq!(complaint, None, "{log:#?}");
}

#[test]
fn a_name_that_would_break_a_page_arrives_as_it_is() {
    let node = Node::new("hostile");
    let hostile = "a\"} 1\nweir_pods 99\n# EOF\n\\\u{202e}";
    Pod::named(&node, "veth1", "", hostile);
    let broken = Pod::named(&node, "veth2", "\\", "utf-8");
    broken.change(|attachment| {
        for (to, from) in attachment.pod_name.iter_mut().zip([0xc3_u8, 0x28, 0xff, b'x', 0]) {
            *to = std::ffi::c_char::from_ne_bytes([from]);
        }
    });
    let _agent = node.agent();
    eventually("two pods", || get("/metrics").body.contains("\nweir_pods 2\n"));
    let prometheus = Prometheus::start(&node);
    eventually("a scrape", || prometheus.value("up") == Some(1.0));
    assert_eq!(prometheus.value("weir_pods"), Some(2.0));
    let names: Vec<_> = prometheus
        .query("weir_attach_status")
        .into_keys()
        .map(|labels| (labels.get("namespace").cloned(), labels["pod"].clone()))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // Prometheus drops an empty label.
    assert!(names.contains(&(None, hostile.to_owned())), "{names:?}");
    assert!(names.contains(&(Some("\\".into()), "\u{fffd}(\u{fffd}x".into())), "{names:?}");
}

#[test]
fn promtool_finds_nothing_to_say_about_the_page() {
    let node = Node::new("promtool");
    let web = Pod::new(&node, "web");
    web.count(CounterKind::COUNTER_HTTP_REQUESTS, 1, 2, 200, 7);
    web.count(CounterKind::COUNTER_DNS_QUERIES, 0, 0, 1, 7);
    web.count(CounterKind::COUNTER_DNS_RESPONSES, 0, 0, 1, 7);
    for kind in 1..HistogramKind::HISTOGRAM_KIND_MAX.0 {
        web.observe(HistogramKind(kind), 0, &[(1_000, 1), (70_000_000_000, 1)]);
    }
    let _agent = node.agent();
    eventually("a pod", || get("/metrics").body.contains("\nweir_pods 1\n"));
    for (path, family) in [
        ("/metrics", "weir_http_requests_total{"),
        ("/metrics?flavor=otel", "http_server_request_duration_seconds_bucket{"),
        ("/metrics?flavor=hubble", "hubble_http_requests_total{"),
    ] {
        let page = get(path).body;
        assert!(page.contains(&format!("\n{family}")), "{page}");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.is_empty(), "{path}: {said}");
    }
}

#[test]
fn the_examples_are_what_prometheus_reads() {
    let check = |path: &str| {
        let said = run("promtool", &["check", "config", path]);
        assert!(said.contains("is valid prometheus config file syntax"), "{said}");
    };
    check(&format!("{EXAMPLES}/prometheus.yaml"));
    // Debian's Prometheus is built without the discovery of Kubernetes: all but that is checked.
    let text = fs::read_to_string(format!("{EXAMPLES}/prometheus-kubernetes.yaml")).unwrap();
    let discovered = "kubernetes_sd_configs:\n      - role: pod\n";
    assert!(text.contains(discovered), "{text}");
    let text = text.replace(discovered, "static_configs: [{targets: [\"127.0.0.1:9920\"]}]\n");
    let rest = std::env::temp_dir().join(format!("weir-prometheus-{}.yaml", std::process::id()));
    fs::write(&rest, text.replace("prometheus-alerts", &format!("{EXAMPLES}/prometheus-alerts")))
        .unwrap();
    check(rest.to_str().unwrap());
    fs::remove_file(rest).unwrap();
    let alerts = format!("{EXAMPLES}/prometheus-alerts.yaml");
    let said = run("promtool", &["check", "rules", &alerts]);
    assert!(said.contains("9 rules found"), "{said}");
    // Every name of ours that a rule uses is in the document that lists them all.
    let metrics =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rules = fs::read_to_string(alerts).unwrap();
    for name in rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let known = !name.starts_with("weir_") || metrics.contains(&format!("`{name}`"));
        assert!(known, "{name}");
    }
}

/// Of a node on which a pod is counted, and two that an upgrade left behind.
#[test]
fn an_upgrade_that_waits_for_its_reload_is_an_alert() {
    let node = Node::new("alerts");
    let waiting = r#"weir_attachments{instance="n1", telemetry="other-version"}"#;
    let status = r#"weir_attach_status{instance="n1", namespace="shop", pod="web", hook="clsact"}"#;
    let summary = "An upgrade on n1 waits for `weir reload`";
    let description = "2 pods are counted by the programs of another version of Weir, and are not on this \
        page until `weir reload` brings them and their totals over; where that was done, this agent is the one of \
        before and is to be restarted. /readyz says which, and names some.";
    let due = json!([{
        "exp_labels": {"severity": "warning", "instance": "n1", "telemetry": "other-version"},
        "exp_annotations": {"summary": summary, "description": description},
    }]);
    let rule = |name: &str, minute: u32, expected: &Value| json!({"alertname": name, "eval_time": format!("{minute}m"), "exp_alerts": expected});
    // A node with one that waits, and one that is not counted for another reason.
    let of = |node: &str, pod: &str| {
        format!(
            r#"weir_attach_status{{instance="{node}", namespace="shop", pod="{pod}", hook="clsact"}}"#
        )
    };
    let uncounted = |node: &str, pod: &str| {
        json!({
            "exp_labels": {
                "severity": "warning", "instance": node, "namespace": "shop", "pod": pod, "hook": "clsact",
            },
            "exp_annotations": {
                "summary": format!("Traffic of shop/{pod} is not counted"),
                "description": format!("The pod has its network. `weir pods` on {node} says whether it was never \
                    counted (`weir doctor` says why), is counted no more (`weir reconcile`), has lost its interface \
                    (make it anew), or is counted by another version (`weir reload`)."),
            },
        })
    };
    let both = json!([uncounted("n2", "bare"), uncounted("n2", "old")]);
    let last = json!([uncounted("n2", "bare"), uncounted("n2", "old"), uncounted("n1", "a")]);
    let tests = json!({
        "interval": "1m",
        "input_series": [
            {"series": waiting, "values": "0 2x20 0x20"},
            {"series": status, "values": "1x41"},
            {"series": of("n1", "a"), "values": "1 0x20 1x7 0x20"},
            {"series": of("n1", "b"), "values": "1 0x20 1x20"},
            {"series": of("n2", "old"), "values": "0x41"},
            {"series": of("n2", "bare"), "values": "0x41"},
            {"series": r#"weir_attachments{instance="n2", telemetry="other-version"}"#, "values": "0x28 1x12"},
        ],
        "alert_rule_test": [
            rule("WeirReloadDue", 0, &json!([])),
            rule("WeirReloadDue", 10, &json!([])),
            rule("WeirReloadDue", 20, &due),
            rule("WeirReloadDue", 30, &json!([])),
            rule("WeirPodNotCounted", 20, &both),
            rule("WeirPodNotCounted", 40, &last),
        ],
    });
    promtool_agrees(&node, &tests);
}

/// Of a pod that leaves one request of ten without an answer, and one that answers one call of ten by UNAVAILABLE.
#[test]
fn pods_that_fail_otherwise_than_by_5xx_are_alerts() {
    let node = Node::new("failing");
    let series = |family: &str, pod: &str, status: &str, values: &str| {
        let labels =
            format!(r#"instance="n1", namespace="shop", pod="{pod}", role="server", {status}"#);
        json!({"series": format!("{family}{{{labels}}}"), "values": values})
    };
    let (http, grpc) = ("weir_http_requests_total", "weir_grpc_requests_total");
    let fires = |name: &str, pod: &str, what: &str| {
        let labels = json!({"severity": "warning", "namespace": "shop", "pod": pod});
        let annotations =
            json!({"summary": format!("shop/{pod} answers more than 5 % of its {what}")});
        let alert = json!({"exp_labels": labels, "exp_annotations": annotations});
        json!({"alertname": name, "eval_time": "20m", "exp_alerts": [alert]})
    };
    let tests = json!({
        "interval": "1m",
        "input_series": [
            series(http, "mute", r#"status="0""#, "0+10x30"),
            series(http, "mute", r#"status="200""#, "0+90x30"),
            series(http, "well", r#"status="404""#, "0+10x30"),
            series(http, "well", r#"status="0""#, "0+1x30"),
            series(http, "well", r#"status="200""#, "0+90x30"),
            series(grpc, "away", r#"grpc_status="14""#, "0+10x30"),
            series(grpc, "away", r#"grpc_status="0""#, "0+90x30"),
            series(grpc, "well", r#"grpc_status="5""#, "0+10x30"),
            series(grpc, "well", r#"grpc_status="0""#, "0+90x30"),
        ],
        "alert_rule_test": [
            fires("PodHttpErrors", "mute", "requests with 5xx, or not at all"),
            fires("PodGrpcErrors", "away", "gRPC calls with an error of its own"),
        ],
    });
    promtool_agrees(&node, &tests);
}

/// Whether the example's alerts fire as these tests of promtool's say.
fn promtool_agrees(node: &Node, tests: &Value) {
    let rules = format!("{EXAMPLES}/prometheus-alerts.yaml");
    let cases = json!({"rule_files": [rules], "evaluation_interval": "1m", "tests": [tests]});
    let file = node.path("alerts.yaml");
    // JSON is YAML.
    fs::write(&file, cases.to_string()).unwrap();
    let said = run("promtool", &["test", "rules", file.to_str().unwrap()]);
    assert!(said.contains("SUCCESS"), "{said}");
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
