//! Conformance of CNI plugins: cases as data, and a runner that plays the runtime.
//!
//! A [`case`] says how a plugin is called and what must come of it: in its answer ([`protocol`],
//! [`shape`]) and in the kernel ([`kernel`], [`footprint`]). [`suite::run`] makes a node of namespaces
//! for each run ([`node`]), calls the plugin there as libcni would ([`call`]), and says what held. What
//! a case may say is in README.md.

pub mod call;
pub mod case;
pub mod delegate;
pub mod edit;
pub mod facts;
pub mod footprint;
pub mod kernel;
pub mod look;
pub mod node;
pub mod play;
pub mod process;
pub mod protocol;
pub mod report;
pub mod shape;
pub mod step;
pub mod suite;
pub mod version;

/// What can go wrong while a case is played, as a sentence for its reader.
pub type Result<T, E = String> = std::result::Result<T, E>;

/// Says what was being done when an error of the system struck.
pub trait Context<T> {
    /// Puts `what` before the error's own words.
    ///
    /// # Errors
    /// The same, in words.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| format!("{}: {err}", what()))
    }
}
