//! Workloads, load generators, floors and sweeps that measure Towline
