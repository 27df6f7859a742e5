//! W3C trace context: the `traceparent` header, and nothing that only looks like one.

/// A valid `traceparent`, as texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    /// 32 lower-case hexadecimal digits, not all 0.
    pub trace_id: String,
    /// 16 lower-case hexadecimal digits, not all 0.
    pub parent_id: String,
    /// Whether the caller records its part: the first bit of the flags (section 3.2.2.5.1).
    pub sampled: bool,
}

/// Reads a header's value by [Trace Context, section 3.2](https://www.w3.org/TR/trace-context/).
///
/// Version 00 is exact; of a later version what this one defines is taken, if more follows behind a
/// dash, as the specification asks. Version ff is none.
pub fn parse(value: &[u8]) -> Option<TraceParent> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.splitn(5, '-');
    let (version, trace_id, parent_id, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let more = parts.next();
    let well_formed = hex(version, 2) && hex(trace_id, 32) && hex(parent_id, 16) && hex(flags, 2);
    let zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    if !well_formed || version == "ff" || zero(trace_id) || zero(parent_id) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (version != "00" || more.is_none()).then(|| TraceParent {
        trace_id: trace_id.to_owned(),
        parent_id: parent_id.to_owned(),
        sampled,
    })
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_valid_header_gives_both_ids() {
        for value in [
            format!("00-{ID}-b7ad6b7169203331-01"),
            format!("00-{ID}-b7ad6b7169203331-ff"),
            format!("cc-{ID}-b7ad6b7169203331-01"),
            format!("cc-{ID}-b7ad6b7169203331-01-what-the-future-holds"),
        ] {
            let parsed = parse(value.as_bytes()).unwrap();
            assert_eq!(
                (parsed.trace_id.as_str(), parsed.parent_id.as_str()),
                (ID, "b7ad6b7169203331")
            );
        }
    }

    #[test]
    fn the_first_bit_of_the_flags_says_whether_it_is_sampled() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let value = format!("00-{ID}-b7ad6b7169203331-{flags}");
            assert_eq!(parse(value.as_bytes()).unwrap().sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        let zero = "0".repeat(32);
        for value in [
            String::new(),
            "00".into(),
            format!("00-{ID}-b7ad6b7169203331"),
            format!("00-{ID}-b7ad6b7169203331-01-more"),
            format!("00-{ID}-b7ad6b7169203331-01 "),
            format!("00-{ID}-b7ad6b7169203331-1"),
            format!("ff-{ID}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", ID.to_uppercase()),
            format!("00-{zero}-b7ad6b7169203331-01"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{ID}é-b7ad6b716920333-01"),
            format!("0g-{ID}-b7ad6b7169203331-01"),
            format!("00-{ID}-b7ad6b7169203331-01-"),
            format!("cc-{ID}-b7ad6b7169203331-01x"),
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(parse(b"00-\xff\xfe"), None);
    }
}
