//! What every answer of a plugin must be, whatever it was asked, and whether it is what a case expects.

use serde_json::{Deserializer, Value};

use crate::{
    Result,
    process::Answer,
    shape,
    step::{Detail, Expect, Expected, Word},
};

/// An answer that keeps to the protocol.
#[derive(Debug)]
pub enum Said {
    /// Exit status 0, with the object on stdout if there was one.
    Success(Option<Value>),
    /// Another exit status, with the error object.
    Failure(Value),
    /// Another exit status, and stdout is not ours to read.
    Unheard,
}

/// Reads an answer by the rules that hold for each: it ends, not by a signal; stdout is empty or one
/// JSON object; with a failure comes the spec's error object (section "Error").
///
/// # Errors
/// The rule that is broken.
pub fn read(answer: &Answer) -> Result<Said> {
    let stderr = String::from_utf8_lossy(&answer.stderr);
    for sign in ["panicked at", "goroutine 1 [", "Traceback (most recent call last)"] {
        if stderr.contains(sign) {
            return Err(format!("it crashed: stderr has {sign:?}"));
        }
    }
    let Some(status) = answer.status else {
        return Err(format!("it did not end within {} s", answer.patience.as_secs()));
    };
    if answer.held_open {
        return Err("something that it started keeps its stdout or stderr open, which hangs \
                    a runtime"
            .into());
    }
    let Some(code) = status.code() else { return Err(format!("it was ended: {status}")) };
    if answer.unheard {
        return Ok(if code == 0 { Said::Success(None) } else { Said::Unheard });
    }
    let object = one_object(&answer.stdout)?;
    if code == 0 {
        return Ok(Said::Success(object));
    }
    let error = object.ok_or_else(|| format!("exit status {code} without an error on stdout"))?;
    let complaint = |why: &str| Err(format!("the error object {why}: {error}"));
    if error["code"].as_u64().unwrap_or_default() == 0 {
        return complaint("has no code");
    }
    if is_reserved(error["code"].as_u64().unwrap_or_default()) {
        return complaint("has a code that the specification reserves and gives no meaning");
    }
    if error["msg"].as_str().unwrap_or_default().is_empty() {
        return complaint("has no msg");
    }
    if !(error["details"].is_null() || error["details"].is_string()) {
        return complaint("has details that are no text");
    }
    Ok(Said::Failure(error))
}

/// Section "Error": 0 to 99 are the specification's; 8 is the reference library's by now.
fn is_reserved(code: u64) -> bool {
    code < 100 && !matches!(code, 1..=8 | 11 | 50 | 51)
}

fn one_object(stdout: &[u8]) -> Result<Option<Value>> {
    let mut values = Deserializer::from_slice(stdout).into_iter::<Value>();
    let shown = || shortened(&String::from_utf8_lossy(stdout));
    let first = values.next().transpose();
    let first = first.map_err(|_| format!("stdout is not JSON: {}", shown()))?;
    if values.next().is_some() {
        return Err(format!("stdout has more than one JSON object: {}", shown()));
    }
    match first {
        Some(value) if !value.is_object() => Err(format!("stdout is no object: {}", shown())),
        object => Ok(object),
    }
}

/// A text of a bearable length.
pub fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a result is checked against besides the case's own words.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The verb.
    pub verb: &'a str,
    /// `cniVersion`.
    pub version: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
}

/// Whether an answer is one of those that are expected.
///
/// # Errors
/// What was expected and what came.
pub fn judge(answer: &Answer, expect: &Expect, asked: Asked<'_>) -> Result<Said> {
    let said = read(answer)?;
    let mut reasons = Vec::new();
    for expected in expect.alternatives() {
        match meets(&said, answer, expected, asked) {
            Ok(()) => return Ok(said),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; or "))
}

fn meets(said: &Said, answer: &Answer, expected: &Expected, asked: Asked<'_>) -> Result<()> {
    match (expected, said) {
        (Expected::Word(Word::Success), Said::Success(object)) => {
            if object.is_none() && asked.verb == "ADD" && !answer.unheard {
                return Err("success without a result on stdout".into());
            }
            Ok(())
        }
        (Expected::Word(Word::Failure), Said::Failure(_))
        | (Expected::Word(Word::Exit), Said::Failure(_) | Said::Unheard) => Ok(()),
        (Expected::Word(word), _) => Err(format!("expected {}, got {}", word.text(), told(said))),
        (Expected::Detail(detail), _) => detailed(said, answer, detail, asked),
    }
}

impl Word {
    fn text(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure | Self::Exit => "a failure",
        }
    }
}

/// An outcome in a few words.
pub fn told(said: &Said) -> String {
    match said {
        Said::Success(None) => "success".into(),
        Said::Success(Some(object)) => format!("success: {}", shortened(&object.to_string())),
        Said::Failure(error) => {
            let details = error["details"].as_str().unwrap_or_default();
            let msg = error["msg"].as_str().unwrap_or_default();
            format!("error {}: {}", error["code"], shortened(&format!("{msg} {details}")))
        }
        Said::Unheard => "a failure".into(),
    }
}

fn detailed(said: &Said, answer: &Answer, detail: &Detail, asked: Asked<'_>) -> Result<()> {
    let stderr = String::from_utf8_lossy(&answer.stderr);
    if let Some(text) = detail.stderr.iter().find(|text| !stderr.contains(*text)) {
        return Err(format!("stderr lacks {text:?}"));
    }
    if detail.quiet && !answer.stdout.trim_ascii().is_empty() {
        let stdout = String::from_utf8_lossy(&answer.stdout);
        return Err(format!("expected nothing on stdout, got {}", shortened(&stdout)));
    }
    let failure = detail.code.is_some() || detail.says.is_some() || detail.error.is_some();
    match (failure, said) {
        (true, Said::Failure(error)) => failed(error, detail),
        (false, Said::Success(object)) => succeeded(object.as_ref(), detail, asked),
        (true, _) => Err(format!("expected {}, got {}", wanted(detail), told(said))),
        (false, _) => Err(format!("expected success, got {}", told(said))),
    }
}

fn wanted(detail: &Detail) -> String {
    let codes = detail.code.iter().flatten().map(u32::to_string).collect::<Vec<_>>();
    if codes.is_empty() { "a failure".into() } else { format!("error {}", codes.join(" or ")) }
}

fn failed(error: &Value, detail: &Detail) -> Result<()> {
    let got = || told(&Said::Failure(error.clone()));
    let code = error["code"].as_u64().unwrap_or_default();
    if let Some(codes) = &detail.code
        && !codes.iter().any(|wanted| u64::from(*wanted) == code)
    {
        return Err(format!("expected {}, got {}", wanted(detail), got()));
    }
    let words = format!("{} {}", error["msg"], error["details"]);
    if let Some(text) = detail.says.iter().flatten().find(|text| !words.contains(*text)) {
        return Err(format!("the error does not say {text:?}: {}", got()));
    }
    match &detail.error {
        Some(pattern) if !contains(error, pattern) => {
            Err(format!("the error object lacks {pattern}: {}", shortened(&error.to_string())))
        }
        _ => Ok(()),
    }
}

fn succeeded(object: Option<&Value>, detail: &Detail, asked: Asked<'_>) -> Result<()> {
    if detail.quiet {
        return Ok(());
    }
    let Some(result) = object else { return Err("success without a result on stdout".into()) };
    if let Some(pattern) = &detail.result
        && !contains(result, pattern)
    {
        return Err(format!("the result lacks {pattern}: {}", shortened(&result.to_string())));
    }
    if detail.shape {
        shape::of_result(result, asked)?;
    }
    Ok(())
}

/// Whether a value has all that a pattern has: of an object the fields, of a list, in any order, an
/// element for each.
pub fn contains(value: &Value, pattern: &Value) -> bool {
    match (value, pattern) {
        (Value::Object(value), Value::Object(pattern)) => pattern
            .iter()
            .all(|(key, wanted)| value.get(key).is_some_and(|found| contains(found, wanted))),
        (Value::Array(list), Value::Array(pattern)) => {
            pattern.iter().all(|wanted| list.iter().any(|found| contains(found, wanted)))
        }
        _ => value == pattern,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

    use serde_json::json;

    use super::*;

    fn answer(code: i32, stdout: &str) -> Answer {
        Answer {
            status: Some(ExitStatus::from_raw(code << 8)),
            stdout: stdout.into(),
            stderr: Vec::new(),
            held_open: false,
            unheard: false,
            patience: Duration::from_secs(1),
            took: Duration::ZERO,
        }
    }

    const ASKED: Asked<'_> =
        Asked { verb: "ADD", version: "1.0.0", ifname: "eth0", netns: "/run/netns/a" };

    fn judged(answer: &Answer, expect: Value) -> Result<Said> {
        judge(answer, &serde_json::from_value(expect).unwrap(), ASKED)
    }

    #[test]
    fn answers_that_break_the_protocol_are_told_from_those_that_keep_it() {
        for (code, stdout, why) in [
            (0, "{} {}", "more than one"),
            (0, "{}\nlog", "more than one"),
            (0, "OK", "not JSON"),
            (0, "[]", "no object"),
            (1, "", "without an error"),
            (1, "{}", "no code"),
            (1, r#"{"code": 0, "msg": "x"}"#, "no code"),
            (1, r#"{"code": 7}"#, "no msg"),
            (1, r#"{"code": 42, "msg": "x"}"#, "reserves"),
            (1, r#"{"code": 7, "msg": "x", "details": {}}"#, "details"),
        ] {
            let broken = read(&answer(code, stdout)).unwrap_err();
            assert!(broken.contains(why), "{stdout}: {broken}");
        }
        assert!(matches!(read(&answer(0, "")), Ok(Said::Success(None))));
        assert!(matches!(read(&answer(9, r#"{"code":7,"msg":"x"}"#)), Ok(Said::Failure(_))));
        let mut killed = answer(0, "");
        killed.status = Some(ExitStatus::from_raw(11));
        assert!(read(&killed).unwrap_err().contains("signal: 11"));
        let mut panicked = answer(0, "");
        panicked.stderr = b"thread 'main' panicked at src".to_vec();
        assert!(read(&panicked).unwrap_err().contains("crashed"));
    }

    #[test]
    fn one_of_several_expectations_is_enough() {
        let refused = answer(1, r#"{"code": 7, "msg": "mtu is -1"}"#);
        judged(&refused, json!(["success", {"code": [2, 7], "says": ["mtu", "-1"]}])).unwrap();
        let missed = judged(&refused, json!(["success", {"code": [4]}])).unwrap_err();
        assert!(missed.contains("expected success") && missed.contains("expected error 4"));
        judged(&refused, json!({"says": ["name"]})).unwrap_err();
        judged(&answer(0, ""), json!("success")).unwrap_err();
        judged(&answer(0, ""), json!({"quiet": true})).unwrap();
        judged(&answer(0, "{}"), json!({"quiet": true})).unwrap_err();
    }

    #[test]
    fn patterns_ask_for_no_more_than_they_name() {
        let value = json!({"a": [1, {"b": 2, "c": 3}], "d": null});
        assert!(contains(&value, &json!({"a": [{"b": 2}], "d": null})));
        assert!(!contains(&value, &json!({"a": [{"b": 3}]})));
        assert!(!contains(&value, &json!({"e": null})));
    }
}
