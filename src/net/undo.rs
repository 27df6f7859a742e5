//! Roll-back: what has been done so far, and how to take it back.

use std::fmt;

use crate::error::Result;

type Step = Box<dyn FnOnce() -> Result<()>>;

/// A stack of reversals. Each effect pushes its own right after it succeeded; unless the whole call
/// succeeds and [disarms](Self::disarm) it, dropping the stack runs them, last one first.
#[derive(Default)]
pub struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// An empty stack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers how to reverse what has just been done. `what` names the reversal in a log line.
    pub fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<()> + 'static) {
        self.steps.push((what.into(), Box::new(step)));
    }

    /// The call succeeded: nothing is to be reversed.
    pub fn disarm(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some((what, step)) = self.steps.pop() {
            // The error that started the roll-back is what the caller reports; one that strikes
            // during it must not stop the rest.
            if let Err(err) = step() {
                eprintln!("weir: rolling back: can't {what}: {err}");
            }
        }
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(what, _)| what)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::error::{Error, Kind};

    fn recording(undo: &mut Undo) -> Rc<RefCell<Vec<u32>>> {
        let done = Rc::new(RefCell::new(Vec::new()));
        for step in [1, 2, 3] {
            let done = Rc::clone(&done);
            undo.push(format!("step {step}"), move || {
                done.borrow_mut().push(step);
                if step == 2 { Err(Error::new(Kind::Kernel, "no")) } else { Ok(()) }
            });
        }
        done
    }

    #[test]
    fn runs_backwards_and_past_failures() {
        let mut undo = Undo::new();
        let done = recording(&mut undo);
        drop(undo);
        assert_eq!(*done.borrow(), [3, 2, 1]);
    }

    #[test]
    fn disarmed_does_nothing() {
        let mut undo = Undo::new();
        let done = recording(&mut undo);
        assert_eq!(format!("{undo:?}"), r#"["step 1", "step 2", "step 3"]"#);
        undo.disarm();
        assert!(done.borrow().is_empty());
    }
}
