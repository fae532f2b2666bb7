//! What the bare machine can do, measured in the same run: before, between and after the points.

use crate::error::BenchError;
use crate::load::record::new_histogram;
use hdrhistogram::Histogram;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use towline_core::format::copy_with_crc;
use towline_core::types::Level;
use towline_report::schema::{FloorNs, FloorRatio, Floors, FloorsOfRepetition};
use towline_uring::FileMode;
use towline_uring::floor::{self, Limits, Peer, Place, Waiting};

/// The hidden subcommand that makes the program the second process of a floor.
pub const PEER_SUBCOMMAND: &str = "__floor-peer";

/// The whole life of such a process; `args` are those behind the subcommand.
pub fn peer_entry(args: &[String]) -> ExitCode {
    match floor::peer_main(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor peer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where floors are measured.
#[derive(Clone, Debug)]
pub(crate) struct Bed {
    place: Place,
    peer: Peer,
    /// For each floor and each way of waiting.
    time: Duration,
}

impl Bed {
    pub(crate) fn new(dir: &std::path::Path, buffered: bool, time: Duration) -> Self {
        let mode = if buffered { FileMode::Buffered } else { FileMode::Direct };
        Self { place: Place::new(dir, mode), peer: Peer { args: vec![PEER_SUBCOMMAND.into()] }, time }
    }

    /// One set of floors; `bandwidths` take longer and are left out where nothing is held against them.
    pub(crate) fn measure(&self, bandwidths: bool) -> Result<FloorSet, BenchError> {
        let failed = |what: &'static str| {
            move |error: floor::FloorError| BenchError::failed(format!("floor '{what}'"), error)
        };
        let limits = Limits { samples: 20_000, time: self.time };
        let many = Limits { samples: 1_000_000, time: self.time };
        let durable = floor::durable_write(&self.place, limits).map_err(failed("durable write"))?;
        let pair = floor::pair_commit(&self.place, &self.place, &self.peer, limits)
            .map_err(failed("pair commit"))?;
        let round = floor::round_trip(&self.peer, limits).map_err(failed("round trip"))?;
        let depth32 =
            floor::durable_writes_per_s(&self.place, 32, many).map_err(failed("durable writes, depth 32"))?;
        let (disk, net) = if bandwidths {
            let disk = floor::sequential_write(&self.place, many).map_err(failed("disk bandwidth"))?;
            let net = floor::stream(&self.peer, many).map_err(failed("network bandwidth"))?;
            (Some(disk.per_s), Some(net.per_s))
        } else {
            (None, None)
        };
        Ok(FloorSet {
            durable: Latencies::of(&durable),
            pair: Latencies::of(&pair),
            round_trip: Latencies::of(&round),
            copy: append_copy(self.time / 4),
            depth32_per_s: Some(depth32.per_s),
            disk_bytes_per_s: disk,
            net_bytes_per_s: net,
        })
    }
}

/// One set of floors.
#[derive(Clone, Debug, Default)]
pub(crate) struct FloorSet {
    durable: Latencies,
    pair: Latencies,
    round_trip: Latencies,
    copy: Latencies,
    depth32_per_s: Option<f64>,
    disk_bytes_per_s: Option<f64>,
    net_bytes_per_s: Option<f64>,
}

#[derive(Clone, Debug)]
struct Latencies {
    ns: Histogram<u64>,
    waiting: Option<Waiting>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { ns: new_histogram(), waiting: None }
    }
}

impl Latencies {
    fn of(samples: &floor::Samples) -> Self {
        let mut ns = new_histogram();
        for &sample in &samples.ns {
            ns.saturating_record(sample.max(1));
        }
        Self { ns, waiting: Some(samples.waiting) }
    }

    fn merge(&mut self, other: &Self) {
        // The same bounds everywhere, so adding cannot fail.
        let _ = self.ns.add(&other.ns);
        self.waiting = self.waiting.or(other.waiting);
    }

    fn p50(&self) -> Option<u64> {
        (!self.ns.is_empty()).then(|| self.ns.value_at_quantile(0.5))
    }

    fn summary(&self) -> Option<FloorNs> {
        let name = |waiting| match waiting {
            Waiting::Spinning => "spin".to_owned(),
            Waiting::Parked => "park".to_owned(),
        };
        Some(FloorNs {
            p50: self.p50()?,
            p99: self.ns.value_at_quantile(0.99),
            samples: self.ns.len(),
            waiting: self.waiting.map(name),
        })
    }
}

impl FloorSet {
    /// Several sets as one: latencies are merged, rates are averaged.
    pub(crate) fn merged<'a>(sets: impl IntoIterator<Item = &'a FloorSet>) -> FloorSet {
        let sets: Vec<&FloorSet> = sets.into_iter().collect();
        let mean = |rate: fn(&FloorSet) -> Option<f64>| {
            let rates: Vec<f64> = sets.iter().filter_map(|set| rate(set)).collect();
            (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
        };
        let mut all = FloorSet {
            depth32_per_s: mean(|set| set.depth32_per_s),
            disk_bytes_per_s: mean(|set| set.disk_bytes_per_s),
            net_bytes_per_s: mean(|set| set.net_bytes_per_s),
            ..FloorSet::default()
        };
        for set in &sets {
            all.durable.merge(&set.durable);
            all.pair.merge(&set.pair);
            all.round_trip.merge(&set.round_trip);
            all.copy.merge(&set.copy);
        }
        all
    }

    /// As the report has them.
    pub(crate) fn report(&self) -> Floors {
        Floors {
            durable_write_ns: self.durable.summary(),
            pair_commit_ns: self.pair.summary(),
            round_trip_ns: self.round_trip.summary(),
            disk_bytes_per_s: self.disk_bytes_per_s,
            net_bytes_per_s: self.net_bytes_per_s,
            durable_writes_per_s_depth32: self.depth32_per_s,
            append_copy_ns: self.copy.summary(),
            by_repetition: Vec::new(),
        }
    }

    /// The medians, as the report has them beside a repetition.
    pub(crate) fn medians(&self, repetition: u32) -> FloorsOfRepetition {
        FloorsOfRepetition {
            repetition,
            durable_write_ns: self.durable.p50(),
            pair_commit_ns: self.pair.p50(),
            round_trip_ns: self.round_trip.p50(),
            durable_writes_per_s_depth32: self.depth32_per_s,
            disk_bytes_per_s: self.disk_bytes_per_s,
            net_bytes_per_s: self.net_bytes_per_s,
        }
    }

    pub(crate) fn round_trip_p50_ns(&self) -> Option<u64> {
        self.round_trip.p50()
    }

    /// N + F_standby − F of the bare pair, ns; at least a tenth of F, so that a noisy pair gives no knee of nothing.
    pub(crate) fn remote_excess_ns(&self, link_rtt_us: u64) -> f64 {
        let durable = self.durable.p50().unwrap_or(100_000) as f64;
        let pair = self.pair.p50().unwrap_or(150_000) as f64;
        (pair - durable).max(durable / 10.0) + link_rtt_us as f64 * 1000.0
    }

    /// The floor of a level and how far above it `p50_ns` lies. `link_ns` is what an emulated link adds.
    pub(crate) fn ratio(
        &self,
        level: Level,
        counting: usize,
        link_ns: u64,
        p50_ns: u64,
    ) -> Option<FloorRatio> {
        let (name, floor_ns) = match level {
            Level::Off => ("append_copy_ns", self.copy.p50()?),
            Level::Local => ("durable_write_ns", self.durable.p50()?),
            _ if counting == 0 => ("durable_write_ns", self.durable.p50()?),
            Level::RemoteWrite => {
                let (disk, net) = (self.durable.p50()?, self.round_trip.p50()? + link_ns);
                if disk >= net { ("durable_write_ns", disk) } else { ("round_trip_ns", net) }
            }
            Level::On | Level::RemoteApply => ("pair_commit_ns", self.pair.p50()? + link_ns),
        };
        Some(FloorRatio { floor: name.into(), p50_ratio: p50_ns as f64 / floor_ns.max(1) as f64 })
    }
}

/// The floor of `off`, p50 and p99, ns: copy and CRC of one 256-byte record into a buffer larger than the caches.
pub fn append_copy_ns(time: Duration) -> (u64, u64) {
    let copy = append_copy(time);
    (copy.ns.value_at_quantile(0.5), copy.ns.value_at_quantile(0.99))
}

/// Copy and CRC of 256 bytes into a buffer larger than the caches: what `off` cannot do without.
fn append_copy(time: Duration) -> Latencies {
    let source = [0x5au8; RECORD];
    let mut ring = vec![1u8; RING];
    let mut ns = new_histogram();
    let began = Instant::now();
    let mut at = 0;
    let mut kept = 0u32;
    while began.elapsed() < time {
        let start = Instant::now();
        for _ in 0..AT_ONCE {
            kept ^= copy_with_crc(&mut ring[at..at + RECORD], &source);
            at = (at + RECORD) % RING;
        }
        let each = start.elapsed().as_nanos() as u64 / AT_ONCE;
        ns.saturating_record(each.max(1));
    }
    std::hint::black_box(kept);
    Latencies { ns, waiting: None }
}

const RECORD: usize = 256;
const RING: usize = 32 << 20;
/// The clock itself costs as much as a copy.
const AT_ONCE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(values: &[u64]) -> Latencies {
        let mut ns = new_histogram();
        values.iter().for_each(|value| ns.saturating_record(*value));
        Latencies { ns, waiting: Some(Waiting::Spinning) }
    }

    fn set() -> FloorSet {
        FloorSet {
            durable: latencies(&[100_000]),
            pair: latencies(&[150_000]),
            round_trip: latencies(&[10_000]),
            copy: latencies(&[50]),
            depth32_per_s: Some(80_000.0),
            disk_bytes_per_s: None,
            net_bytes_per_s: Some(2e9),
        }
    }

    #[test]
    fn each_level_is_held_against_its_own_floor() {
        let set = set();
        let ratio = |level, counting, link_ns, p50| {
            let ratio = set.ratio(level, counting, link_ns, p50).unwrap();
            (ratio.floor, (ratio.p50_ratio * 100.0).round() / 100.0)
        };
        assert_eq!(ratio(Level::Off, 2, 0, 100), ("append_copy_ns".into(), 2.0));
        assert_eq!(ratio(Level::Local, 2, 0, 110_000), ("durable_write_ns".into(), 1.1));
        assert_eq!(ratio(Level::RemoteWrite, 2, 0, 110_000), ("durable_write_ns".into(), 1.1));
        assert_eq!(ratio(Level::RemoteWrite, 2, 990_000, 2_000_000), ("round_trip_ns".into(), 2.0));
        assert_eq!(ratio(Level::On, 1, 0, 180_000), ("pair_commit_ns".into(), 1.2));
        // Without a rule the remote levels are `local`, and so is their floor.
        assert_eq!(ratio(Level::On, 0, 0, 120_000), ("durable_write_ns".into(), 1.2));
    }

    #[test]
    fn floors_before_and_after_are_one() {
        let mut after = set();
        after.durable = latencies(&[200_000, 300_000, 300_000]);
        after.depth32_per_s = Some(40_000.0);
        after.net_bytes_per_s = None;
        let both = FloorSet::merged([&set(), &after]);
        assert_eq!(both.durable.ns.len(), 4);
        assert_eq!(both.report().durable_writes_per_s_depth32, Some(60_000.0));
        assert_eq!(both.report().net_bytes_per_s, Some(2e9));
        assert_eq!(FloorSet::default().report(), Floors::default());
    }

    #[test]
    fn copying_a_small_record_takes_less_than_a_microsecond() {
        let copy = append_copy(Duration::from_millis(10));
        assert!(copy.p50().unwrap() < 1_000, "{:?}", copy.p50());
    }
}
