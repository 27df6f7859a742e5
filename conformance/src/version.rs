//! The versions of the specification, and which of them a case is about.

use serde::{Deserialize, Deserializer, de};

/// All that were ever published, oldest first. There is no 1.2.0 and no 1.3.0: those are versions of
/// the Go library.
pub const PUBLISHED: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Those whose results have `interfaces` and `ips`, which is what the cases look at.
pub const OF_CASES: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// In which versions a case is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Versions {
    /// Once, in the newest that the plugin speaks.
    #[default]
    Newest,
    /// Once in each from this one on.
    From(&'static str),
}

impl Versions {
    /// Reads `newest`, `all`, `0.4.0+` or `1.1.0`.
    fn parse(text: &str) -> Option<Self> {
        let from = |wanted: &str| OF_CASES.into_iter().find(|known| *known == wanted);
        match text {
            "newest" => Some(Self::Newest),
            "all" => Some(Self::From(OF_CASES[0])),
            _ => from(text.strip_suffix('+').unwrap_or(text)).map(Self::From),
        }
    }

    /// The versions to run in, of those that the plugin speaks, and those that it doesn't.
    pub fn of(&self, spoken: &[String]) -> (Vec<&'static str>, Vec<&'static str>) {
        let speaks = |version: &&str| spoken.iter().any(|spoken| spoken == version);
        match self {
            Self::Newest => (OF_CASES.into_iter().rev().find(speaks).into_iter().collect(), vec![]),
            Self::From(least) => {
                OF_CASES.into_iter().filter(|version| at_least(version, least)).partition(speaks)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let text = String::deserialize(json)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom(format!("versions {text:?} are none that I know")))
    }
}

/// Whether `version` is `least` or newer; versions that were never published are older than all.
pub fn at_least(version: &str, least: &str) -> bool {
    let place = |wanted: &str| PUBLISHED.iter().position(|known| *known == wanted);
    place(version) >= place(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_runs_in_what_both_speak() {
        let spoken = ["0.1.0", "0.4.0", "1.0.0"].map(String::from);
        let of = |text: &str| Versions::parse(text).unwrap().of(&spoken);
        assert_eq!(of("newest"), (vec!["1.0.0"], vec![]));
        assert_eq!(of("0.4.0+"), (vec!["0.4.0", "1.0.0"], vec!["1.1.0"]));
        assert_eq!(of("1.1.0"), (vec![], vec!["1.1.0"]));
        assert_eq!(of("all").0.len() + of("all").1.len(), 5);
        assert_eq!(Versions::parse("1.3.0"), None);
    }
}
