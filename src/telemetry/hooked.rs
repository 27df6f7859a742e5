//! What of a layout is hooked to interfaces, and other programs in the place of all of it.

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use libbpf_rs::{Link, MapHandle, Program};
use nix::errno::Errno;

use super::{
    Mode,
    clsact::{self, Filter},
    compare::name_of,
    pin, reader,
    swap::{self, Swap},
    sys,
    wire::{Direction, LimitKey, RawAttachment, RawLimit, text},
};
use crate::error::{Context, Kind, Result};

/// The programs that are hooked to interfaces, by where.
const HOOKED: [(&str, Direction, Filter); 4] = [
    ("weir_from_pod", Direction::DIRECTION_TX, Filter::Count),
    ("weir_to_pod", Direction::DIRECTION_RX, Filter::Count),
    ("weir_limit_from", Direction::DIRECTION_TX, Filter::LimitLast),
    ("weir_limit_to", Direction::DIRECTION_RX, Filter::LimitFirst),
];

/// A layout's programs, in the order of [`HOOKED`].
pub(super) type Programs = [OwnedFd; HOOKED.len()];

/// One place of one program.
pub(super) struct Hook {
    /// The interface.
    pub ifindex: u32,
    /// The pod that is counted there; `None` for a limit.
    pub pod: Option<u32>,
    /// Which of [`HOOKED`].
    which: usize,
    place: Place,
}

enum Place {
    Filter(i32),
    Link(Link),
    /// A link that can't be opened, and why.
    Shut(String),
}

impl Hook {
    /// The id of the program in the filter, if it is one and can be asked for.
    pub(super) fn running(&self) -> Option<u32> {
        let (_, direction, filter) = HOOKED[self.which];
        match self.place {
            Place::Filter(ifindex) => clsact::query(ifindex, direction, filter).ok()?,
            Place::Link(_) | Place::Shut(_) => None,
        }
    }
}

/// An interface that took not every program, and goes on with those that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its index.
    pub ifindex: u32,
    /// Its name, if it has one.
    pub interface: Option<String>,
    /// Namespace and name of the pod that is counted there; `None` for one that is limited alone.
    pub pod: Option<(String, String)>,
    /// The kernel's word.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(name) => write!(f, "interface {name} ({})", self.ifindex)?,
            None => write!(f, "interface {}", self.ifindex)?,
        }
        match &self.pod {
            Some((namespace, pod)) if namespace.is_empty() => write!(f, " of the pod {pod}")?,
            Some((namespace, pod)) => write!(f, " of the pod {namespace}/{pod}")?,
            None => {}
        }
        write!(f, " refused the swap of a program: {}", self.why)
    }
}

impl Refusal {
    pub(super) fn new(ifindex: u32, why: &str, pods: &[(u32, RawAttachment)]) -> Self {
        let pod = pods.iter().find(|(_, raw)| raw.ifindex == ifindex);
        Self {
            ifindex,
            interface: name_of(ifindex),
            pod: pod.map(|(_, raw)| (text(&raw.pod_namespace), text(&raw.pod_name))),
            why: why.to_owned(),
        }
    }
}

/// Opens the programs of a layout.
///
/// # Errors
/// [`Kind::Telemetry`] naming the pin.
pub(super) fn programs(dir: &Path) -> Result<Programs> {
    let [a, b, c, d] = HOOKED.map(|(name, ..)| {
        let path = dir.join(name);
        Program::fd_from_pinned_path(&path)
            .context(Kind::Telemetry, || format!("can't open {}", path.display()))
    });
    Ok([a?, b?, c?, d?])
}

/// Those of a layout's programs that are there.
pub(super) fn there(dir: &Path) -> Vec<OwnedFd> {
    HOOKED
        .iter()
        .filter_map(|(name, ..)| Program::fd_from_pinned_path(dir.join(name)).ok())
        .collect()
}

/// What is limited by the programs of a layout, whether it is counted or not; nothing where there is no such pin.
///
/// # Errors
/// [`Kind::Telemetry`] naming the pin.
pub(super) fn limited(dir: &Path) -> Result<Vec<LimitKey>> {
    let path = dir.join("limits");
    let map = match MapHandle::from_pinned_path(&path) {
        Err(err) if err.kind() == libbpf_rs::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.context(Kind::Telemetry, || format!("can't open {}", path.display()))?,
    };
    let all = reader::dump::<LimitKey, RawLimit>(&map)?;
    Ok(all.into_iter().map(|(key, _)| key).collect())
}

/// Every hook of these pods and every limit, links opened. One whose link is gone has none.
pub(super) fn hooks(
    bpf_dir: &Path,
    pods: &[(u32, RawAttachment)],
    limited: &[LimitKey],
) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for (which, &(_, direction, filter)) in HOOKED.iter().enumerate() {
        let mut add = |ifindex, pod, place| hooks.push(Hook { ifindex, pod, which, place });
        // One of others in the place of ours stays what it is.
        let at = |ifindex: u32| {
            let ifindex = i32::try_from(ifindex).ok()?;
            match clsact::query(ifindex, direction, filter) {
                Ok(found) => found.map(|_| Place::Filter(ifindex)),
                Err(err) => Some(Place::Shut(format!("can't ask for its filter: {err}"))),
            }
        };
        if filter != Filter::Count {
            for key in limited.iter().filter(|key| key.direction == direction.0) {
                at(key.ifindex).into_iter().for_each(|place| add(key.ifindex, None, place));
            }
            continue;
        }
        for (pod, raw) in pods {
            let place = if reader::mode(raw) == Mode::Clsact {
                at(raw.ifindex)
            } else {
                let pin = pin::link(bpf_dir, *pod, direction);
                match sys::open_link(&pin) {
                    Ok(link) => link.map(Place::Link),
                    Err(err) => {
                        Some(Place::Shut(format!("can't open the link {}: {err}", pin.display())))
                    }
                }
            };
            place.into_iter().for_each(|place| add(raw.ifindex, Some(*pod), place));
        }
    }
    hooks
}

/// Puts these programs into the hooks, filters many at a time. Says for each hook whether it was there, or with
/// which words the kernel refused; a refusal is no reason to leave the others.
pub(super) fn swap(programs: &Programs, hooks: &[&Hook]) -> Vec<Result<bool, String>> {
    let mut done = vec![Ok(false); hooks.len()];
    let (mut requests, mut positions) = (Vec::new(), Vec::new());
    for ((position, hook), answer) in hooks.iter().enumerate().zip(&mut done) {
        let ((name, direction, filter), program) = (HOOKED[hook.which], &programs[hook.which]);
        let program = program.as_fd();
        match &hook.place {
            Place::Link(link) => {
                *answer = match sys::link_update(link, program) {
                    Ok(()) => Ok(true),
                    // Its device is gone.
                    Err(err) if err.raw_os_error() == Some(Errno::ENOLINK as i32) => Ok(false),
                    Err(err) => Err(err.to_string()),
                }
            }
            &Place::Filter(ifindex) => {
                requests.push(Swap { program, name, ifindex, direction, filter });
                positions.push(position);
            }
            Place::Shut(why) => *answer = Err(why.clone()),
        }
    }
    for (position, answer) in positions.into_iter().zip(swap::filters(&requests)) {
        if let Some(place) = done.get_mut(position) {
            *place = answer.map_err(|err| err.to_string());
        }
    }
    done
}
