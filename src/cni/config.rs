//! The network configuration as every verb needs it: version, name, places, `prevResult`.
//!
//! What only an ADD acts on is read by [`wanted`](super::wanted), so that a DEL isn't kept from its
//! work by a part of the configuration that it doesn't use.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::field::Field;
use crate::{
    attachment,
    error::{Context, Error, Kind, Result},
    spec::Version,
};

/// The version of a configuration that names none (CNI library, `PluginDecoder`).
const UNNAMED_VERSION: &str = "0.1.0";
/// Names become directory names, which end at 255 bytes.
const MAX_NAME: usize = 200;
/// `stateDir` of a configuration that has none.
pub const STATE_DIR: &str = "/run/weir";
/// `bpfDir` of a configuration that has none.
pub const BPF_DIR: &str = "/sys/fs/bpf/weir";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `cniVersion`, in which the reply is written.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// `stateDir`.
    pub state_dir: PathBuf,
    /// `bpfDir`.
    pub bpf_dir: PathBuf,
    /// All of it.
    pub json: Value,
}

/// What is wrong with the places of a configuration, in whose stead the defaults are.
#[derive(Debug, Default)]
pub struct Misplaced {
    /// `stateDir`.
    pub state_dir: Option<Error>,
    /// `bpfDir`.
    pub bpf_dir: Option<Error>,
}

impl Misplaced {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.state_dir.is_none() && self.bpf_dir.is_none()
    }

    /// As one error.
    ///
    /// # Errors
    /// If anything is: [`Kind::Config`] naming key and value.
    pub fn into_result(self) -> Result<()> {
        let all = self.state_dir.into_iter().chain(self.bpf_dir);
        all.reduce(Error::details).map_or(Ok(()), Err)
    }
}

/// Reads JSON that must be an object.
///
/// # Errors
/// [`Kind::Decode`].
pub fn decode(stdin: &[u8]) -> Result<Value> {
    let undecodable = || "the configuration on stdin is not JSON".to_owned();
    let value: Value = serde_json::from_slice(stdin).context(Kind::Decode, undecodable)?;
    if value.is_object() {
        return Ok(value);
    }
    Err(Error::new(Kind::Decode, "the configuration on stdin is not a JSON object"))
}

impl Config {
    /// Checks a decoded configuration, the name first: libcni does so too.
    ///
    /// # Errors
    /// [`Kind::Config`] naming key and value; [`Kind::Version`] naming both sides.
    pub fn parse(json: Value) -> Result<Self> {
        let (config, misplaced) = Self::parse_apart(json)?;
        misplaced.into_result().map(|()| config)
    }

    /// As [`parse`](Self::parse), but what is wrong with the places comes apart: for a DEL, which can do
    /// much without them.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), of what is no place.
    pub fn parse_apart(json: Value) -> Result<(Self, Misplaced)> {
        let root = Field::root(&json);
        let name = name(&root)?;
        if root.get("plugins").is_some() && root.get("type").is_none() {
            let msg = "this is a network's list: a plugin gets one entry of `plugins`, with the \
                       list's name and cniVersion in it";
            return Err(Error::new(Kind::Config, msg));
        }
        let version = version(&root)?;
        let misplaced = Misplaced {
            state_dir: directory(&root, "stateDir").err(),
            bpf_dir: directory(&root, "bpfDir").err(),
        };
        let (state_dir, bpf_dir) = places(&json);
        Ok((Self { version, name, state_dir, bpf_dir, json }, misplaced))
    }

    /// The configuration as a field to read further from.
    pub fn root(&self) -> Field<'_> {
        Field::root(&self.json)
    }

    /// `confDir`: where the runtime has the network's list, if the configuration says so.
    ///
    /// # Errors
    /// [`Kind::Config`] naming key and value.
    pub fn conf_dir(&self) -> Result<Option<PathBuf>> {
        directory(&self.root(), "confDir")
    }

    /// Refuses a verb that the configuration's version doesn't have.
    ///
    /// # Errors
    /// [`Kind::Version`] naming both sides.
    pub fn require(&self, least: Version, verb: &str) -> Result<()> {
        if self.version >= least {
            return Ok(());
        }
        let msg = format!(
            "config version {} does not allow {verb}, which begins with {least}",
            self.version
        );
        Err(Error::new(Kind::Version, msg))
    }

    /// The result of the plugins before this one, or at the end of the chain's ADD.
    ///
    /// # Errors
    /// [`Kind::Config`]: it is not an object.
    pub fn prev_result(&self) -> Result<Option<Field<'_>>> {
        self.root().get("prevResult").map(Field::object).transpose()
    }
}

/// `stateDir` and `bpfDir` of a configuration, whatever else is wrong with it: where its pods are.
pub fn places(json: &Value) -> (PathBuf, PathBuf) {
    let root = Field::root(json);
    let place =
        |key, default: &str| directory(&root, key).ok().flatten().unwrap_or_else(|| default.into());
    (place("stateDir", STATE_DIR), place("bpfDir", BPF_DIR))
}

/// The `cniVersion` of a configuration, whatever it says; `None` if there is no text there.
pub fn version_text(json: &Value) -> Option<&str> {
    json.get("cniVersion")?.as_str()
}

fn version(root: &Field<'_>) -> Result<Version> {
    let text = root.get("cniVersion").map(|field| field.text()).transpose()?;
    Version::parse(text.unwrap_or(UNNAMED_VERSION)).ok_or_else(|| {
        let ours = Version::ALL.map(Version::text).join(", ");
        let msg = match text {
            Some(text) => format!("config is of version {text:?}, weir speaks {ours}"),
            None => format!(
                "config has no cniVersion and so is of {UNNAMED_VERSION:?}; weir speaks {ours}"
            ),
        };
        Error::new(Kind::Version, msg)
    })
}

fn name(root: &Field<'_>) -> Result<String> {
    let missing = || Error::new(Kind::Config, "name is missing from the configuration");
    let field = root.get("name").ok_or_else(missing)?;
    let name = field.text()?;
    if !attachment::is_name(name) {
        let why = "must be letters, digits, '_', '.' or '-' and begin with a letter or digit";
        return Err(field.wrong(why));
    }
    if name.len() > MAX_NAME {
        return Err(field.wrong(format!("is longer than {MAX_NAME} bytes")));
    }
    Ok(name.to_owned())
}

/// A directory that doesn't depend on where the runtime was started, nor leads back up, if one is named.
fn directory(root: &Field<'_>, key: &str) -> Result<Option<PathBuf>> {
    let Some(field) = root.get(key) else { return Ok(None) };
    let path = Path::new(field.text()?);
    let plain = path.components().all(|part| part != Component::ParentDir);
    if !path.is_absolute() || !plain || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(field.wrong("must be an absolute path without '..'"));
    }
    Ok(Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(json: Value) -> (Kind, String) {
        let err = Config::parse(json).unwrap_err();
        (err.kind(), err.msg().to_owned())
    }

    #[test]
    fn only_an_object_is_a_configuration() {
        for text in ["", " ", "{", "[]", "null", "7", "{} {}", "\u{feff}{}", r#"{"a":}"#] {
            assert_eq!(decode(text.as_bytes()).unwrap_err().kind(), Kind::Decode, "{text:?}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(decode(deep.as_bytes()).unwrap_err().kind(), Kind::Decode);
        assert_eq!(decode(b"\n{ }\n").unwrap(), json!({}));
    }

    #[test]
    fn the_name_must_be_safe_as_a_directory() {
        for name in [json!(""), json!("../x"), json!("a/b"), json!(".a"), json!("a b"), json!(7)] {
            let (kind, msg) = refusal(json!({"cniVersion": "1.1.0", "name": name}));
            assert_eq!(kind, Kind::Config);
            assert!(msg.contains("name") && msg.contains(&name.to_string()), "{msg}");
        }
        assert_eq!(refusal(json!({"cniVersion": "1.1.0"})).0, Kind::Config);
        assert_eq!(refusal(json!({"name": null})).0, Kind::Config);
    }

    #[test]
    fn a_list_given_whole_is_called_what_it_is() {
        let list = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "weir"}]});
        let (kind, msg) = refusal(list);
        assert_eq!(kind, Kind::Config);
        assert!(msg.contains("one entry of `plugins`"), "{msg}");
    }

    #[test]
    fn a_foreign_version_is_refused_naming_both_sides() {
        for version in [json!("0.2.0"), json!("1.2.0"), json!("2.0.0"), json!(""), json!(null)] {
            let (kind, msg) = refusal(json!({"cniVersion": version, "name": "n"}));
            assert_eq!(kind, Kind::Version);
            assert!(msg.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{msg}");
        }
        assert_eq!(refusal(json!({"cniVersion": 1, "name": "n"})).0, Kind::Config);
        assert!(refusal(json!({"name": "n"})).1.contains("\"0.1.0\""));
    }

    #[test]
    fn directories_are_absolute_and_lead_nowhere_else() {
        for (key, path) in [("stateDir", "run"), ("bpfDir", "/a/../etc"), ("stateDir", "/a\0b")] {
            let (kind, msg) = refusal(json!({"cniVersion": "1.1.0", "name": "n", key: path}));
            assert_eq!(kind, Kind::Config);
            assert!(msg.contains(key), "{msg}");
        }
        // A DEL has no use for the list, and isn't kept from its work.
        let elsewhere = |path: Value| {
            let json = json!({"cniVersion": "1.1.0", "name": "n", "confDir": path});
            Config::parse(json).unwrap().conf_dir()
        };
        for path in [json!("etc/cni"), json!("/a/../etc"), json!("/a\0b"), json!(7)] {
            let err = elsewhere(path).unwrap_err();
            assert!(err.kind() == Kind::Config && err.msg().contains("confDir"), "{err}");
        }
        assert_eq!(elsewhere(json!("/x/net.d")).unwrap(), Some("/x/net.d".into()));
        assert_eq!(elsewhere(json!(null)).unwrap(), None);
        let both = json!({"cniVersion": "1.1.0", "name": "n", "stateDir": "run", "bpfDir": 7});
        let err = Config::parse(both.clone()).unwrap_err().to_string();
        assert!(err.contains("stateDir") && err.contains("bpfDir"), "{err}");
        for json in [both, json!({"cniVersion": "1.1.0", "name": "n"})] {
            let (config, _) = Config::parse_apart(json).unwrap();
            assert_eq!(config.state_dir, Path::new(STATE_DIR));
            assert_eq!(config.bpf_dir, Path::new(BPF_DIR));
        }
    }

    #[test]
    fn verbs_begin_with_their_version() {
        let of =
            |version: &str| Config::parse(json!({"cniVersion": version, "name": "n"})).unwrap();
        assert_eq!(
            of("0.3.1").require(Version::V0_4_0, "CHECK").unwrap_err().kind(),
            Kind::Version
        );
        assert!(of("0.4.0").require(Version::V0_4_0, "CHECK").is_ok());
    }
}
