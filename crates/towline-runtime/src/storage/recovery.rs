//! Recovery at open.
use towline_core::log::Recovered;
use towline_core::types::{Geometry, LogId, Meta, Position};

use super::error::OpenError;
use super::meta_file::MetaFile;
use super::options::StorageOptions;
use super::segments::Segments;

/// What recovery works on.
pub(crate) struct World<'a> {
    pub(crate) segments: &'a Segments,
    pub(crate) log: LogId,
    pub(crate) geometry: Geometry,
    pub(crate) options: &'a StorageOptions,
}

pub(crate) fn recover(
    world: &World<'_>,
    _file: &mut MetaFile,
    meta: &mut Meta,
    _notes: &mut Vec<String>,
) -> Result<Recovered, OpenError> {
    let start = if meta.log_start.0 == 0 { world.geometry.first_batch(0) } else { meta.log_start };
    Ok(Recovered { end: Position { lsn: start, ..Position::default() }, ..Recovered::default() })
}
