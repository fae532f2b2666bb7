//! The only unsafe crate of Towline: ring, registered arena, in-flight operations
