//! The embedding interface of Towline: a durable log that ships itself to standbys
