//! Datagrams as the kernel sends them, without a kernel.

use netlink_packet_core::NLM_F_MULTIPART;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use super::*;

#[test]
fn packets_end_where_a_length_lies() {
    let mut datagram = Vec::new();
    for (length, body) in [(17_u32, 4), (16, 0), (40, 0)] {
        datagram.extend(length.to_ne_bytes());
        datagram.extend(vec![0; 12 + body]);
    }
    let lengths: Vec<_> = Packets(&datagram).map(<[u8]>::len).collect();
    assert_eq!(lengths, [17, 16]);
    assert_eq!(Packets(&[3, 0, 0, 0, 0]).count(), 0);
    assert_eq!(Packets(&[]).count(), 0);
}

/// A kernel's datagrams to one dump of links: those named, the last with the end.
fn reading(names: &[&str], interrupted: bool) -> Vec<Vec<u8>> {
    const DONE: u16 = 3;
    let mut datagrams: Vec<_> = names
        .iter()
        .map(|name| {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName((*name).to_owned()));
            let mut datagram = Vec::new();
            append(&mut datagram, RouteNetlinkMessage::NewLink(link), NLM_F_MULTIPART, 1);
            datagram
        })
        .collect();
    // The kernel marks what it sends from when it has noticed on, the end at the latest.
    let flags = NLM_F_MULTIPART | if interrupted { NLM_F_DUMP_INTR } else { 0 };
    let mut end = 20_u32.to_ne_bytes().to_vec();
    end.extend(DONE.to_ne_bytes());
    end.extend(flags.to_ne_bytes());
    end.extend([1_u32, 0, 0].map(u32::to_ne_bytes).concat());
    datagrams.last_mut().unwrap().extend(end);
    datagrams
}

/// The names that a dump answers when the kernel gives these readings, and how many it took.
fn dump(readings: Vec<Vec<Vec<u8>>>) -> (Result<Vec<String>, Refusal>, usize) {
    let mut taken = 0;
    let mut readings = readings.into_iter();
    let links = consistent("list interfaces", || {
        taken += 1;
        let mut datagrams = readings.next().unwrap().into_iter();
        let names = vec![("list interfaces".to_owned(), Role::Plain)];
        let pending = Pending { first: 1, closing: 0, names, unread: Vec::new(), refusal: None };
        let read = collect(pending, &mut Vec::new(), |received| {
            *received = datagrams.next().ok_or(Errno::EAGAIN)?;
            Ok(())
        });
        assert_eq!(datagrams.count(), 0, "a reading goes to its end");
        read
    });
    let name = |link: RouteNetlinkMessage| match link {
        RouteNetlinkMessage::NewLink(link) => match &link.attributes[..] {
            [LinkAttribute::IfName(name)] => name.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    (links.map(|links| links.into_iter().map(name).collect()), taken)
}

#[test]
fn a_table_that_changed_while_it_was_read_is_read_again_and_only_the_last_reading_counts() {
    let (links, taken) = dump(vec![reading(&["a", "b"], false)]);
    assert_eq!((links.unwrap(), taken), (vec!["a".to_owned(), "b".to_owned()], 1));
    let torn = || reading(&["a", "gone"], true);
    let (links, taken) = dump(vec![torn(), torn(), reading(&["a", "b", "c"], false)]);
    assert_eq!((links.unwrap().join(" "), taken), ("a b c".to_owned(), 3));
    let (links, taken) = dump((0..9).map(|_| torn()).collect());
    let refusal = links.unwrap_err();
    assert_eq!((refusal.errno, taken), (Errno::EINTR, 5));
    assert!(refusal.to_string().contains("kept changing"), "{refusal}");
    // No other error is worth a second look.
    let (links, taken) = dump(vec![vec![vec![]], reading(&["a"], false)]);
    assert_eq!((links.unwrap_err().errno, taken), (Errno::EAGAIN, 1));
}
