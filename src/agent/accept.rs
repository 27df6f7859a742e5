//! Which form of the page a client asks for (RFC 9110, section 12.5.1).

use super::exposition::Form;

/// Chooses by the `Accept` header: protocol buffers or OpenMetrics for those who name it and like it no
/// less than plain text, the older form for everyone else. There is no 406: a person with curl gets
/// text.
pub fn form(accept: Option<&str>) -> Form {
    let (mut protobuf, mut openmetrics) = (0, 0);
    let mut text = Preference::default();
    for range in accept.unwrap_or("*/*").split(',') {
        let (kind, quality) = media_range(range);
        match kind.as_str() {
            "application/openmetrics-text" => openmetrics = openmetrics.max(quality),
            "application/vnd.google.protobuf" if ours(range) => protobuf = protobuf.max(quality),
            "text/plain" => text.offer(3, quality),
            "text/*" => text.offer(2, quality),
            "*/*" => text.offer(1, quality),
            _ => {}
        }
    }
    if protobuf > 0 && protobuf >= openmetrics.max(text.quality) {
        Form::Protobuf
    } else if openmetrics > 0 && openmetrics >= text.quality {
        Form::OpenMetrics
    } else {
        Form::Classic
    }
}

/// Whether a client takes gzip, by its `Accept-Encoding` header (RFC 9110, section 12.5.3).
pub fn gzip(accept_encoding: &str) -> bool {
    let mut quality = None;
    for range in accept_encoding.split(',') {
        match media_range(range) {
            (coding, found) if coding == "gzip" || coding == "x-gzip" => quality = Some(found),
            (coding, found) if coding == "*" => quality = quality.or(Some(found)),
            _ => {}
        }
    }
    quality.is_some_and(|quality| quality > 0)
}

/// Whether the parameters of a range name the message and the framing that we write.
fn ours(range: &str) -> bool {
    let parameters = || range.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let has = |name: &str, value: &str| {
        parameters().any(|(found, given)| {
            found.eq_ignore_ascii_case(name) && given.trim_matches('"') == value
        })
    };
    has("proto", "io.prometheus.client.MetricFamily") && has("encoding", "delimited")
}

/// The quality that the most specific matching range gives; among equals the best.
#[derive(Default)]
struct Preference {
    specificity: u8,
    quality: u16,
}

impl Preference {
    fn offer(&mut self, specificity: u8, quality: u16) {
        if (specificity, quality) > (self.specificity, self.quality) {
            *self = Self { specificity, quality };
        }
    }
}

/// The type in lower case, and its quality in thousandths. Other parameters are not looked at: all
/// that any scraper names (`version`, `charset`) we either serve or it lists beside what we serve.
fn media_range(range: &str) -> (String, u16) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .map_or(1000, |(_, value)| thousandths(value.trim()));
    (kind, quality)
}

/// `0.75` is 750; what is no quality is 0, so that it asks for nothing.
fn thousandths(quality: &str) -> u16 {
    let (whole, fraction) = quality.split_once('.').unwrap_or((quality, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let fraction = format!("{fraction:0<3}").parse().unwrap_or(0);
    match whole {
        "1" if fraction == 0 => 1000,
        "0" => fraction,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_ask_for() {
        for (accept, expected) in [
            // Prometheus 2.42, Prometheus 3, VictoriaMetrics, curl, a browser, nothing at all.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Form::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.5,*/*;q=0.2",
                Form::OpenMetrics,
            ),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Form::Classic),
            ("*/*", Form::Classic),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Form::Classic),
            ("", Form::Classic),
        ] {
            assert_eq!(form(Some(accept)), expected, "{accept}");
        }
        assert_eq!(form(None), Form::Classic);
    }

    #[test]
    fn protocol_buffers_are_for_those_who_name_our_message() {
        let prometheus = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus.to_owned(), Form::Protobuf),
            (prometheus.replace("delimited", "text"), Form::OpenMetrics),
            (prometheus.replace("MetricFamily", "Other"), Form::OpenMetrics),
            (prometheus.replace("delimited", "delimited;q=0.2"), Form::OpenMetrics),
            ("application/vnd.google.protobuf".into(), Form::Classic),
            ("application/*".into(), Form::Classic),
        ] {
            assert_eq!(form(Some(&accept)), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (accept, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("*;q=0, gzip", true),
            ("gzip;q=0, *", false),
            ("gzip;q=0", false),
            ("identity", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(gzip(accept), expected, "{accept}");
        }
    }

    #[test]
    fn qualities_decide_and_the_more_specific_range_wins() {
        for (accept, expected) in [
            ("application/openmetrics-text;q=0.4, text/plain;q=0.5", Form::Classic),
            ("APPLICATION/OpenMetrics-Text ; Q=0.9 , text/plain;q=0.2, */*", Form::OpenMetrics),
            ("application/openmetrics-text;q=0", Form::Classic),
            ("application/openmetrics-text;q=2", Form::Classic),
            ("application/openmetrics-text;q=0.0001", Form::Classic),
            ("application/openmetrics-text;q=nan", Form::Classic),
            ("application/openmetrics-text;q=1.000,text/*", Form::OpenMetrics),
            (",;,=;q=,application/openmetrics-text", Form::OpenMetrics),
        ] {
            assert_eq!(form(Some(accept)), expected, "{accept}");
        }
    }
}
