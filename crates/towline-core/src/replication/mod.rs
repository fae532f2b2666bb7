//! Who counts, how far each standby is, and what may be acknowledged.
//!
//! [`CommitGate`] is the only place where anything waits; [`SyncRule`] says which standbys it listens to;
//! [`progress`] keeps, for the shipping side, how far each standby is.

pub mod gate;
pub mod progress;
pub mod single_leader;
pub mod sync_rule;
mod ticket;

pub use gate::{CommitGate, GateError, GateOutput, GateStatus, Stage, Unmet, check_window};
pub use progress::{Progress, ReportEffect, ReportError};
pub use sync_rule::{Members, Method, RuleError, SyncRule};
pub use ticket::{Ticket, TicketOutcome};
