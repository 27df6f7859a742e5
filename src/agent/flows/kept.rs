//! A record as it is kept: read once, written once, and shared by all who wait to be told of it.

use std::{cell::OnceCell, sync::Arc, time::SystemTime};

use hyper::body::Bytes;

use super::{flow::Flow, id::Id, queue::record};

/// What the texts take that pods don't choose: time, names, addresses, and in JSON their keys.
const OTHER_TEXTS: usize = 300;

/// A record, for listeners of now and those who come later.
#[derive(Debug, Clone)]
pub struct Kept {
    /// When the exchange ended.
    pub time: SystemTime,
    /// What it was.
    pub flow: Arc<Flow>,
    written: OnceCell<Bytes>,
}

impl Kept {
    /// One that nobody has been told of.
    pub fn new(time: SystemTime, flow: Arc<Flow>) -> Self {
        Self { time, flow, written: OnceCell::new() }
    }

    /// Bytes that it takes, or will once it is written: most of both are its texts.
    pub fn weight(&self) -> usize {
        let flow = &self.flow;
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let texts = [&flow.path, &flow.host, &flow.name, &flow.server_name].map(text);
        let names = flow.alpn.iter().map(String::len).sum::<usize>();
        size_of::<Flow>() + 2 * (texts.into_iter().sum::<usize>() + names + OTHER_TEXTS)
    }

    /// The event that tells of it; its id is always `id`.
    pub fn written(&self, id: Id) -> Bytes {
        self.written.get_or_init(|| record(id, &self.flow).into()).clone()
    }
}
