//! TLS: OpenSSL's client against its server, by the server's count of handshakes and the client's word
//! on each one's version.

use std::{
    cell::Cell,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    counts::{Counts, assert_counted, counts},
    pair::{BURSTS, Pair, Process, run, wait_until},
};

const ANY_CIPHER: &str = "ALL:@SECLEVEL=0";

/// `openssl s_server` on a port of the server's pod.
struct Server<'a> {
    pair: &'a Pair,
    port: u16,
    /// How often its page was read, each time by one more handshake.
    pages: Cell<u64>,
    _process: Process,
}

impl<'a> Server<'a> {
    fn start(pair: &'a Pair, port: u16, words: &str) -> Self {
        let (key, certificate) = (pair.path("key.pem"), pair.path("certificate.pem"));
        if !key.exists() {
            let mut command = Command::new("openssl");
            let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a";
            command.args(words.split(' ')).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
            run(command);
        }
        let accept = port.to_string();
        let mut all = vec!["openssl", "s_server", "-www", "-quiet", "-cipher", ANY_CIPHER];
        all.extend(["-accept", &accept, "-key", key.to_str().unwrap()]);
        all.extend(["-cert", certificate.to_str().unwrap()]);
        all.extend(words.split_whitespace());
        let server = Self { pair, port, pages: Cell::new(0), _process: pair.serve(&all) };
        wait_until("s_server", || server.page().contains("server accepts"));
        server
    }

    /// Its page, over one more connection.
    fn page(&self) -> String {
        let client = format!("openssl s_client -quiet -connect localhost:{}", self.port);
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 5 {client} || true");
        let page = self.pair.ask_aside(&["sh", "-c", &script]);
        self.pages.set(self.pages.get() + u64::from(page.contains("server accepts")));
        page
    }

    /// Handshakes that it began, and those that it finished, without those of its page.
    fn handshakes(&self) -> [u64; 2] {
        let page = self.page();
        ["server accepts (SSL_accept())", "server accepts that finished"].map(|what| {
            let line = page.lines().find(|line| line.ends_with(what)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() - self.pages.get()
        })
    }
}

/// Connects; what version the client says that it has, if any.
fn connect(pair: &Pair, address: &str, port: u16, words: &str) -> Option<String> {
    let target = match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    };
    // It asks for the page, and stays until that and the session's tickets have come.
    let script = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 20 openssl s_client \"$@\" 2>&1";
    let mut all = vec!["sh", "-c", script, "sh", "-ign_eof", "-connect", &target];
    all.extend(["-cipher", ANY_CIPHER]);
    all.extend(words.split_whitespace());
    let said = pair.try_to_ask(&all);
    assert!(said.contains("CONNECTED"), "{said}");
    let after = |start| said.lines().find_map(|line| Some(line.strip_prefix(start)?.trim_end()));
    // The version of the cipher, which is none without a handshake.
    let of_cipher = after("New, TLSv").or_else(|| after("Reused, TLSv"))?;
    let of_cipher = of_cipher.split(',').next().unwrap();
    let version = after("    Protocol  : TLSv").unwrap_or(of_cipher);
    Some(if version == "1" { "1.0".to_owned() } else { version.to_owned() })
}

const HANDSHAKES: &str = "weir_tls_handshakes_total";

/// TCP connections that were found to be TLS, at both pods.
fn assert_connections(pair: &Pair, own: u64) {
    let own = || Counts::from([("tls".to_owned(), own)]);
    assert_counted(pair, "weir_l7_connections_total", &["protocol"], own);
}

/// `-alpn` with so many names that the ClientHello has at least that many bytes.
fn long_hello(bytes: usize) -> String {
    let names: Vec<String> = (0..bytes / 100 + 1).map(|n| format!("{n:0>99}")).collect();
    format!("-alpn {}", names.join(","))
}

#[test]
fn handshakes_are_counted_by_version_as_both_ends_say() {
    let pair = Pair::new("tls");
    let server = Server::start(&pair, 443, "");
    // It takes another group than the client's first, so it asks for another hello.
    let again = Server::start(&pair, 444, "-groups P-256");
    let mut seen = Counts::new();
    let session = pair.path("session").display().to_string();
    for segments in BURSTS {
        pair.set_burst(segments);
        for address in &pair.addresses {
            for port in [443, 444] {
                for words in [
                    "-tls1",
                    "-tls1_1",
                    "-tls1_2",
                    "-tls1_3",
                    "",
                    "-groups P-256",
                    "-servername web.test -tls1_2 -no_ticket",
                    &format!("-tls1_2 -sess_out {session}2"),
                    &format!("-tls1_2 -sess_in {session}2"),
                    &format!("-sess_out {session}3"),
                    &format!("-sess_in {session}3"),
                    // The size that a hello has with a post-quantum share, two segments; many of
                    // them; and several records, by their largest size and by ours.
                    &long_hello(1_800),
                    &format!("-tls1_2 {}", long_hello(1_800)),
                    &long_hello(9_000),
                    &long_hello(40_000),
                    &format!("-max_send_frag 512 {}", long_hello(1_800)),
                ] {
                    let version = connect(&pair, address, port, words);
                    let version = version.unwrap_or_else(|| panic!("no handshake: {words}"));
                    *seen.entry(version).or_default() += 1;
                }
            }
        }
    }
    assert_counted(&pair, HANDSHAKES, &["version"], || seen.clone());
    for server in [server, again] {
        assert_eq!(server.handshakes(), [64, 64]);
    }
    assert_connections(&pair, 128);
}

#[test]
fn refused_handshakes_are_told_from_those_that_chose_a_version() {
    let pair = Pair::new("refused");
    let newest = Server::start(&pair, 443, "-tls1_3");
    let older = Server::start(&pair, 444, "-no_tls1_3 -cipher ECDHE-ECDSA-AES256-GCM-SHA384");
    for address in &pair.addresses {
        for (port, words) in [
            // The server has no such version, and no such cipher.
            (443, "-tls1_2"),
            (443, "-tls1"),
            (444, "-tls1_3"),
            (444, "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256"),
        ] {
            assert_eq!(connect(&pair, address, port, words), None, "{words}");
        }
        // The client does not trust the certificate, after the server has chosen.
        for port in [443, 444] {
            connect(&pair, address, port, "-verify_return_error");
        }
    }
    let chosen = || ["1.2", "1.3"].map(|version| (version.to_owned(), 2)).into();
    assert_counted(&pair, HANDSHAKES, &["version"], chosen);
    for server in [newest, older] {
        assert_eq!(server.handshakes(), [6, 0]);
    }
    assert_connections(&pair, 12);
}

/// The same with a name, which may be any; whether there was a handshake.
fn connect_named(pair: &Pair, address: &str, name: &str) -> bool {
    let script = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 20 openssl s_client \"$@\" 2>&1";
    let target = format!("{address}:443");
    let words = ["sh", "-c", script, "sh", "-ign_eof", "-connect", &target, "-servername", name];
    pair.try_to_ask(&words).contains("New, TLSv1.3")
}

/// Handshakes by the name that was asked for, at both pods; no name does harm to the page.
#[test]
fn server_names_are_counted_as_far_as_there_is_room() {
    let pair = Pair::with_agent("names", &["--tls-sni-top", "3"]);
    let _server = Server::start(&pair, 443, "");
    let address = &pair.addresses[0];
    let counted = || {
        let page = pair.metrics();
        let family = "weir_tls_server_names_total";
        ["server", "client"].map(|role| counts(&page, family, role, &["server_name"]))
    };
    // The agent looks for new maps once a second, and then asks for records.
    wait_until("the first place", || {
        assert!(connect_named(&pair, address, "first.test"));
        counted().iter().all(|of_role| of_role.contains_key("first.test"))
    });
    std::thread::sleep(Duration::from_secs(2));
    let mut expected = counted();
    let long = "x".repeat(255);
    for name in [
        "a.test",
        "B.TEST",
        "a.test",
        "c.test",
        "b.test",
        "c.test",
        "a\"} 1\nweir_pods 7\n",
        "\\",
        "__other__",
        &long,
    ] {
        assert!(connect_named(&pair, address, name), "no handshake: {name:?}");
        let lower = name.to_lowercase();
        let place = ["a.test", "b.test"].into_iter().find(|place| *place == lower);
        for of_role in &mut expected {
            *of_role.entry(place.unwrap_or("__other__").to_owned()).or_default() += 1;
        }
    }
    assert!(connect(&pair, address, 443, "-noservername").is_some());
    for of_role in &mut expected {
        *of_role.entry("__other__".to_owned()).or_default() += 1;
    }
    let end = Instant::now() + Duration::from_secs(10);
    while counted() != expected && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(counted(), expected);
    let page = pair.metrics();
    assert_eq!(page.lines().filter(|line| line.starts_with("weir_pods ")).count(), 1);
    assert!(page.contains("weir_events_lost_total{source=\"records\"} 0"));
    pair.assert_no_gap();
}
