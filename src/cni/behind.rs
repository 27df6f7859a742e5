//! What the plugins behind us in the chain are going to do, as far as we have to make way for it.
//!
//! The reference `bandwidth` plugin adds an `ingress` qdisc to the host side for a pod's egress limit,
//! and the kernel refuses it where a clsact qdisc sits. tcx leaves the slot free, but an ADD with it is
//! twenty times as slow: it is taken where that plugin is going to ask for the slot. The spec tells a
//! plugin nothing of the others, so that is read where the runtime has it from, in the network's [`list`]; a
//! pod's annotations, which a runtime sends to a plugin with that capability, tell whether this pod has
//! a limit. Where neither says anything, nobody else is expected.
//!
//! The reference `tuning` plugin may give the pod's interface another MAC, and the node would go on sending to
//! the one that it knows; or a larger MTU, and the node's end would drop what is longer than its own. So the
//! pod has both from the start.

use serde_json::Value;

use super::{
    args::Args,
    config::Config,
    list::{self, is},
};
use crate::{error::Result, net::Mac};

/// The plugin, which is also its capability, and its key for what is limited of every pod.
const SHAPER: &str = "bandwidth";
const FIXED: &str = "egressRate";
/// The plugin that sets what an interface has.
const TUNER: &str = "tuning";
/// A veth takes no larger one.
const MAX_MTU: u32 = 65_535;
/// The capability by which annotations are sent, and the one that makes the runtime ask for a limit.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
const ANNOTATION: &str = "kubernetes.io/egress-bandwidth";

/// What is done behind us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Whether a plugin limits the bandwidth that the runtime asks for, so that we don't.
    pub shapes: bool,
    /// Whether it is going to ask for the qdisc slot for this pod.
    pub wants_slot: bool,
    /// What is going to be set on the pod's interface.
    pub tuning: Tuning,
}

/// What a plugin sets on the pod's interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Its MAC.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
}

impl Behind {
    /// Looks for it, in a few files at most.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config) naming `confDir`.
    pub fn look(config: &Config, args: &Args) -> Result<Self> {
        let plugins = plugins(config)?;
        let shaper = shaper(&plugins);
        Ok(Self {
            shapes: shaper.is_some(),
            wants_slot: wants_slot(config, shaper),
            // One that can't be read is refused where it counts.
            tuning: tuning(&plugins, config, args.mac().ok().flatten()),
        })
    }
}

/// A plugin behind us that limits bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shaper {
    /// Whether it limits what every pod sends.
    always: bool,
    /// Whether it limits what the runtime asks for.
    asked: bool,
}

/// The plugins from us on, by the network's list; none if no such list is to be found.
fn plugins(config: &Config) -> Result<Vec<Value>> {
    let places = list::places(config)?;
    let kind = config.json.get("type").and_then(Value::as_str);
    Ok(kind.and_then(|kind| list::plugins(&places, &config.name, kind)).unwrap_or_default())
}

fn has_capability(plugin: &Value, capability: &str) -> bool {
    let said = plugin.get("capabilities").and_then(|all| all.get(capability));
    said.and_then(Value::as_bool) == Some(true)
}

/// The plugin that limits bandwidth.
fn shaper(plugins: &[Value]) -> Option<Shaper> {
    let plugin = plugins.iter().find(|plugin| is(plugin, SHAPER))?;
    let asked = has_capability(plugin, SHAPER);
    Some(Shaper { always: number(plugin, FIXED) > Some(0), asked })
}

/// What tuning plugins set, the last one last. Of the MACs that one may have been told the arguments in its
/// configuration win, then what the runtime sends, then `CNI_ARGS`, then its configuration's own (1.1.1).
fn tuning(plugins: &[Value], config: &Config, by_args: Option<Mac>) -> Tuning {
    let mut tuning = Tuning::default();
    for plugin in plugins.iter().filter(|plugin| is(plugin, TUNER)) {
        let args = any_case(plugin, "args").and_then(|args| any_case(args, "cni"));
        let by_hand =
            |key: &str| args.and_then(|args| any_case(args, key)).filter(|it| !it.is_null());
        // The runtime tells us what it tells that plugin.
        let told = has_capability(plugin, "mac").then(|| config.json.get("runtimeConfig"));
        let told = told.flatten().and_then(|runtime| any_case(runtime, "mac"));
        let own = any_case(plugin, "mac");
        let mac = match by_hand("mac").or(told.filter(|mac| mac.as_str() != Some(""))) {
            Some(mac) => read_mac(mac),
            None => by_args.or_else(|| read_mac(own?)),
        };
        let mtu = by_hand("mtu").or_else(|| any_case(plugin, "mtu")).and_then(Value::as_u64);
        let mtu =
            mtu.and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| (1..=MAX_MTU).contains(mtu));
        tuning = Tuning { mac: mac.or(tuning.mac), mtu: mtu.or(tuning.mtu) };
    }
    tuning
}

fn read_mac(value: &Value) -> Option<Mac> {
    value.as_str()?.parse().ok().filter(|mac: &Mac| mac.is_assignable())
}

/// Whether the plugin is going to ask for the slot for this pod.
fn wants_slot(config: &Config, shaper: Option<Shaper>) -> bool {
    let json = &config.json;
    let of_runtime = json.get("runtimeConfig");
    // The runtime tells us what it tells that plugin.
    let told = json.pointer("/capabilities/bandwidth").and_then(Value::as_bool) == Some(true);
    let asked = of_runtime.and_then(|runtime| number(any_case(runtime, SHAPER)?, FIXED)) > Some(0);
    let annotations = of_runtime.and_then(|runtime| any_case(runtime, ANNOTATIONS));
    let annotated = annotations.map(|all| all.get(ANNOTATION).is_some());
    match shaper {
        Some(shaper) if shaper.always || !shaper.asked => shaper.always,
        Some(_) if told => asked,
        Some(_) => annotated.unwrap_or(true),
        // Nobody but another plugin can be meant, if the runtime doesn't ask us.
        None => !told && annotated == Some(true),
    }
}

fn number(object: &Value, key: &str) -> Option<u64> {
    any_case(object, key)?.as_u64()
}

fn any_case<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let mut entries = object.as_object()?.iter();
    entries.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(keys: Value) -> Config {
        let mut json = json!({"cniVersion": "1.0.0", "name": "n", "type": "weir"});
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Config::parse(json).unwrap()
    }

    #[test]
    fn a_plugin_limits_what_it_is_told_to() {
        let by_capability = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let fixed = json!({"type": "bandwidth", "egressRate": 8000, "egressBurst": 8000});
        let ours = json!({"type": "weir", "capabilities": {"bandwidth": true}});
        let asking = Some(Shaper { always: false, asked: true });
        let always = Some(Shaper { always: true, asked: false });
        assert_eq!(shaper(&[ours.clone(), by_capability]), asking);
        assert_eq!(shaper(&[ours.clone(), json!({"type": "tuning"}), fixed]), always);
        assert_eq!(shaper(&[ours]), None);
    }

    #[test]
    fn what_tuning_sets_is_what_it_will_take() {
        let [own, env, runtime, by_hand] = [1, 2, 3, 4].map(|n| Mac([2, 0, 0, 0, 0, n]));
        let asked = config(json!({"runtimeConfig": {"Mac": runtime}}));
        let quiet = config(json!({}));
        let plugin = |more: Value| {
            let mut plugin = json!({"type": "tuning", "mac": own, "mtu": 9000});
            plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            plugin
        };
        let (bare, able) = (plugin(json!({})), plugin(json!({"capabilities": {"mac": true}})));
        let args = plugin(json!({"capabilities": {"mac": true},
            "args": {"cni": {"mac": by_hand, "mtu": 1300}}}));
        for (plugins, config, by_args, mac, mtu) in [
            (vec![&bare], &quiet, None, Some(own), Some(9000)),
            (vec![&bare], &asked, None, Some(own), Some(9000)),
            (vec![&bare], &asked, Some(env), Some(env), Some(9000)),
            (vec![&able], &asked, Some(env), Some(runtime), Some(9000)),
            (vec![&able], &quiet, Some(env), Some(env), Some(9000)),
            (vec![&args], &asked, Some(env), Some(by_hand), Some(1300)),
            (vec![&args, &bare], &quiet, None, Some(own), Some(9000)),
        ] {
            let plugins: Vec<_> = plugins.into_iter().cloned().collect();
            assert_eq!(tuning(&plugins, config, by_args), Tuning { mac, mtu }, "{plugins:?}");
        }
        for none in [
            json!({"type": "other", "mac": own, "mtu": 9000}),
            json!({"type": "tuning"}),
            json!({"type": "tuning", "mac": "", "mtu": 0}),
            json!({"type": "tuning", "mac": "01:00:00:00:00:01", "mtu": 70_000, "args": null}),
            json!({"type": "tuning", "mac": 7, "mtu": "x", "args": {"cni": []}}),
        ] {
            assert_eq!(tuning(&[none], &quiet, None), Tuning::default());
        }
    }

    #[test]
    fn the_slot_is_left_to_who_will_ask_for_it() {
        let asking = Some(Shaper { always: false, asked: true });
        let always = Some(Shaper { always: true, asked: false });
        let annotated = json!({"runtimeConfig": {ANNOTATIONS: {ANNOTATION: "10M"}}});
        let bare = json!({"runtimeConfig": {ANNOTATIONS: {"other": "1"}}});
        let told =
            |runtime: Value| json!({"capabilities": {"bandwidth": true}, "runtimeConfig": runtime});
        let limited = told(json!({"bandwidth": {"EgressRate": 8000}}));
        for (keys, [none, by_capability, fixed]) in [
            (json!({}), [false, true, true]),
            (annotated, [true, true, true]),
            (bare, [false, false, true]),
            (limited, [false, true, true]),
            (told(json!({"bandwidth": {"IngressRate": 8000}})), [false, false, true]),
            (told(json!(null)), [false, false, true]),
        ] {
            let config = config(keys.clone());
            assert_eq!(wants_slot(&config, None), none, "{keys}");
            assert_eq!(wants_slot(&config, asking), by_capability, "{keys}");
            assert_eq!(wants_slot(&config, always), fixed, "{keys}");
            let to_pods = Some(Shaper { always: false, asked: false });
            assert!(!wants_slot(&config, to_pods), "{keys}");
        }
    }
}
