//! Made-up points of a comparison and of the experiments that are no ladder: timeline, knee, stall, standbys, sync
//! rules, shards, RTT.

use super::{Noise, canonical_report, window_point};
use crate::schema::*;
use crate::survive_run::{Cell, Loss, Row, SurviveRun, Verdict};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// Everything that a page can show.
pub(crate) fn full_report(repetitions: u32) -> Report {
    let mut report = canonical_report(repetitions);
    let mut noise = Noise(ChaCha8Rng::seed_from_u64(11));
    report.points.extend(comparison_report(repetitions).points);
    for repetition in 0..repetitions {
        for level in [Level::Local, Level::On] {
            knee(&mut report, &mut noise, level, repetition);
        }
        for rule in ["ANY 1 (a, b)", "ANY 2 (a, b)"] {
            stall(&mut report, &mut noise, rule, repetition);
        }
        for rule in ["ANY 1 (a, b, c)", "ANY 2 (a, b, c)", "FIRST 1 (a, b, c)", "ANY 3 (a, b, c)"] {
            let slower = if rule.contains('2') { 1.2 } else { 1.0 };
            let point = of(&mut noise, "sync_rules", Level::On, 158e3 * slower, repetition);
            report.points.push(Point { sync_rule: rule.into(), standbys: 3, ..point });
        }
        for standbys in [1u32, 2, 4, 8] {
            let point = of(&mut noise, "standbys", Level::On, 150e3 + 9e3 * f64::from(standbys), repetition);
            report.points.push(Point { sync_rule: "ANY 1 (*)".into(), standbys, ..point });
        }
        for (level, link_rtt_us) in [Level::Local, Level::On]
            .into_iter()
            .flat_map(|level| [0.0, 500.0, 5_000.0, 50_000.0].map(|us| (level, us)))
        {
            let link_ns = if level == Level::On { link_rtt_us * 1e3 } else { 0.0 };
            let point = of(&mut noise, "rtt", level, 120e3 + link_ns, repetition);
            report.points.push(Point { link_rtt_us, standbys: 1, sync_rule: "ANY 1 (a)".into(), ..point });
        }
        for shards in [1u32, 2] {
            let point = of(&mut noise, "shards", Level::Local, 300e3 / f64::from(shards), repetition);
            report.points.push(Point { shards, load: Load::closed(32), ..point });
        }
        report.timelines.push(timeline(&mut noise, repetition));
    }
    report
}

/// Windows that were crashed ten times each, on the machine of the reports.
pub(crate) fn survive_run() -> SurviveRun {
    let machine = super::machine();
    let cell = |window: Window, most: u64| Cell {
        row: Row { name: "window".into(), window: Some(window) },
        verdict: Verdict::Passed,
        runs: 10,
        losing_runs: if most > 0 { 10 } else { 0 },
        acked: 9_000,
        largest: Loss {
            records: most.div_ceil(127),
            payload_bytes: most,
            window_share: if let Window::Bytes(size @ 1..) = window {
                most as f64 / size as f64
            } else {
                0.0
            },
        },
        loss_sizes: (1..=10).map(|run| most * (90 + run) / 100).collect(),
        p50_us: 420.0,
    };
    let steps = super::WINDOWS.into_iter().skip(1).map(|bytes| cell(Window::Bytes(bytes), bytes * 94 / 100));
    let mut windows = vec![cell(Window::Bytes(0), 0)];
    windows.extend(steps);
    windows.push(cell(Window::Inf, 93_000));
    windows.push(cell(Window::Records(100), 97));
    windows.push(cell(Window::Micros(20_000), 15_500));
    SurviveRun {
        folder: "survive-20261123T165000Z".into(),
        began: "2026-11-23T16:50:00Z".into(),
        seconds: 200.0,
        rate_per_s: 6000.0,
        lanes: 2,
        cpu: machine.cpu,
        cores: machine.cores,
        commit: machine.commit,
        windows,
        ..SurviveRun::default()
    }
}

/// Four systems at two loads: one promise that most make, one that a library makes alone, one that is not durable.
fn comparison_report(repetitions: u32) -> Report {
    let mut report =
        Report::new("compare", vec!["towline".into(), "bench".into(), "compare".into()], super::machine());
    report.floors = super::floors();
    let mut noise = Noise(ChaCha8Rng::seed_from_u64(5));
    let systems = [
        ("towline", "0.1.0", Client::Embedded, Level::On, true, "on", 160e3),
        ("towline", "0.1.0", Client::Socket, Level::On, true, "on", 205e3),
        ("postgres", "15.8", Client::Socket, Level::On, true, "on", 471e3),
        ("etcd", "3.4.23", Client::Socket, Level::On, true, "on", 944e3),
        ("redis", "7.0.15", Client::Socket, Level::RemoteWrite, true, "remote_write", 541e3),
        ("towline", "0.1.0", Client::Socket, Level::RemoteWrite, true, "remote_write", 140e3),
        ("raft-engine", "0.4.2", Client::Embedded, Level::Local, true, "local", 112e3),
        ("towline", "0.1.0", Client::Embedded, Level::Local, true, "local", 104e3),
        ("nats", "2.9.10", Client::Socket, Level::On, false, "one node's loss, no power cut", 291e3),
    ];
    for repetition in 0..repetitions {
        for (system, version, client, level, durable, survives, p50_ns) in systems {
            for clients in [1u32, 32] {
                let slower = if clients == 1 { 1.0 } else { 4.2 };
                let mut point = of(&mut noise, "compare", level, p50_ns * slower, repetition);
                point.system = system.into();
                point.client = client;
                point.load = Load::closed(clients);
                point.achieved_per_s = f64::from(clients) / (point.latency_ns.p50 as f64 * 1.06e-9);
                point.version = Some(version.into());
                point.durable = Some(durable);
                point.survives = Some(format!("what {survives} does"));
                point.connections = (client == Client::Socket).then_some(clients);
                point.note = Some("a prepared transaction per commit".into());
                report.points.push(point);
            }
        }
    }
    report
}

fn of(noise: &mut Noise, experiment: &str, level: Level, p50_ns: f64, repetition: u32) -> Point {
    let mut point = window_point(Window::Inf, 0.0, 0);
    point.experiment = experiment.into();
    point.window = None;
    point.level = level;
    point.standbys = if level > Level::Local { 2 } else { 0 };
    point.sync_rule = if level > Level::Local { "ANY 1 (a, b)".into() } else { String::new() };
    point.load = Load::closed(1);
    point.latency_ns = noise.latency(p50_ns, 2.2, 9_000);
    point.achieved_per_s = 1e9 / (point.latency_ns.p50 as f64 * 1.06);
    point.repetition = repetition;
    point
}

fn knee(report: &mut Report, noise: &mut Noise, level: Level, repetition: u32) {
    let most = if level == Level::Local { 180e3 } else { 120e3 };
    for share in [0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1] {
        let queue = if share < 1.0 { 1.0 / (1.0 - share * 0.98) } else { 120.0 };
        let mut point = of(noise, "knee", level, 110e3 * queue, repetition);
        point.load = Load::open(most * share);
        point.achieved_per_s = most * f64::min(share, 1.0);
        point.detail.of_saturation = Some(share);
        point.detail.kept_up = Some(share < 1.1);
        report.points.push(point);
    }
}

fn stall(report: &mut Report, noise: &mut Noise, rule: &str, repetition: u32) {
    let waits = rule.starts_with("ANY 2");
    let slice = |noise: &mut Noise, index: u32| {
        let at_s = f64::from(index) * 0.25;
        let stopped = waits && (1.0..2.0).contains(&at_s);
        let p50_ns = if stopped { (2.0 - at_s) * 0.9e9 } else { 160e3 };
        Slice { at_s, latency_ns: noise.latency(p50_ns, if stopped { 1.1 } else { 2.0 }, 1_000) }
    };
    let slices: Vec<Slice> = (0..18).map(|index| slice(noise, index)).collect();
    let mut point = of(noise, "stall", Level::On, 165e3, repetition);
    point.sync_rule = rule.into();
    point.load = Load::open(4_000.0);
    point.achieved_per_s = 4_000.0;
    point.detail.stall = Some(Stall {
        standby: "a".into(),
        from_s: 1.0,
        until_s: 2.0,
        before_ns: slices[0].latency_ns,
        during_ns: slices[4].latency_ns,
        after_ns: slices[17].latency_ns,
        slices,
    });
    report.points.push(point);
}

fn timeline(noise: &mut Noise, repetition: u32) -> Timeline {
    let stages = [
        ("primary", TimelineStage::Accepted, 0.4e3),
        ("primary", TimelineStage::Batched, 9e3),
        ("primary", TimelineStage::Flushed, 108e3),
        ("a", TimelineStage::Written, 62e3),
        ("a", TimelineStage::Flushed, 156e3),
        ("a", TimelineStage::Applied, 171e3),
        ("b", TimelineStage::Written, 66e3),
        ("b", TimelineStage::Flushed, 169e3),
        ("b", TimelineStage::Applied, 184e3),
    ];
    let levels =
        [(Level::Off, 0.4e3), (Level::Local, 108e3), (Level::RemoteWrite, 109e3), (Level::On, 156e3)];
    let stages = stages.map(|(node, stage, ns)| StageTime {
        node: node.into(),
        stage,
        after_ns: noise.latency(ns, 2.0, 20_000),
    });
    let levels = levels.map(|(level, ns)| LevelTime { level, after_ns: noise.latency(ns, 2.0, 20_000) });
    Timeline {
        experiment: "timeline".into(),
        level: Level::On,
        sync_rule: "ANY 1 (a, b)".into(),
        standbys: 2,
        load: Load::closed(1),
        record_bytes: 256.0,
        repetition,
        records: 20_000,
        left_out: 3,
        stages: stages.to_vec(),
        levels: levels.to_vec(),
        acknowledged_ns: noise.latency(158e3, 2.0, 20_000),
        look_every_ns: noise.latency(2e3, 2.0, 90_000),
        instrument: Some(InstrumentCost {
            with_p50_ns: 159_000,
            without_p50_ns: 158_000,
            ratio: 1.006,
            interval: Interval { low: 0.992, high: 1.021 },
            pairs: 24,
        }),
    }
}
