//! What a Towline measurement leaves behind: the schema of `report.json`, the run folder, the statistics, the
//! terminal tables and the self-contained HTML page.
//!
//! It never measures anything and never talks to a network; it only keeps, condenses and shows what was measured.
//! Percentiles come from merged histograms and are never averaged. Start at [`Report`]: [`Report::load`],
//! [`Report::save`], [`render_html`], [`print_tables`]; a run writes through [`RunFolder`].

pub mod advise;
pub mod against;
pub mod environment;
mod experiments;
mod groups;
pub mod histograms;
mod html;
mod index;
pub mod knee;
pub mod noise;
mod peers;
mod run_folder;
pub mod schema;
pub mod series;
pub mod stats;
pub mod survive_run;
#[cfg(test)]
mod synthetic;
mod table;
mod units;

pub use html::{render_html, render_html_with_loss};
pub use index::{index_page, write_index};
pub use run_folder::{FolderError, RunFolder, utc_now_rfc3339};
pub use schema::{LoadError, Report};
pub use survive_run::SurviveRun;
pub use table::{format_comparison, format_tables, print_tables};
pub use units::grouped;
