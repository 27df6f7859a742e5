//! Where the plugin keeps its state: said by hand, else where the node's network configuration says.
//!
//! Whoever gave the plugin a `stateDir` or `bpfDir` did so in the configuration; that the commands ask for it
//! again would be a way to reload, or to take away, what isn't there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::doctor::{self, Network};
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    /// What was said by hand, then what the configuration says: of the first by name that uses weir and that an
    /// ADD takes, else of the first that uses it; then what an ADD takes where nothing is said.
    pub(super) fn find(&self, conf_dir: &Path) -> Found {
        let files = doctor::networks(conf_dir);
        let taken = files.iter().find(|file| file.preview().is_some_and(|it| it.is_ok()));
        let configured = taken.and_then(Network::places);
        self.place(configured.or_else(|| files.iter().find_map(Network::places)))
    }

    /// As [`find`](Self::find), of every configuration that uses weir.
    pub(super) fn find_all(&self, conf_dir: &Path) -> Vec<Found> {
        let files = doctor::networks(conf_dir);
        let all: BTreeSet<_> =
            files.iter().filter_map(|file| Some(self.place(Some(file.places()?)))).collect();
        if all.is_empty() { vec![self.place(None)] } else { all.into_iter().collect() }
    }

    fn place(&self, configured: Option<(PathBuf, PathBuf)>) -> Found {
        let usual = || (STATE_DIR.into(), BPF_DIR.into());
        let (state_dir, bpf_dir) = configured.unwrap_or_else(usual);
        Found {
            state_dir: self.state_dir.clone().unwrap_or(state_dir),
            bpf_dir: self.bpf_dir.clone().unwrap_or(bpf_dir),
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
        assert_eq!(found, [["/a", "/b"], ["/x", "/b"], ["/x", "/y"]]);
        // What an ADD refuses comes after what it takes, and says all the same where its pods are.
        let refused = r#"{"cniVersion":"1.0.0","name":"m","type":"weir","stateDir":"/c","mtu":-1}"#;
        fs::write(dir.join("07-refused.conf"), refused).unwrap();
        assert_eq!(find(None, None), ["/a", "/b"]);
        let all = Places::default().find_all(&dir);
        let all =
            all.iter().map(|it| [&it.state_dir, &it.bpf_dir].map(|dir| dir.to_str().unwrap()));
        assert_eq!(all.collect::<Vec<_>>(), [["/a", "/b"], ["/c", BPF_DIR]]);
        fs::remove_file(dir.join("10-weir.conflist")).unwrap();
        let alone = find(None, None);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(alone, ["/c", BPF_DIR]);
    }
}
