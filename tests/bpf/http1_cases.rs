//! HTTP/1 exchanges, with what is to be counted of each.

use weir::telemetry::wire::{HttpMethod, HttpVersion, L7Protocol};

use crate::{
    exchange::{Exchange, http1 as exchange},
    malformed_cases::HEAD_MAX,
    stream::Side::{Client, Server},
};

const V1_0: HttpVersion = HttpVersion::HTTP_VERSION_1_0;
const V1_1: HttpVersion = HttpVersion::HTTP_VERSION_1_1;

pub fn exchanges() -> Vec<Exchange> {
    let mut all = of_two_turns();
    all.extend([until_close(), early_errors(), early_error_that_ends_it(), heads_at_their_bound()]);
    all.extend([refused_tunnel(), refused_tunnels_at_once()]);
    all
}

/// An exchange in which the sides say these in turn, the client first.
fn in_turns(name: &'static str, turns: &[&str]) -> Exchange {
    let turns = turns.iter().zip([Client, Server].into_iter().cycle());
    let turns: Vec<_> = turns.map(|(text, side)| (side, text.as_bytes().to_vec())).collect();
    Exchange::of(name, turns, L7Protocol::L7_HTTP1)
}

/// The last of three answers says neither how long it is nor that it has chunks.
fn until_close() -> Exchange {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let open = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let body = "HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\nx\r\n\r\n";
    in_turns("a body until close", &[&get.repeat(2), ok, get, &[ok, open, body].concat()])
        .bodies(0, 4 + body.len() as u64)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
}

/// RFC 9110, 9.3.6: only a successful response opens a tunnel. The connection goes on with requests,
/// one of them a CONNECT again, which opens one.
fn refused_tunnel() -> Exchange {
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let refused = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 3\r\n\r\nwho";
    let get = "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST http://a/ HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let open = "HTTP/1.1 200 Connection established\r\n\r\n";
    in_turns("a refused tunnel", &[connect, refused, get, ok, post, ok, connect, open, get, ok])
        .bodies(4, 3 + 2 + 2)
        .request(HttpMethod::HTTP_METHOD_CONNECT, V1_1, 407)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_POST, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_CONNECT, V1_1, 200)
}

/// One that is asked behind other requests at once, and again when it was refused.
fn refused_tunnels_at_once() -> Exchange {
    let get = "GET http://a/ HTTP/1.1\r\n\r\n";
    let connect = "CONNECT a:443 HTTP/1.1\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let refused = "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n";
    let both = [get, get, connect].concat();
    let answers = [ok, ok, refused].concat();
    in_turns("refused tunnels behind others", &[&both, &answers, &both, &answers])
        .bodies(0, 8)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_CONNECT, V1_1, 403)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
        .request(HttpMethod::HTTP_METHOD_CONNECT, V1_1, 403)
}

/// Answered before the request's body is whole, which comes all the same.
fn early_errors() -> Exchange {
    let post = "POST /a HTTP/1.1\r\nContent-Length: 20\r\n\r\nfirst";
    let rest = "\r\n\r\nGET / HTTP\r\n";
    let large = "HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n\r\nbig";
    let put = "PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfir";
    let more = "st\r\n3\r\nGET\r\n0\r\n\r\n";
    let none = "HTTP/1.1 404 None\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnone\r\n0\r\n\r\n";
    let get = "GET / HTTP/1.1\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (then_put, then_get) = ([rest, put].concat(), [more, get].concat());
    in_turns("errors before the body's end", &[post, large, &then_put, none, &then_get, ok])
        .bodies(20 + 8, 3 + 4 + 2)
        .request(HttpMethod::HTTP_METHOD_POST, V1_1, 413)
        .request(HttpMethod::HTTP_METHOD_PUT, V1_1, 404)
        .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
}

/// The rest of the body never comes.
fn early_error_that_ends_it() -> Exchange {
    let post = "POST /a HTTP/1.1\r\nContent-Length: 200\r\n\r\nfirst";
    let large = "HTTP/1.1 413 Too large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
    in_turns("an error that ends the request", &[post, large]).bodies(5, 3).request(
        HttpMethod::HTTP_METHOD_POST,
        V1_1,
        413,
    )
}

/// The longest heads that are read, of many lines and of one.
fn heads_at_their_bound() -> Exchange {
    let head = |first: &str, line: &str, last: &str| {
        let lines = line.repeat((HEAD_MAX - first.len() - last.len() - 6) / line.len());
        let left = HEAD_MAX - first.len() - lines.len() - last.len() - 6;
        format!("{first}{lines}A:{}\r\n{last}\r\n", "x".repeat(left))
    };
    let lines = head("GET /1 HTTP/1.1\r\n", "Ab: cd\r\n", "Content-Length: 3\r\n");
    let line = head("HEAD /2 HTTP/1.1\r\n", "c", "");
    let answer = head("HTTP/1.1 200 OK\r\n", "Set-Cookie: a=b\r\n", "Content-Length: 4\r\n");
    assert!([&lines, &line, &answer].iter().all(|head| head.len() == HEAD_MAX));
    let none = "HTTP/1.1 204 None\r\n\r\n";
    in_turns(
        "heads at their bound",
        &[&[&lines, "GET", &line].concat(), &[&answer, "body", none].concat()],
    )
    .bodies(3, 4)
    .request(HttpMethod::HTTP_METHOD_GET, V1_1, 200)
    .request(HttpMethod::HTTP_METHOD_HEAD, V1_1, 204)
}

fn of_two_turns() -> Vec<Exchange> {
    use HttpMethod as M;
    let (get, head, post) = (M::HTTP_METHOD_GET, M::HTTP_METHOD_HEAD, M::HTTP_METHOD_POST);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let long = format!(
        "GET /{} HTTP/1.1\r\nCookie: {}\r\nHost: a\r\n\r\n",
        "p".repeat(700),
        "c".repeat(600)
    );
    vec![
        exchange("get", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ok, &[(get, V1_1, 200)], (0, 2)),
        exchange("http/1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 404 Not Found\r\nContent-Length: 3\r\n\r\nnot", &[(get, V1_0, 404)], (0, 3)),
        exchange("head has no body", "HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", format!("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{ok}"), &[(head, V1_1, 200), (get, V1_1, 200)], (0, 2)),
        exchange("204 and 304", "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", &[(get, V1_1, 204), (get, V1_1, 304)], (0, 0)),
        exchange("post with continue", "POST /u HTTP/1.1\r\nExpect: 100-continue\r\ncontent-LENGTH:   11\r\n\r\nGET / HTTP/", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", &[(post, V1_1, 201)], (11, 0)),
        exchange("chunked both ways", "PUT /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5;ext=1\r\nGET /\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\n\r\n1\r\nx\r\n0f\r\nHTTP/1.1 500 Oh\r\n000\r\n\r\n", &[(M::HTTP_METHOD_PUT, V1_1, 200)], (15, 16)),
        exchange("chunked wins over a length", "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n{ok}"), &[(get, V1_1, 200), (get, V1_1, 200)], (0, 6)),
        exchange("bare newlines and an empty line before", "\r\nDELETE /y HTTP/1.1\nHost: a\n\n", "HTTP/1.1 202 Accepted\nContent-Length: 1\n\nx", &[(M::HTTP_METHOD_DELETE, V1_1, 202)], (0, 1)),
        exchange("methods", "OPTIONS * HTTP/1.1\r\n\r\nTRACE / HTTP/1.1\r\n\r\nPATCH /z HTTP/1.1\r\nContent-Length: 1\r\n\r\n!QUERY / HTTP/1.1\r\n\r\nPROPFIND /d HTTP/1.1\r\n\r\n", ok.repeat(5), &[(M::HTTP_METHOD_OPTIONS, V1_1, 200), (M::HTTP_METHOD_TRACE, V1_1, 200), (M::HTTP_METHOD_PATCH, V1_1, 200), (M::HTTP_METHOD_QUERY, V1_1, 200), (M::HTTP_METHOD_OTHER, V1_1, 200)], (1, 10)),
        exchange("blanks behind a version and a coding", "GET / HTTP/1.1    \r\n\r\nGET / HTTP/1.1\r\n\r\n", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked     \r\n\r\n2\r\nok\r\n0\r\n\r\n{ok}"), &[(get, V1_1, 200), (get, V1_1, 200)], (0, 4)),
        exchange("tunnel", "CONNECT a:443 HTTP/1.1\r\n\r\n\x16\x03\x01GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03HTTP/1.1 500 Oh\r\n\r\n", &[(M::HTTP_METHOD_CONNECT, V1_1, 200)], (0, 0)),
        exchange("lines longer than the window", long, format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 2\r\n\r\nok", "s".repeat(900)), &[(get, V1_1, 200)], (0, 2)),
        exchange("headers that look like framing", "GET / HTTP/1.1\r\nX-Content-Length: 7\r\nContent-Length-X: 9\r\nContent-Type: a\r\nTransfer-Encodings: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: text/plain; a=Content-Length: 5\r\nContent-Length: 2\r\n\r\nok", &[(get, V1_1, 200)], (0, 2)),
        exchange("sixty pipelined of changing methods", "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nPOST /c HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".repeat(20), format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx").repeat(20), &[(get, V1_1, 200), (head, V1_1, 200), (post, V1_1, 503)].repeat(20), (60, 60)),
    ]
}
