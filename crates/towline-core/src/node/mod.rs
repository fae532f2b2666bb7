//! Log and replication behind one `Input`/`Output` pair.

mod io;

pub use io::{BatchWish, Event, FreezeReason, Input, Output, SealedBatch, Source, Ticket, TicketOutcome};
