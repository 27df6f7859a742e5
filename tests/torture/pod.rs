//! A pod that lives: its namespace, what ADD said of it, and the ends of HTTP in it.

use std::{
    net::IpAddr,
    process::{Child, Command},
};

use serde_json::Value;

use crate::{
    http::{Server, Tally},
    plan::Shape,
    plugin::{Container, ips},
};

/// A container after a successful ADD.
pub struct Pod {
    pub container: Container,
    pub shape: Shape,
    pub place: usize,
    /// What ADD said.
    pub result: Value,
    pub server: Server,
    pub asked: Tally,
    _pause: Option<Pause>,
}

impl Pod {
    pub fn new(container: Container, place: usize, result: Value) -> Self {
        let shape = Shape::of(place);
        let server = Server::new(&container.space);
        let pause = shape.inhabited.then(|| {
            let net = format!("--net={}", container.space.path().display());
            Pause(Command::new("nsenter").args([&net, "sleep", "infinity"]).spawn().unwrap())
        });
        Self { container, shape, place, result, server, asked: Tally::default(), _pause: pause }
    }

    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// The namespace and name that the agent shows it by.
    pub fn labels(&self) -> (&'static str, String) {
        match name(self.place) {
            Some(name) => (NAMESPACE, name),
            None => ("", self.container.id.clone()),
        }
    }

    /// The interface on the node.
    pub fn host_ifname(&self) -> &str {
        self.result["interfaces"][0]["name"].as_str().unwrap()
    }

    pub fn ips(&self) -> Vec<IpAddr> {
        ips(&self.result).iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// The port of the node that leads to it.
    pub fn host_port(&self) -> Option<u16> {
        host_port(self.place)
    }

    /// Its processes end; what is left is what the runtime has to take away.
    pub fn stop(self) -> Container {
        self.container
    }
}

/// What a pause container runs.
struct Pause(Child);

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The Kubernetes namespace of those that have a name.
pub const NAMESPACE: &str = "torture";

/// The Kubernetes name of the pods at a place.
pub fn name(place: usize) -> Option<String> {
    Shape::of(place).named.then(|| format!("p{place}"))
}

pub fn host_port(place: usize) -> Option<u16> {
    Shape::of(place).host_port.then(|| 10_000 + u16::try_from(place).unwrap())
}
