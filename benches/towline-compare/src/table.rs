//! What a comparison prints: a ranking for each promise, never across promises.

use std::collections::BTreeMap;
use std::fmt::Write;
use towline_report::Report;
use towline_report::schema::{Arrival, Level, Point};
use towline_report::stats::median;

/// All rankings, then what must be reached.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut classes: BTreeMap<(Level, bool, &str), Vec<&Point>> = BTreeMap::new();
    for point in &report.points {
        let durable = point.durable.unwrap_or(false);
        let survives = point.survives.as_deref().unwrap_or("not said");
        classes.entry((point.level, durable, survives)).or_default().push(point);
    }
    for ((level, durable, survives), points) in classes {
        let durable = if durable { "durable" } else { "NOT durable" };
        let _ = writeln!(out, "\n{level}, {durable}; an acknowledgement survives {survives}");
        let _ = writeln!(
            out,
            "  {:>7}  {:<34} {:>10} {:>10} {:>12}  how",
            "clients", "system", "p50 µs", "p99 µs", "commits/s"
        );
        for (_, mut rows) in rows(&points) {
            rows.sort_by(|a, b| b.per_s.total_cmp(&a.per_s));
            for row in rows {
                let _ = writeln!(
                    out,
                    "  {:>7}  {:<34} {:>10.0} {:>10.0} {:>12.0}  {}",
                    row.clients, row.system, row.p50_us, row.p99_us, row.per_s, row.how
                );
            }
        }
    }
    let _ = writeln!(out, "\nwhat must be reached");
    for check in &report.checks {
        let value = check.value.map_or("not measured".into(), |value| format!("{value:.2} {}", check.unit));
        let spread =
            check.spread.map_or(String::new(), |spread| format!(" [{:.2}, {:.2}]", spread.low, spread.high));
        let met = match check.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let _ = writeln!(out, "  {:<62} {:>8}  {value}{spread} {met}", check.measure, check.bar);
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

struct Shown {
    clients: u32,
    system: String,
    p50_us: f64,
    p99_us: f64,
    per_s: f64,
    how: String,
}

/// Medians over the repetitions, by clients.
fn rows(points: &[&Point]) -> BTreeMap<u32, Vec<Shown>> {
    let mut groups: BTreeMap<&str, Vec<&Point>> = BTreeMap::new();
    for point in points {
        groups.entry(point.histogram.as_deref().unwrap_or_default()).or_default().push(point);
    }
    let mut rows: BTreeMap<u32, Vec<Shown>> = BTreeMap::new();
    for group in groups.into_values() {
        let figure = |figure: fn(&Point) -> f64| {
            median(&group.iter().map(|point| figure(point)).collect::<Vec<f64>>()).unwrap_or(f64::NAN)
        };
        let Some(first) = group.first() else { continue };
        let Arrival::Closed(clients) = first.load.arrival else { continue };
        let version = first.version.as_deref().unwrap_or_default();
        rows.entry(clients).or_default().push(Shown {
            clients,
            system: format!("{} {version}, {}{}", first.system, first.client.as_str(), alone(first)),
            p50_us: figure(|point| point.latency_ns.p50 as f64 / 1e3),
            p99_us: figure(|point| point.latency_ns.p99 as f64 / 1e3),
            per_s: figure(|point| point.achieved_per_s),
            how: first.note.clone().unwrap_or_default(),
        });
    }
    rows
}

/// Rows of one promise may have standbys that this promise does not wait for.
fn alone(point: &Point) -> &'static str {
    if point.standbys == 0 { ", alone" } else { "" }
}
