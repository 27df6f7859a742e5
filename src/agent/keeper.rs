//! Keeps the agent's place while pins come and go, and ends the agent where another has taken it.

use tokio::sync::oneshot::Sender;

use crate::{
    error::{Error, Kind},
    telemetry::place::Place,
};

/// The place of this agent, and whom to tell that it is lost.
#[derive(Debug)]
pub struct Keeper {
    place: Place,
    lost: Option<Sender<Error>>,
}

impl Keeper {
    /// Of a place that was taken.
    pub fn new(place: Place, lost: Sender<Error>) -> Self {
        Self { place, lost: Some(lost) }
    }

    /// Looks after the place; says whether it is still this agent's. Whatever else keeps it from that is told
    /// by who reads the maps.
    pub fn keep(&mut self) -> bool {
        match self.place.keep() {
            Err(err) if err.kind() == Kind::Unavailable => {
                if let Some(lost) = self.lost.take() {
                    // Who is gone is stopping anyway.
                    let _ = lost.send(err);
                }
                false
            }
            _ => self.lost.is_some(),
        }
    }
}
