//! Server-sent events (HTML standard, section 9.2.6), as far as the agent sends them.

/// A line beyond this is none of an agent.
const LONGEST: usize = 256 << 10;

/// An event: its name, empty for a record, and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub name: String,
    /// JSON.
    pub data: String,
}

/// Puts events together from the pieces of a stream.
#[derive(Debug, Default)]
pub struct Events {
    rest: Vec<u8>,
    name: String,
}

impl Events {
    /// Takes a piece; returns the events that it ends, or `None` if the stream is not an agent's.
    pub fn take(&mut self, piece: &[u8]) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        self.rest.extend_from_slice(piece);
        let mut at = 0;
        while let Some(length) = self.rest[at..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[at..at + length]).into_owned();
            at += length + 1;
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut self.name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let name = std::mem::take(&mut self.name);
                events.push(Event { name, data: data.to_owned() });
            }
        }
        self.rest.drain(..at);
        (self.rest.len() <= LONGEST).then_some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_pieces_of_any_size() {
        let stream = ": listening\n\ndata: {\"a\":1}\n\nevent: lost\ndata: {}\n\ndata: \u{e9}\n\n";
        let expected = [("", "{\"a\":1}"), ("lost", "{}"), ("", "\u{e9}")]
            .map(|(name, data)| Event { name: name.into(), data: data.into() });
        for size in 1..stream.len() {
            let mut events = Events::default();
            let pieces = stream.as_bytes().chunks(size);
            let got: Vec<_> = pieces.flat_map(|piece| events.take(piece).unwrap()).collect();
            assert_eq!(got, expected, "{size}");
        }
    }

    #[test]
    fn a_stream_without_lines_is_given_up() {
        let mut events = Events::default();
        let endless = (0..1_000).try_fold((), |(), _| events.take(&[b'x'; 1_000]).map(drop));
        assert_eq!(endless, None);
    }
}
