//! Exposure as a histogram in the Prometheus text, read back by its format's rules.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::collections::BTreeMap;

use common::*;
use towline_core::types::Level;
use towline_runtime::EXPOSURE_BOUNDS_BYTES;

/// Samples of a text: name, labels, value. Every family has its type said once, before its samples.
fn samples(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} is typed twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        let labels = labels.strip_suffix('}').unwrap();
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').unwrap();
            (key.to_owned(), value.strip_prefix('"').unwrap().strip_suffix('"').unwrap().to_owned())
        };
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| name.strip_suffix(end))
            .find(|family| types.get(family) == Some(&"histogram"))
            .unwrap_or(name);
        assert!(types.contains_key(family), "{name} has no type");
        found.push((name.to_owned(), labels.split(',').map(pair).collect(), value.parse().unwrap()));
    }
    found
}

/// One stage's histogram: bounds with cumulative counts in the order written, sum, count.
fn histogram(text: &str, stage: &str) -> (Vec<(f64, f64)>, f64, f64) {
    let of_stage: Vec<_> = samples(text)
        .into_iter()
        .filter(|(_, labels, _)| labels.get("stage").is_some_and(|s| s == stage))
        .collect();
    let single = |name: &str| {
        let mut values = of_stage.iter().filter(|(found, ..)| found == name).map(|(.., value)| *value);
        let value = values.next().unwrap();
        assert_eq!(values.next(), None, "{name} {stage} stands there twice");
        value
    };
    let bound = |labels: &BTreeMap<String, String>| match labels["le"].as_str() {
        "+Inf" => f64::INFINITY,
        bound => bound.parse().unwrap(),
    };
    let buckets = of_stage
        .iter()
        .filter(|(name, ..)| name == "towline_exposure_at_acks_bytes_bucket")
        .map(|(_, labels, count)| (bound(labels), *count))
        .collect();
    (buckets, single("towline_exposure_at_acks_bytes_sum"), single("towline_exposure_at_acks_bytes_count"))
}

#[test]
fn exposure_grows_through_the_buckets_while_the_standby_is_away() {
    let folder = folder();
    let standby = start(standby(&folder.path().join("a"), "a"));
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &standby)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let primary = start(options);
    let log = leading(&primary);
    log.append(&[1; 100], Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    until("everything is safe", || log.exposure_bytes()[1] == Some(0));
    let (before, ..) = histogram(&primary.metrics(), "flushed");
    standby.stop().unwrap();
    // One ack a turn: after the n-th, n KiB are exposed.
    for _ in 0..20 {
        log.append(&[2; 1024], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    }
    let text = primary.metrics();
    let (buckets, sum, count) = histogram(&text, "flushed");
    let bounds: Vec<f64> =
        EXPOSURE_BOUNDS_BYTES.iter().map(|bound| *bound as f64).chain([f64::INFINITY]).collect();
    assert_eq!(buckets.iter().map(|(bound, _)| *bound).collect::<Vec<_>>(), bounds);
    assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "cumulative: {buckets:?}");
    assert_eq!(buckets.last().unwrap().1, count);
    // 1 KiB; 2 to 4; 5 to 16; 17 to 20 KiB.
    let grown: Vec<f64> = buckets.iter().zip(&before).map(|(now, then)| now.1 - then.1).collect();
    assert_eq!(grown[..5], [0.0, 1.0, 4.0, 16.0, 20.0], "{text}");
    assert_eq!(grown[5..], [20.0; 8]);
    let exposed: u64 = (1..=20).map(|kib| kib * 1024).sum();
    assert!(sum >= exposed as f64 && count >= 20.0, "{sum} of {count}");
    let gauge = samples(&text)
        .into_iter()
        .find(|(name, labels, _)| name == "towline_exposure_bytes" && labels["stage"] == "flushed");
    assert_eq!(gauge.unwrap().2, 20.0 * 1024.0);
    primary.stop().unwrap();
}
