//! What SPECIFICATION.md names as the holder of a promise exists.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, path::Path};

/// `(suite, module, test)` of what stands in backquotes as `suite module::test`; no test: all of a module.
fn named(text: &str) -> Vec<(&str, &str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|words| {
        let (suite, rest) = words.split_once(' ')?;
        let (module, test) = rest.split_once("::")?;
        Some((suite, module, test))
    });
    named.filter(|(suite, ..)| *suite != "cargo").collect()
}

#[test]
fn every_holder_of_a_promise_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SPECIFICATION.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 40, "{}", named.len());
    for (suite, module, test) in named {
        let file = root.join("tests").join(suite).join(module).with_extension("rs");
        let source = fs::read_to_string(&file)
            .unwrap_or_else(|err| panic!("{suite} {module}::{test}: {}: {err}", file.display()));
        let wanted =
            if test.is_empty() { "#[test]\n".to_owned() } else { format!("#[test]\nfn {test}()") };
        assert!(source.contains(&wanted), "{suite} {module} has no test {test}");
    }
}
