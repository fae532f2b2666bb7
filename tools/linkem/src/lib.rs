//! A user-space TCP link emulator: it listens on a port, forwards every connection to a target, and gives each
//! direction a one-way delay, a rate, a stall or a cut.
//!
//! It never loses, doubles or reorders a byte, and never holds more than a fixed number of bytes: when a delay line
//! is full, the emulator stops reading and the sender sees ordinary TCP back-pressure. What it cannot do, because it
//! works above TCP: lose single packets, or stop the acknowledgements of the direction that a one-way cut leaves open.
//!
//! Start at [`Link::start`]; steer it from a test or a benchmark through [`LinkControl`].
//!
//! ```
//! use linkem::{Direction, Link, LinkConfig};
//! use std::{net::TcpListener, time::Duration};
//!
//! let target = TcpListener::bind("127.0.0.1:0")?;
//! let link = Link::start(LinkConfig::new(target.local_addr()?).with_rtt(Duration::from_millis(5)))?;
//! let control = link.control();
//! control.cut(Direction::Up); // nothing reaches the target any more
//! control.heal();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod connection;
mod control;
mod delay_line;
mod link;

pub use config::{Direction, LinkConfig, LinkError, PathConfig, parse_rate};
pub use control::{LinkControl, LinkStats, PathStats};
pub use link::Link;
