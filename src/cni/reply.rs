//! What the runtime reads: one JSON object on stdout, in the version that it asked in.
//!
//! This is the only place that writes to stdout, and it writes once: the first object wins.

use std::{
    io::{self, Write},
    panic,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Map, Value, json};

use crate::{
    error::{Context, Error, Kind, Result},
    ipam::Lease,
    net::Plan,
    spec::{Route, Version},
};

/// What the reference plugins say for what has no code of its own: a defect of the plugin.
const INTERNAL: u32 = 999;

static ANSWERED: AtomicBool = AtomicBool::new(false);

/// The result of an ADD (spec 1.1.0, "Success"), in the shape of `version`.
pub fn result(version: Version, plan: &Plan, netns: &Path, lease: &Lease) -> Value {
    let mut host = json!({"name": plan.mark.host_ifname, "mac": plan.mark.host_mac});
    let mut pod = json!({
        "name": plan.pod_ifname,
        "mac": plan.pod_mac,
        "sandbox": netns.to_string_lossy(),
    });
    if version >= Version::V1_1_0 {
        host["mtu"] = plan.mtu.into();
        pod["mtu"] = plan.mtu.into();
    }
    let ips = lease.addresses.iter().map(|address| {
        let ip = address.ip();
        // As the pod holds it: the subnet is not on the link in routed mode.
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let mut json = json!({"address": format!("{ip}/{bits}"), "interface": 1});
        if let Some(gateway) = address.gateway {
            json["gateway"] = gateway.to_string().into();
        }
        if version < Version::V1_0_0 {
            json["version"] = if ip.is_ipv4() { "4" } else { "6" }.into();
        }
        json
    });
    let mut result = json!({
        "cniVersion": version.text(),
        "interfaces": [host, pod],
        "ips": ips.collect::<Vec<_>>(),
        "dns": lease.dns,
    });
    if !lease.routes.is_empty() {
        let routes = lease.routes.iter().map(|route| self::route(version, route));
        result["routes"] = routes.collect();
    }
    result
}

fn route(version: Version, route: &Route) -> Value {
    let mut json = json!(route);
    if version < Version::V1_1_0
        && let Some(fields) = json.as_object_mut()
    {
        fields.retain(|key, _| key == "dst" || key == "gw");
    }
    json
}

/// The result of the plugins before, passed on field for field; only one of another version than the call's
/// (kindnet's are of 0.4.0, whatever it is asked for) is put into that: `ips[].version` is of those before 1.0.0.
pub fn passed_on(version: Version, mut prev_result: Value) -> Value {
    let Some(fields) = prev_result.as_object_mut() else { return prev_result };
    let was = fields.insert("cniVersion".into(), version.text().into());
    if was.is_none_or(|was| was == version.text()) {
        return prev_result;
    }
    for ip in fields.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(ip) = ip.as_object_mut() else { continue };
        if version >= Version::V1_0_0 {
            ip.remove("version");
        } else if let Some(address) = ip.get("address").and_then(Value::as_str) {
            let family = if address.contains(':') { "6" } else { "4" };
            ip.entry("version").or_insert(family.into());
        }
    }
    prev_result
}

/// The answer to VERSION. `asked` is the `cniVersion` on stdin, whatever it says.
pub fn versions(asked: Option<&str>) -> Value {
    json!({
        "cniVersion": asked.unwrap_or(Version::NEWEST.text()),
        "supportedVersions": Version::ALL.map(Version::text),
    })
}

/// The spec's error object.
pub fn error(version: Version, code: u32, msg: &str, details: Option<&str>) -> Value {
    let mut fields = Map::new();
    fields.insert("cniVersion".into(), version.text().into());
    fields.insert("code".into(), code.into());
    fields.insert("msg".into(), msg.into());
    if let Some(details) = details {
        fields.insert("details".into(), details.into());
    }
    fields.into()
}

/// Writes the one object; after the first, nothing.
///
/// # Errors
/// [`Kind::Io`]: nobody reads.
pub fn write(object: &Value) -> Result<()> {
    if ANSWERED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{object}").and_then(|()| stdout.flush());
    written.context(Kind::Io, || "can't write the answer to stdout".into())
}

/// Texts by which containerd takes a failed DEL for one that had nothing to do, and drops the pod for good
/// (go-cni's `Remove`; the second one only where there is no namespace), and what says the same.
const MISTAKEN: [(&str, &str); 2] =
    [("not found", "missing"), ("no such file or directory", "no file or directory of that name")];

/// The error of a DEL, whoever worded it: another IPAM plugin, the kernel, or a library.
pub fn of_del(err: &Error) -> Error {
    let plain = |text: &str| {
        MISTAKEN.iter().fold(text.to_owned(), |text, (taken, instead)| text.replace(taken, instead))
    };
    let plainer = Error::new(err.kind(), plain(err.msg()));
    err.details_text().map(plain).into_iter().fold(plainer, Error::details)
}

/// Writes an error as the answer, in `version`.
pub fn write_error(version: Version, err: &Error) {
    let object = error(version, err.kind().code(), err.msg(), err.details_text());
    if let Err(unread) = write(&object) {
        eprintln!("weir: {unread}; the error was: {err}");
    }
}

/// Makes a panic an error object before it ends the process. The journal has what was begun, and
/// the runtime's DEL, which follows every failed ADD, finishes it.
pub fn answer_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let msg = "internal error: weir panicked, which is a defect of weir";
        // Nothing can be done for a runtime that doesn't read.
        let _ = write(&error(Version::NEWEST, INTERNAL, msg, Some(&info.to_string())));
        report(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attachment::Attachment, net::Request, spec::Address};

    fn reply(version: Version) -> Value {
        let attachment = Attachment::new("c1", "eth0").unwrap();
        let address = |text: &str, gateway: Option<&str>| Address {
            address: text.parse().unwrap(),
            gateway: gateway.map(|ip| ip.parse().unwrap()),
        };
        let lease = Lease {
            addresses: vec![address("10.0.0.2/24", Some("10.0.0.1")), address("fd00::2/64", None)],
            routes: vec![Route { mtu: Some(1400), ..Route::to("0.0.0.0/0".parse().unwrap()) }],
            ..Lease::default()
        };
        let plan = Plan::new(&Request {
            network: "n",
            attachment: &attachment,
            mtu: 1500,
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            addresses: &lease.addresses,
            routes: &lease.routes,
            ports: &[],
            bandwidth: crate::spec::capability::Bandwidth::default(),
        });
        result(version, &plan.unwrap(), Path::new("/run/netns/x"), &lease)
    }

    #[test]
    fn the_newest_version_has_mtus_and_whole_routes() {
        let host = Attachment::new("c1", "eth0").unwrap();
        let host = crate::net::Mark::new("n", &host);
        let wanted = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": host.host_ifname, "mac": host.host_mac, "mtu": 1500},
                {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/run/netns/x"},
            ],
            "ips": [
                {"address": "10.0.0.2/32", "gateway": "10.0.0.1", "interface": 1},
                {"address": "fd00::2/128", "interface": 1},
            ],
            "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
            "dns": {},
        });
        assert_eq!(reply(Version::V1_1_0), wanted);
    }

    #[test]
    fn older_versions_lack_what_they_do_not_know() {
        for version in Version::ALL {
            let reply = reply(version);
            assert_eq!(reply["cniVersion"], version.text());
            let families = ["4", "6"].map(|family| (version < Version::V1_0_0).then_some(family));
            for (ip, family) in reply["ips"].as_array().unwrap().iter().zip(families) {
                assert_eq!(ip.get("version").and_then(Value::as_str), family, "{version}");
            }
            let newest = version == Version::V1_1_0;
            assert_eq!(reply["interfaces"][0].get("mtu").is_some(), newest, "{version}");
            assert_eq!(reply["routes"][0].get("mtu").is_some(), newest, "{version}");
        }
    }

    #[test]
    fn a_result_passed_on_is_of_the_calls_version_and_else_as_it_was() {
        let before = json!({"interfaces": [{"name": "eth0", "x": [1, null]}], "y": {}});
        let mut wanted = before.clone();
        wanted["cniVersion"] = json!("0.4.0");
        assert_eq!(passed_on(Version::V0_4_0, before), wanted);
        assert_eq!(passed_on(Version::V0_4_0, wanted.clone()), wanted);

        let old = json!({"cniVersion": "0.4.0", "x": 1, "ips": [
            {"version": "4", "address": "10.7.0.2/24"}, {"version": "6", "address": "fd00::2/64"},
        ]});
        let new = json!({"cniVersion": "1.0.0", "x": 1, "ips": [
            {"address": "10.7.0.2/24"}, {"address": "fd00::2/64"},
        ]});
        assert_eq!(passed_on(Version::V1_0_0, old.clone()), new);
        assert_eq!(passed_on(Version::V0_4_0, new), old);
        assert_eq!(passed_on(Version::V0_4_0, json!([])), json!([]));
    }

    #[test]
    fn no_text_of_a_failed_del_looks_like_a_success_to_containerd() {
        let err = Error::new(Kind::Delegate(3), "lease not found, not found at all")
            .details("open /x: no such file or directory")
            .details("Qdisc not found");
        let plain = of_del(&err);
        assert_eq!((plain.kind(), plain.msg()), (err.kind(), "lease missing, missing at all"));
        let details = "open /x: no file or directory of that name; Qdisc missing";
        assert_eq!(plain.details_text(), Some(details));
        let harmless = Error::new(Kind::Io, "can't read it");
        assert_eq!(of_del(&harmless), harmless);
    }

    #[test]
    fn an_error_without_details_has_no_such_key() {
        let bare = error(Version::V1_0_0, 7, "no", None);
        assert_eq!(bare, json!({"cniVersion": "1.0.0", "code": 7, "msg": "no"}));
        assert_eq!(error(Version::V1_0_0, 7, "no", Some("why"))["details"], "why");
    }
}
