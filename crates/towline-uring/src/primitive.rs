//! The race of durability primitives on one device, for its calibration.

use std::time::Duration;

use crate::floor::{
    DepthRate, FloorError, FlushWay, Limits, Place, ScratchFile, Waiting, quantile, run_at_depth,
};
use crate::ops::WritePrimitive;

/// A way to make a write durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// One ring operation, either kind.
    Ring(WritePrimitive),
    /// A write in the ring, then fdatasync as a call of its own (by a helper thread in a shard).
    Flusher,
}

impl Primitive {
    /// The name in calibration files, flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring(WritePrimitive::Dsync) => "dsync",
            Self::Ring(WritePrimitive::WriteThenFsync) => "linked-fsync",
            Self::Flusher => "flusher",
        }
    }

    /// The primitive of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|primitive| primitive.name() == name)
    }

    /// All of them.
    pub const ALL: [Self; 3] =
        [Self::Ring(WritePrimitive::Dsync), Self::Ring(WritePrimitive::WriteThenFsync), Self::Flusher];

    fn way(self) -> FlushWay {
        match self {
            Self::Ring(WritePrimitive::Dsync) => FlushWay::Dsync,
            Self::Ring(WritePrimitive::WriteThenFsync) => FlushWay::Linked,
            Self::Flusher => FlushWay::Split,
        }
    }
}

/// One contestant's figures, for durable writes of 4 KiB on a zero-filled file.
#[derive(Clone, Copy, Debug)]
pub struct PrimitiveResult {
    /// The contestant.
    pub primitive: Primitive,
    /// Writes in flight.
    pub depth: u32,
    /// Median latency in nanoseconds.
    pub p50_ns: u64,
    /// The lowest median of its turns: what decides, because a neighbour on the machine only ever adds.
    pub best_p50_ns: u64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: u64,
    /// Durable writes per second.
    pub per_s: f64,
    /// Writes measured.
    pub samples: usize,
}

/// The whole race, and who won.
#[derive(Clone, Debug)]
pub struct Race {
    /// All primitives at depth 1, then DSYNC at growing depths.
    pub results: Vec<PrimitiveResult>,
    /// The lowest median at depth 1. DSYNC wins unless another beats it by a fifth in every turn: the others need a
    /// worker thread for each flush, and a device that prefers them does so by a factor of two, not by chance.
    pub best: Primitive,
    /// Flushes in flight with which a saturated log waits least, 2 to 8.
    pub flush_depth: u32,
}

/// Runs the race in `place`, for about `duration` in all. The file is removed.
///
/// # Errors
/// [`FloorError`].
pub fn race(place: &Place, duration: Duration) -> Result<Race, FloorError> {
    let file = ScratchFile::new(place, FILE_LEN)?;
    // Half of the time for the primitives, taken in turns so that a slow moment hits all of them.
    let turn = Limits { samples: 20_000, time: duration / (2 * TURNS * Primitive::ALL.len() as u32) };
    let mut turns: [Vec<DepthRate>; 3] = Default::default();
    for _ in 0..TURNS {
        for (primitive, turns) in Primitive::ALL.into_iter().zip(&mut turns) {
            turns.push(run_at_depth(&file, primitive.way(), 1, Waiting::Spinning, turn)?);
        }
    }
    let best = fastest(&turns.each_mut().map(|turns| turns.iter_mut().map(median_ns).collect()));
    let contestants = Primitive::ALL.into_iter().zip(turns);
    let mut results: Vec<_> =
        contestants.map(|(primitive, turns)| PrimitiveResult::new(primitive, 1, turns)).collect();

    let turn = Limits { samples: 200_000, time: duration / (2 * TURNS * DEPTHS.len() as u32) };
    let mut turns: [Vec<DepthRate>; DEPTHS.len()] = Default::default();
    for _ in 0..TURNS {
        for (depth, turns) in DEPTHS.into_iter().zip(&mut turns) {
            turns.push(run_at_depth(&file, FlushWay::Dsync, depth, Waiting::Spinning, turn)?);
        }
    }
    let depths = DEPTHS.into_iter().zip(turns);
    results.extend(depths.map(|(depth, turns)| PrimitiveResult::new(Primitive::ALL[0], depth, turns)));
    let flush_depth = worthwhile_depth(&results[Primitive::ALL.len()..]);
    Ok(Race { results, best, flush_depth })
}

impl PrimitiveResult {
    fn new(primitive: Primitive, depth: u32, mut turns: Vec<DepthRate>) -> Self {
        let measured = turns.iter_mut().filter(|turn| !turn.ns.is_empty());
        let best_p50_ns = measured.map(|turn| quantile(&mut turn.ns, 0.5)).min().unwrap_or(0);
        let per_s = turns.iter().map(|turn| turn.per_s).sum::<f64>() / turns.len().max(1) as f64;
        let mut ns: Vec<u64> = turns.into_iter().flat_map(|turn| turn.ns).collect();
        let (p50_ns, p99_ns) = (quantile(&mut ns, 0.5), quantile(&mut ns, 0.99));
        Self { primitive, depth, p50_ns, best_p50_ns, p99_ns, per_s, samples: ns.len() }
    }
}

/// Of the medians of all turns, in the order of [`Primitive::ALL`]. On a machine that lets the race wait for a processor
/// a turn has a handful of samples and medians differ tenfold: one lucky turn decides nothing.
fn fastest(medians_ns: &[Vec<Option<u64>>; 3]) -> Primitive {
    let [dsync, others @ ..] = medians_ns;
    let beats = |turns: &[Option<u64>]| {
        turns.iter().zip(dsync).all(|(other, dsync)| {
            other.is_some_and(|other| {
                dsync.is_none_or(|dsync| other.saturating_mul(125) < dsync.saturating_mul(100))
            })
        })
    };
    let contenders = Primitive::ALL[1..].iter().zip(others).filter(|(_, turns)| beats(turns));
    contenders
        .min_by_key(|(_, turns)| turns.iter().flatten().min().copied())
        .map_or(Primitive::ALL[0], |(primitive, _)| *primitive)
}

/// `None`: nothing was written in that turn.
fn median_ns(turn: &mut DepthRate) -> Option<u64> {
    (!turn.ns.is_empty()).then(|| quantile(&mut turn.ns, 0.5))
}

/// With d flushes in flight a random arrival waits for a d-th of a flush in the middle until its own begins, so a
/// saturated log has a median of about F(d) × (1 + 1/2d). The depth that makes it least is the one to use: a deeper
/// queue makes each flush slower and batches smaller, a shallower one makes arrivals wait.
fn worthwhile_depth(by_depth: &[PrimitiveResult]) -> u32 {
    let saturated_p50 =
        |result: &PrimitiveResult| result.best_p50_ns as f64 * (1.0 + 0.5 / f64::from(result.depth));
    by_depth
        .iter()
        .filter(|result| result.samples > 0 && (MIN_FLUSH_DEPTH..=MAX_FLUSH_DEPTH).contains(&result.depth))
        .min_by(|a, b| saturated_p50(a).total_cmp(&saturated_p50(b)))
        .map_or(MIN_FLUSH_DEPTH, |result| result.depth)
}

const TURNS: u32 = 4;
const DEPTHS: [u32; 6] = [1, 2, 4, 8, 16, 32];
/// Two, so that the next batch is on its way while one is flushed.
const MIN_FLUSH_DEPTH: u32 = 2;
/// Beyond it a deeper queue only makes batches smaller and each flush slower.
const MAX_FLUSH_DEPTH: u32 = 8;
const FILE_LEN: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::FileMode;

    #[test]
    fn another_wins_only_in_every_turn_and_by_a_fifth() {
        let after = |turns: [[u64; 4]; 3]| {
            fastest(&turns.map(|medians_ns| medians_ns.map(|ns| (ns > 0).then_some(ns)).to_vec()))
        };
        assert_eq!(after([[100; 4], [85; 4], [99; 4]]), Primitive::ALL[0]);
        assert_eq!(after([[400; 4], [170; 4], [180; 4]]), Primitive::ALL[1]);
        assert_eq!(after([[400; 4], [350; 4], [180; 4]]), Primitive::ALL[2]);
        // A starved machine: DSYNC seems forty times slower, except once.
        assert_eq!(after([[4_000, 4_000, 120, 4_000], [100; 4], [6_000; 4]]), Primitive::ALL[0]);
        assert_eq!(after([[0; 4], [100; 4], [200; 4]]), Primitive::ALL[1], "it wrote nothing");
        assert_eq!(after([[0; 4]; 3]), Primitive::ALL[0]);
        for primitive in Primitive::ALL {
            assert_eq!(Primitive::from_name(primitive.name()), Some(primitive));
        }
    }

    #[test]
    fn the_depth_is_the_one_with_which_a_saturated_log_waits_least() {
        let depth_for = |latencies_ns: [u64; 6]| {
            let results: Vec<_> = DEPTHS
                .into_iter()
                .zip(latencies_ns)
                .map(|(depth, ns)| {
                    PrimitiveResult::new(
                        Primitive::ALL[0],
                        depth,
                        vec![DepthRate { ns: vec![ns], per_s: 0.0 }],
                    )
                })
                .collect();
            worthwhile_depth(&results)
        };
        assert_eq!(depth_for([98, 112, 169, 181, 200, 250]), 2);
        assert_eq!(depth_for([100, 110, 112, 260, 400, 600]), 4);
        assert_eq!(depth_for([100, 200, 400, 800, 1_600, 3_200]), 2, "a device that does one at a time");
        assert_eq!(depth_for([100, 110, 108, 109, 295, 400]), 8);
    }

    #[test]
    fn a_short_race_on_the_real_disk_leaves_no_file() {
        let dir = crate::file::tests::disk_dir();
        let place = Place::new(dir.path(), FileMode::Direct);
        let race = race(&place, Duration::from_millis(600)).unwrap();
        assert_eq!(race.results.len(), 9);
        for result in &race.results {
            assert!(result.samples > 0 && result.p50_ns > 0 && result.p50_ns <= result.p99_ns, "{result:?}");
            assert!(result.per_s > 0.0);
        }
        assert!((2..=8).contains(&race.flush_depth));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
