//! The words of the protocol: positions, terms, levels, windows, watermarks, limits.

mod id;
mod level;
pub mod limits;
mod lsn;
mod meta;
mod term;
mod watermarks;
mod window;

pub use id::{LogId, NodeId, PeerIndex, SessionId, TicketId};
pub use level::Level;
pub use lsn::{Geometry, GeometryError, Lsn, Span};
pub use meta::{Meta, RegisteredStandby};
pub use term::{HistoryError, Term, TermHistory, TermStart};
pub use watermarks::{Position, StandbyWatermarks};
pub use window::Window;
