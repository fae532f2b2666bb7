//! What everything in a world shares: chance, the clock, the trace, the marks, and the first broken promise.

use crate::marks::Tally;
use crate::rng::Rng;
use crate::trace::Trace;

/// The surroundings of one world.
#[derive(Debug)]
pub struct Env {
    pub rng: Rng,
    pub now_ns: u64,
    pub trace: Trace,
    pub marks: Tally,
    /// The first promise that was broken; the world ends with it.
    pub broken: Option<String>,
}

impl Env {
    pub fn new(rng: Rng, trace: Trace) -> Env {
        Env { rng, now_ns: 1, trace, marks: Tally::default(), broken: None }
    }

    /// A promise is broken. Only the first counts: the others follow from it.
    pub fn breaks(&mut self, what: String) {
        if self.broken.is_none() {
            self.trace.say(self.now_ns, usize::MAX, &what);
            self.broken = Some(what);
        }
    }
}

/// Ends the world with this text unless the condition holds.
macro_rules! promise {
    ($env:expr, $holds:expr, $($text:tt)+) => {
        if !$holds {
            $env.breaks(format!($($text)+));
        }
    };
}
pub(crate) use promise;
