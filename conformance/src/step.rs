//! The steps that a case is made of: what is done, and what is looked at afterwards.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Context, Result};

/// One step.
#[derive(Debug)]
pub enum Step {
    /// Calls the plugin.
    Call(Box<Call>),
    /// Runs a command, which must succeed.
    Run(Run),
    /// Looks at the kernel.
    See(See),
    /// Remembers what is on the node, for `see: clean`.
    Remember,
    /// Lets a pod come and go, and remembers what stays of the network itself: a bridge, a table.
    Baseline(Edits),
    /// Takes a pod's namespace away.
    Vanish(String),
    /// Puts an IPAM plugin with given answers where the plugin finds it.
    Delegate(Delegate),
    /// Compares how that was called.
    Asked(Asked),
}

/// How a configuration is changed.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// Keys or pointers and their values.
    #[serde(default)]
    pub conf: Map<String, Value>,
    /// Keys or pointers to take away.
    #[serde(default)]
    pub without: Vec<String>,
}

/// A call of the plugin, by default as libcni makes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The verb.
    pub call: String,
    /// For which pod: it is made at its first call. Without one the variables are empty.
    pub pod: Option<String>,
    /// For so many pods at once, called `p0`, `p1` and so on.
    pub pods: Option<u32>,
    /// The interface.
    #[serde(default = "eth0")]
    pub ifname: String,
    /// Variables that are otherwise; `null` takes one away.
    #[serde(default)]
    pub env: BTreeMap<String, Option<String>>,
    /// What is otherwise in the configuration.
    #[serde(default)]
    pub conf: Map<String, Value>,
    /// What is not in it.
    #[serde(default)]
    pub without: Vec<String>,
    /// What is otherwise in the `prevResult` that libcni would send; `"none"`: it is not sent.
    #[serde(default, rename = "prevResult")]
    pub prev_result: PrevResult,
    /// Standard input instead of the configuration.
    pub stdin: Option<Stdin>,
    /// A file in the place of standard output.
    pub stdout: Option<String>,
    /// How many times in turn.
    #[serde(default = "once")]
    pub times: u32,
    /// Seconds that the call may take.
    pub within: Option<f64>,
    /// What must come of it: one of these.
    #[serde(default)]
    pub expect: Expect,
    /// Of calls at once: how many must succeed. The others must fail.
    pub succeed: Option<u32>,
}

/// The `prevResult` of a call.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub enum PrevResult {
    /// As libcni sends it.
    #[default]
    AsLibcni,
    /// `"none"`, whatever libcni would send.
    Withheld(String),
    /// What libcni sends, with changes.
    Edited {
        /// Keys or pointers and their values.
        #[serde(default)]
        set: Map<String, Value>,
        /// Keys or pointers to take away.
        #[serde(default)]
        without: Vec<String>,
    },
}

/// Standard input that is no edited configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Stdin {
    /// This text.
    Text(String),
    /// A text many times over.
    Repeated {
        /// The text.
        text: String,
        /// How often.
        times: usize,
    },
    /// These bytes.
    Bytes {
        /// As numbers.
        bytes: Vec<u8>,
    },
}

/// What may come of a call.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Expect {
    /// One of these.
    AnyOf(Vec<Expected>),
    /// This.
    One(Expected),
}

/// One thing that may come of a call.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Expected {
    /// `"success"` or `"failure"`.
    Word(Word),
    /// In detail; a failure if `code` or `says` or `error` is there.
    Detail(Box<Detail>),
}

/// The bare outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Exit status 0.
    Success,
    /// Another one, with an error object on stdout.
    Failure,
    /// Another one; where the error object went can't be asked.
    Exit,
}

/// An outcome in detail.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// The error's code is one of these.
    pub code: Option<Vec<u32>>,
    /// The error's message or details contain all of these.
    pub says: Option<Vec<String>>,
    /// The error object contains this.
    pub error: Option<Value>,
    /// The result contains this.
    pub result: Option<Value>,
    /// The result is of the shape that the version has.
    #[serde(default)]
    pub shape: bool,
    /// Standard output is empty.
    #[serde(default)]
    pub quiet: bool,
    /// Standard error contains all of these.
    #[serde(default)]
    pub stderr: Vec<String>,
}

/// A command, in the node's namespace or a pod's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its words.
    pub run: String,
    /// `node`, or a pod.
    #[serde(rename = "in")]
    pub place: String,
    /// What its output must contain.
    pub prints: Option<String>,
    /// What its output must not contain.
    pub lacks: Option<String>,
}

/// A look at the kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct See {
    /// At what.
    pub see: Sight,
    /// Of which pod; all that were added if none is named.
    pub pod: Option<String>,
    /// Of which interface.
    #[serde(default = "eth0")]
    pub ifname: String,
    /// A second pod; the ports.
    pub to: Option<String>,
}

/// What there is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sight {
    /// The interface is there and up, with the MAC, MTU, addresses and routes of the result.
    Attached,
    /// There is no such interface in the pod.
    Detached,
    /// Node and pod reach each other over TCP at each address of the result.
    Reachable,
    /// Pod and pod do.
    Talk,
    /// Nothing is on the node but what was remembered.
    Clean,
    /// The pods share no address, MAC or host interface.
    Distinct,
    /// The host's end of the pod's interface is gone.
    Gone,
    /// A TCP port of the node, reached from outside, leads to one of the pod: `8080:80`.
    Port,
    /// It does not, any more.
    NoPort,
}

/// An IPAM plugin with given answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegate {
    /// Its name.
    pub delegate: String,
    /// In which directory of `CNI_PATH`: `first` or `second`.
    #[serde(default = "first")]
    pub dir: String,
    /// What it does when called with each verb; with another it succeeds without a word.
    #[serde(default)]
    pub answers: BTreeMap<String, Deed>,
    /// It is no file but a directory.
    #[serde(default)]
    pub directory: bool,
}

/// What an IPAM plugin does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deed {
    /// Printed on standard output: a text as it is, anything else as JSON.
    pub print: Option<Value>,
    /// Printed on standard error.
    pub stderr: Option<String>,
    /// The exit status.
    #[serde(default)]
    pub exit: u8,
    /// It ends itself by this signal instead.
    pub signal: Option<u8>,
    /// Seconds that it sleeps first.
    pub sleep: Option<u32>,
    /// A command that it runs, for the shell; what that prints goes to standard error.
    pub run: Option<String>,
}

/// How an IPAM plugin must have been called.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Its name.
    pub asked: String,
    /// The verbs, in order; those for pods with the pod's name: `ADD a`.
    pub calls: Option<Vec<String>>,
    /// It need not have been called at all.
    #[serde(default, rename = "orNever")]
    pub or_never: bool,
    /// At its last call it got the environment and the configuration of the plugin's last call.
    #[serde(default)]
    pub same: bool,
}

fn eth0() -> String {
    "eth0".into()
}

fn first() -> String {
    "first".into()
}

fn once() -> u32 {
    1
}

impl Default for Expect {
    fn default() -> Self {
        Self::One(Expected::Word(Word::Success))
    }
}

impl Expect {
    /// All that may come of it.
    pub fn alternatives(&self) -> &[Expected] {
        match self {
            Self::AnyOf(all) => all,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

impl Step {
    /// Reads a step by the key that says what it does.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(json: &Value) -> Result<Self> {
        let has = |key: &str| json.get(key).is_some();
        if has("call") {
            let call: Call = read(json)?;
            if let PrevResult::Withheld(word) = &call.prev_result
                && word != "none"
            {
                return Err(format!("prevResult is {word:?}"));
            }
            Ok(Self::Call(Box::new(call)))
        } else if has("run") {
            read(json).map(Self::Run)
        } else if has("see") {
            read(json).map(Self::See)
        } else if has("remember") {
            Ok(Self::Remember)
        } else if let Some(edits) = json.get("baseline") {
            read(edits).map(Self::Baseline)
        } else if let Some(pod) = json.get("vanish") {
            read(pod).map(Self::Vanish)
        } else if has("delegate") {
            read(json).map(Self::Delegate)
        } else if has("asked") {
            read(json).map(Self::Asked)
        } else {
            Err("none of call, run, see, remember, baseline, vanish, delegate, asked".into())
        }
    }
}

fn read<T: DeserializeOwned>(json: &Value) -> Result<T> {
    T::deserialize(json).context(|| "can't be read".into())
}

/// The step with `it` in the place of every `{it}`: the value itself where a text is nothing else.
/// `{it.key}` is one of its fields.
pub fn with_it(step: &Value, it: &Value) -> Value {
    let field = |name: &str| match name.split_once('.') {
        None => (name == "it").then(|| it.clone()),
        Some(("it", key)) => it.get(key).cloned(),
        Some(_) => None,
    };
    substitute(step, &field)
}

/// The value with everything in braces replaced that `meaning` knows, in keys as well as values.
pub fn substitute(value: &Value, meaning: &impl Fn(&str) -> Option<Value>) -> Value {
    match value {
        Value::String(text) => {
            let whole = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            match whole.filter(|name| !name.contains(['{', '}'])).and_then(meaning) {
                Some(value) => value,
                None => Value::String(replaced(text, meaning)),
            }
        }
        Value::Array(list) => list.iter().map(|each| substitute(each, meaning)).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                (replaced(key, meaning), substitute(value, meaning))
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn replaced(text: &str, meaning: &impl Fn(&str) -> Option<Value>) -> String {
    let mut made = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        made.push_str(before);
        let known = after.split_once('}').and_then(|(name, tail)| Some((meaning(name)?, tail)));
        match known {
            Some((Value::String(text), tail)) => {
                made.push_str(&text);
                rest = tail;
            }
            Some((value, tail)) => {
                made.push_str(&value.to_string());
                rest = tail;
            }
            None => {
                made.push('{');
                rest = after;
            }
        }
    }
    made + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_in_braces_is_replaced_if_it_is_known() {
        let step = json!({
            "{it.key}": "{it.value}", "text": "-{it.key}{it.value}-{a.ip}-", "json": "{\"x\": {",
        });
        let made = with_it(&step, &json!({"key": "k", "value": [1]}));
        let wanted = json!({"k": [1], "text": "-k[1]-{a.ip}-", "json": "{\"x\": {"});
        assert_eq!(made, wanted);
        assert_eq!(with_it(&json!("{it}"), &json!(null)), json!(null));
    }

    #[test]
    fn every_kind_of_expectation_is_read() {
        let step = |expect: Value| Step::decode(&json!({"call": "ADD", "expect": expect}));
        for expect in
            [json!("success"), json!("failure"), json!({"code": [7]}), json!([{"quiet": true}])]
        {
            step(expect).unwrap();
        }
        for wrong in [json!("maybe"), json!({"colour": 7})] {
            step(wrong).unwrap_err();
        }
    }
}
