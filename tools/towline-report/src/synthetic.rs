//! Made-up points for tests and for looking at the page: the shapes of a real run, with noise from a fixed seed.

use crate::schema::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

#[path = "synthetic_experiments.rs"]
mod experiments;
pub(crate) use experiments::{full_report, survive_run};

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
        version: None,
        durable: None,
        survives: None,
        connections: None,
        detail: Default::default(),
    }
}

/// A whole canonical run on a machine that does not exist.
pub(crate) fn canonical_report(repetitions: u32) -> Report {
    let mut noise = Noise(ChaCha8Rng::seed_from_u64(7));
    let command = ["towline", "bench", "--repetitions", "3"].map(String::from).to_vec();
    let mut report = Report::new("canonical", command, machine());
    report.started_utc = "2026-11-23T08:12:45Z".into();
    report.took_s = Some(171.0);
    report.indicative = repetitions < 10;
    report.notes = vec![
        "Steal time rose to 3.1 % during the replay; its p99 is the hypervisor's, not the log's.".into(),
    ];
    report.floors = floors();
    for repetition in 0..repetitions {
        ladder(&mut report, &mut noise, repetition);
        replay(&mut report, &mut noise, repetition);
        for (link_rtt_us, rate) in [(0.0, 20_000.0), (5000.0, 20_000.0)] {
            window(&mut report, &mut noise, repetition, link_rtt_us, rate);
        }
    }
    report.knees = crate::knee::of_report(&report);
    report.checks = checks();
    report.primitives = primitives();
    report
}

struct Noise(ChaCha8Rng);

impl Noise {
    fn around(&mut self, value: f64) -> f64 {
        value * (1.0 + 0.06 * (self.0.random_range(-1.0..1.0f64)))
    }

    fn latency(&mut self, p50_ns: f64, tail: f64, samples: u64) -> LatencyNs {
        let p50 = self.around(p50_ns);
        let p99 = self.around(p50 * tail);
        LatencyNs {
            p50: p50 as u64,
            p90: (p50 + 0.35 * (p99 - p50)) as u64,
            p99: p99 as u64,
            p999: (1.7 * p99) as u64,
            max: self.around(4.0 * p99) as u64,
            samples,
        }
    }
}

fn ladder(report: &mut Report, noise: &mut Noise, repetition: u32) {
    let one_client = [210.0, 104e3, 112e3, 158e3, 171e3];
    for (level, p50_ns) in Level::ALL.into_iter().zip(one_client) {
        for (clients, slower) in [(1u32, 1.0), (8, 1.7), (32, 3.4)] {
            let slower = if level == Level::Off { 1.0 + 0.1 * f64::from(clients) } else { slower };
            let tail = if level == Level::Off { 6.0 } else { 2.1 };
            let mut point = window_point(Window::Inf, 0.0, 0);
            point.experiment = "ladder".into();
            point.level = level;
            point.window = None;
            point.standbys = if matches!(level, Level::Off | Level::Local) { 0 } else { 2 };
            point.sync_rule = if point.standbys == 0 { String::new() } else { "ANY 1 (a, b)".into() };
            point.load = Load::closed(clients);
            point.latency_ns = noise.latency(p50_ns * slower, tail, 40_000);
            point.achieved_per_s = f64::from(clients) / (point.latency_ns.p50 as f64 * 1.06e-9);
            point.batches = Some(40_000 / u64::from(clients));
            point.enters_per_flush = Some(1.4);
            point.allocations_per_commit = Some(0.0);
            point.mean_ns = Some(1.07 * point.latency_ns.p50 as f64);
            point.steal_percent = Some(0.3);
            point.repetition = repetition;
            report.points.push(point);
        }
    }
}

fn replay(report: &mut Report, noise: &mut Noise, repetition: u32) {
    for (level, p50_ns) in Level::ALL.into_iter().zip([420.0, 131e3, 140e3, 201e3, 214e3]) {
        let mut point = window_point(Window::Inf, 0.0, 0);
        point.experiment = "replay".into();
        point.level = level;
        point.window = None;
        point.standbys = 1;
        point.load = Load::open(6000.0);
        point.record_bytes = 742.0;
        point.latency_ns = noise.latency(p50_ns, 3.0, 30_000);
        point.achieved_per_s = 5998.0;
        point.repetition = repetition;
        report.points.push(point);
    }
}

/// Bytes; the sweep ends with ∞.
const WINDOWS: [u64; 11] = [0, 256, 1024, 2048, 4096, 8192, 16384, 24576, 32768, 65536, 262_144];

fn window(report: &mut Report, noise: &mut Noise, repetition: u32, link_rtt_us: f64, rate: f64) {
    let lambda = rate * 256.0;
    let remote_ns = 158e3 + link_rtt_us * 1e3;
    for window in WINDOWS.map(Window::Bytes).into_iter().chain([Window::Inf]) {
        let bytes = match window {
            Window::Bytes(bytes) => bytes as f64,
            _ => f64::INFINITY,
        };
        let bare_ns = (remote_ns - bytes / lambda * 1e9).max(106e3);
        let mut point = window_point(window, link_rtt_us, 0);
        point.load = Load::open(rate);
        point.latency_ns = noise.latency(bare_ns, 1.0 + 1.1 / (bare_ns / 2e5).max(1.0), 60_000);
        point.achieved_per_s = noise.around(rate);
        let most = (lambda * remote_ns * 1e-9).min(bytes);
        point.fill_bytes =
            Some(Spread { p50: (0.7 * most) as u64, p99: (0.95 * most) as u64, max: most as u64 });
        point.exposure_bytes = point.fill_bytes;
        point.waited_for_window = if bytes < lambda * remote_ns * 1e-9 { 59_000 } else { 0 };
        point.repetition = repetition;
        report.points.push(point);
    }
}

fn floors() -> Floors {
    let floor = |p50, p99| Some(FloorNs { p50, p99, samples: 20_000, waiting: Some("spin".into()) });
    Floors {
        durable_write_ns: floor(97_800, 181_000),
        pair_commit_ns: floor(141_200, 268_000),
        round_trip_ns: floor(10_400, 31_000),
        disk_bytes_per_s: Some(2.31e9),
        net_bytes_per_s: Some(2.04e9),
        durable_writes_per_s_depth32: Some(71_300.0),
        append_copy_ns: floor(118, 260),
        by_repetition: Vec::new(),
    }
}

fn checks() -> Vec<Check> {
    let check =
        |measure: &str, bar: &str, value, unit: &str, spread: Option<(f64, f64)>, floor: &str, met| Check {
            measure: measure.into(),
            bar: bar.into(),
            value,
            unit: unit.into(),
            spread: spread.map(|(low, high)| Interval { low, high }),
            floor: (!floor.is_empty()).then(|| floor.into()),
            met,
            note: None,
        };
    let mut checks = vec![
        check(
            "p50 local, 1 client, 256 B, no standby",
            "≤ 1.15 × durable-write floor",
            Some(1.06),
            "×",
            Some((1.03, 1.09)),
            "97.8 µs",
            Some(true),
        ),
        check(
            "p50 on, one standby, 1 client",
            "≤ 1.20 × pair floor",
            Some(1.12),
            "×",
            Some((1.08, 1.17)),
            "141 µs",
            Some(true),
        ),
        check(
            "commits/s local, 32 clients, no standby",
            "≥ 1.8 × depth-32 rate",
            Some(1.31),
            "×",
            Some((1.22, 1.40)),
            "71,300/s",
            Some(false),
        ),
        check("off, 256 B, 10 s", "≥ 3 million records/s", None, "million/s", None, "", None),
    ];
    checks[2].note =
        Some("Both cores are busy: 61 % of the shard's time is the kernel's block layer.".into());
    checks
}

fn primitives() -> Vec<PrimitiveRace> {
    [
        ("write + RWF_DSYNC", 97_800, 181_000, 9_900.0, true),
        ("write → linked FSYNC", 131_000, 240_000, 7_400.0, false),
    ]
    .into_iter()
    .map(|(name, p50_ns, p99_ns, per_s, chosen)| PrimitiveRace {
        name: name.into(),
        depth: 1,
        p50_ns,
        p99_ns,
        per_s,
        chosen,
    })
    .collect()
}

fn machine() -> Environment {
    Environment {
        kernel: "6.18.3".into(),
        cpu: "Example CPU @ 2.6 GHz".into(),
        cores: 2,
        memory_bytes: 24 << 30,
        hypervisor: "virtual machine".into(),
        file_system: "ext4".into(),
        mount_options: "rw,relatime".into(),
        device: "vda (virtio_blk)".into(),
        scheduler: "none".into(),
        write_cache: "write back".into(),
        fua: Some(false),
        congestion_control: "cubic".into(),
        network_path: "loopback, emulated links".into(),
        governor: "unknown".into(),
        steal_percent: Some(0.4),
        cpu_pressure_percent: Some(12.0),
        memlock_bytes: Some(8 << 20),
        durability_primitive: "write + RWF_DSYNC".into(),
        flush_depth: 4,
        commit: "2c895ff01234".into(),
        dirty: Some(false),
    }
}
