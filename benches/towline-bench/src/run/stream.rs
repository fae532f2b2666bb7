//! Bytes per second to one standby: `off` as fast as it goes, trimming, counted where they arrive.

use super::point::PointBench;
use super::session::Session;
use crate::cluster::{Cluster, NodeSizes};
use crate::error::BenchError;
use crate::plan::Experiment;
use crate::publish::{PointLoad, PointSpec};
use towline_core::types::Level;
use towline_core::types::limits::ARENA_BYTES;

impl Session {
    /// One cluster per link; each repetition between two measurements of the bandwidths.
    pub(super) fn stream(&mut self, experiment: &Experiment) -> Result<(), BenchError> {
        for &link_rtt_us in &experiment.link_rtts_us {
            self.go_on()?;
            self.say(Session::label(experiment, link_rtt_us, "starting the cluster"));
            let sizes = NodeSizes {
                prepare_segments: PREPARED,
                // Shipping is measured, not what an application makes of it.
                log_only: true,
                ..NodeSizes::usual(self.data_dir(), self.buffered, self.flushing)
            };
            let dir = self.next_cluster_dir();
            let mut cluster = Cluster::start(experiment, link_rtt_us, &sizes, &dir, self.allocations)?;
            self.note_durability(cluster.primary()?);
            let mut nodes = vec![cluster.primary_dir()];
            nodes.extend(cluster.cluster.standbys.iter().map(|standby| standby.dir.clone()));
            self.wait_until_prepared(&nodes, PREPARED)?;
            let mut before = self.measure_floors(0, true)?;
            for repetition in 0..experiment.repetitions {
                self.go_on()?;
                self.say(Session::label(experiment, link_rtt_us, "streaming"));
                cluster.settle()?;
                let stop = self.stop_flag();
                let bench = PointBench { experiment, link_rtt_us, cluster: &cluster, wal: None, stop: &stop };
                let load = PointLoad::Flood {
                    sample_every: crate::load::flood::SAMPLE_EVERY,
                    exposure_limit: Some(EXPOSURE_LIMIT_BYTES),
                };
                let spec = PointSpec { level: Level::Off, window: None, load };
                let measured = bench.point(&spec, self.seed)?;
                self.go_on()?;
                let mut result = bench.result(&spec, repetition, &measured);
                // What is appended may still wait in the arena or on disk: only what the standby flushed has arrived.
                let arrived_per_s = measured.counters.standby_payload_bytes as f64
                    / measured.duration.as_secs_f64()
                    / experiment.record_bytes as f64;
                let appended_per_s = result.point.achieved_per_s;
                result.point.achieved_per_s = appended_per_s.min(arrived_per_s);
                result.point.note = Some(match result.point.note.take() {
                    Some(note) => format!("{note}; {}", arrivals(appended_per_s, arrived_per_s)),
                    None => arrivals(appended_per_s, arrived_per_s),
                });
                // The queue is full all the time, so latency says nothing about a floor.
                let after = self.measure_floors(repetition, true)?;
                result.hold_against(&self.floors_between(before, after));
                result.point.ratio_to_floor = None;
                self.results.push(result);
                self.point_done();
                before = after;
            }
            cluster.stop()?;
        }
        Ok(())
    }
}

fn arrivals(appended_per_s: f64, arrived_per_s: f64) -> String {
    format!("{appended_per_s:.0} records/s appended, {arrived_per_s:.0} records/s flushed by the standby")
}

/// Segments of each node that are ready before the clock; from then on they are recycled.
const PREPARED: u32 = 16;
/// What is measured is the live tail: half the arena keeps both ends busy, and the standby stays within it.
const EXPOSURE_LIMIT_BYTES: u64 = ARENA_BYTES / 2;
