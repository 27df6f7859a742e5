//! nginx in the server's pod. Its access log is its own account: a line a request, once it is over.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    counts::{Counts, assert_counted, tally},
    pair::{Pair, Process, wait_until},
};

pub struct Nginx {
    _process: Process,
    log: PathBuf,
}

/// A request of its log.
struct Line {
    /// Method, protocol and status, as Weir's labels have them.
    what: String,
    body: u64,
}

impl Nginx {
    /// Serves HTTP/1 on port 80 and HTTP/2 without TLS on port 82.
    pub fn start(pair: &Pair) -> Self {
        let dir = pair.path("");
        let www = dir.join("www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("page"), vec![b'p'; 20_000]).unwrap();
        fs::write(www.join("large"), vec![b'l'; 3_000_000]).unwrap();
        // More than all buffers on its way, without any blocks on a disk.
        fs::File::create(www.join("huge")).unwrap().set_len(100_000_000).unwrap();
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(dir.to_str().unwrap())).unwrap();
        let process = pair.serve(&["nginx", "-c", config.to_str().unwrap()]);
        let ready = || {
            let mut command = Command::new("curl");
            command.args(["-sf", "-o", "/dev/null", "http://nginx/page", "--unix-socket"]);
            command.arg(dir.join("nginx.sock")).status().is_ok_and(|status| status.success())
        };
        wait_until("nginx", ready);
        Self { _process: process, log: dir.join("access.log") }
    }

    fn lines(&self) -> Vec<Line> {
        let log = fs::read_to_string(&self.log).unwrap();
        let lines = log.lines().map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap();
            let (method, protocol, status, body) = (next(), next(), next(), next());
            let method = if METHODS.contains(&method) { method } else { "_OTHER" };
            let protocol = protocol.trim_start_matches("HTTP/").replace("2.0", "2");
            // nginx's own number for a connection that it closes without an answer.
            let status = if status == "444" { "0" } else { status };
            Line { what: format!("{method} {protocol} {status}"), body: body.parse().unwrap() }
        });
        lines.collect()
    }

    /// Its requests by method, protocol and status.
    pub fn requests(&self) -> Counts {
        tally(self.lines().into_iter().map(|line| line.what))
    }

    /// Bytes of the responses' bodies.
    pub fn bodies(&self) -> u64 {
        self.lines().iter().map(|line| line.body).sum()
    }
}

/// The methods that Weir knows by name.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

fn configuration(dir: &str) -> String {
    format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
         events {{ worker_connections 1024; }}
         http {{
             log_format own '$request_method $server_protocol $status $body_bytes_sent';
             keepalive_requests 1000000000;
             client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
             uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
             root {dir}/www;
             server {{
                 listen 80; listen [::]:80; listen 82 http2; listen [::]:82 http2;
                 access_log {dir}/access.log own;
                 location / {{ dav_methods PUT DELETE; client_max_body_size 4m; }}
                 location /small {{ client_max_body_size 1k; dav_methods PUT; }}
                 location /hello {{ return 200 hello; }}
                 location /none {{ return 204; }}
                 location /moved {{ return 301 /hello; }}
                 location /closes {{ return 444; }}
             }}
             server {{ listen unix:{dir}/nginx.sock; access_log off; }}
         }}"
    )
}

/// The family that its log is compared with, and the labels.
pub const REQUESTS: &str = "weir_http_requests_total";
pub const LABELS: [&str; 3] = ["method", "protocol", "status"];

/// What nobody asked for, as far as Weir saw; there is none.
pub const UNMATCHED: &str = "weir_http_unmatched_responses_total";

/// Each request has a duration.
pub fn assert_durations(pair: &Pair, nginx: &Nginx) {
    let own = || {
        let mut own = Counts::new();
        for (what, n) in nginx.requests() {
            *own.entry(what.split_once(' ').unwrap().0.to_owned()).or_default() += n;
        }
        own
    };
    assert_counted(pair, "weir_http_request_duration_seconds_count", &["method"], own);
}

/// The bodies of the responses have so many bytes.
pub fn assert_bodies(pair: &Pair, own: u64) {
    let own = || [(String::new(), own)].into();
    assert_counted(pair, "weir_http_response_body_bytes_total", &[], own);
}

/// The base of URLs for a server at that address.
pub fn url(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("http://[{address}]:{port}"),
        false => format!("http://{address}:{port}"),
    }
}
