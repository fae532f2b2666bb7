//! Made-up points for tests.

use crate::schema::{Client, LatencyNs, Level, Load, Point, Window};

pub(crate) fn window_point(window: Window, link_rtt_us: f64, p50: u64) -> Point {
    Point {
        system: "towline".into(),
        experiment: "window".into(),
        client: Client::Embedded,
        level: Level::On,
        window: Some(window),
        sync_rule: "ANY 1 (a)".into(),
        standbys: 1,
        link_rtt_us,
        load: Load::open(10_000.0),
        record_bytes: 256.0,
        shards: 1,
        achieved_per_s: 10_000.0,
        latency_ns: LatencyNs { p50, p90: 2 * p50, p99: 3 * p50, p999: 4 * p50, max: 5 * p50, samples: 1000 },
        fill_bytes: None,
        exposure_bytes: None,
        waited_for_window: 0,
        repetition: 0,
        ratio_to_floor: None,
        mean_ns: None,
        fill_in_unit: None,
        offered_per_s: None,
        link_rtt_measured_us: None,
        duration_s: None,
        enters: None,
        flushes: None,
        batches: None,
        enters_per_flush: None,
        allocations_per_commit: None,
        acks_by_achieved_level: Default::default(),
        steal_percent: None,
        histogram: None,
        note: None,
    }
}
