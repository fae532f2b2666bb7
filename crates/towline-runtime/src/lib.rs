//! The shard loop of Towline, its hosts, listeners and client handles

pub mod storage;
