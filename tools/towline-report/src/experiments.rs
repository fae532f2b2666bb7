//! What only some experiments leave behind: fields of a point beside the usual ones, and the stage timeline. Part of
//! the schema of `report.json`; [`crate::schema`] exports all of it.

use crate::schema::{Interval, LatencyNs, Level, Load};
use serde::{Deserialize, Serialize};

/// Fields of a point that not every experiment has; in `report.json` they stand among the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// How an open load arrived: `poisson`, `constant`, or `bursts of N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<String>,
    /// How much later than it could the generator made its appends, ns: after the intended time, or after the log had
    /// room again where that was later. Its own lateness, whatever the log did; it is part of the latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_lag_ns: Option<LatencyNs>,
    /// False: the generator could not offer this load (its p90 lag is above 1 ms and above a fifth of the latency's
    /// p90, or it left appends out while the log had room). Such a point is refused: it says nothing about the log,
    /// and no check or knee uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_up: Option<bool>,
    /// `mixed`: one record in so many was appended at the strong level; this point is the records of its own level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_in: Option<u32>,
    /// Sizes of the records with their weights, as `64 × 6, 256 × 3, 4096 × 1`; `record_bytes` is their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_sizes: Option<String>,
    /// Share of the point's time in which some task waited for a processor, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_pressure_percent: Option<f64>,
    /// Offered load as a share of what a closed loop got from the same cluster at this level; 1 is saturation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_saturation: Option<f64>,
    /// The point was not steady: p50 of the first quarter of its measured time over that of the rest, where the two
    /// differ by more than chance ([`crate::series::start_over_rest`] of twenty parts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_over_rest: Option<f64>,
    /// `stall`: what the point saw before, during and after a standby took nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<Stall>,
}

/// A standby that is stopped (SIGSTOP) in mid-run and goes on again. Records belong to the part in which they were
/// due. Times are seconds since measuring began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// Name of the standby.
    pub standby: String,
    /// When it was stopped.
    pub from_s: f64,
    /// When it went on.
    pub until_s: f64,
    /// Records due before.
    pub before_ns: LatencyNs,
    /// Records due while it was stopped.
    pub during_ns: LatencyNs,
    /// Records due afterwards.
    pub after_ns: LatencyNs,
    /// The same latencies by the time at which the records were due, slice by slice.
    pub slices: Vec<Slice>,
}

/// One slice of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Where it begins, seconds since measuring began.
    pub at_s: f64,
    /// Latency of the records that were due in it, ns.
    pub latency_ns: LatencyNs,
}

/// One load under which every record was timed at every watermark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The experiment, as in the points.
    pub experiment: String,
    /// What the generator's appends waited for.
    pub level: Level,
    /// As `ANY 1 (a, b)`.
    pub sync_rule: String,
    /// Standbys connected.
    pub standbys: u32,
    /// Offered load.
    pub load: Load,
    /// Payload bytes of a record.
    pub record_bytes: f64,
    /// Counted from 0.
    pub repetition: u32,
    /// Records that were timed at every watermark.
    pub records: u64,
    /// Records left out because a watermark was not seen in time.
    pub left_out: u64,
    /// Time from the start of the append until each watermark had reached the record's end, in the order of a
    /// record's way: accepted, batched and flushed on the primary, then each standby's watermarks as the primary
    /// knew them. Accepted and the acknowledgement are seen by the client.
    pub stages: Vec<StageTime>,
    /// When each level would have acknowledged the very same records, from the watermarks and the sync rule.
    pub levels: Vec<LevelTime>,
    /// Acknowledgements as the client saw them, at `level`.
    pub acknowledged_ns: LatencyNs,
    /// Time between two looks at the watermarks: the resolution of all this.
    pub look_every_ns: LatencyNs,
    /// What the instrument itself cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instrument: Option<InstrumentCost>,
}

/// One watermark of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// `primary`, or the standby's name.
    pub node: String,
    /// Which.
    pub stage: TimelineStage,
    /// Since the start of the append, ns.
    pub after_ns: LatencyNs,
}

/// What a record reaches on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineStage {
    /// It has its place in the log (the ack of `off`).
    Accepted,
    /// Its batch is closed: write and send have begun. Primary only.
    Batched,
    /// In memory that outlives the process. Standbys only: the primary's write and flush are one operation.
    Written,
    /// On stable storage.
    Flushed,
    /// Visible to a read there.
    Applied,
}

impl TimelineStage {
    /// The name in `report.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Batched => "batched",
            Self::Written => "written",
            Self::Flushed => "flushed",
            Self::Applied => "applied",
        }
    }
}

/// When a level would have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelTime {
    /// The level.
    pub level: Level,
    /// Since the start of the append, ns.
    pub after_ns: LatencyNs,
}

/// Acknowledgements with every record timed at every watermark against the same load without, in alternation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstrumentCost {
    /// p50 with, ns, over all slices.
    pub with_p50_ns: u64,
    /// p50 without, ns, over all slices.
    pub without_p50_ns: u64,
    /// Median over the pairs of with / without.
    pub ratio: f64,
    /// 95 % bootstrap interval of that median.
    pub interval: Interval,
    /// Pairs of neighbouring slices.
    pub pairs: u32,
}
