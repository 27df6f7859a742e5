//! The number of a record, by which a listener whose stream broke goes on behind the last one that it had.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

/// An event's id (HTML standard, section 9.2.6): which agent told it, and how many it had told before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    agent: u64,
    number: u64,
}

impl Id {
    /// That of the first record of an agent which starts now. The clock tells agents apart: one that was set
    /// back to the very nanosecond of another's start is not to be feared.
    pub fn first(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { agent: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), number: 0 }
    }

    /// That of the record so many later.
    pub fn plus(self, records: usize) -> Self {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        Self { number: self.number.saturating_add(records), ..self }
    }

    /// How many records later than `other` it is, less than none if earlier; none if another agent told that.
    pub fn since(self, other: Self) -> Option<i64> {
        let apart = i128::from(self.number) - i128::from(other.number);
        (self.agent == other.agent).then(|| i64::try_from(apart).unwrap_or(i64::MIN))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.agent, self.number)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-').filter(|(_, number)| !number.starts_with('+'));
        let read = parts.and_then(|(agent, number)| {
            let agent = u64::from_str_radix(agent, 16).ok().filter(|_| !agent.starts_with('+'))?;
            Some(Self { agent, number: number.parse().ok()? })
        });
        read.ok_or_else(|| format!("{text:?} is no id of a record, such as 1871a2b3c4d5e6f7-42"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = Id::first(UNIX_EPOCH + Duration::from_secs(1)).plus(42);
        assert_eq!((id.to_string(), id.to_string().parse()), ("3b9aca00-42".into(), Ok(id)));
        for text in
            ["", "-", "1", "1-", "-1", "x-1", "1-x", "+1-1", "1-+1", "1-1-1", "1ffffffffffffffff-1"]
        {
            assert!(text.parse::<Id>().unwrap_err().contains("such as"), "{text}");
        }
    }

    #[test]
    fn only_ids_of_one_agent_have_an_order() {
        let first = Id::first(UNIX_EPOCH);
        assert_eq!(first.plus(3).since(first), Some(3));
        assert_eq!(first.since(first.plus(3)), Some(-3));
        assert_eq!(first.since(Id::first(UNIX_EPOCH + Duration::from_nanos(1))), None);
        let far = "0-18446744073709551615".parse::<Id>().unwrap();
        assert_eq!((first.since(far), far.plus(1)), (Some(i64::MIN), far));
    }
}
