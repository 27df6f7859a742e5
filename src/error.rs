//! The one error type: a kind to branch on, a message for the operator, details from below.
//!
//! The kind is the contract's CNI error code (spec 1.1.0, section "Error"; ours from 101 on). The
//! message names the culprit and, where there is one, the mend; details carry the kernel's or a
//! library's own words.

use std::fmt;

/// What went wrong, as a runtime may branch on it. [`Kind::code`] is the number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 1: the configuration asks for a spec version, or a verb, that its version does not have.
    Version,
    /// 4: a `CNI_*` variable is missing or its value is not allowed.
    Environment,
    /// 5: reading or writing a file failed.
    Io,
    /// 6: standard input is not a JSON object.
    Decode,
    /// 7: a known key of the configuration has a wrong type or value.
    Config,
    /// 8: the network namespace is missing, is not one, or is the host's own.
    Netns,
    /// 11: a lock was not got in time; the same call may go through later.
    TryAgain,
    /// 50: STATUS: this node can't serve an ADD.
    Unavailable,
    /// 101: no address left in a range.
    Exhausted,
    /// 102: the interface name is already taken in the container.
    NameTaken,
    /// 103: CHECK found a difference.
    Difference,
    /// 104: telemetry is required and can't be attached.
    Telemetry,
    /// 105: the kernel refused a request.
    Kernel,
    /// A delegated plugin's own code, passed through.
    Delegate(u32),
}

impl Kind {
    /// The number in the error JSON.
    pub fn code(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::Config => 7,
            Self::Netns => 8,
            Self::TryAgain => 11,
            Self::Unavailable => 50,
            Self::Exhausted => 101,
            Self::NameTaken => 102,
            Self::Difference => 103,
            Self::Telemetry => 104,
            Self::Kernel => 105,
            Self::Delegate(code) => code,
        }
    }
}

/// An error with its kind, its message and the details that a layer below gave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    kind: Kind,
    msg: String,
    details: Option<String>,
}

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error whose message says it all.
    pub fn new(kind: Kind, msg: impl Into<String>) -> Self {
        Self { kind, msg: msg.into(), details: None }
    }

    /// Adds what the layer below said, after what is there already.
    #[must_use]
    pub fn details(mut self, details: impl fmt::Display) -> Self {
        self.details = Some(match self.details {
            Some(before) => format!("{before}; {details}"),
            None => details.to_string(),
        });
        self
    }

    /// The kind to branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message: one line, lower case, no full stop.
    pub fn msg(&self) -> &str {
        &self.msg
    }

    /// The details, if a layer below gave any.
    pub fn details_text(&self) -> Option<&str> {
        self.details.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        self.details.as_ref().map_or(Ok(()), |details| write!(f, ": {details}"))
    }
}

/// Says what was being done when a foreign error struck.
pub trait Context<T> {
    /// Turns a foreign error into ours: `msg` is what was being done, the foreign text the details.
    fn context(self, kind: Kind, msg: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, msg: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| Error::new(kind, msg()).details(err))
    }
}
