//! The queues that hold a pod's traffic to a rate: a token bucket (tbf) at the root of an interface.
//!
//! What goes to the pod waits on the host side, what comes from it on the pod side: there a sender is
//! held back by its own kernel before anything is lost. A pod that may change its own network can take
//! that one away; then the bucket in the tc hook is what holds it (`telemetry::limit`).

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Nla, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption},
};

use super::{
    link,
    netlink::{Ask, Netlink},
};
use crate::{
    error::{Error, Kind, Result},
    spec::capability::Limit,
};

const TBF: &str = "tbf";
/// Ours on every interface, as `tc` would show it: 1:
const HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// linux/pkt_sched.h: `TCA_TBF_PARMS`, `TCA_TBF_RATE64`, `TCA_TBF_BURST`.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// The same, `TC_LINKLAYER_ETHERNET`: a packet takes as long as its bytes.
const ETHERNET: u8 = 1;
/// `struct tc_tbf_qopt` is two of `struct tc_ratespec` (12 bytes, of which the last four are the rate)
/// and three numbers, of which the first is the queue's limit in bytes.
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 24;
const PARAMETER_BYTES: usize = 36;

/// The request that holds what leaves through an interface to the limit; the interface has no queue of
/// anybody's yet.
pub fn hold(name: &str, index: u32, mtu: u32, limit: &Limit) -> Ask<RouteNetlinkMessage> {
    let mut message = of_root(index);
    message.header.handle = HANDLE;
    message.attributes.push(TcAttribute::Kind(TBF.into()));
    let options = options(limit, mtu).into_iter().map(TcOption::Other);
    message.attributes.push(TcAttribute::Options(options.collect()));
    Ask::new(
        format!("limit what leaves through {name} to {} bits a second (sch_tbf)", limit.rate),
        RouteNetlinkMessage::NewQueueDiscipline(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Compares an interface's queue with what [`hold`] makes.
///
/// # Errors
/// [`Kind::Difference`] naming what is otherwise, [`Kind::Kernel`] when the kernel can't be asked.
pub fn check(socket: &mut Netlink, name: &str, index: u32, limit: &Limit) -> Result<()> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(of_root(index));
    // Linux before 6.6 sends the answer only to who wants to hear of changes.
    let ask = Ask::new(format!("look up the queue of {name}"), message, NLM_F_ECHO);
    let is = socket.exchange(vec![ask])?.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewQueueDiscipline(message) => held(&message),
        _ => None,
    });
    let wanted = (limit.bytes_per_second(), limit.queue());
    let what = match is {
        Some(is) if is == wanted => return Ok(()),
        Some((rate, _)) => format!("held to {rate} bytes a second"),
        None => "not held to a rate".into(),
    };
    let msg = format!(
        "what leaves through interface {name} ({index}) is {what} instead of {} bytes a second with a queue of {} bytes",
        wanted.0, wanted.1
    );
    Err(Error::new(Kind::Difference, msg))
}

/// Puts a queue back that something else took away; says whether it was missing. Whatever else is in its place
/// stays.
///
/// # Errors
/// [`Kind::Kernel`] naming the interface.
pub fn mend(name: &str, index: u32, mtu: u32, limit: &Limit) -> Result<bool> {
    let mut socket = link::socket()?;
    match check(&mut socket, name, index, limit) {
        Err(err) if err.kind() == Kind::Difference => {
            socket.exchange(vec![hold(name, index, mtu, limit)])?;
            Ok(true)
        }
        checked => checked.map(|()| false),
    }
}

fn of_root(index: u32) -> TcMessage {
    let index = i32::try_from(index).unwrap_or_default();
    let header = TcHeader { index, parent: TcHandle::ROOT, ..TcHeader::default() };
    TcMessage::from_parts(header, Vec::new())
}

fn options(limit: &Limit, mtu: u32) -> Vec<DefaultNla> {
    let rate = limit.bytes_per_second();
    let mut parameters = [0; PARAMETER_BYTES];
    parameters[1] = ETHERNET;
    put(&mut parameters, RATE_AT, u32::try_from(rate).unwrap_or(u32::MAX));
    put(&mut parameters, LIMIT_AT, limit.queue());
    // A packet that is longer than the burst never passes. The bucket counts the Ethernet header too.
    let burst = limit.burst.max(mtu.saturating_add(18));
    let mut options = vec![
        DefaultNla::new(PARAMETERS, parameters.to_vec()),
        DefaultNla::new(BURST, burst.to_ne_bytes().to_vec()),
    ];
    if rate > u32::MAX.into() {
        options.push(DefaultNla::new(RATE64, rate.to_ne_bytes().to_vec()));
    }
    options
}

fn put(parameters: &mut [u8; PARAMETER_BYTES], at: usize, value: u32) {
    parameters[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

/// Rate and limit of a token bucket's queue; none if it is something else.
fn held(message: &TcMessage) -> Option<(u64, u32)> {
    let is_tbf = |attribute: &TcAttribute| *attribute == TcAttribute::Kind(TBF.into());
    // The library doesn't look into the options of kinds that it doesn't know.
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => match options.first() {
            Some(TcOption::Other(whole)) => Some(value(whole)),
            _ => None,
        },
        _ => None,
    });
    let options = options.filter(|_| message.attributes.iter().any(is_tbf))?;
    let (mut rate, mut wide, mut limit) = (None, None, None);
    for option in NlasIterator::new(&options).filter_map(Result::ok) {
        let number = |at: usize| {
            let bytes = option.value().get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        match option.kind() {
            PARAMETERS => (rate, limit) = (number(RATE_AT).map(u64::from), number(LIMIT_AT)),
            RATE64 => wide = option.value().try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    Some((wide.or(rate)?, limit?))
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}
