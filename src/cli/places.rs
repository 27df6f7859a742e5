//! Where the plugin keeps its state: said by hand, else where the node's network configuration says.
//!
//! Whoever gave the plugin a `stateDir` or `bpfDir` did so in the configuration; that the commands ask for it
//! again would be a way to reload, or to take away, what isn't there.

use std::path::{Path, PathBuf};

use super::doctor;
use crate::cni::{BPF_DIR, STATE_DIR, list::PLACES};

/// Where most runtimes look for network configurations.
pub(super) const CONF_DIR: &str = "/etc/cni/net.d";

/// The two directories; every command that works on them takes these.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Places {
    /// Directory of the attachment records [default: the configuration's, else /run/weir]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Directory of the pinned programs and maps, on a bpffs [default: the configuration's, else
    /// /sys/fs/bpf/weir]
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
}

/// [`Places`], for commands that have no other use for the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Configured {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    conf_dir: ConfDir,
}

/// Where the configurations are.
#[derive(Debug, clap::Args)]
pub(super) struct ConfDir {
    /// Directory in which the runtime looks for network configurations [default: the first of the usual
    /// ones that has any, those with Weir's before others]
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,
}

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The attachment records.
    pub(super) state_dir: PathBuf,
    /// Programs, maps and links.
    pub(super) bpf_dir: PathBuf,
}

impl Configured {
    /// As [`Places::find`].
    pub(super) fn find(&self) -> Found {
        self.places.find(&self.conf_dir.find())
    }
}

impl ConfDir {
    /// What was said by hand.
    pub(super) fn given(&self) -> Option<&Path> {
        self.conf_dir.as_deref()
    }

    /// What was said by hand, else the first of the [usual](PLACES) directories that has a network of weir's,
    /// else the first that has any.
    pub(super) fn find(&self) -> PathBuf {
        let first = |wanted: fn(&doctor::Network) -> bool| {
            PLACES.map(Path::new).into_iter().find(|dir| doctor::networks(dir).iter().any(wanted))
        };
        self.given()
            .or_else(|| first(|file| file.position().is_some()))
            .or_else(|| first(|_| true))
            .unwrap_or(Path::new(CONF_DIR))
            .to_owned()
    }
}

impl Places {
    /// What was said by hand, then what ADD will read (of the first configuration by name that uses weir
    /// and that an ADD takes), then what it takes where nothing is said.
    pub(super) fn find(&self, conf_dir: &Path) -> Found {
        let configured = || {
            let files = doctor::networks(conf_dir);
            files.iter().find_map(|file| file.preview()?.ok())
        };
        let network = match self {
            Self { state_dir: Some(_), bpf_dir: Some(_) } => None,
            _ => configured(),
        };
        let place = |given: &Option<PathBuf>, configured: Option<&PathBuf>, usual: &str| {
            given.as_ref().or(configured).cloned().unwrap_or_else(|| usual.into())
        };
        Found {
            state_dir: place(&self.state_dir, network.as_ref().map(|it| &it.state_dir), STATE_DIR),
            bpf_dir: place(&self.bpf_dir, network.as_ref().map(|it| &it.bpf_dir), BPF_DIR),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn by_hand_before_the_configuration_before_the_usual() {
        let dir = std::env::temp_dir().join(format!("weir-places-{}", std::process::id()));
        let find = |state_dir: Option<&str>, bpf_dir: Option<&str>| {
            let [state_dir, bpf_dir] = [state_dir, bpf_dir].map(|given| given.map(PathBuf::from));
            let Found { state_dir, bpf_dir } = Places { state_dir, bpf_dir }.find(&dir);
            [state_dir, bpf_dir].map(|dir| dir.to_str().unwrap().to_owned())
        };
        assert_eq!(find(None, None), [STATE_DIR, BPF_DIR]);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("05-broken.conflist"), "{").unwrap();
        fs::write(
            dir.join("10-weir.conflist"),
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"},
                {"type":"weir","stateDir":"/a","bpfDir":"/b"}]}"#,
        )
        .unwrap();
        let found = [find(None, None), find(Some("/x"), None), find(Some("/x"), Some("/y"))];
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, [["/a", "/b"], ["/x", "/b"], ["/x", "/y"]]);
    }
}
