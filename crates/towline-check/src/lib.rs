//! Judges a run from its log of events: what was accepted, flushed, reported and acknowledged.
//!
//! What it does: recomputes safe positions, fill and exposure from acks and reports, and says where an
//! acknowledgement promised more than was there ([`check`]); compares the records that were acknowledged with
//! those that a recovery found ([`records_survive`]).
//! What it never does: believe a figure that the commit gate computed, or share code with it (only the words:
//! levels, windows, the text of a sync rule).
//!
//! Start at [`check`]; histories are JSON lines ([`read_events`]), one [`Event`] each, in the order in which the
//! primary saw them. O(n log n) in the number of events.

mod checker;
mod event;
mod history;
mod outcome;
mod rules;
mod survive;
mod violation;

pub use checker::check;
pub use event::{AckEvent, Event, ReadError, TicketEvent, read_events, write_events};
pub use outcome::{Summary, Verdict};
pub use survive::{AckedRecord, FoundRecord, LostSpan, lost_span, records_survive};
pub use violation::{Kind, Violation};
