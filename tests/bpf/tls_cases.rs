//! TLS hellos, with what is to be counted of each.

use weir::telemetry::wire::{CounterKind, L7Protocol, TlsVersion};

use crate::exchange::Exchange;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

pub fn exchanges() -> Vec<Exchange> {
    use TlsVersion as V;
    let versions = |wire: u16| extension(43, &wire.to_be_bytes());
    let hello = |legacy, extensions: &[u8]| server(legacy, &[7; 32], extensions);
    let share = extension(51, &[9; 36]);
    let behind = [share.clone(), versions(0x304)].concat();
    let before = [versions(0x304), share.clone()].concat();
    vec![
        long_hello(),
        tls("1.3, told behind the key share", hello(0x303, &behind), V::TLS_VERSION_1_3),
        tls("1.3, told first", hello(0x303, &before), V::TLS_VERSION_1_3),
        tls("1.2", hello(0x303, &extension(0xff01, &[0])), V::TLS_VERSION_1_2),
        tls("1.2 without a session", server(0x303, &[], &share), V::TLS_VERSION_1_2),
        tls("1.1 without extensions", server(0x302, &[1; 32], &[]), V::TLS_VERSION_1_1),
        tls("1.0", hello(0x301, &[]), V::TLS_VERSION_1_0),
        tls("one to come", hello(0x303, &versions(0x305)), V::TLS_VERSION_OTHER),
        tls(
            "a warning before it",
            [record(21, &[1, 112]), hello(0x303, &behind)].concat(),
            V::TLS_VERSION_1_3,
        ),
        Exchange::new("closed before it", client(), record(21, &[1, 0]), L7Protocol::L7_TLS),
        Exchange::new("refused by an alert", client(), record(21, &[2, 40]), L7Protocol::L7_TLS),
    ]
}

/// The hello of `server` and what follows it, which nobody may look at.
fn tls(name: &'static str, server: Vec<u8>, version: TlsVersion) -> Exchange {
    let more = [record(20, &[1]), record(23, b"GET / HTTP/1.1\r\n\r\n")].concat();
    let requests = [client(), more.clone()].concat();
    Exchange::new(name, requests, [server, more].concat(), L7Protocol::L7_TLS).count(
        CounterKind::COUNTER_TLS_HANDSHAKES,
        version.0,
        0,
        0,
        1,
    )
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], payload].concat()
}

fn handshake(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    record(22, &[&[kind], &length[1..], payload].concat())
}

fn extension(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&kind.to_be_bytes(), &length[..], payload].concat()
}

fn client() -> Vec<u8> {
    handshake(CLIENT_HELLO, &[5; 40])
}

/// Of two segments, as those of today are with a post-quantum share.
fn long_hello() -> Exchange {
    let requests = handshake(CLIENT_HELLO, &[5; 1700]);
    let hello = server(0x303, &[7; 32], &extension(43, &[3, 4]));
    Exchange::new("a long hello", requests, hello, L7Protocol::L7_TLS).count(
        CounterKind::COUNTER_TLS_HANDSHAKES,
        TlsVersion::TLS_VERSION_1_3.0,
        0,
        0,
        1,
    )
}

fn server(legacy: u16, session: &[u8], extensions: &[u8]) -> Vec<u8> {
    let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
    let head = [&legacy.to_be_bytes()[..], &[6; 32]].concat();
    let session = [&[u8::try_from(session.len()).unwrap()], session].concat();
    let length: &[u8] = if extensions.is_empty() { &[] } else { &length };
    handshake(SERVER_HELLO, &[&head, &session[..], &[0x13, 1, 0], length, extensions].concat())
}
