//! What a link is made of: its two paths, its limits, and what can go wrong when it starts.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

/// The longest one-way delay: one minute.
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(60);
/// The smallest delay line, two full reads.
pub(crate) const MIN_BUFFER_BYTES: usize = 64 * 1024;
/// The largest delay line.
pub(crate) const MAX_BUFFER_BYTES: usize = 1 << 30;
/// The longest spin before a delivery; more would burn a core for nothing.
pub(crate) const MAX_SPIN: Duration = Duration::from_millis(1);

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the one who connects to the target.
    Up,
    /// From the target back to the one who connected.
    Down,
    /// Both ways.
    Both,
}

impl Direction {
    pub(crate) fn paths(self) -> &'static [usize] {
        match self {
            Self::Up => &[UP],
            Self::Down => &[DOWN],
            Self::Both => &[UP, DOWN],
        }
    }
}

impl std::str::FromStr for Direction {
    type Err = LinkError;

    fn from_str(word: &str) -> Result<Self, LinkError> {
        match word {
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            "both" => Ok(Self::Both),
            _ => Err(LinkError::Config(format!("direction '{word}': use up, down or both"))),
        }
    }
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathConfig {
    /// One-way delay, kept to the microsecond; at most one minute.
    pub delay: Duration,
    /// Bytes per second, shared by all connections in this direction; `None` is as fast as the machine goes.
    pub rate_bytes_per_s: Option<NonZeroU64>,
}

/// A link to be started. [`LinkConfig::new`] gives one without delay or limit.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Where to listen; port 0 takes a free one, which [`Link::local_addr`](crate::Link::local_addr) tells.
    pub listen: SocketAddr,
    /// Where every connection is forwarded to.
    pub target: SocketAddr,
    /// From the one who connects to the target.
    pub up: PathConfig,
    /// From the target back.
    pub down: PathConfig,
    /// Bytes that a direction of one connection may hold (64 KiB to 1 GiB). It must exceed rate × delay, or the
    /// buffer and not the rate is the limit.
    pub buffer_bytes: usize,
    /// Connections at the same time; more wait in the listen queue.
    pub max_connections: usize,
    /// How long before a delivery the thread stops sleeping and polls, yielding its core between polls. Longer is
    /// more exact and costs more processor time.
    pub spin: Duration,
}

impl LinkConfig {
    /// A link to `target` that listens on a free loopback port and adds nothing yet.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            target,
            up: PathConfig::default(),
            down: PathConfig::default(),
            buffer_bytes: 16 << 20,
            max_connections: 64,
            spin: Duration::from_micros(40),
        }
    }

    /// Half of `rtt` in each direction.
    pub fn with_rtt(mut self, rtt: Duration) -> Self {
        self.up.delay = rtt / 2;
        self.down.delay = rtt - rtt / 2;
        self
    }

    /// The same rate in both directions, in bytes per second.
    pub fn with_rate(mut self, rate_bytes_per_s: NonZeroU64) -> Self {
        self.up.rate_bytes_per_s = Some(rate_bytes_per_s);
        self.down.rate_bytes_per_s = Some(rate_bytes_per_s);
        self
    }

    pub(crate) fn check(&self) -> Result<(), LinkError> {
        let refuse = |text: String| Err(LinkError::Config(text));
        if self.up.delay > MAX_DELAY || self.down.delay > MAX_DELAY {
            return refuse(format!("a delay is at most {} s", MAX_DELAY.as_secs()));
        }
        if !(MIN_BUFFER_BYTES..=MAX_BUFFER_BYTES).contains(&self.buffer_bytes) {
            return refuse(format!("buffer_bytes is {MIN_BUFFER_BYTES} to {MAX_BUFFER_BYTES}"));
        }
        if !(1..=1024).contains(&self.max_connections) {
            return refuse("max_connections is 1 to 1024".into());
        }
        if self.spin > MAX_SPIN {
            return refuse(format!("spin is at most {} µs", MAX_SPIN.as_micros()));
        }
        Ok(())
    }
}

/// Why a link could not be started or a setting was refused.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A value outside its range.
    #[error("link settings refused: {0}")]
    Config(String),
    /// The port could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The thread or its wake-up could not be made.
    #[error("cannot start the link's thread: {0}")]
    Start(#[source] std::io::Error),
}

/// Reads a rate in bytes per second: a number with an optional `k`, `M` or `G` (powers of ten), or `none`.
///
/// # Errors
/// [`LinkError::Config`] for anything else, zero included: a link that lets nothing pass is a stall or a cut.
pub fn parse_rate(text: &str) -> Result<Option<NonZeroU64>, LinkError> {
    if text == "none" {
        return Ok(None);
    }
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let rate = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).and_then(NonZeroU64::new);
    rate.map(Some).ok_or_else(|| {
        LinkError::Config(format!("rate '{text}': bytes per second as 125000, 125k, 10M or 1G, or none"))
    })
}

pub(crate) const UP: usize = 0;
pub(crate) const DOWN: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_unit_and_nonsense_is_refused() {
        assert_eq!(parse_rate("125k").unwrap(), NonZeroU64::new(125_000));
        assert_eq!(parse_rate("7").unwrap(), NonZeroU64::new(7));
        assert_eq!(parse_rate("none").unwrap(), None);
        for bad in ["", "0", "k", "-3", "1T", "99999999999999G"] {
            assert!(parse_rate(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        let good = LinkConfig::new("127.0.0.1:1".parse().unwrap());
        assert!(good.check().is_ok());
        assert!(LinkConfig { buffer_bytes: 1, ..good.clone() }.check().is_err());
        assert!(LinkConfig { spin: Duration::from_secs(1), ..good.clone() }.check().is_err());
        assert!(LinkConfig { max_connections: 0, ..good.clone() }.check().is_err());
        assert!(good.with_rtt(Duration::from_secs(600)).check().is_err());
    }
}
