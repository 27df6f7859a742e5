//! A value inside the configuration that knows its own path, so that an error can name both.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// The most of a wrong value that an error repeats, in bytes.
const MAX_SHOWN: usize = 200;

/// A JSON value and where it was found, such as `ipam.ranges[0][1].subnet`.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    /// The whole configuration.
    pub fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// The value itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// The value of `key`, if this is an object that has one. `null` counts as absent: Go writes it
    /// for whatever is not set.
    pub fn get(&self, key: &str) -> Option<Self> {
        self.found(key, self.value.get(key)?)
    }

    /// As [`get`](Self::get), whatever the case of the key: containerd writes `HostPort`, CRI-O
    /// `hostPort`. The exact key wins.
    pub fn get_any_case(&self, key: &str) -> Option<Self> {
        self.get(key).or_else(|| {
            let mut entries = self.value.as_object()?.iter();
            let (_, value) = entries.find(|(name, _)| name.eq_ignore_ascii_case(key))?;
            self.found(key, value)
        })
    }

    fn found(&self, key: &str, value: &'a Value) -> Option<Self> {
        let dot = if self.path.is_empty() { "" } else { "." };
        (!value.is_null()).then(|| Self { path: format!("{}{dot}{key}", self.path), value })
    }

    /// This as an object.
    pub fn object(self) -> Result<Self> {
        if self.value.is_object() { Ok(self) } else { Err(self.wrong("must be an object")) }
    }

    /// The elements of a list.
    pub fn list(&self) -> Result<Vec<Self>> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("must be a list"))?;
        let element = |(at, value)| Self { path: format!("{}[{at}]", self.path), value };
        Ok(list.iter().enumerate().map(element).collect())
    }

    /// A string.
    pub fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("must be a string"))
    }

    /// A boolean.
    pub fn flag(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("must be true or false"))
    }

    /// A string that `read` makes something of.
    pub fn read<T, E: std::fmt::Display>(
        &self,
        read: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<T> {
        read(self.text()?).map_err(|why| self.wrong(why))
    }

    /// Whatever serde makes of it.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(self.value).map_err(|why| self.wrong(why))
    }

    /// The error that names this key and value: `why` completes the sentence or is a sentence.
    pub fn wrong(&self, why: impl std::fmt::Display) -> Error {
        let mut shown = self.value.to_string();
        if let Some(end) = (0..=MAX_SHOWN).rev().find(|&end| shown.is_char_boundary(end))
            && end < shown.len()
        {
            shown.truncate(end);
            shown.push('…');
        }
        let key = if self.path.is_empty() { "the configuration" } else { &self.path };
        Error::new(Kind::Config, format!("{key} is {shown}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_names_the_path_and_the_value() {
        let conf = json!({"ipam": {"ranges": [[{"subnet": 7}]]}});
        let range = Field::root(&conf).get("ipam").unwrap().get("ranges").unwrap();
        let subnet = range.list().unwrap()[0].list().unwrap()[0].get("subnet").unwrap();
        let err = subnet.text().unwrap_err();
        assert_eq!(err.msg(), "ipam.ranges[0][0].subnet is 7: must be a string");
        assert_eq!(err.kind(), Kind::Config);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let conf = json!({"name": "é".repeat(5000)});
        let err = Field::root(&conf).get("name").unwrap().wrong("too long");
        assert!(err.msg().len() < 250, "{}", err.msg().len());
    }

    #[test]
    fn null_is_absent_and_the_exact_key_wins() {
        let conf = json!({"a": null, "IPS": 1, "ips": 2});
        let root = Field::root(&conf);
        assert!(root.get("a").is_none());
        assert_eq!(root.get_any_case("ips").unwrap().value(), &json!(2));
        assert_eq!(root.get_any_case("Ips").unwrap().value(), &json!(1));
        assert!(root.get("Ips").is_none());
    }
}
