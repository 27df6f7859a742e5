//! GC: what the runtime doesn't list goes, of this network alone.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Call,
    config::Config,
    field::Field,
    reclaim,
    teardown::{self, Failures, Search},
    wanted,
};
use crate::{
    attachment::Attachment,
    error::Result,
    ipam::pool::Pool,
    record::{self, Entry, Record},
    spec::Version,
    state,
};

/// When the time of all IPAM plugins is over, from the beginning of the call on: what is waited for locks goes
/// off it, so that whatever holds the call up, it ends. CRI-O gives its GC half a minute.
pub const PLUGINS: Duration = Duration::from_secs(12);

/// What the runtime says of valid attachments, the specification's key first.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// How long to wait for those who hold records, all together; off [`PLUGINS`].
const HELD: Duration = Duration::from_secs(5);

/// Takes away every attachment of the network that is not valid any more, then leases of nobody;
/// goes on past failures.
pub fn run(call: &Call) -> Result<()> {
    let config = &call.config;
    config.require(Version::V1_1_0, "GC")?;
    let valid = valid_attachments(config)?;
    let boot_id = state::boot_id()?;
    let pool = Pool { state_dir: &config.state_dir, network: &config.name };

    let stale = |attachment: &Attachment, record: Option<&Record>| match (&valid, record) {
        (Some(valid), _) => !valid.contains(attachment),
        (None, Some(record)) => reclaim::is_dead(record, &boot_id),
        (None, None) => false,
    };
    let ends = |attachment: &Attachment, entry: &Entry| match entry {
        Entry::Record(record) => record.network == config.name && stale(attachment, Some(record)),
        // Its leases tell the network of a record that can't be read, or its interface does.
        Entry::Unreadable(_) => {
            let leases = || pool.held_by(attachment).is_ok_and(|held| !held.is_empty());
            let linked = || {
                let network = reclaim::network_by_link(attachment).ok().flatten();
                network.as_ref() == Some(&config.name)
            };
            stale(attachment, None) && (leases() || linked())
        }
        Entry::OutOfReach(_) | Entry::Absent => false,
    };
    let until = Instant::now() + HELD;
    let mut failures = Failures::default();
    let mut records = Vec::new();
    failures.note(record::list(&config.state_dir).map(|found| records = found));
    for (attachment, entry) in records {
        match entry {
            // It may be of this network, and the next GC's to take away, unless its interface says that it isn't.
            Entry::OutOfReach(why)
                if valid.as_ref().is_none_or(|valid| !valid.contains(&attachment)) =>
            {
                let network = reclaim::network_by_link(&attachment).ok().flatten();
                if network.is_none_or(|network| network == config.name) {
                    failures.note(Err(why));
                }
            }
            entry if ends(&attachment, &entry) => {
                failures.note(end(call, &attachment, until, ends));
            }
            _ => {}
        }
    }
    failures.note(pool.sweep().map(drop));
    failures.note(wanted::delegate(&config.root()).and_then(|plugin| match (plugin, &valid) {
        (None, _) => Ok(()),
        (Some(plugin), Some(valid)) => {
            call.delegate(&plugin, &for_ipam(call, valid)?)?.forward("GC")
        }
        (Some(plugin), None) => {
            let why =
                "GC came without a list of valid attachments, which it might take for an empty one";
            eprintln!("weir: IPAM plugin {plugin} is not asked: {why}");
            Ok(())
        }
    }));
    failures.into_result()
}

/// What an IPAM plugin is to read of the valid attachments, which knows but the specification's key: the call's
/// configuration as it is, unless that says less there than we believe.
fn for_ipam<'a>(call: &'a Call, valid: &BTreeSet<Attachment>) -> Result<Cow<'a, [u8]>> {
    if listed(&call.config, KEYS[0])?.as_ref() == Some(valid)
        && call.config.json[KEYS[0]].is_array()
    {
        return Ok(Cow::Borrowed(&call.stdin));
    }
    let entry = |attachment: &Attachment| json!({"containerID": attachment.container_id(), "ifname": attachment.ifname()});
    let list: Vec<Value> = valid.iter().map(entry).collect();
    let mut config = call.config.json.clone();
    for key in KEYS {
        config[key] = json!(list);
    }
    Ok(Cow::Owned(config.to_string().into_bytes()))
}

/// Takes an attachment away, if it is to end by what the journal has of it once it is held.
fn end(
    call: &Call,
    attachment: &Attachment,
    until: Instant,
    ends: impl Fn(&Attachment, &Entry) -> bool,
) -> Result<()> {
    let claim = record::claim(&call.config.state_dir, attachment, until)?;
    let claim = claim.ok_or_else(|| teardown::held(&call.config.state_dir, attachment))?;
    match &claim.entry {
        entry if !ends(attachment, entry) => Ok(()),
        Entry::Record(record) => {
            claim.mark_ending();
            teardown::recorded(call, attachment, record)
        }
        _ => teardown::unrecorded(call, attachment, Search::Everything),
    }
}

/// The attachments that the runtime knows; `None` if it didn't say, as `cnitool gc` doesn't.
///
/// Spec 1.1.0 has `cni.dev/valid-attachments`, its release notes had `cni.dev/attachments`, libcni
/// sends both; should they differ, an attachment in either is valid. `null` is an empty list: so
/// ocicni says that a network has no pods.
fn valid_attachments(config: &Config) -> Result<Option<BTreeSet<Attachment>>> {
    let [new, old] = KEYS.map(|key| listed(config, key));
    Ok(match (new?, old?) {
        (Some(new), Some(old)) => Some(new.into_iter().chain(old).collect()),
        (new, old) => new.or(old),
    })
}

/// What one key lists.
fn listed(config: &Config, key: &str) -> Result<Option<BTreeSet<Attachment>>> {
    if config.json.get(key).is_none() {
        return Ok(None);
    }
    let list = config.root().get(key).map(|list| list.list()).transpose()?.unwrap_or_default();
    list.iter().map(attachment).collect::<Result<_>>().map(Some)
}

fn attachment(entry: &Field<'_>) -> Result<Attachment> {
    let name = |key: &str| match entry.get(key) {
        Some(name) => name.text(),
        None => Err(entry.wrong(format!("has no {key}"))),
    };
    Attachment::new(name("containerID")?, name("ifname")?).map_err(|why| entry.wrong(why))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn valid(mut keys: Value) -> Result<Option<Vec<String>>> {
        keys["cniVersion"] = json!("1.1.0");
        keys["name"] = json!("n");
        let found = valid_attachments(&Config::parse(keys).unwrap())?;
        Ok(found.map(|found| {
            let mut names: Vec<_> = found.iter().map(Attachment::file_name).collect();
            names.sort();
            names
        }))
    }

    #[test]
    fn every_dialect_of_the_list_is_understood() {
        let one = |id: &str| json!([{"containerID": id, "ifname": "eth0"}]);
        let (new, old) = ("cni.dev/valid-attachments", "cni.dev/attachments");
        assert_eq!(valid(json!({})).unwrap(), None);
        assert_eq!(valid(json!({new: null})).unwrap().unwrap().len(), 0);
        assert_eq!(valid(json!({old: []})).unwrap().unwrap().len(), 0);
        assert_eq!(valid(json!({new: one("a")})).unwrap().unwrap(), ["a@eth0"]);
        assert_eq!(valid(json!({old: one("a")})).unwrap().unwrap(), ["a@eth0"]);
        let both = valid(json!({new: one("a"), old: one("b")})).unwrap().unwrap();
        assert_eq!(both, ["a@eth0", "b@eth0"]);
    }

    #[test]
    fn a_list_that_can_not_be_trusted_removes_nothing() {
        for wrong in
            [json!({}), json!("x"), json!([{}]), json!([{"containerID": "../x", "ifname": "e"}])]
        {
            assert!(valid(json!({"cni.dev/valid-attachments": wrong})).is_err(), "{wrong}");
        }
    }
}
