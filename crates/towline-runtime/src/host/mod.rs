//! What carries a shard loop: a thread of its own, or a task in a glommio executor.

pub(crate) mod glommio;
pub(crate) mod thread;
