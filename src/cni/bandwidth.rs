//! The capability `bandwidth`, as the runtime says it.

use super::field::Field;
use crate::{
    error::Result,
    spec::capability::{Bandwidth, Limit},
};

/// From here on a burst, in bits, is none that anybody asked for: containerd sends 2^32-1 with each
/// rate, CRI-O eight times as much less one. Taken by its word, the first half gigabyte would pass
/// unlimited.
const NO_BURST: u64 = u32::MAX as u64;

/// Reads `runtimeConfig.bandwidth`: bits a second, bits; a rate of 0 is no limit.
///
/// # Errors
/// [`Kind::Config`](crate::error::Kind::Config) naming key and value.
pub fn parse(runtime: Option<&Field<'_>>) -> Result<Bandwidth> {
    let field = runtime.and_then(|runtime| runtime.get_any_case("bandwidth"));
    let Some(field) = field.map(Field::object).transpose()? else {
        return Ok(Bandwidth::default());
    };
    Ok(Bandwidth {
        ingress: limit(&field, "ingressRate", "ingressBurst")?,
        egress: limit(&field, "egressRate", "egressBurst")?,
    })
}

fn limit(field: &Field<'_>, rate: &str, burst: &str) -> Result<Option<Limit>> {
    let number = |key: &str| match field.get_any_case(key) {
        Some(number) => {
            let whole = number.value().as_u64();
            whole.ok_or_else(|| number.wrong("must be a whole number, not below 0"))
        }
        None => Ok(0),
    };
    let (bits, burst) = (number(rate)?, number(burst)?);
    if bits == 0 {
        return Ok(None);
    }
    if !Limit::RATES.contains(&bits) {
        let (least, most) = (Limit::RATES.start(), Limit::RATES.end());
        let why = format!("must be 0, or {least} to {most} bits a second");
        return Err(field.get_any_case(rate).as_ref().unwrap_or(field).wrong(why));
    }
    let limit = Limit::of(bits);
    Ok(Some(match u32::try_from(burst / 8) {
        Ok(bytes) if burst > 0 && burst < NO_BURST => Limit { burst: bytes.max(1), ..limit },
        _ => limit,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::error::Kind;

    fn parsed(bandwidth: Value) -> Result<Bandwidth> {
        parse(Some(&Field::root(&json!({"bandwidth": bandwidth}))))
    }

    #[test]
    fn both_dialects_say_the_same() {
        let containerd = json!({"IngressRate": 10_000_000, "IngressBurst": 4_294_967_295_u64, "EgressRate": 0, "EgressBurst": 0});
        let crio = json!({"ingressRate": 10_000_000, "ingressBurst": 34_359_738_359_u64, "egressBurst": 34_359_738_359_u64});
        let wanted = Bandwidth { ingress: Some(Limit::of(10_000_000)), egress: None };
        assert_eq!(parsed(containerd).unwrap(), wanted);
        assert_eq!(parsed(crio).unwrap(), wanted);
        assert!(!parsed(json!(null)).unwrap().is_limited());
        assert!(!parsed(json!({})).unwrap().is_limited());
        assert!(!parse(None).unwrap().is_limited());
    }

    #[test]
    fn a_burst_that_was_asked_for_is_kept() {
        let asked = parsed(json!({"egressRate": 8_000_000, "egressBurst": 800_000})).unwrap();
        assert_eq!(asked.egress, Some(Limit { rate: 8_000_000, burst: 100_000 }));
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (key, value) in [
            ("ingressRate", json!(999)),
            ("ingressRate", json!(-1)),
            ("ingressRate", json!(u64::MAX)),
            ("egressRate", json!("10M")),
            ("egressRate", json!(1.5)),
            ("egressBurst", json!(-1)),
            ("ingressBurst", json!([])),
        ] {
            let mut bandwidth = json!({"ingressRate": 1000, "egressRate": 1000});
            bandwidth[key] = value.clone();
            let err = parsed(bandwidth).unwrap_err();
            assert_eq!(err.kind(), Kind::Config);
            assert!(err.msg().contains(&format!("bandwidth.{key} is {value}")), "{err}");
        }
        assert!(parsed(json!([1])).unwrap_err().msg().contains("must be an object"));
    }
}
