//! Simulated nodes, each at a loopback address of its own, which all serve one real page with pods and counts of
//! their own; and the receiver of a remote write.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use flate2::{Compression, write::GzEncoder};

use crate::Result;

/// As [`Pod::many`](crate::fill::Pod::many) names the pods, and how that is made one node's.
const POD: &str = "pod=\"p";
const PORT: u16 = 9920;
const SINK: &str = "127.0.0.1:9931";

/// Where the nodes of a fleet are scraped.
pub fn targets(count: u16) -> Vec<String> {
    (0..count).map(|node| format!("{}:{PORT}", address(node))).collect()
}

/// Below 127.1.0.0/16: of a loopback interface every address of 127.0.0.0/8 is its own.
fn address(node: u16) -> Ipv4Addr {
    let [high, low] = node.to_be_bytes();
    [127, 1, high, low].into()
}

/// Serves the page at the address of whatever node is asked.
pub fn serve(page: &str, content_type: &str) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let page = Arc::new(Template::of(page));
    let grown: Arc<Mutex<HashMap<SocketAddr, u64>>> = Arc::default();
    let content_type: Arc<str> = content_type.into();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(std::result::Result::ok) {
            let (page, grown) = (Arc::clone(&page), Arc::clone(&grown));
            let content_type = Arc::clone(&content_type);
            thread::spawn(move || {
                // Whoever asks sees a failure as a target that is down.
                answer(stream, &page, &grown, &content_type).ok()
            });
        }
    });
    Ok(())
}

/// One scrape a connection, compressed, as the agent has it.
fn answer(
    mut stream: TcpStream,
    page: &Template,
    grown: &Mutex<HashMap<SocketAddr, u64>>,
    content_type: &str,
) -> Result<()> {
    let node = stream.local_addr()?;
    read_head(&mut BufReader::new(&mut stream))?;
    let grown = {
        let mut all = grown.lock().map_err(|_| "a thread panicked")?;
        let grown = all.entry(node).or_default();
        // Steps of many lengths, since equal ones would be stored in fewer bits than a pod's.
        *grown += 1 + (*grown * 31 + u64::from(node.port())) % 97;
        *grown
    };
    let mut body = GzEncoder::new(Vec::new(), Compression::fast());
    body.write_all(page.rendered(node, grown).as_bytes())?;
    let body = body.finish()?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Encoding: gzip\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    Ok(stream.write_all(&body)?)
}

/// A page, its lines before and after what grows.
struct Template(Vec<(String, Option<f64>)>);

impl Template {
    fn of(page: &str) -> Self {
        Self(
            page.lines()
                .map(|line| grows(line).unwrap_or_else(|| (line.to_owned(), None)))
                .collect(),
        )
    }

    fn rendered(&self, node: SocketAddr, grown: u64) -> String {
        let mut page = String::with_capacity(self.0.len() * 128);
        for (start, value) in &self.0 {
            page += start;
            if let Some(value) = value {
                page += &format!(" {}", value + grown as f64);
            }
            page.push('\n');
        }
        let node = node.ip().to_string().replace('.', "-");
        page.replace(POD, &format!("pod=\"shop-6d4cf56db6-{node}-p"))
    }
}

/// The series and the value of a line, if that is one of a counter or of a classic histogram.
fn grows(line: &str) -> Option<(String, Option<f64>)> {
    let name = line.split(['{', ' ']).next()?;
    ["_total", "_bucket", "_count", "_sum"].iter().find(|end| name.ends_with(*end))?;
    let (series, value) = line.rsplit_once(' ')?;
    Some((series.to_owned(), Some(value.parse().ok()?)))
}

/// The receiver of a remote write: it takes everything and keeps nothing.
#[derive(Default)]
pub struct Sink {
    pub requests: AtomicU64,
    /// Of requests, with their heads.
    pub bytes: AtomicU64,
}

impl Sink {
    pub fn url() -> String {
        format!("http://{SINK}/api/v1/write")
    }

    pub fn start() -> Result<Arc<Self>> {
        let listener = TcpListener::bind(SINK)?;
        let sink = Arc::new(Self::default());
        let own = Arc::clone(&sink);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let sink = Arc::clone(&own);
                thread::spawn(move || sink.take(stream).ok());
            }
        });
        Ok(sink)
    }

    /// Until the connection ends.
    fn take(&self, mut stream: TcpStream) -> Result<()> {
        let mut requests = BufReader::new(stream.try_clone()?);
        loop {
            let head = read_head(&mut requests)?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let length: u64 = length.ok_or("a write without a length")?;
            std::io::copy(&mut requests.by_ref().take(length), &mut std::io::sink())?;
            self.requests.fetch_add(1, Relaxed);
            self.bytes.fetch_add(head.len() as u64 + length, Relaxed);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        }
    }
}

/// A request up to and with its empty line.
fn read_head(from: &mut impl BufRead) -> Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err("the connection ended".into());
        }
    }
    Ok(head)
}
