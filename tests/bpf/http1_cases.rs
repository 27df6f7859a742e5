//! HTTP/1 exchanges, with what is to be counted of each.

use weir::telemetry::wire::{HttpMethod, HttpVersion};

use crate::exchange::{Exchange, http1 as exchange};

const V1_0: HttpVersion = HttpVersion::HTTP_VERSION_1_0;
const V1_1: HttpVersion = HttpVersion::HTTP_VERSION_1_1;

pub fn exchanges() -> Vec<Exchange> {
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
        exchange("tunnel", "CONNECT a:443 HTTP/1.1\r\n\r\n\x16\x03\x01GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03HTTP/1.1 500 Oh\r\n\r\n", &[(M::HTTP_METHOD_CONNECT, V1_1, 200)], (0, 0)),
        exchange("lines longer than the window", long, format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 2\r\n\r\nok", "s".repeat(900)), &[(get, V1_1, 200)], (0, 2)),
        exchange("headers that look like framing", "GET / HTTP/1.1\r\nX-Content-Length: 7\r\nContent-Length-X: 9\r\nContent-Type: a\r\nTransfer-Encodings: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: text/plain; a=Content-Length: 5\r\nContent-Length: 2\r\n\r\nok", &[(get, V1_1, 200)], (0, 2)),
        exchange("sixty pipelined of changing methods", "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nPOST /c HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".repeat(20), format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 1\r\n\r\nx").repeat(20), &[(get, V1_1, 200), (head, V1_1, 200), (post, V1_1, 503)].repeat(20), (60, 60)),
    ]
}
