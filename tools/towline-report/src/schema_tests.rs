use super::*;
use serde_json::{Value, json};

fn point() -> Value {
    json!({
        "system": "towline", "experiment": "window", "client": "embedded", "level": "on",
        "window": {"bytes": 4096}, "sync_rule": "ANY 1 (a, b)", "standbys": 2, "link_rtt_us": 5000.0,
        "load": {"open_per_s": 2000.0}, "record_bytes": 256.0, "shards": 1, "achieved_per_s": 1999.5,
        "latency_ns": {"p50": 1, "p90": 2, "p99": 3, "p999": 4, "max": 5, "samples": 6},
        "fill_bytes": {"p50": 7, "p99": 8, "max": 9}, "exposure_bytes": null,
        "waited_for_window": 10, "repetition": 0
    })
}

#[test]
fn a_point_keeps_the_names_that_other_programs_read() {
    let value = point();
    let point: Point = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(point.window, Some(Window::Bytes(4096)));
    assert_eq!(point.load, Load::open(2000.0));
    assert_eq!(serde_json::to_value(&point).unwrap(), value);
}

#[test]
fn windows_and_loads_are_written_as_documented() {
    let text = |window: Option<Window>| serde_json::to_string(&window).unwrap();
    assert_eq!(text(None), "null");
    assert_eq!(text(Some(Window::Inf)), "\"inf\"");
    assert_eq!(text(Some(Window::Records(8))), "{\"records\":8}");
    assert_eq!(text(Some(Window::Micros(50))), "{\"micros\":50}");
    assert_eq!(serde_json::to_string(&Load::closed(32)).unwrap(), "{\"closed\":32}");
    let threads = Load { threads: Some(32), ..Load::closed(32) };
    let text = serde_json::to_string(&threads).unwrap();
    assert_eq!(text, "{\"closed\":32,\"threads\":32}");
    assert_eq!(serde_json::from_str::<Load>(&text).unwrap(), threads);
}

#[test]
fn floors_keep_their_names() {
    let floors = serde_json::to_value(Floors::default()).unwrap();
    for name in [
        "durable_write_ns",
        "pair_commit_ns",
        "round_trip_ns",
        "disk_bytes_per_s",
        "net_bytes_per_s",
        "durable_writes_per_s_depth32",
    ] {
        assert!(floors.get(name).is_some(), "{name} is gone");
    }
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = Report::load(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::Missing { .. }), "{error}");

    let mut report = Report::new("test", vec!["bench".into()], Environment::default());
    report.points.push(serde_json::from_value(point()).unwrap());
    report.save(dir.path()).unwrap();
    assert_eq!(Report::load(dir.path()).unwrap(), report);
    assert_eq!(Report::load(&dir.path().join(REPORT_FILE)).unwrap(), report);

    let path = dir.path().join(REPORT_FILE);
    let whole = std::fs::read_to_string(&path).unwrap();
    for cut in [0, 1, whole.len() / 2, whole.len() - 2] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = Report::load(dir.path()).unwrap_err();
        assert!(matches!(error, LoadError::Damaged { .. }), "cut at {cut}: {error}");
    }

    std::fs::write(&path, r#"{"schema_version": 2, "everything": "is different"}"#).unwrap();
    let error = Report::load(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::Newer { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("use a newer towline"));
}

#[test]
fn a_figure_that_is_not_a_number_is_refused_and_the_old_report_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut report = Report::new("test", Vec::new(), Environment::default());
    report.save(dir.path()).unwrap();
    let mut bad: Point = serde_json::from_value(point()).unwrap();
    bad.achieved_per_s = f64::NAN;
    report.points.push(bad);
    let error = report.save(dir.path()).unwrap_err();
    assert!(error.to_string().contains("not a number"), "{error}");
    assert!(Report::load(dir.path()).unwrap().points.is_empty());
}
