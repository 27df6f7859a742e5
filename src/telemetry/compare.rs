//! Whether a pod's hooks are where they were put, and run what they should.

use std::{os::fd::AsFd, path::Path, time::Duration};

use libbpf_rs::{ErrorKind, Link, Program, query::LinkTypeInfo};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};
use nix::net::if_::if_indextoname;

use super::{
    Attached, Mode, block, clsact,
    hook::{PROGRAMS, hold, signed},
    pin, registry, traffic,
    wire::Direction,
};
use crate::error::{Context, Error, Kind, Result};

/// What to do about a hook that is missing.
const REHOOK: &str = "weir reconcile counts the pod again";

/// See [`super::verify`].
pub fn verify(bpf_dir: &Path, ifindex: u32, attached: &Attached, patience: Duration) -> Result<()> {
    libbpf_rs::set_print(None);
    let differs = |what: String| Error::new(Kind::Difference, what);
    let index = signed(ifindex)?;
    if registry::is_anothers(bpf_dir, attached.pod, patience)? {
        return by_another(bpf_dir, index, attached);
    }
    // A reload pins first and swaps then: between the two every filter would look like a stranger's.
    let Some((_shared, pins)) = hold(bpf_dir, patience)? else {
        let msg = format!("no programs are pinned in {}; {REHOOK}", bpf_dir.display());
        return Err(differs(msg));
    };
    for (direction, program) in &pins.programs {
        let present = match attached.mode {
            Mode::Clsact => {
                let found = clsact::query(index, *direction, clsact::Filter::Count)
                    .context(Kind::Telemetry, || {
                        format!("can't ask for the filter on {ifindex}")
                    })?;
                let own = Program::id_from_fd(program.as_fd())
                    .context(Kind::Telemetry, || "can't ask for a pinned program".into())?;
                let is_before = |id: u32| pin::before(&pin::dir(bpf_dir), id).exists();
                found.is_some_and(|id| id == own || is_before(id))
            }
            Mode::Tcx => tcx_links(&pin::link(bpf_dir, attached.pod, *direction), ifindex)?,
        };
        if !present {
            return Err(unhooked(ifindex, attached, *direction));
        }
    }
    if traffic::owner(&pins.pods, ifindex)? != Some(attached.pod) {
        let on = interface(ifindex);
        return Err(differs(format!("the map pods has no entry for {on}; {REHOOK}")));
    }
    Ok(())
}

/// A pod of another version's is right if it is hooked: with which programs is that version's to know.
fn by_another(bpf_dir: &Path, index: i32, attached: &Attached) -> Result<()> {
    let ifindex = index.unsigned_abs();
    for (direction, _) in PROGRAMS {
        let present = match attached.mode {
            Mode::Clsact => clsact::query(index, direction, clsact::Filter::Count)
                .context(Kind::Telemetry, || format!("can't ask for the filter on {ifindex}"))?
                .is_some(),
            Mode::Tcx => tcx_links(&pin::link(bpf_dir, attached.pod, direction), ifindex)?,
        };
        if !present {
            return Err(unhooked(ifindex, attached, direction));
        }
    }
    Ok(())
}

fn unhooked(ifindex: u32, attached: &Attached, direction: Direction) -> Error {
    let hook = if attached.mode == Mode::Clsact { "tc filter" } else { "tcx link" };
    let side = if direction == Direction::DIRECTION_TX { "tx" } else { "rx" };
    let on = interface(ifindex);
    let msg = format!("the {hook} of direction {side} on {on} is missing; {REHOOK}");
    Error::new(Kind::Difference, msg)
}

/// Whether a pinned link still holds its interface: one whose device is gone, or that somebody
/// detached, keeps its pin and has interface 0.
fn tcx_links(pin: &Path, ifindex: u32) -> Result<bool> {
    let failed = || format!("can't ask for the link {}", pin.display());
    match Link::open(pin).and_then(|link| link.info()) {
        Ok(info) => Ok(matches!(info.info, LinkTypeInfo::Tcx(tcx) if tcx.ifindex == ifindex)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err).context(Kind::Telemetry, failed),
    }
}

/// An interface as people know it, and its number.
pub(super) fn interface(ifindex: u32) -> String {
    match name_of(ifindex) {
        Some(name) => format!("interface {name} ({ifindex})"),
        None => format!("interface {ifindex}"),
    }
}

/// The alias of an interface of the caller's network namespace; `None`: it has none, or is gone.
pub fn alias_of(ifindex: u32) -> Option<String> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let found = block::ask(RouteNetlinkMessage::GetLink(message)).ok()??;
    let RouteNetlinkMessage::NewLink(link) = found else { return None };
    link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias),
        _ => None,
    })
}

/// The name of an interface of the caller's network namespace; `None`: it is gone.
pub fn name_of(ifindex: u32) -> Option<String> {
    let name = if_indextoname(ifindex).ok()?.to_string_lossy().into_owned();
    // So the library says it (nix 0.31), which takes libc's null pointer for success.
    (!name.is_empty()).then_some(name)
}
