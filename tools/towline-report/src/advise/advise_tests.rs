use super::*;
use crate::schema::Environment;
use crate::synthetic::{canonical_report, window_point};

/// p99 in µs by level and load; a window of `w` KiB over the link has 2,000 − 100 w µs.
fn report(repetitions: u32) -> Report {
    let mut report = Report::new("known", Vec::new(), Environment::default());
    let p99_us = [(Level::Off, 1), (Level::Local, 200), (Level::RemoteWrite, 400), (Level::On, 800)];
    for repetition in 0..repetitions {
        for (level, us) in p99_us {
            for clients in [1u32, 32] {
                let mut point = window_point(Window::Inf, 0.0, us * 250 * u64::from(clients.min(2)));
                point.experiment = "ladder".into();
                point.window = None;
                point.level = level;
                point.load = crate::schema::Load::closed(clients);
                point.latency_ns.p99 = us * 1000 * u64::from(clients.min(2));
                point.repetition = repetition;
                point.exposure_bytes = Some(Spread { p50: 1024, p99: 2048, max: 4096 });
                report.points.push(point);
            }
        }
        for kib in [0u64, 1, 4, 16] {
            let mut point = window_point(Window::Bytes(kib * 1024), 0.0, 1);
            point.latency_ns.p99 = (2_000 - 100 * kib) * 1000;
            point.repetition = repetition;
            report.points.push(point);
        }
    }
    report
}

fn goal(survive: Failure, p99_us: u32) -> Goal {
    Goal { survive, p99_ns: f64::from(p99_us) * 1e3, lose_bytes: 0, clients: None, link_rtt_us: None }
}

fn met(advice: &Advice) -> (Level, Option<u64>) {
    match &advice.verdict {
        Verdict::Met { level, window_bytes, .. } => (*level, *window_bytes),
        Verdict::Impossible { why, .. } => panic!("{why}"),
    }
}

fn impossible(advice: &Advice) -> (Half, String) {
    match &advice.verdict {
        Verdict::Impossible { half, why, nearest } => (*half, format!("{why}\n{}", nearest.join("\n"))),
        met => panic!("{met:?}"),
    }
}

#[test]
fn the_weakest_rung_that_meets_both_is_named() {
    let report = report(1);
    for (failure, level) in [
        (Failure::CleanStop, Level::Off),
        (Failure::PrimaryPowerCut, Level::Local),
        (Failure::PrimaryDiskLoss, Level::RemoteWrite),
        (Failure::PrimaryDiskLossStandbysPowerCut, Level::On),
    ] {
        assert_eq!(met(&advise(&report, goal(failure, 2_000)).unwrap()), (level, None));
    }
    let advice = advise(&report, goal(Failure::PrimaryDiskLoss, 2_000)).unwrap();
    assert_eq!(advice.rungs.len(), 4, "the rungs above and below are there too");
    assert!(advice.rungs[1].loses.contains("at most 4\u{a0}KiB"), "{:?}", advice.rungs[1]);
    let text = format_advice(&advice);
    for expected in ["answer: remote_write", "ANY 1 (a)", "no window", "lag windows at on", "→ remote_write"]
    {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }
}

#[test]
fn the_heaviest_load_decides_and_a_lighter_one_is_the_nearest() {
    let report = report(1);
    let asked = goal(Failure::PrimaryDiskLoss, 500);
    let (half, nearest) = impossible(&advise(&report, asked.clone()).unwrap());
    assert_eq!(half, Half::Latency);
    for expected in
        ["with 1 client, `remote_write`", "800\u{a0}µs", "16\u{a0}KiB", "`local`; it loses what no standby"]
    {
        assert!(nearest.contains(expected), "{expected:?} is missing in\n{nearest}");
    }
    let one = Goal { clients: Some(1), ..asked };
    assert_eq!(met(&advise(&report, one).unwrap()), (Level::RemoteWrite, None));
}

#[test]
fn what_may_be_lost_is_the_widest_window() {
    let report = report(1);
    let with = |p99_us, lose_bytes| Goal { lose_bytes, ..goal(Failure::PrimaryDiskLoss, p99_us) };
    assert_eq!(met(&advise(&report, with(2_000, 10_000)).unwrap()), (Level::RemoteWrite, Some(4096)));
    // Too slow without a window; 16 KiB bring it to 400 µs.
    let advice = advise(&report, with(500, 1 << 20)).unwrap();
    assert_eq!(met(&advice), (Level::RemoteWrite, Some(16_384)));
    let text = format_advice(&advice);
    assert!(text.contains("the level alone is too slow"));
    assert!(text.contains("at `on`, ") && text.contains("no windows at `remote_write`"), "{text}");
    assert_eq!(impossible(&advise(&report, with(500, 4096)).unwrap()).0, Half::Latency);
    // A level that waits for nobody takes no window.
    let local = Goal { lose_bytes: 1 << 20, ..goal(Failure::PrimaryPowerCut, 2_000) };
    assert_eq!(met(&advise(&report, local).unwrap()), (Level::Local, None));
}

#[test]
fn what_a_window_would_buy_is_said_with_the_level_that_it_was_measured_at() {
    let text = format_advice(&advise(&report(1), goal(Failure::PrimaryDiskLoss, 2_000)).unwrap());
    assert!(!text.contains("who may lose"), "these windows have one p50: {text}");
    let mut paying = report(1);
    for point in &mut paying.points {
        if let Some(Window::Bytes(bytes)) = point.window {
            point.latency_ns.p50 = 900_000 - 50_000 * (bytes >> 10);
        }
    }
    let text = format_advice(&advise(&paying, goal(Failure::PrimaryDiskLoss, 2_000)).unwrap());
    assert!(text.contains("answer: remote_write") && text.contains("at `on`, "), "{text}");
    let text =
        format_advice(&advise(&paying, goal(Failure::PrimaryDiskLossStandbysPowerCut, 2_000)).unwrap());
    assert!(text.contains("who may lose") && !text.contains("at `on`, "), "the answer's own level: {text}");
}

#[test]
fn no_level_survives_the_loss_of_every_disk() {
    let advice = advise(&report(1), goal(Failure::AllDiskLoss, 2_000_000)).unwrap();
    let (half, text) = impossible(&advice);
    assert_eq!(half, Half::Survival);
    assert!(text.contains("all but one of the disks"), "{text}");
    assert!(advice.rungs.iter().all(|rung| rung.loses == "everything"));
}

#[test]
fn a_p99_below_every_level_says_the_least() {
    let mut report = report(1);
    report.points.retain(|point| point.level != Level::Off);
    let (half, text) = impossible(&advise(&report, goal(Failure::PrimaryPowerCut, 10)).unwrap());
    assert_eq!(half, Half::Latency);
    assert!(text.contains("no level of this run meets that p99") && text.contains("400\u{a0}µs"), "{text}");
}

#[test]
fn one_slow_repetition_of_few_counts_and_of_many_does_not() {
    let slow_one = |repetitions| {
        let mut report = report(repetitions);
        report.points[4].latency_ns.p99 = 50_000_000;
        advise(&report, goal(Failure::PrimaryDiskLoss, 2_000)).map(|advice| met(&advice).0)
    };
    assert_eq!(slow_one(3), Ok(Level::On), "the slowest of three stands for what is not known");
    assert_eq!(slow_one(10), Ok(Level::RemoteWrite), "one of ten is outside the interval of the median");
}

#[test]
fn what_was_not_measured_is_not_guessed() {
    let report = report(1);
    let asked = goal(Failure::PrimaryDiskLoss, 2_000);
    assert_eq!(
        advise(&report, Goal { clients: Some(7), ..asked.clone() }),
        Err(AdviseError::NoSuchLoad { asked: 7, measured: "1, 32".into() })
    );
    let link = advise(&report, Goal { link_rtt_us: Some(5000.0), ..asked.clone() });
    assert_eq!(link, Err(AdviseError::NoSuchLink { asked_us: 5000, measured: "loopback".into() }));
    let two = advise(&report, goal(Failure::PrimaryAndStandbyDiskLoss, 2_000));
    assert_eq!(two, Err(AdviseError::NoSurvivor { level: Level::RemoteWrite, standbys: 2, more: 3 }));
    let mut only_windows = report.clone();
    only_windows.points.retain(|point| point.experiment == "window");
    assert_eq!(advise(&only_windows, asked), Err(AdviseError::NoLadder), "no point without a window");
}

#[test]
fn a_rule_that_waits_for_two_survives_two_disks_and_a_long_link_is_its_own() {
    let mut report = report(1);
    let remote = |point: &&Point| point.experiment == "ladder" && point.level >= Level::RemoteWrite;
    let further: Vec<Point> = report.points.iter().filter(remote).cloned().collect();
    for point in further {
        let mut two = point.clone();
        two.sync_rule = "ANY 2 (a, b)".into();
        two.standbys = 2;
        two.experiment = "sync_rules".into();
        let mut far = point;
        far.link_rtt_us = 5000.0;
        far.latency_ns.p99 += 5_000_000;
        report.points.extend([two, far]);
    }
    let advice = advise(&report, goal(Failure::PrimaryAndStandbyDiskLoss, 2_000)).unwrap();
    assert_eq!(met(&advice).0, Level::RemoteWrite);
    assert_eq!(advice.rungs[2].sync_rule, "ANY 2 (a, b)");
    assert_eq!(advice.rungs[0].level, Level::Off, "the rungs below come from the ladder");
    let far = Goal { link_rtt_us: Some(5000.0), ..goal(Failure::PrimaryDiskLoss, 2_000) };
    assert_eq!(impossible(&advise(&report, far.clone()).unwrap()).0, Half::Latency);
    assert_eq!(met(&advise(&report, Goal { p99_ns: 6e6, ..far }).unwrap()).0, Level::RemoteWrite);
}

#[test]
fn a_sweep_over_a_long_link_answers_for_that_link() {
    let mut report = report(1);
    for (level, us) in [(Level::Local, 300), (Level::On, 5_900)] {
        let mut point = window_point(Window::Inf, 5000.0, us * 1000 / 3);
        (point.window, point.level) = (None, level);
        report.points.push(point);
    }
    for kib in [0u64, 64] {
        report.points.push(window_point(Window::Bytes(kib * 1024), 5000.0, (1_900 - 25 * kib) * 1000));
    }
    let far = Goal { link_rtt_us: Some(5000.0), ..goal(Failure::PrimaryDiskLoss, 2_000) };
    let (half, text) = impossible(&advise(&report, far.clone()).unwrap());
    assert!(half == Half::Latency && text.contains("a lag window of 64\u{a0}KiB"), "{text}");
    let advice = advise(&report, Goal { lose_bytes: 100_000, ..far }).unwrap();
    assert_eq!(met(&advice), (Level::On, Some(65_536)));
    assert_eq!(advice.rungs.last().unwrap().loads[0].clients, None);
    let text = format_advice(&advice);
    assert!(text.contains("`remote_write` would survive it too"), "{text}");
}

#[test]
fn a_whole_run_answers_and_its_answer_is_json() {
    let advice = advise(&canonical_report(3), goal(Failure::PrimaryDiskLoss, 2_000)).unwrap();
    assert_eq!(met(&advice).0, Level::RemoteWrite);
    let json = serde_json::to_value(&advice).unwrap();
    assert_eq!(json["verdict"]["answer"], "met");
    assert_eq!(json["verdict"]["level"], "remote_write");
    assert_eq!(json["goal"]["survive"], "primary-disk");
}
