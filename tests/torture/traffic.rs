//! The traffic between pods that live all the time: requests on connections that stay, and a connection
//! for each, by both families, while everything else happens.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use crate::{
    dice::Dice,
    http::{Tally, ask, connect},
    pod::Pod,
};

/// Between two requests of one client.
const PACE: Duration = Duration::from_millis(5);
/// Requests on a connection before another one is made.
const LONG: u64 = 500;

/// The clients, which go on until this is dropped.
pub struct Traffic {
    gate: Arc<RwLock<()>>,
    over: Arc<AtomicBool>,
    wrong: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Each pod asks the next one, in two ways.
    pub fn between(pods: &[&Pod], seed: u64) -> Self {
        let (gate, over, wrong) = Default::default();
        let mut traffic = Self { gate, over, wrong, clients: Vec::new() };
        for (at, pod) in pods.iter().enumerate() {
            let server = pods[(at + 1) % pods.len()];
            for (to, requests) in server.ips().into_iter().zip([LONG, 1]) {
                let dice = Dice::of(seed, at as u64, requests);
                traffic.client(pod, to, requests, dice);
            }
        }
        traffic
    }

    fn client(&mut self, pod: &Pod, to: IpAddr, requests: u64, mut dice: Dice) {
        let (gate, over, wrong) = (self.gate.clone(), self.over.clone(), self.wrong.clone());
        let (asked, name) = (pod.asked.clone(), pod.id().to_owned());
        let netns = File::open(pod.container.space.path()).unwrap();
        self.clients.push(thread::spawn(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            while !over.load(SeqCst) {
                if let Err(why) = converse(to, requests, &mut dice, &asked, &gate, &over) {
                    wrong.lock().unwrap().push(format!("{name} to {to}: {why}"));
                    return;
                }
            }
        }));
    }

    /// Holds the traffic up, between exchanges, while something is looked at.
    pub fn paused<T>(&self, look: impl FnOnce() -> T) -> T {
        let _held = self.gate.write().unwrap();
        look()
    }

    /// Fails if any exchange went wrong.
    pub fn assert_well(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
        self.clients.drain(..).for_each(|client| drop(client.join()));
    }
}

/// One connection, with so many requests.
fn converse(
    to: IpAddr,
    requests: u64,
    dice: &mut Dice,
    asked: &Tally,
    gate: &RwLock<()>,
    over: &AtomicBool,
) -> Result<(), String> {
    let mut stream = {
        // Poisoned: the campaign has failed.
        let Ok(_open) = gate.read() else { return Ok(()) };
        connect(to)?
    };
    for _ in 0..requests {
        if over.load(SeqCst) {
            break;
        }
        let Ok(open) = gate.read() else { break };
        ask(&mut stream, dice, asked)?;
        drop(open);
        thread::sleep(PACE);
    }
    Ok(())
}
