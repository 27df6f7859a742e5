//! A record as it is kept: read once, written once, and shared by all who wait to be told of it.

use std::{cell::OnceCell, sync::Arc, time::SystemTime};

use hyper::body::Bytes;

use super::{flow::Flow, id::Id, queue::record};

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

    /// The event that tells of it; its id is always `id`.
    pub fn written(&self, id: Id) -> Bytes {
        self.written.get_or_init(|| record(id, &self.flow).into()).clone()
    }
}
