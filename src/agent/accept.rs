//! Which form of the page a client asks for (RFC 9110, section 12.5.1).

use super::text::Form;

/// Chooses by the `Accept` header: OpenMetrics for those who name it and like it no less than plain
/// text, the older form for everyone else. There is no 406: a person with curl gets text.
pub fn form(accept: Option<&str>) -> Form {
    let mut openmetrics = 0;
    let mut text = Preference::default();
    for range in accept.unwrap_or("*/*").split(',') {
        let (kind, quality) = media_range(range);
        match kind.as_str() {
            "application/openmetrics-text" => openmetrics = openmetrics.max(quality),
            "text/plain" => text.offer(3, quality),
            "text/*" => text.offer(2, quality),
            "*/*" => text.offer(1, quality),
            _ => {}
        }
    }
    if openmetrics > 0 && openmetrics >= text.quality { Form::OpenMetrics } else { Form::Classic }
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
