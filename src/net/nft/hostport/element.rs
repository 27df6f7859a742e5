//! Which elements a pod's host ports are: decided here, without looking at the kernel.

use std::{fmt, net::IpAddr};

use crate::{
    net::nft::{expression::Set, family::Family},
    spec::{Address, capability::PortMapping},
};

/// A map or set, of which each family has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// From protocol and port of any address of the node to address and port of the pod.
    Any(Family),
    /// From address, protocol and port of the node to address and port of the pod.
    At(Family),
    /// Address pairs of pods that may come back to themselves through the node.
    Hairpin(Family),
}

impl Place {
    pub const ALL: [Self; 6] = [
        Self::Any(Family::V4),
        Self::Any(Family::V6),
        Self::At(Family::V4),
        Self::At(Family::V6),
        Self::Hairpin(Family::V4),
        Self::Hairpin(Family::V6),
    ];

    /// Its name, and its number within a transaction.
    pub fn set(self) -> Set {
        let (name, id) = match self {
            Self::Any(Family::V4) => ("hostports4", 11),
            Self::Any(Family::V6) => ("hostports6", 12),
            Self::At(Family::V4) => ("hostports_at4", 13),
            Self::At(Family::V6) => ("hostports_at6", 14),
            Self::Hairpin(Family::V4) => ("hairpin4", 15),
            Self::Hairpin(Family::V6) => ("hairpin6", 16),
        };
        Set { name, id }
    }
}

/// One element: its place, key and value, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub place: Place,
    pub key: Vec<u8>,
    /// None in a set.
    pub data: Option<Vec<u8>>,
    what: String,
}

impl Element {
    /// An element of that key, to be deleted.
    pub fn bare(place: Place, key: Vec<u8>) -> Self {
        Self { place, key, data: None, what: String::new() }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The elements that make the ports lead to a pod with these addresses, the first of each family.
///
/// A mapping for an address of a family that the pod has no address of leads nowhere and is left out.
pub fn all(ports: &[PortMapping], addresses: &[Address]) -> Vec<Element> {
    let mut elements = Vec::new();
    for family in Family::BOTH {
        let mut own = addresses.iter().map(Address::ip).filter(|ip| Family::of(*ip) == family);
        let Some(pod) = own.next() else { continue };
        let v4 = family == Family::V4;
        let before = elements.len();
        elements.extend(ports.iter().filter(|port| port.is_of(v4)).map(|port| mapping(port, pod)));
        if elements.len() > before {
            elements.push(Element {
                place: Place::Hairpin(family),
                key: [Family::octets(pod), Family::octets(pod)].concat(),
                data: None,
                what: format!("hairpin of {pod}"),
            });
        }
    }
    elements
}

fn mapping(port: &PortMapping, pod: IpAddr) -> Element {
    let family = Family::of(pod);
    let socket = [u32_of_protocol(port).to_vec(), padded(port.host_port).to_vec()].concat();
    let (place, key) = match port.address() {
        Some(ip) => (Place::At(family), [Family::octets(ip), socket].concat()),
        None => (Place::Any(family), socket),
    };
    let data = [Family::octets(pod), padded(port.container_port).to_vec()].concat();
    Element { place, key, data: Some(data), what: format!("host port {port}") }
}

/// Each part of a concatenation begins at a register of four bytes.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn u32_of_protocol(port: &PortMapping) -> [u8; 4] {
    [port.protocol.number(), 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::capability::Protocol;

    fn port(host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Udp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        }
    }

    fn shown(ports: &[PortMapping], addresses: &[&str]) -> Vec<String> {
        let address = |text: &&str| Address { address: text.parse().unwrap(), gateway: None };
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        let elements = all(ports, &addresses).into_iter();
        elements
            .map(|element| {
                format!("{} {:?} {:?}", element.place.set().name, element.key, element.data)
            })
            .collect()
    }

    #[test]
    fn a_mapping_is_an_element_of_each_family_and_a_hairpin() {
        let elements = shown(&[port(None)], &["10.0.0.2/24", "10.1.0.2/24", "fd00::2/64"]);
        assert_eq!(
            elements[..2],
            [
                "hostports4 [17, 0, 0, 0, 31, 144, 0, 0] Some([10, 0, 0, 2, 0, 80, 0, 0])",
                "hairpin4 [10, 0, 0, 2, 10, 0, 0, 2] None"
            ]
        );
        assert!(elements[2].starts_with("hostports6 [17, 0, 0, 0, 31, 144, 0, 0] Some([253, 0,"));
        assert_eq!(elements.len(), 4);
    }

    #[test]
    fn an_address_of_the_node_is_part_of_the_key_unless_it_is_any() {
        let at = shown(&[port(Some("192.0.2.1"))], &["10.0.0.2/24", "fd00::2/64"]);
        assert!(at[0].starts_with("hostports_at4 [192, 0, 2, 1, 17, 0, 0, 0, 31, 144, 0, 0]"));
        assert_eq!(at.len(), 2);
        assert!(shown(&[port(Some("0.0.0.0"))], &["10.0.0.2/24"])[0].starts_with("hostports4 "));
        assert!(shown(&[port(Some("::"))], &["10.0.0.2/24"]).is_empty());
    }
}
