//! Host ports: ports of the node that lead to one of a pod.
//!
//! A mapping is an element of a map, from protocol and port to the pod's address and port; one for a
//! certain address of the node is in a second map, which is asked first. They hold for connections from
//! other hosts, from the node itself (also to 127.0.0.1 and ::1) and from pods, the mapped one included.
//! Only addresses of the node's own are looked up: a mapping can't catch what goes elsewhere.
//!
//! An element bears its owner, container id and interface, as its comment. So a port that is taken is
//! refused with the name of who has it, and nobody takes away what is another's.

mod element;
mod schema;

use std::collections::BTreeSet;

use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, nftables::NfTablesMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use self::{
    element::{Element, Place},
    schema::Found,
};
use super::{ATTEMPTS, MEND, add_or_create, lacking, put_right, rule_comments, standing::stand};
use crate::{
    attachment::Attachment,
    error::{Error, Kind, Result},
    net::netlink::{Netlink, Refusal},
    spec::{Address, capability::PortMapping},
};

/// As many elements as a transaction has at most: they must fit into a datagram.
const CHUNK: usize = 256;

/// Why ports can't be given to a pod.
#[derive(Debug)]
pub enum Refused {
    /// Somebody has one of them.
    Taken {
        /// The port, as in `8080/tcp of 192.0.2.1`.
        port: String,
        /// Who; none if the element isn't one of ours.
        owner: Option<Attachment>,
    },
    /// The kernel said no.
    Failed(Error),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(match refusal.errno {
            Errno::EOPNOTSUPP => {
                lacking(&refusal, "a host port", "put the portmap plugin behind weir")
            }
            _ => refusal.into(),
        })
    }
}

/// Makes the node's ports lead to the pod with these addresses. What failed half-way is taken away by
/// [`withdraw`].
///
/// # Errors
/// [`Refused`].
pub fn expose(
    owner: &Attachment,
    ports: &[PortMapping],
    addresses: &[Address],
) -> Result<(), Refused> {
    let mut socket = open().map_err(Refused::Failed)?;
    let elements = element::all(ports, addresses);
    if !elements.is_empty() {
        // Before the first element: an element leads to the pod, and the guard keeps it in.
        stand(&mut socket, &schema::chains(), |exclusive| schema::create(owner, &[], exclusive))?;
    }
    for chunk in elements.chunks(CHUNK) {
        add(&mut socket, owner, chunk)?;
    }
    Ok(())
}

/// Puts back what [`expose`] made and is missing: elements, maps, chains and rules.
///
/// # Errors
/// [`Refused`]; also where somebody has one of the ports, all others are put back.
pub fn mend(
    owner: &Attachment,
    ports: &[PortMapping],
    addresses: &[Address],
) -> Result<(), Refused> {
    let mut socket = open().map_err(Refused::Failed)?;
    let elements = element::all(ports, addresses);
    // Most often another pod's turn has brought the rules back already.
    if !elements.is_empty() && missing_rule(&mut socket)?.is_some() {
        put_right(&mut socket, || schema::create(owner, &[], false))?;
    }
    let (mut missing, mut taken) = (Vec::new(), None);
    for element in elements {
        match get(&mut socket, &element)? {
            None => missing.push(element),
            Some(found) if found.owner.as_ref() == Some(owner) && found.data == element.data => {}
            Some(found) => {
                taken = Some(Refused::Taken { port: element.to_string(), owner: found.owner });
            }
        }
    }
    for chunk in missing.chunks(CHUNK) {
        add(&mut socket, owner, chunk)?;
    }
    taken.map_or(Ok(()), Err)
}

fn add(socket: &mut Netlink, owner: &Attachment, elements: &[Element]) -> Result<(), Refused> {
    let mut attempts = 0;
    loop {
        let refusal = match add_or_create(
            socket,
            || schema::add(owner, elements),
            |exclusive| schema::create(owner, elements, exclusive),
        ) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        // An element with the same value, or with another one.
        if !matches!(refusal.errno, Errno::EEXIST | Errno::EBUSY) {
            return Err(refusal.into());
        }
        for element in elements {
            if let Some(found) = get(socket, element)? {
                return Err(Refused::Taken { port: element.to_string(), owner: found.owner });
            }
        }
        // It went meanwhile.
        attempts += 1;
        if attempts == ATTEMPTS {
            return Err(refusal.into());
        }
    }
}

/// The socket of a deletion. To close one of netfilter takes until a grace period of the kernel's is over,
/// 16 ms: it is best kept until something else has waited for that.
#[derive(Debug)]
pub struct Deletion(pub Netlink);

/// Takes away what leads the ports to the pod, if it is the owner's. Nothing there is success.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn withdraw(
    owner: &Attachment,
    ports: &[PortMapping],
    addresses: &[Address],
) -> Result<Deletion> {
    let mut socket = open()?;
    for chunk in element::all(ports, addresses).chunks(CHUNK) {
        let mut own = Vec::new();
        for element in chunk {
            let found = get(&mut socket, element)?;
            if found.is_some_and(|found| found.owner.as_ref() == Some(owner)) {
                own.push(element);
            }
        }
        delete(&mut socket, &own)?;
    }
    Ok(Deletion(socket))
}

/// Takes away every element that an owner has: for who has lost what the ports were. Reads all of the
/// maps; says whether there were any.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn evict(owner: &Attachment) -> Result<bool> {
    let mut socket = open()?;
    let mut own = Vec::new();
    for place in Place::ALL {
        let found = list(&mut socket, place)?.into_iter();
        let found = found.filter(|found| found.owner.as_ref() == Some(owner));
        own.extend(found.map(|found| Element::bare(place, found.key)));
    }
    let own: Vec<_> = own.iter().collect();
    own.chunks(CHUNK).try_for_each(|chunk| delete(&mut socket, chunk))?;
    Ok(!own.is_empty())
}

/// Whoever has elements in the maps, all of which are read.
///
/// # Errors
/// [`Kind::Kernel`].
pub fn owners() -> Result<BTreeSet<Attachment>> {
    let mut socket = open()?;
    let mut owners = BTreeSet::new();
    for place in Place::ALL {
        owners.extend(list(&mut socket, place)?.into_iter().filter_map(|found| found.owner));
    }
    Ok(owners)
}

/// Compares the table with what [`expose`] leaves.
///
/// # Errors
/// [`Kind::Difference`] naming what is missing, [`Kind::Kernel`] when the kernel can't be asked.
pub fn check(owner: &Attachment, ports: &[PortMapping], addresses: &[Address]) -> Result<()> {
    let difference = |msg: String| Err(Error::new(Kind::Difference, msg));
    let mut socket = open()?;
    let elements = element::all(ports, addresses);
    if elements.is_empty() {
        return Ok(());
    }
    for element in elements {
        let map = element.place.set().name;
        match get(&mut socket, &element)? {
            None => {
                return difference(format!(
                    "{element} in nftables map inet weir {map} is missing{MEND}"
                ));
            }
            Some(found) if found.owner.as_ref() != Some(owner) || found.data != element.data => {
                return difference(format!(
                    "{element} in nftables map inet weir {map} is another's"
                ));
            }
            Some(_) => {}
        }
    }
    match missing_rule(&mut socket)? {
        Some(text) => {
            difference(format!("the rule {text:?} in nftables table inet weir is missing{MEND}"))
        }
        None => Ok(()),
    }
}

/// The comment of a rule that is not there.
fn missing_rule(socket: &mut Netlink) -> Result<Option<&'static str>, Refusal> {
    let rules = match rule_comments(socket) {
        Err(refusal) if refusal.errno == Errno::ENOENT => Vec::new(),
        rules => rules?,
    };
    Ok(schema::comments().find(|text| !rules.iter().any(|rule| rule.is(text))))
}

fn open() -> Result<Netlink> {
    Netlink::open(NETLINK_NETFILTER)
}

/// Deletes elements that were there a moment ago.
fn delete(socket: &mut Netlink, elements: &[&Element]) -> Result<()> {
    if elements.is_empty() {
        return Ok(());
    }
    match socket.exchange(schema::delete(elements)) {
        Ok(_) => Ok(()),
        // Another call was faster with one of them, and the transaction is all or nothing.
        Err(refusal) if refusal.errno == Errno::ENOENT => elements.iter().try_for_each(|element| {
            match socket.exchange(schema::delete(&[element])) {
                Err(refusal) if refusal.errno != Errno::ENOENT => Err(refusal.into()),
                _ => Ok(()),
            }
        }),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The element of that key, if there is one.
fn get(socket: &mut Netlink, element: &Element) -> Result<Option<Found>, Refusal> {
    match socket.exchange(vec![schema::get(element)]) {
        Ok(replies) => Ok(found_in(replies).next()),
        Err(refusal) if is_absence(&refusal) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn list(socket: &mut Netlink, place: Place) -> Result<Vec<Found>, Refusal> {
    match socket.dump("list nftables map elements", &schema::list(place)) {
        Ok(replies) => Ok(found_in(replies).collect()),
        Err(refusal) if is_absence(&refusal) => Ok(Vec::new()),
        Err(refusal) => Err(refusal),
    }
}

/// No such element, map or table; or no nf_tables, and so nothing in it.
fn is_absence(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL)
}

fn found_in(replies: Vec<NetfilterMessage>) -> impl Iterator<Item = Found> {
    replies.into_iter().flat_map(|reply| match reply.inner {
        NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(message)) => {
            schema::found(message)
        }
        _ => Vec::new(),
    })
}
