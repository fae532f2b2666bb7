//! What the bare machine can do, in the same run as everything else.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use std::path::Path;
use std::time::Duration;
use towline_report::schema::{FloorNs, Floors, FloorsOfRepetition, PrimitiveRace};
use towline_report::stats::{median, new_histogram};
use towline_uring::FileMode;
use towline_uring::floor::{self, Limits, Peer, Place, Samples, Waiting};
use towline_uring::primitive::{self, Primitive};

/// The hidden subcommand that makes the program the second process of a floor.
pub(crate) const PEER_COMMAND: &str = "__floor-peer";

/// The way of flushing that every Towline node of the run uses, and the race that chose it.
pub(crate) fn race(dir: &Path) -> Result<((Primitive, usize), Vec<PrimitiveRace>)> {
    let race = primitive::race(&place(dir), RACE_TIME).context("race of the durability primitives")?;
    let results = race.results.iter().map(|result| PrimitiveRace {
        name: result.primitive.name().into(),
        depth: result.depth,
        p50_ns: result.p50_ns,
        p99_ns: result.p99_ns,
        per_s: result.per_s,
        chosen: result.primitive == race.best && result.depth == 1,
    });
    Ok(((race.best, race.flush_depth as usize), results.collect()))
}

/// Floors measured so far, merged as the report wants them.
#[derive(Default)]
pub(crate) struct Measuring {
    durable: Samplings,
    pair: Samplings,
    round_trip: Samplings,
    depth32_per_s: Vec<f64>,
    by_repetition: Vec<FloorsOfRepetition>,
}

#[derive(Default)]
struct Samplings {
    all: Option<Histogram<u64>>,
    waiting: Option<Waiting>,
}

impl Measuring {
    /// One set, beside `repetition`.
    pub(crate) fn measure(&mut self, dir: &Path, repetition: u32) -> Result<()> {
        let place = place(dir);
        let peer = Peer { args: vec![PEER_COMMAND.into()] };
        let limits = Limits { samples: 20_000, time: FLOOR_TIME };
        let durable = floor::durable_write(&place, limits).context("floor 'durable write'")?;
        let pair = floor::pair_commit(&place, &place, &peer, limits).context("floor 'pair commit'")?;
        let round_trip = floor::round_trip(&peer, limits).context("floor 'round trip'")?;
        let many = Limits { samples: 1_000_000, time: FLOOR_TIME };
        let depth32 =
            floor::durable_writes_per_s(&place, 32, many).context("floor 'durable writes, depth 32'")?;
        self.by_repetition.push(FloorsOfRepetition {
            repetition,
            durable_write_ns: Some(durable.quantile_ns(0.5)),
            pair_commit_ns: Some(pair.quantile_ns(0.5)),
            round_trip_ns: Some(round_trip.quantile_ns(0.5)),
            durable_writes_per_s_depth32: Some(depth32.per_s),
            ..FloorsOfRepetition::default()
        });
        self.durable.add(&durable);
        self.pair.add(&pair);
        self.round_trip.add(&round_trip);
        self.depth32_per_s.push(depth32.per_s);
        Ok(())
    }

    /// As the report has them.
    pub(crate) fn report(self) -> Floors {
        Floors {
            durable_write_ns: self.durable.summary(),
            pair_commit_ns: self.pair.summary(),
            round_trip_ns: self.round_trip.summary(),
            durable_writes_per_s_depth32: median(&self.depth32_per_s),
            by_repetition: self.by_repetition,
            ..Floors::default()
        }
    }
}

impl Samplings {
    fn add(&mut self, samples: &Samples) {
        let all = self.all.get_or_insert_with(new_histogram);
        samples.ns.iter().for_each(|ns| all.saturating_record((*ns).max(1)));
        self.waiting = self.waiting.or(Some(samples.waiting));
    }

    fn summary(&self) -> Option<FloorNs> {
        let all = self.all.as_ref().filter(|all| !all.is_empty())?;
        let waiting = self.waiting.map(|waiting| match waiting {
            Waiting::Spinning => "spin".to_owned(),
            Waiting::Parked => "park".to_owned(),
        });
        Some(FloorNs {
            p50: all.value_at_quantile(0.5),
            p99: all.value_at_quantile(0.99),
            samples: all.len(),
            waiting,
        })
    }
}

fn place(dir: &Path) -> Place {
    Place::new(dir, FileMode::Direct)
}

/// For each floor and each of the two ways of waiting.
const FLOOR_TIME: Duration = Duration::from_millis(120);
const RACE_TIME: Duration = Duration::from_millis(800);
