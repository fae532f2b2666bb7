//! Every claim of SEMANTICS.md as an experiment: a real primary and two standbys, each on a disk that forgets
//! ([`powercut`]), under a steady load at one commit level; a failure is made to happen at its worst moment; the
//! survivor is asked for every record that was acknowledged.
//!
//! A cell is a level × a failure. It passes when the prediction holds in both directions: nothing lost where that is
//! promised, and something lost, within its bound, where it is not. A loss that is due and was not seen is *not
//! shown*, never passed.
//!
//! What it never does: share code with the nodes' commit gate, or believe what they say of themselves. What was
//! acknowledged comes from the client's own journal; what is there is read from the survivor's log, byte for byte, and
//! every other living node's disk has to hold the same.
//!
//! Start at [`run`]; the cells are [`Row::all`] × [`Failure::ALL`], their promises [`predict`].

mod cluster;
mod context;
mod copies;
mod draw;
mod error;
mod failover;
mod failure;
mod folder;
mod judge;
mod load;
mod matrix;
mod page;
mod predict;
mod process;
mod progress;
mod random;
mod reads;
mod record;
mod replay;
mod row;
mod run;
mod scene;
mod soak;
mod table;
mod watch;
mod work;

pub use error::SurviveError;
pub use failure::Failure;
pub use page::rewrite;
pub use predict::{Promise, predict};
pub use reads::ReadResult;
pub use record::{CellResult, Loss, SurviveReport, Verdict};
pub use row::Row;
pub use run::{Mode, Origin, Outcome, SurviveOptions, cells, run};
pub use soak::{SoakResult, SoakRow, SoakVerdict};
pub use table::render;
