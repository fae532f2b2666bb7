//! (arrives with its first code)
