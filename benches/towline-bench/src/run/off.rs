//! Records per second at `off`, with segments prepared before the clock; afterwards every record must be found.

use super::point::PointBench;
use super::session::{OffVerified, Session};
use crate::cluster::{Cluster, NodeSizes, RunningCluster};
use crate::count::free_bytes;
use crate::error::BenchError;
use crate::load::{Timing, Work, flood};
use crate::measure::measure;
use crate::plan::Experiment;
use crate::publish::{PointLoad, PointSpec};
use crate::target::Watch;
use crate::verify;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use towline_core::types::Level;
use towline_core::types::limits::{ARENA_BYTES, SEGMENT_BYTES};
use towline_report::grouped;

impl Session {
    /// A fresh log for each repetition: its segments are all prepared before the clock starts.
    pub(super) fn off(&mut self, experiment: &Experiment) -> Result<(), BenchError> {
        let mut before = self.measure_floors(0, true)?;
        // Once: the later floors are without the disk's bandwidth.
        let room = self.off_room(experiment)?;
        let sizes = self.off_sizes(room);
        for repetition in 0..experiment.repetitions {
            self.go_on()?;
            let dir = self.next_cluster_dir();
            self.say(Session::label(experiment, 0, "preparing segments"));
            let mut cluster = Cluster::start(experiment, 0, &sizes, &dir, self.allocations)?;
            self.note_durability(cluster.primary()?);
            let prepared = self.wait_until_prepared(&[cluster.primary_dir()], sizes.prepare_segments)?;
            self.say(Session::label(experiment, 0, "appending"));
            let stop = self.stop_flag();
            let bench = PointBench { experiment, link_rtt_us: 0, cluster: &cluster, wal: None, stop: &stop };
            let load = PointLoad::Flood { sample_every: flood::SAMPLE_EVERY, exposure_limit: None };
            let spec = PointSpec { level: Level::Off, window: None, load };
            let primary = cluster.primary()?;
            let records_before = records(&cluster)?;
            let timing = Timing::from_now(experiment.warm_up, experiment.duration);
            // All of it must be found afterwards.
            let work = Work { trim: false, ..bench.work(&spec, timing) };
            let appended = AtomicU64::new(0);
            let measured = measure(&Watch { primary, level: Level::Off }, timing, || {
                let (recorder, count) = flood::run(primary, &work, flood::SAMPLE_EVERY, None)?;
                appended.store(count, Ordering::Relaxed);
                Ok(recorder)
            })
            .map_err(|error| room.explain(error))?;
            self.go_on()?;
            let mut result = bench.result(&spec, repetition, &measured);
            result.point.note = Some(format!("{prepared} segments prepared before the clock"));
            self.say(Session::label(experiment, 0, "verifying"));
            let expected = records_before + appended.load(Ordering::Relaxed);
            let primary_dir = cluster.primary_dir();
            cluster.stop()?;
            let verified = self.verified(&primary_dir, expected);
            // One repetition that lost something is enough.
            if self.facts.off_verified.as_ref().is_none_or(|earlier| earlier.all_found) {
                self.facts.off_verified = Some(verified);
            }
            drop(cluster);
            let after = self.measure_floors(repetition, false)?;
            result.hold_against(&self.floors_between(before, after));
            self.results.push(result);
            self.point_done();
            before = after;
        }
        Ok(())
    }

    /// Segments for all that could be appended, as far as the disk has room: past the arena, appends go as fast as the
    /// disk takes them.
    fn off_room(&self, experiment: &Experiment) -> Result<OffRoom, BenchError> {
        let time = experiment.warm_up + experiment.duration;
        OffRoom::on(self.data_dir(), time, self.latest_floors().report().disk_bytes_per_s)
    }

    fn off_sizes(&self, room: OffRoom) -> NodeSizes {
        NodeSizes {
            retention_bytes: room.retention_bytes,
            hold_bytes: room.retention_bytes,
            prepare_segments: room.segments,
            buffered: self.buffered,
            durability: self.flushing,
            log_only: false,
        }
    }

    /// Waits until every node has its segments, or no more come. Returns how many the one with the fewest has.
    pub(super) fn wait_until_prepared(&self, nodes: &[PathBuf], wanted: u32) -> Result<u32, BenchError> {
        let mut said = 0;
        wait_for_segments(nodes, wanted, |seen| {
            self.go_on()?;
            if seen != said {
                said = seen;
                self.say(format!("{seen} of {wanted} segments prepared"));
            }
            Ok(())
        })
    }

    fn verified(&self, primary_dir: &Path, expected: u64) -> OffVerified {
        match verify::log(primary_dir) {
            Ok(found) => OffVerified {
                all_found: found.records == expected,
                text: format!(
                    "log verify found {} of {} records",
                    grouped(found.records as f64),
                    grouped(expected as f64)
                ),
            },
            Err(error) => OffVerified { all_found: false, text: error.to_string() },
        }
    }
}

/// What a log needs to take everything that one thread can append at `off`, without a trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffRoom {
    /// Segments to prepare before the clock.
    pub segments: u32,
    /// How far the log may reach.
    pub retention_bytes: u64,
    /// What was wanted; more than there is when the disk is short of room.
    wanted_bytes: u64,
}

impl OffRoom {
    /// On the disk below `dir`, which takes `disk_bytes_per_s`: past the arena, appends go as fast as it.
    ///
    /// # Errors
    /// The disk has hardly any room.
    pub fn on(dir: &Path, time: Duration, disk_bytes_per_s: Option<f64>) -> Result<Self, BenchError> {
        let disk = disk_bytes_per_s.unwrap_or(FAST_DISK_BYTES_PER_S);
        let wanted = (time.as_secs_f64() + 0.5) * disk * ABOVE_FLOOR + ARENA_BYTES as f64;
        let room = free_bytes(dir).unwrap_or(u64::MAX) / 4 * 3;
        let wanted_bytes = wanted as u64;
        let bytes = wanted_bytes.min(room);
        if bytes < 4 * SEGMENT_BYTES {
            return Err(BenchError::Failed(format!(
                "the disk has room for {} MB of segments: free some, or point --dir at another disk",
                bytes >> 20
            )));
        }
        let segments = (bytes / SEGMENT_BYTES) as u32 + 1;
        Ok(Self { segments, retention_bytes: bytes + 8 * SEGMENT_BYTES, wanted_bytes })
    }

    /// Why a log with this much room was full, where it was the disk's fault.
    fn explain(self, error: BenchError) -> BenchError {
        if self.retention_bytes >= self.wanted_bytes {
            return error;
        }
        let (had, wanted) = (self.retention_bytes >> 20, self.wanted_bytes >> 20);
        BenchError::Failed(format!(
            "the disk had room for {had} MB of segments where {wanted} MB may be needed: free some, or point --dir at another \
             disk ({error})"
        ))
    }
}

/// Waits until the first shard of every node has `wanted` segments, or no more come: that only makes a figure worse.
/// Returns how many the one with the fewest has. `look` is told at each look how many that are by then.
///
/// # Errors
/// What `look` answers.
pub fn wait_for_segments<E>(
    nodes: &[PathBuf],
    wanted: u32,
    mut look: impl FnMut(u32) -> Result<(), E>,
) -> Result<u32, E> {
    let dirs: Vec<_> = nodes.iter().map(|dir| dir.join("shard-0").join("segments")).collect();
    let (mut seen, mut last_change) = (0, Instant::now());
    loop {
        let now = dirs.iter().map(|dir| segments_in(dir)).min().unwrap_or(0);
        look(now)?;
        if now >= wanted || last_change.elapsed() > NO_MORE_COME {
            return Ok(now);
        }
        if now != seen {
            (seen, last_change) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Records in the log now; nothing is on its way.
fn records(cluster: &RunningCluster) -> Result<u64, BenchError> {
    let status = cluster.primary()?.status()?;
    Ok(status.shards.iter().map(|shard| shard.node.watermarks.end.records).sum())
}

fn segments_in(dir: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|ending| ending == "seg")).count()
        as u32
}

/// Where the disk's floor is unknown.
const FAST_DISK_BYTES_PER_S: f64 = 2e9;
/// Several writes in flight may beat the floor, and the floor varies.
const ABOVE_FLOOR: f64 = 1.3;
const NO_MORE_COME: Duration = Duration::from_secs(15);
