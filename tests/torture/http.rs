//! The ends of HTTP in the pods, which count for themselves what they exchange.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{Shutdown, shutdown};

use crate::{dice::Dice, node::Space};

/// Anything on one machine is there by then.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 80;

/// Exchanges by method and status.
pub type Counts = BTreeMap<(String, u16), u64>;

/// What one end has counted.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

impl Tally {
    fn add(&self, method: &str, status: u16) {
        *self.0.lock().unwrap().entry((method.to_owned(), status)).or_default() += 1;
    }

    pub fn read(&self) -> Counts {
        self.0.lock().unwrap().clone()
    }
}

/// A server in a pod: it answers with the status that a path asks for.
pub struct Server {
    listener: Arc<TcpListener>,
    accepting: Option<JoinHandle<()>>,
    pub served: Tally,
}

impl Server {
    /// Listens by both families.
    pub fn new(space: &Space) -> Self {
        let any = SocketAddr::new("::".parse().unwrap(), PORT);
        let listener = Arc::new(space.run(|| TcpListener::bind(any).unwrap()));
        let served = Tally::default();
        let (accepting, counting) = (Arc::clone(&listener), served.clone());
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let counting = counting.clone();
                thread::spawn(move || serve(stream, &counting));
            }
        });
        Self { listener, accepting: Some(accepting), served }
    }
}

impl Drop for Server {
    /// Its socket would keep the pod's namespace alive.
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn serve(mut stream: TcpStream, served: &Tally) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split(' ');
        let method = words.next().unwrap();
        let status = words.next().unwrap()[1..].parse().unwrap();
        // Counted before the client can know.
        served.add(method, status);
        if stream.write_all(answer(status).as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(status: u16) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok")
}

/// A connection from the thread's own namespace; what went wrong instead.
pub fn connect(to: IpAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), PATIENCE);
    let stream = stream.map_err(|err| format!("can't connect to {to}: {err}"))?;
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).unwrap();
    }
    stream.set_nodelay(true).unwrap();
    Ok(stream)
}

/// One exchange, of a method and a status by chance.
pub fn ask(stream: &mut TcpStream, dice: &mut Dice, asked: &Tally) -> Result<(), String> {
    let method = dice.pick(&["GET", "POST", "PUT", "DELETE"]);
    let status = dice.pick(&[200, 201, 404, 500]);
    let head = format!("{method} /{status} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0\r\n\r\n");
    let mut answered = vec![0; answer(status).len()];
    let done = stream.write_all(head.as_bytes()).and_then(|()| stream.read_exact(&mut answered));
    done.map_err(|err| format!("no answer: {err}"))?;
    if answered != answer(status).as_bytes() {
        return Err(format!("a wrong answer: {}", String::from_utf8_lossy(&answered)));
    }
    asked.add(method, status);
    Ok(())
}
