//! Storage on a real disk: directories, meta block, keeper, recovery, crash points.

mod directory;
mod keeper;
mod recovery;
mod support;
