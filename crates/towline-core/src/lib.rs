//! The protocol of Towline as pure state machines: types, format, log, replication, node
