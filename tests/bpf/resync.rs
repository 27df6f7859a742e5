//! After a gap a connection is read again, from where a request surely begins and not before.

use std::collections::BTreeMap;

use weir::telemetry::wire::{CounterKind, HistogramKind, Role, Stat};

use crate::{
    frame::{ACK, v4},
    kernel::Kernel,
    mysql_cases, postgresql_cases, redis_cases,
    stream::{Side, Stream},
};

/// Further than anything that is held waits for its turn (HOLD_REACH of hold.h).
const LOST: usize = 3 << 20;

const GET: &[u8] = b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A connection of one protocol.
pub struct Talk {
    pub name: &'static str,
    /// What the two say before the first request, in turns.
    opening: Vec<(Side, Vec<u8>)>,
    request: Vec<u8>,
    response: Vec<u8>,
    counter: CounterKind,
    histogram: HistogramKind,
}

fn http() -> Talk {
    Talk {
        name: "http",
        opening: Vec::new(),
        request: GET.into(),
        response: OK.into(),
        counter: CounterKind::COUNTER_HTTP_REQUESTS,
        histogram: HistogramKind::HISTOGRAM_HTTP_REQUEST,
    }
}

fn database(
    name: &'static str,
    opening: Vec<(Side, Vec<u8>)>,
    request: impl Into<Vec<u8>>,
    response: impl Into<Vec<u8>>,
) -> Talk {
    let (request, response) = (request.into(), response.into());
    let counter = CounterKind::COUNTER_DB_REQUESTS;
    Talk {
        name,
        opening,
        request,
        response,
        counter,
        histogram: HistogramKind::HISTOGRAM_DB_REQUEST,
    }
}

pub fn talks() -> Vec<Talk> {
    let postgresql = || {
        let opening = [
            (Side::Client, postgresql_cases::startup()),
            (Side::Server, postgresql_cases::welcome()),
        ];
        opening.to_vec()
    };
    let mysql = mysql_cases::login();
    vec![
        http(),
        database("redis", Vec::new(), redis_cases::command(&["GET", "a"]), "$1\r\nb\r\n"),
        database(
            "postgresql, simple",
            postgresql(),
            postgresql_cases::query("select 1"),
            postgresql_cases::selected(),
        ),
        database(
            "postgresql, extended",
            postgresql(),
            postgresql_cases::prepared("select 1"),
            postgresql_cases::selected(),
        ),
        database("mysql", mysql, mysql_cases::query("select 1"), mysql_cases::ok(2)),
    ]
}

/// A connection after its first request, and what was counted since that.
pub struct Run<'k> {
    kernel: &'k Kernel,
    talk: &'k Talk,
    pub stream: Stream<'k>,
    before: [u64; 3],
}

impl<'k> Run<'k> {
    pub fn new(kernel: &'k Kernel, talk: &'k Talk, role: Role, port: u16) -> Self {
        let (near, far) = (v4(2, 80), v4(9, port));
        let (client, server) =
            if role == Role::ROLE_SERVER { (far, near) } else { (v4(2, port), v4(9, 80)) };
        let mut stream = Stream::open(kernel, role, client, server);
        talk.opening.iter().for_each(|(side, bytes)| stream.send(*side, bytes));
        let mut run = Self { kernel, talk, stream, before: [0; 3] };
        let start = run.all();
        run.ask();
        run.answer();
        let first = run.all();
        assert_eq!(first[0] - start[0], 1, "{}: the first request", talk.name);
        run.before = first;
        run
    }

    fn all(&self) -> [u64; 3] {
        let gaps = self.kernel.snapshot().stats[..=Stat::STAT_GAP_FRAGMENT.0 as usize].iter().sum();
        let counted = self.kernel.counts().of(self.talk.counter);
        [counted, self.kernel.observations(self.talk.histogram), gaps]
    }

    /// Requests, durations and gaps since the first request.
    pub fn since(&self) -> [u64; 3] {
        let now = self.all();
        std::array::from_fn(|i| now[i] - self.before[i])
    }

    pub fn ask(&mut self) {
        self.stream.send(Side::Client, &self.talk.request);
    }

    pub fn answer(&mut self) {
        self.stream.send(Side::Server, &self.talk.response);
    }

    /// Much that `side` says is never seen here, and arrives.
    fn lose(&mut self, side: Side) {
        self.stream.advance(side, LOST);
        self.stream.send(side, b"\xf7 the end of what nobody saw");
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        self.stream.send_flags(other, ACK);
    }
}

#[test]
fn the_next_request_behind_an_answer_is_counted_again() {
    let kernel = Kernel::new();
    let talks = talks();
    let mut port = 40_000;
    for talk in &talks {
        for role in [Role::ROLE_SERVER, Role::ROLE_CLIENT] {
            for lost in [Side::Client, Side::Server] {
                port += 1;
                let mut run = Run::new(&kernel, talk, role, port);
                run.lose(lost);
                run.stream.send(Side::Server, b"\xf7 an answer to that");
                for asked in 1..=3 {
                    run.ask();
                    run.answer();
                    assert_eq!(run.since(), [asked, asked, 1], "{}, {role:?}, {lost:?}", talk.name);
                }
            }
        }
    }
}

/// What waited for an answer is counted when the thread is taken up, once, as never answered.
#[test]
fn what_waited_is_told_as_unanswered() {
    let kernel = Kernel::new();
    let talk = http();
    let mut run = Run::new(&kernel, &talk, Role::ROLE_SERVER, 40_000);
    run.ask();
    run.lose(Side::Server);
    run.stream.send(Side::Server, b"and the rest");
    assert_eq!(run.since(), [0, 0, 1]);
    run.ask();
    assert_eq!(run.since(), [1, 1, 1]);
    run.answer();
    assert_eq!(run.since(), [2, 2, 1]);
    let mut by_status = BTreeMap::new();
    for (key, n) in kernel.counts().0 {
        if u32::from(key.0) == CounterKind::COUNTER_HTTP_REQUESTS.0 {
            *by_status.entry(key.4).or_default() += n;
        }
    }
    assert_eq!(by_status, BTreeMap::from([(0, 1), (200, 2)]));
}

/// A body may look like a request.
#[test]
fn nothing_is_taken_up_where_no_request_is_sure() {
    let kernel = Kernel::new();
    let talks = talks();
    let mut port = 40_000;
    for talk in &talks {
        let mut stay = |how: &str, act: &dyn Fn(&mut Run<'_>)| {
            port += 1;
            let mut run = Run::new(&kernel, talk, Role::ROLE_SERVER, port);
            run.lose(Side::Client);
            act(&mut run);
            run.answer();
            assert_eq!(run.since(), [0, 0, 1], "{}: {how}", talk.name);
        };
        stay("the server has said nothing since", &|run| {
            run.stream.send_flags(Side::Server, ACK);
            run.ask();
        });
        stay("the server has not all that the client said", &|run| {
            run.stream.send(Side::Server, b"\xf7 said");
            run.stream.send(Side::Client, b"\xf7 more of a body");
            run.ask();
        });
        stay("the client has not all that the server said", &|run| {
            // What is asked does not acknowledge this.
            let said = b"\xf7 said";
            run.stream.segment(Side::Server, run.stream.next(Side::Server), ACK, said);
            run.ask();
            run.stream.advance(Side::Server, said.len());
        });
        stay("it begins as no request", &|run| {
            run.stream.send(Side::Server, b"\xf7 said");
            run.stream.send(Side::Client, &[b"\n", &run.talk.request[..]].concat());
        });
    }
}

/// A body of requests, a file that is loaded into a table: what is like a request but for its end.
#[test]
fn what_only_begins_like_a_request_is_not_taken_up() {
    let kernel = Kernel::new();
    let talks = talks();
    let line = "GET /a HTTP/1.1\r\n";
    let lines = [line.into(), format!("{line}{line}"), format!("{line}10.0.0.1 - - [29/Nov]: \"")];
    let mut bodies: Vec<(&str, Vec<u8>)> =
        lines.into_iter().map(|text| ("http", text.into_bytes())).collect();
    // Packets of a file, whose numbers begin again at 0 after 256 of them.
    for first in 1..0x20 {
        bodies.push(("mysql", mysql_cases::command(first, "\x01\x02\x03\x04, of a file\n")));
    }
    bodies.push(("mysql", mysql_cases::command(0x03, "\x7f")));
    bodies.push(("mysql", mysql_cases::command(0x0e, "\n")));
    for ((name, body), port) in bodies.iter().zip(40_000..) {
        let talk = talks.iter().find(|talk| talk.name == *name).unwrap();
        let mut run = Run::new(&kernel, talk, Role::ROLE_SERVER, port);
        run.lose(Side::Client);
        run.stream.send(Side::Server, b"\xf7 said");
        run.stream.send(Side::Client, body);
        run.answer();
        assert_eq!(run.since(), [0, 0, 1], "{}", body.escape_ascii());
        // But for what surely is one.
        run.ask();
        run.answer();
        assert_eq!(run.since(), [1, 1, 1], "{}", body.escape_ascii());
    }
}

/// The forms of a request that are taken up.
#[test]
fn each_form_of_a_command_is_taken_up() {
    let kernel = Kernel::new();
    let talks = talks();
    let talk = talks.iter().find(|talk| talk.name == "mysql").unwrap();
    let commands = [
        mysql_cases::query("\n select 1"),
        mysql_cases::command(0x02, "db"),
        mysql_cases::command(0x16, "select ?"),
        mysql_cases::command(0x17, "\x01\0\0\0\0\x01\0\0\0"),
        mysql_cases::command(0x0e, ""),
        mysql_cases::command(0x1f, ""),
    ];
    for (command, port) in commands.iter().zip(40_000..) {
        let mut run = Run::new(&kernel, talk, Role::ROLE_SERVER, port);
        run.lose(Side::Client);
        run.stream.send(Side::Server, b"\xf7 said");
        run.stream.send(Side::Client, command);
        run.stream.reset(Side::Client);
        assert_eq!(run.since(), [1, 1, 1], "{}", command.escape_ascii());
    }
}
