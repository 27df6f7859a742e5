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

/// The result of the plugins before, passed on: all it lacks may be its version.
pub fn passed_on(version: Version, mut prev_result: Value) -> Value {
    if let Some(fields) = prev_result.as_object_mut() {
        fields.entry("cniVersion").or_insert_with(|| version.text().into());
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
