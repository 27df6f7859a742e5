//! A case as it stands in a file: what must hold, by which words of the specification, and the steps
//! that show whether it does.

use std::{collections::BTreeSet, fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Context, Result, edit,
    step::{self, Step},
    version::Versions,
};

/// The files that are part of the runner, in the order of the specification.
const BUILT_IN: [(&str, &str); 9] = [
    ("invocation.json", include_str!("../cases/invocation.json")),
    ("versions.json", include_str!("../cases/versions.json")),
    ("add.json", include_str!("../cases/add.json")),
    ("del.json", include_str!("../cases/del.json")),
    ("check.json", include_str!("../cases/check.json")),
    ("gc.json", include_str!("../cases/gc.json")),
    ("status.json", include_str!("../cases/status.json")),
    ("delegation.json", include_str!("../cases/delegation.json")),
    ("robustness.json", include_str!("../cases/robustness.json")),
];

/// A file of cases about one part of the specification.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Its heading.
    pub section: String,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// Who asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The specification's MUST, or a field that it calls required.
    Must,
    /// The specification's SHOULD, or its lower-case "must".
    Should,
    /// Not in the text, but what libcni and the runtimes do rests on it.
    Runtime,
    /// What operators suffer from where it isn't so.
    Robust,
}

/// One thing that must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Short, unique, and kept for good.
    pub id: String,
    /// What must hold, as a sentence.
    pub title: String,
    /// Where that is written.
    pub spec: String,
    /// Who asks for it.
    pub level: Level,
    /// In which versions it is tried.
    #[serde(default)]
    pub versions: Versions,
    /// What the plugin and its configuration must have for the case to make sense.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// It measures time, so that nothing else is run meanwhile.
    #[serde(default)]
    pub alone: bool,
    /// What is otherwise in the configuration of every call.
    #[serde(default)]
    pub conf: Map<String, Value>,
    /// What is not in it.
    #[serde(default)]
    pub without: Vec<String>,
    /// The steps are played once for each of these, which stands for `{it}` in them.
    #[serde(default)]
    pub each: Vec<Value>,
    /// What is done and looked at; decoded when their turn comes, since they refer to results.
    pub steps: Vec<Value>,
}

/// What a case needs of the configuration under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Need {
    /// An `ipam` object: the plugin gets its addresses by delegation, or could.
    #[serde(rename = "ipam")]
    Ipam,
    /// An `ipam` of host-local's schema, so that a case may say which addresses there are.
    #[serde(rename = "ranges")]
    Ranges,
    /// The key `mtu`.
    #[serde(rename = "mtu")]
    Mtu,
    /// The key `ipMasq`.
    #[serde(rename = "ipMasq")]
    Masquerade,
    /// A default route among `ipam.routes`.
    #[serde(rename = "default route")]
    DefaultRoute,
    /// The capability `ips`.
    #[serde(rename = "ips")]
    Ips,
    /// The capability `mac`.
    #[serde(rename = "mac")]
    Mac,
    /// The capability `portMappings`.
    #[serde(rename = "portMappings")]
    PortMappings,
}

impl Case {
    /// The configuration that its calls start from.
    ///
    /// # Errors
    /// A pointer that leads nowhere.
    pub fn conf(&self, of_plugin: &Value) -> Result<Value> {
        let mut conf = of_plugin.clone();
        edit::set(&mut conf, &self.conf).context(|| self.id.clone())?;
        edit::remove(&mut conf, &self.without);
        Ok(conf)
    }

    /// The steps of each run: one list if there is no `each`.
    ///
    /// # Errors
    /// A step that can't be read.
    pub fn variants(&self) -> Vec<(Option<&Value>, Vec<Value>)> {
        if self.each.is_empty() {
            return vec![(None, self.steps.clone())];
        }
        let of = |it: &Value| self.steps.iter().map(|step| step::with_it(step, it)).collect();
        self.each.iter().map(|it| (Some(it), of(it))).collect()
    }

    fn validate(&self) -> Result<()> {
        for (_, steps) in self.variants() {
            for step in steps {
                Step::decode(&step).context(|| format!("case {}: {step}", self.id))?;
            }
        }
        if self.steps.is_empty() { Err(format!("case {}: no steps", self.id)) } else { Ok(()) }
    }
}

/// The cases that come with the runner.
///
/// # Errors
/// A file that is not as README.md says.
pub fn built_in() -> Result<Vec<Section>> {
    let files = BUILT_IN.iter().map(|(name, text)| parse(name, text));
    checked(files.collect::<Result<_>>()?)
}

/// The cases of every `.json` file of a directory, by name.
///
/// # Errors
/// A file that can't be read or is not as README.md says.
pub fn from_dir(dir: &Path) -> Result<Vec<Section>> {
    let entries = fs::read_dir(dir).context(|| dir.display().to_string())?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let read = |file: &std::path::PathBuf| {
        let name = file.display().to_string();
        parse(&name, &fs::read_to_string(file).context(|| name.clone())?)
    };
    checked(files.iter().map(read).collect::<Result<_>>()?)
}

fn parse(name: &str, text: &str) -> Result<Section> {
    serde_json::from_str(text).context(|| name.to_owned())
}

fn checked(sections: Vec<Section>) -> Result<Vec<Section>> {
    let mut ids = BTreeSet::new();
    for case in sections.iter().flat_map(|section| &section.cases) {
        case.validate()?;
        if !ids.insert(&case.id) {
            return Err(format!("case {}: there are two of that id", case.id));
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_that_come_with_the_runner_can_be_read() {
        let cases: usize = built_in().unwrap().iter().map(|section| section.cases.len()).sum();
        assert!(cases > 100, "{cases}");
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let there: usize = from_dir(&dir).unwrap().iter().map(|section| section.cases.len()).sum();
        assert_eq!(there, cases, "a file in cases/ is not part of the runner");
    }

    #[test]
    fn what_is_no_case_is_refused_by_name() {
        let section = |case: &str| {
            let file = format!(r#"{{"section": "x", "cases": [{case}, {case}]}}"#);
            parse("x.json", &file).and_then(|section| checked(vec![section])).unwrap_err()
        };
        let case = |steps: &str| {
            format!(
                r#"{{"id": "i", "title": "t", "spec": "s", "level": "must", "steps": [{steps}]}}"#
            )
        };
        assert!(section(&case(r#"{"call": "ADD"}"#)).contains("two of that id"));
        assert!(section(&case(r#"{"dance": 1}"#)).contains("dance"));
        assert!(section(&case(r#"{"call": "ADD", "pot": "a"}"#)).contains("pot"));
        assert!(section(&case("")).contains("no steps"));
    }
}
