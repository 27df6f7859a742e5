//! What a plugin and its configuration can be asked: the versions that it speaks, and what the cases
//! need of the configuration.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    Result,
    call::{Invocation, Plugin},
    case::Need,
    protocol::{self, Said},
    shape::elements,
};

/// The versions that the plugin says it speaks.
///
/// # Errors
/// It does not answer VERSION as it must, so that no runtime would take it.
pub fn spoken(plugin: &Plugin) -> Result<Vec<String>> {
    let variables = [
        ("CNI_COMMAND", "VERSION"),
        ("CNI_NETNS", "dummy"),
        ("CNI_IFNAME", "dummy"),
        ("CNI_PATH", "dummy"),
    ];
    let invocation = Invocation {
        env: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        stdin: json!({"cniVersion": "1.0.0"}).to_string().into_bytes(),
        stdout: None,
        patience: Duration::from_secs(10),
    };
    let answer = plugin.call(&invocation)?;
    let said = protocol::read(&answer).map_err(|why| format!("VERSION: {why}"))?;
    let Said::Success(Some(object)) = said else {
        return Err(format!("VERSION: {}", protocol::told(&said)));
    };
    let versions: Vec<_> = elements(&object["supportedVersions"])
        .filter_map(|version| version.as_str().map(str::to_owned))
        .collect();
    if versions.is_empty() {
        Err(format!("VERSION: no supportedVersions: {object}"))
    } else {
        Ok(versions)
    }
}

impl Need {
    /// Whether the configuration has it; if not, in words what it hasn't.
    pub fn lacking(self, conf: &Value) -> Option<&'static str> {
        let ipam = &conf["ipam"];
        let capability = |name: &str| conf["capabilities"][name] == true;
        let (met, what) = match self {
            Self::Ipam => (ipam.is_object(), "no ipam"),
            Self::Ranges => {
                (ipam["ranges"].is_array() || ipam["subnet"].is_string(), "no ipam.ranges")
            }
            Self::Mtu => (conf["mtu"].is_number(), "no mtu"),
            Self::Masquerade => (conf["ipMasq"].is_boolean(), "no ipMasq"),
            Self::DefaultRoute => (
                elements(&ipam["routes"]).any(|route| route["dst"] == "0.0.0.0/0"),
                "no default route in ipam.routes",
            ),
            Self::Ips => (capability("ips"), "not the capability ips"),
            Self::Mac => (capability("mac"), "not the capability mac"),
            Self::PortMappings => (capability("portMappings"), "not the capability portMappings"),
        };
        (!met).then_some(what)
    }
}

/// The variables that libcni sets; those without a value are there and empty.
pub fn variables(verb: &str, path: String) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> =
        ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]
            .map(|name| (name.to_owned(), String::new()))
            .into();
    env.insert("CNI_COMMAND".into(), verb.into());
    env.insert("CNI_PATH".into(), path);
    env
}
