//! Frames by hand: the kernel side must not be tested with its own idea of a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub addr: IpAddr,
    pub port: u16,
}

pub fn v4(last: u8, port: u16) -> End {
    End { addr: Ipv4Addr::new(10, 88, 0, last).into(), port }
}

pub fn v6(last: u16, port: u16) -> End {
    End { addr: Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, last).into(), port }
}

fn ethernet(ether_type: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type.to_be_bytes());
    frame
}

/// An Ethernet frame with an IP header around `l4` (checksums are left 0: nobody checks them).
pub fn ip(from: End, to: End, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let len = u16::try_from(l4.len()).unwrap();
    match (from.addr, to.addr) {
        (IpAddr::V4(source), IpAddr::V4(dest)) => {
            let mut frame = ethernet(0x0800);
            frame.extend([0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(dest.octets());
            frame.extend(l4);
            frame
        }
        (IpAddr::V6(source), IpAddr::V6(dest)) => {
            let mut frame = ethernet(0x86dd);
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend(dest.octets());
            frame.extend(l4);
            frame
        }
        _ => panic!("ends of two families"),
    }
}

/// A TCP segment with a 12-byte timestamp option, as Linux sends it.
pub fn tcp(from: End, to: End, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    tcp_acknowledging(from, to, (seq, 0), flags, payload)
}

/// The same with sequence and acknowledgement number.
pub fn tcp_acknowledging(
    from: End,
    to: End,
    (seq, ack): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.port.to_be_bytes());
    l4.extend(to.port.to_be_bytes());
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x80, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
    l4.extend(payload);
    ip(from, to, 6, &l4)
}

/// A UDP datagram.
pub fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(from.port.to_be_bytes());
    l4.extend(to.port.to_be_bytes());
    l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    ip(from, to, 17, &l4)
}
