//! A call of the plugin under test, as libcni makes it.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Context, Result,
    node::HIDDEN,
    process::{self, Answer},
};

/// The plugin under test, with what it is configured by.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The executable.
    pub file: PathBuf,
    /// Where its delegates are looked for, after its own directory.
    pub search: Vec<PathBuf>,
    /// One plugin's configuration.
    pub conf: Value,
}

/// Everything that a call consists of.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The `CNI_` variables, and others.
    pub env: BTreeMap<String, String>,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// A file in the place of standard output.
    pub stdout: Option<String>,
    /// How long it may take.
    pub patience: Duration,
}

impl Plugin {
    /// Takes a plugin and its configuration: of one plugin, or a list that has one of that type.
    ///
    /// # Errors
    /// The file is missing or out of reach, or the configuration is not of this plugin.
    pub fn new(file: &Path, search: Vec<PathBuf>, conf: &Value) -> Result<Self> {
        let file = file.canonicalize().context(|| file.display().to_string())?;
        if let Some(dir) = HIDDEN.iter().find(|dir| file.starts_with(dir)) {
            return Err(format!(
                "{} is below {dir}, which the node has its own of",
                file.display()
            ));
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut own = match conf["plugins"].as_array() {
            None => conf.clone(),
            Some(list) => {
                let found = list.iter().find(|conf| conf["type"] == *name);
                found.cloned().ok_or_else(|| format!("the list has no plugin of type {name:?}"))?
            }
        };
        if !own.is_object() {
            return Err("the configuration is no object".into());
        }
        if own["name"].is_null() {
            own["name"] = conf["name"].clone();
        }
        if own["type"].is_null() {
            own["type"] = name.into();
        }
        if !own["name"].is_string() {
            return Err("the configuration has no name".into());
        }
        Ok(Self { file, search, conf: own })
    }

    /// `CNI_PATH`: two directories of the run's own first, for its delegates.
    pub fn path(&self, dir: &Path) -> String {
        let own = self.file.parent().map(Path::to_path_buf);
        let first = ["first", "second"].map(|name| dir.join(name));
        let all = first.into_iter().chain(own).chain(self.search.iter().cloned());
        all.map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":")
    }

    /// Calls it in the namespaces of the calling thread.
    ///
    /// # Errors
    /// It can't be started.
    pub fn call(&self, invocation: &Invocation) -> Result<Answer> {
        let mut command = Command::new(&self.file);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&invocation.env);
        let stdout = invocation.stdout.as_ref().map(|path| {
            let file = File::options().write(true).open(path).context(|| path.clone());
            file.map(Stdio::from)
        });
        process::finish(&mut command, &invocation.stdin, stdout.transpose()?, invocation.patience)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_gives_the_plugin_its_entry() {
        let plugin = |conf: Value| Plugin::new(Path::new("/bin/sh"), Vec::new(), &conf);
        let name = Path::new("/bin/sh").canonicalize().unwrap();
        let name = name.file_name().unwrap().to_str().unwrap();
        let list = json!({"name": "n", "plugins": [{"type": "x"}, {"type": name, "mtu": 1}]});
        let own = plugin(list).unwrap().conf;
        assert_eq!(own, json!({"name": "n", "type": name, "mtu": 1}));
        assert!(plugin(json!({"name": "n", "plugins": []})).unwrap_err().contains(name));
        assert!(plugin(json!({"type": "x"})).unwrap_err().contains("name"));
        assert!(plugin(json!([])).is_err());
    }
}
