//! `/api/flows`: each exchange of real traffic, told to whoever listens.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    bounds::resident_kib,
    http::{connect, get},
    node::{Agent, Node, PATIENCE, eventually},
    traffic::{self, Served, request},
};

/// A client of the stream.
pub struct Listener {
    lines: BufReader<TcpStream>,
    /// The id of the last event that had one.
    id: String,
}

impl Listener {
    /// Listens, and returns once records will come.
    pub fn new(query: &str) -> Self {
        Self::with(query, "")
    }

    /// The same with more lines of a head.
    fn with(query: &str, lines: &str) -> Self {
        let mut stream = connect(Agent::address());
        // HTTP/1.0 knows no chunks: what comes is the events themselves.
        write!(stream, "GET /api/flows{query} HTTP/1.0\r\n{lines}\r\n").unwrap();
        let mut listener = Self { lines: BufReader::new(stream), id: String::new() };
        while listener.line().unwrap() != ": listening" {}
        listener
    }

    /// Whether there is nothing more but blank lines.
    fn ended(&mut self) -> bool {
        std::iter::from_fn(|| self.line()).all(|line| line.is_empty())
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The data of the next event, and its name.
    pub fn event(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let line = self.line().expect("the stream ended");
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The next record, without what differs from run to run.
    pub fn flow(&mut self) -> Value {
        let (name, mut flow) = self.event();
        assert_eq!(name, "", "{flow}");
        let object = flow.as_object_mut().unwrap();
        let time = object.remove("time").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
        if let Some(duration) = object.remove("duration_seconds") {
            assert!((0.0..20.0).contains(&duration.as_f64().unwrap()), "{duration}");
        }
        let peer = object.remove("peer").unwrap();
        assert!(peer.as_str().unwrap().starts_with("198.51.100.1:"), "{peer}");
        flow
    }
}

fn http(method: &str, path: &str, status: u16) -> Value {
    let mut flow = json!({
        "namespace": "shop", "pod": "web", "role": "server", "protocol": "http", "version": "1.1",
        "method": method, "path": path, "status": status, "port": 80,
    });
    if status >= 500 {
        flow["failed"] = json!(true);
    }
    flow
}

#[test]
fn each_request_is_told_with_its_path_and_status() {
    let node = Node::new("flows");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let (mut all, mut errors) =
        (Listener::new(""), Listener::new("?status=5xx&pod=shop/web&path_prefix=/b"));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        request(&mut stream, b"GET /a/200?q=secret HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let traced =
            format!("POST /b/503 HTTP/1.1\r\nTraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n");
        request(&mut stream, traced.as_bytes());
        // In pieces, with a path that is longer than one, and bytes that a terminal would obey.
        let hostile = b"GET /\x1b[2J\"\xff\xe2\x80\xae";
        let long =
            [&hostile[..], &vec![b'p'; 600], b"/404 HTTP/1.1\r\nHost: \"<\xff\r\n\r\n"].concat();
        for piece in long.chunks(300) {
            stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        // An answer that nobody reads is a reset for the server.
        traffic::answers(&mut stream, 1);
        request(&mut stream, b"GET /500 HTTP/1.1\r\n\r\n");
    });
    let mut expected = http("GET", "/a/200", 200);
    expected["host"] = json!("a.example");
    assert_eq!(all.flow(), expected);
    let mut traced = http("POST", "/b/503", 503);
    (traced["trace_id"], traced["parent_id"]) = (json!(trace), json!("b7ad6b7169203331"));
    assert_eq!(all.flow(), traced);
    let path = format!("/%1B[2J\"%FF%E2%80%AE{}/404", "p".repeat(600));
    let hostile = all.flow();
    assert_eq!(hostile["path"], json!(path));
    assert_eq!(all.flow(), http("GET", "/500", 500));
    assert_eq!(errors.flow(), traced);
}

#[test]
fn a_look_up_is_told_with_its_name_and_a_handshake_with_what_the_client_wants() {
    let node = Node::new("flows-dns-tls");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let mut listener = Listener::new("");
    traffic::look_up("198.51.100.1", &web.udp);
    let look_up = json!({
        "namespace": "shop", "pod": "web", "role": "server", "protocol": "dns", "name": "a\\027b.org",
        "qtype": "AAAA", "rcode": "NXDOMAIN", "transport": "udp", "port": 53,
    });
    assert_eq!(listener.flow(), look_up);

    let mut stream = traffic::connect();
    let (mut served, _) = web.tcp.accept().unwrap();
    let extensions = [
        &[0, 0, 0, 16, 0, 14, 0, 0, 11][..],
        b"example.org",
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2', 0, 43, 0, 5, 4, 3, 4, 3, 3],
    ]
    .concat();
    let whole = hello(1, &[0, 0, 2, 0x13, 1, 1, 0], &extensions);
    stream.write_all(&whole).unwrap();
    served.read_exact(&mut [0; 40]).unwrap();
    let answer = hello(2, &[0, 0x13, 1, 0], &[0, 43, 0, 2, 3, 4]);
    served.write_all(&answer).unwrap();
    let handshake = json!({
        "namespace": "shop", "pod": "web", "role": "server", "protocol": "tls", "tls_version": "1.3",
        "offered_versions": ["1.3", "1.2"], "server_name": "example.org", "alpn": ["h2"], "port": 80,
    });
    assert_eq!(listener.flow(), handshake);

    // The same in records that end within the name, behind three kilobytes, in one segment and in many.
    let far = [&[0, 21, 11, 184][..], &[0; 3000], &extensions].concat();
    let message = &hello(1, &[0, 0, 2, 0x13, 1, 1, 0], &far)[5..];
    let name = message.windows(11).position(|window| window == b"example.org").unwrap();
    let (one, two) = message.split_at(name + 3);
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 3], &length[..], part].concat()
    };
    let whole = [record(one), record(two)].concat();
    for size in [whole.len(), 700] {
        let mut stream = traffic::connect();
        stream.set_nodelay(true).unwrap();
        let (mut served, _) = web.tcp.accept().unwrap();
        for part in whole.chunks(size) {
            stream.write_all(part).unwrap();
            served.read_exact(&mut vec![0; part.len()]).unwrap();
        }
        served.write_all(&answer).unwrap();
        assert_eq!(listener.flow(), handshake, "{size}");
    }
}

/// A ClientHello (1) or ServerHello (2) of TLS 1.2 or newer: what lies between random and extensions.
fn hello(kind: u8, between: &[u8], extensions: &[u8]) -> Vec<u8> {
    let size = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let body = [&[3, 3], &[7; 32][..], between, &size(extensions), extensions].concat();
    let message = [&[kind, 0], &size(&body)[..], &body].concat();
    [&[22, 3, 3], &size(&message)[..], &message].concat()
}

#[test]
fn an_http2_request_is_told_with_its_path_unless_the_connection_is_older_than_the_listener() {
    let node = Node::new("flows-http2");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let mut listener = Listener::new("");
    let address = web.tcp.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        web.tcp.set_nonblocking(true).unwrap();
        let server = tokio::net::TcpListener::from_std(web.tcp.try_clone().unwrap()).unwrap();
        tokio::spawn(async move {
            let mut connection =
                h2::server::handshake(server.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let response = http::Response::builder().status(404).body(()).unwrap();
                respond.send_response(response, true).unwrap();
            }
        });
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let mut ask = async |path: &str| {
            let request = http::Request::get(format!("http://b.example{path}")).body(()).unwrap();
            let (answer, _) = client.send_request(request, true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 404);
        };
        // The second time the path is a reference to what the first one said.
        for _ in 0..2 {
            ask("/shop/basket?q=1").await;
            let expected = json!({
                "namespace": "shop", "pod": "web", "role": "server", "protocol": "http",
                "version": "2", "method": "GET", "path": "/shop/basket", "host": "b.example",
                "status": 404, "port": 80,
            });
            assert_eq!(listener.flow(), expected);
        }
        drop(listener);
        // Until the agent has noticed, and then past the wish that it had made.
        tokio::time::sleep(Duration::from_millis(500)).await;
        ask("/unheard").await;
        let mut late = Listener::new("");
        let mut choosy = Listener::new("?path_prefix=/unheard");
        ask("/unheard").await;
        let told = late.flow();
        assert_eq!((&told["path"], &told["status"]), (&Value::Null, &json!(404)));
        // It may be what was asked for.
        let (name, lost) = choosy.event();
        assert_eq!((&*name, lost), ("lost", json!({"records": 1, "where": "head"})));
    });
}

#[test]
fn who_comes_later_gets_what_was_recorded_for_others() {
    let node = Node::new("flows-since");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let mut early = Listener::new("");
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        request(&mut stream, b"GET /1/200 HTTP/1.1\r\n\r\n");
        assert_eq!(early.flow(), http("GET", "/1/200", 200));
        let mut late = Listener::new("?since=1m&status=200");
        assert_eq!(late.flow(), http("GET", "/1/200", 200));
        request(&mut stream, b"GET /2/200 HTTP/1.1\r\n\r\n");
        for listener in [&mut late, &mut early] {
            assert_eq!(listener.flow(), http("GET", "/2/200", 200));
        }
    });
}

#[test]
fn who_was_cut_off_goes_on_behind_the_last_record_that_it_had() {
    let node = Node::new("flows-resume");
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let mut early = Listener::new("");
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        let mut ids = Vec::new();
        for at in 0..3 {
            request(&mut stream, format!("GET /{at}/200 HTTP/1.1\r\n\r\n").as_bytes());
            assert_eq!(early.flow()["path"], format!("/{at}/200"));
            ids.push(early.id.clone());
        }
        let first = |mut listener: Listener| listener.flow()["path"].as_str().unwrap().to_owned();
        // As asked, and as a browser says it, who asks again what it asked first.
        assert_eq!(first(Listener::new(&format!("?since=1m&after={}", ids[0]))), "/1/200");
        let header = format!("Last-Event-ID: {}\r\n", ids[1]);
        assert_eq!(
            first(Listener::with(&format!("?since=1m&after={}", ids[0]), &header)),
            "/2/200"
        );
        // Of another agent, or nobody's: then the time decides.
        let number = ids[2].split_once('-').unwrap().1;
        assert_eq!(first(Listener::new(&format!("?since=1m&after=1f-{number}"))), "/0/200");
        assert_eq!(first(Listener::with("?since=1m", "Last-Event-ID: \"<\u{e9}\r\n")), "/0/200");
        assert_eq!(get("/api/flows?after=7").status, 400);

        // More than are kept, of which whoever was away is told how many those are.
        let (more, head) = (5_000, "GET /200 HTTP/1.1\r\n\r\n");
        for _ in (0..more).step_by(40) {
            stream.write_all(head.repeat(40).as_bytes()).unwrap();
            traffic::answers(&mut stream, 40);
            (0..40).for_each(|_| assert_eq!(early.event().0, ""));
        }
        let mut late = Listener::new(&format!("?after={}", ids[2]));
        let (name, lost) = late.event();
        assert_eq!((&*name, &lost["where"]), ("lost", &json!("away")));
        assert_eq!(lost["records"], more - 4_096);
        (0..4_096).for_each(|_| assert_eq!(late.event().0, ""));
        drop(stream);
    });
}

#[test]
fn of_what_is_kept_nothing_is_lost_for_who_reads_and_what_comes_meanwhile_is_behind_it() {
    let node = Node::new("flows-backlog");
    small_buffers();
    let web = Served::new(&node, "web");
    let _agent = node.agent();
    let mut early = Listener::new("");
    let path = |at: u64| format!("/{at}/{}/200", "p".repeat(900));
    let (kept, more) = (4_000, 40);
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        let mut stream = traffic::connect();
        let mut ask = |from: u64, to: u64| {
            let head = |at| format!("GET {} HTTP/1.1\r\n\r\n", path(at));
            stream.write_all((from..to).map(head).collect::<String>().as_bytes()).unwrap();
            traffic::answers(&mut stream, usize::try_from(to - from).unwrap());
            (from..to).for_each(|at| assert_eq!(early.flow()["path"], path(at)));
        };
        (0..kept).step_by(20).for_each(|at| ask(at, at + 20));
        // Four times what one client's queue holds.
        let mut late = Listener::new("?since=10m");
        for at in 0..kept + more {
            if at == 100 {
                ask(kept, kept + more);
            }
            assert_eq!(late.flow()["path"], path(at));
        }
    });
}

/// Sockets of this namespace keep little for a client that doesn't read.
pub fn small_buffers() {
    for buffer in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{buffer}"), "4096 16384 16384").unwrap();
    }
}

/// Makes so many requests, no more than 400 ahead of who has `heard` of them: on a busy machine the ring,
/// too, would overflow.
pub fn ask_paced(requests: u64, heard: &AtomicU64) {
    let head = "GET /200 HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut stream = traffic::connect();
    for asked in (0..requests).step_by(40) {
        eventually("the quick one keeps up", || heard.load(Relaxed) + 400 > asked);
        stream.write_all(head.repeat(40).as_bytes()).unwrap();
        traffic::answers(&mut stream, 40);
    }
}

#[test]
fn a_client_that_does_not_read_is_told_how_much_it_missed_and_holds_up_no_one() {
    let node = Node::new("flows-slow");
    small_buffers();
    let web = Served::new(&node, "web");
    let agent = node.agent();
    let (mut slow, mut quick) = (Listener::new(""), Listener::new(""));
    let requests = 8_000;
    let (mut told, mut lost) = (0, 0);
    let heard = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| web.answer_statuses());
        scope.spawn(|| ask_paced(requests, &heard));
        let count = |listener: &mut Listener, told: &mut u64, lost: &mut u64| {
            while *told + *lost < requests {
                match listener.event() {
                    (name, event) if name == "lost" => *lost += event["records"].as_u64().unwrap(),
                    _ => *told += 1,
                }
                heard.fetch_max(*told + *lost, Relaxed);
            }
        };
        count(&mut quick, &mut told, &mut lost);
        assert_eq!((told, lost), (requests, 0));
        (told, lost) = (0, 0);
        count(&mut slow, &mut told, &mut lost);
    });
    assert!(lost > 1_000 && told > 1_000, "{told} and {lost}");
    assert!(resident_kib(&agent) < 64 * 1024, "{} KiB", resident_kib(&agent));
}

#[test]
fn there_is_room_for_so_many_listeners_and_each_place_is_given_again() {
    let node = Node::new("flows-many");
    let _web = Served::new(&node, "web");
    let agent = node.agent();
    let mut listeners: Vec<_> = (0..16).map(|_| Listener::new("")).collect();
    let refused = get("/api/flows");
    assert_eq!(refused.status, 503, "{}", refused.head);
    assert_eq!(get("/healthz").status, 200);
    listeners.pop();
    eventually("a place", || {
        let mut stream = connect(Agent::address());
        stream.write_all(b"GET /api/flows HTTP/1.0\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        head.ends_with(b"200")
    });
    let begun = Instant::now();
    let (status, log) = agent.into_inner().stop(Signal::SIGTERM);
    assert_eq!(status, Some(0), "{log:?}");
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    for mut listener in listeners {
        assert!(listener.ended(), "the answer ends with the agent");
    }
}

#[test]
fn without_maps_a_listener_waits_for_them() {
    let node = Node::new("flows-absent");
    let mut agent = node.agent();
    let listening = thread::spawn(|| drop(Listener::new("")));
    agent.wait_for("no live records, looking again every second");
    thread::sleep(Duration::from_millis(3500));
    let said = agent.told();
    let tries = said.iter().filter(|line| line.contains("no live records")).count();
    assert_eq!(tries, 1, "{said:#?}");
    let _web = Served::new(&node, "web");
    listening.join().unwrap();
}
