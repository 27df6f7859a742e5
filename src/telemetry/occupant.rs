//! Who is where a filter of ours goes. Priority and handle are for anybody to take, and tc(8) itself begins with our
//! priority where it is given none: whether a filter there is ours its name says, which is its program's.

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};
use nix::errno::Errno;

use super::{
    block,
    clsact::{Filter, HANDLE},
    compare::name_of,
    swap::ETH_P_ALL,
    wire::Direction,
};

/// A filter of cls_bpf with our priority and handle.
#[derive(Debug)]
pub struct Occupant {
    /// Its program's; `None` of a classic BPF program.
    pub id: Option<u32>,
    /// As whoever put it there called it; may be empty.
    name: String,
}

/// The name of the program that runs in a filter of ours.
const fn program(direction: Direction, filter: Filter) -> &'static str {
    match filter {
        Filter::LimitFirst => "weir_limit_to",
        Filter::LimitLast => "weir_limit_from",
        Filter::Count if direction.0 == Direction::DIRECTION_TX.0 => "weir_from_pod",
        Filter::Count => "weir_to_pod",
    }
}

impl Occupant {
    /// Finds it; `None`: the place is free, or there is no such hook or interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find(ifindex: i32, direction: Direction, filter: Filter) -> io::Result<Option<Self>> {
        match at((ifindex, parent(direction)), filter) {
            Err(err) if err.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                block::place(ifindex, direction)?.map_or(Ok(None), |place| at(place, filter))
            }
            found => found,
        }
    }

    /// Whether it is Weir's own, of whichever version: libbpf puts the program's id behind its name.
    pub fn is_ours(&self, direction: Direction, filter: Filter) -> bool {
        let rest = self.name.strip_prefix(program(direction, filter));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    /// What is in the way of a filter of ours, and how it goes.
    pub fn is_in_the_way(&self, ifindex: i32, direction: Direction, filter: Filter) -> String {
        let on = name_of(ifindex.unsigned_abs()).unwrap_or_else(|| ifindex.to_string());
        let side = side(direction);
        let what = match (self.name.as_str(), self.id) {
            ("", None) => "a classic BPF filter".to_owned(),
            (name, None) => format!("a classic BPF filter, {name},"),
            (name, Some(id)) => format!("a BPF filter, {name} of program {id},"),
        };
        let priority = filter as u32;
        let or = if filter == Filter::Count { ", or set telemetry.attach to tcx" } else { "" };
        format!(
            "{what} that is not Weir's is where Weir's would be on {on}; take it off: tc filter del dev {on} {side} \
             prio {priority} handle {HANDLE:#x} bpf{or}"
        )
    }
}

/// As tc(8) says it: from the host's side a packet of the pod is ingress.
pub fn side(direction: Direction) -> &'static str {
    if direction == Direction::DIRECTION_TX { "ingress" } else { "egress" }
}

/// One side of an interface's clsact qdisc.
pub fn parent(direction: Direction) -> TcHandle {
    let is_from_pod = direction == Direction::DIRECTION_TX;
    let minor = if is_from_pod { TcHandle::MIN_INGRESS } else { TcHandle::MIN_EGRESS };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

fn at((index, parent): (i32, TcHandle), filter: Filter) -> io::Result<Option<Occupant>> {
    let header = TcHeader {
        index,
        handle: TcHandle::from(HANDLE),
        parent,
        info: (filter as u32) << 16 | u32::from(ETH_P_ALL),
        ..TcHeader::default()
    };
    let kind = TcAttribute::Kind(TcFilterBpf::KIND.to_owned());
    let message = TcMessage::from_parts(header, vec![kind]);
    let found = block::ask(RouteNetlinkMessage::GetTrafficFilter(message))?;
    let Some(RouteNetlinkMessage::NewTrafficFilter(found)) = found else { return Ok(None) };
    let mut occupant = Occupant { id: None, name: String::new() };
    for attribute in found.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => occupant.id = Some(id),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => occupant.name = name,
                _ => {}
            }
        }
    }
    Ok(Some(occupant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_ours_by_the_name_of_the_program_that_belongs_there() {
        let is_ours = |name: &str, direction| {
            let occupant = Occupant { id: Some(7), name: name.to_owned() };
            occupant.is_ours(direction, Filter::Count)
        };
        let (tx, rx) = (Direction::DIRECTION_TX, Direction::DIRECTION_RX);
        assert!(is_ours("weir_from_pod", tx) && is_ours("weir_from_pod:[7]", tx));
        assert!(!is_ours("weir_from_pod", rx) && is_ours("weir_to_pod:[7]", rx));
        for name in ["", "weir", "weir_from_pods", "my_weir_from_pod", "other.o:[tc]"] {
            assert!(!is_ours(name, tx), "{name}");
        }
    }
}
