//! Storage on a real disk: directories, meta block, keeper, recovery, crash points.

mod arena;
mod directory;
mod keeper;
mod recovery;
mod support;
