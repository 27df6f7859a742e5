//! IPAM plugins with given answers: shell scripts that also write down how they were called.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;

use crate::{
    Context, Result,
    step::{Deed, Delegate},
};

/// Puts one where the plugin finds it.
///
/// # Errors
/// A file that can't be written.
pub fn install(dir: &Path, delegate: &Delegate) -> Result<()> {
    let place = dir.join(&delegate.dir);
    let file = place.join(&delegate.delegate);
    let what = || file.display().to_string();
    if delegate.directory {
        return fs::create_dir_all(&file).context(what);
    }
    fs::create_dir_all(&place).context(what)?;
    fs::write(&file, script(dir, delegate)).context(what)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).context(what)
}

fn script(dir: &Path, delegate: &Delegate) -> String {
    let asked = dir.join(format!("{}.asked", delegate.delegate));
    let asked = asked.display();
    let mut text = format!(
        "#!/bin/sh\n\
         echo \"$CNI_COMMAND $CNI_CONTAINERID\" >> {asked}\n\
         cat > {asked}.stdin\n\
         env | sort > {asked}.env\n\
         case $CNI_COMMAND in\n"
    );
    for (verb, deed) in &delegate.answers {
        text.push_str(&format!("{verb})\n{};;\n", commands(deed)));
    }
    text + "esac\nexit 0\n"
}

fn commands(deed: &Deed) -> String {
    let mut text = String::new();
    if let Some(seconds) = deed.sleep {
        text.push_str(&format!("sleep {seconds}\n"));
    }
    if let Some(command) = &deed.run {
        text.push_str(&format!("{{ {command}\n}} >&2\n"));
    }
    if let Some(words) = &deed.stderr {
        text.push_str(&format!("printf '%s\\n' {} >&2\n", quoted(words)));
    }
    if let Some(output) = &deed.print {
        let output = match output {
            Value::String(text) => text.clone(),
            json => json.to_string(),
        };
        text.push_str(&format!("printf '%s\\n' {}\n", quoted(&output)));
    }
    match deed.signal {
        Some(signal) => text + &format!("kill -{signal} $$\n"),
        None => text + &format!("exit {}\n", deed.exit),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// How a plugin was called: `VERB container-id`, a line each.
pub fn calls(dir: &Path, name: &str) -> Vec<String> {
    let asked = dir.join(format!("{name}.asked"));
    let text = fs::read_to_string(asked).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// What it got at its last call: standard input, and the `CNI_` variables.
///
/// # Errors
/// It was never called, or its input was not JSON.
pub fn last_input(dir: &Path, name: &str) -> Result<(Value, Vec<String>)> {
    let read = |ending: &str| {
        let file = dir.join(format!("{name}.asked.{ending}"));
        fs::read_to_string(file).context(|| format!("{name} was never called"))
    };
    let stdin = read("stdin")?;
    let stdin = serde_json::from_str(&stdin).context(|| format!("{name} got {stdin:?}"))?;
    let environment = read("env")?;
    let ours = |line: &&str| line.starts_with("CNI_");
    Ok((stdin, environment.lines().filter(ours).map(str::to_owned).collect()))
}
