//! Judges a run from its log of events: what was accepted, flushed, reported and acknowledged, who crashed, and who
//! led with what afterwards.
//!
//! What it does: recomputes safe positions, fill and exposure from acks and reports, says where an acknowledgement
//! promised more than was there, and after every crash holds each level to its own promise ([`check`], or
//! [`Checker`] as the run goes); compares the records that were acknowledged with those that a recovery found
//! ([`records_survive`]), and copies of the log with each other ([`replicas_agree`]).
//! What it never does: believe a figure that the commit gate computed, or share code with it (only the words:
//! levels, windows, the text of a sync rule).
//!
//! Start at [`check`]; histories are JSON lines ([`read_events`]), one [`Event`] each, in the order in which the
//! primary saw them; [`NodeHistory`] makes them of a node's inputs and outputs. O(n log n) in the number of events.

mod checker;
mod event;
mod history;
mod node_history;
mod outcome;
mod replicas;
mod rules;
mod survive;
mod violation;

pub use checker::{Checker, check};
pub use event::{AckEvent, Damage, Event, ReadError, TicketEvent, read_events, write_events};
pub use node_history::NodeHistory;
pub use outcome::{Summary, Verdict};
pub use replicas::{Replica, StoredBatch, replicas_agree};
pub use survive::{AckedRecord, FoundRecord, LostSpan, lost_span, records_survive};
pub use violation::{Kind, Violation};
