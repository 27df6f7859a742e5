//! One exchange on one line, for a person.

use crate::agent::{
    flows::{filter::called, flow::Flow},
    log::visible,
};

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colours(pub bool);

const DIM: &str = "2";
const GREEN: &str = "32";
const CYAN: &str = "36";
const YELLOW: &str = "33";
const RED: &str = "31";

impl Colours {
    /// `text` without anything that a terminal would obey, in the colour of an SGR parameter.
    fn paint(self, colour: &str, text: &str) -> String {
        let text = visible(text);
        if self.0 && !text.is_empty() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text }
    }
}

/// The line, its end included.
pub fn line(flow: &Flow, colours: Colours) -> String {
    let arrow = if flow.role == "server" { "<-" } else { "->" };
    let pod = called(&flow.namespace, &flow.pod);
    let peer = match &flow.peer_pod {
        Some(pod) => called(flow.peer_namespace.as_deref().unwrap_or_default(), pod),
        None => flow.peer.clone().unwrap_or_else(|| "?".into()),
    };
    let peer = format!("{arrow} {peer}");
    let (what, outcome, colour) = exchange(flow);
    let parts = [
        colours.paint(DIM, flow.time.get(11..23).unwrap_or(&flow.time)),
        visible(&pod),
        colours.paint(DIM, &peer),
        visible(&what),
        colours.paint(colour, &outcome),
        flow.duration_seconds.map(duration).unwrap_or_default(),
        colours
            .paint(DIM, &flow.trace_id.as_ref().map_or(String::new(), |id| format!("trace {id}"))),
    ];
    let mut line =
        parts.iter().filter(|part| !part.is_empty()).fold(String::new(), |line, part| {
            if line.is_empty() { part.clone() } else { format!("{line} {part}") }
        });
    line.push('\n');
    line
}

/// What was asked, what came of it, and the colour of that.
fn exchange(flow: &Flow) -> (String, String, &'static str) {
    match flow.protocol.as_ref() {
        "http" | "grpc" => {
            let method = flow.method.as_deref().unwrap_or("?");
            let host = flow.host.as_deref().unwrap_or_default();
            let what = format!("{method} {host}{}", flow.path.as_deref().unwrap_or("?"));
            let (outcome, colour) = answer(flow);
            (what, outcome, colour)
        }
        "dns" => {
            let (qtype, name) = (word(&flow.qtype), flow.name.as_deref().unwrap_or("?"));
            let rcode = word(&flow.rcode);
            let colour = match rcode {
                "NOERROR" => GREEN,
                "NXDOMAIN" => YELLOW,
                _ => RED,
            };
            (format!("DNS {qtype} {name}"), rcode.to_owned(), colour)
        }
        "tls" => {
            let name = flow.server_name.as_deref().unwrap_or("?");
            (format!("TLS {name}"), word(&flow.tls_version).to_owned(), GREEN)
        }
        system => {
            let outcome = flow.outcome.as_deref().unwrap_or_default();
            let colour = if outcome == "ok" { GREEN } else { RED };
            let operation = flow.operation.as_deref().unwrap_or_default();
            (format!("{system} {operation}").trim_end().to_owned(), outcome.to_owned(), colour)
        }
    }
}

fn answer(flow: &Flow) -> (String, &'static str) {
    let mut colour = match flow.status {
        Some(..300) => GREEN,
        Some(300..400) => CYAN,
        Some(400..500) => YELLOW,
        _ => RED,
    };
    let mut outcome = flow.status.map_or(String::new(), |status| status.to_string());
    if let Some(grpc) = &flow.grpc_status {
        outcome = format!("{outcome} grpc {grpc}");
        if grpc != "0" {
            colour = RED;
        }
    }
    if let Some(error) = &flow.error {
        outcome = format!("{outcome} {error}");
        colour = RED;
    }
    if outcome.is_empty() {
        outcome.push('?');
    }
    (outcome.trim_start().to_owned(), colour)
}

fn word(word: &Option<crate::agent::flows::flow::Word>) -> &str {
    word.as_deref().unwrap_or("?")
}

/// A duration with three digits or so, as people say it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0}us", seconds * 1e6),
        ..0.01 => format!("{:.2}ms", seconds * 1e3),
        ..0.1 => format!("{:.1}ms", seconds * 1e3),
        ..1.0 => format!("{:.0}ms", seconds * 1e3),
        ..100.0 => format!("{seconds:.2}s"),
        _ => format!("{seconds:.0}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            time: "2026-01-02T03:04:05.678901Z".into(),
            namespace: "shop".into(),
            pod: "web".into(),
            role: "server".into(),
            protocol: "http".into(),
            method: Some("GET".into()),
            path: Some("/a".into()),
            status: Some(404),
            duration_seconds: Some(0.0123),
            peer: Some("10.0.0.1:9".into()),
            ..Flow::default()
        }
    }

    #[test]
    fn each_protocol_has_its_own_words() {
        let plain = |flow: &Flow| line(flow, Colours(false));
        assert_eq!(plain(&flow()), "03:04:05.678 shop/web <- 10.0.0.1:9 GET /a 404 12.3ms\n");
        let grpc = Flow {
            protocol: "grpc".into(),
            role: "client".into(),
            grpc_status: Some("14".into()),
            trace_id: Some("0af7".into()),
            ..flow()
        };
        let expected = "03:04:05.678 shop/web -> 10.0.0.1:9 GET /a 404 grpc 14 12.3ms trace 0af7\n";
        assert_eq!(plain(&grpc), expected);
        let dns = Flow {
            protocol: "dns".into(),
            qtype: Some("AAAA".into()),
            name: Some("a.org".into()),
            rcode: Some("NXDOMAIN".into()),
            ..flow()
        };
        assert!(plain(&dns).contains(" DNS AAAA a.org NXDOMAIN "));
        let database = Flow {
            protocol: "redis".into(),
            operation: Some("HGETALL".into()),
            outcome: Some("error".into()),
            ..flow()
        };
        assert!(plain(&database).contains(" redis HGETALL error 12.3ms"));
        let cut = Flow { status: None, error: Some("reset".into()), path: None, ..flow() };
        assert!(plain(&cut).contains(" GET ? reset "));
    }

    #[test]
    fn nothing_of_a_pod_is_obeyed_by_a_terminal() {
        let mut hostile = flow();
        (hostile.pod, hostile.path) = ("a\x1b[2J".into(), Some("/\u{202e}\n".into()));
        let line = line(&hostile, Colours(true));
        assert_eq!(line.matches('\x1b').count(), 6, "{line:?}");
        assert!(!line.contains('\u{202e}') && line.matches('\n').count() == 1);
        assert!(line.contains("\x1b[33m404\x1b[0m"));
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        let shown = [0.000_087, 0.001_234, 0.025, 0.2504, 1.5, 125.4].map(duration);
        assert_eq!(shown, ["87us", "1.23ms", "25.0ms", "250ms", "1.50s", "125s"]);
    }
}
