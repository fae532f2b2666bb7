//! Latency against throughput, and a standby that stalls in mid-run.

use super::lines::{Lines, Mark, lines};
use super::tables::{numbers, table, with_range};
use super::{LEGEND_QUANTILES, escape, figure};
use crate::groups::{Row, rows};
use crate::schema::{Arrival, LatencyNs, Report, Stall};
use crate::stats::Summary;
use crate::units;

/// The knee: offered rate swept to saturation, a chart for each level. Nothing where the run has none.
pub(super) fn knee_section(report: &Report) -> String {
    let all = rows(report.experiment("knee").chain(report.experiment("rates")));
    let open = all.iter().filter(|row| matches!(row.point.load.arrival, Arrival::OpenPerS(_)));
    let mut sets: Vec<Vec<&Row<'_>>> = Vec::new();
    for row in open {
        let same = |set: &&mut Vec<&Row<'_>>| {
            let (a, b) = (set[0].point, row.point);
            (a.level, &a.sync_rule, a.standbys, a.client, a.shards, &a.experiment)
                == (b.level, &b.sync_rule, b.standbys, b.client, b.shards, &b.experiment)
                && (a.record_bytes, a.link_rtt_us) == (b.record_bytes, b.link_rtt_us)
        };
        match sets.iter_mut().find(same) {
            Some(set) => set.push(row),
            None => sets.push(vec![row]),
        }
    }
    if sets.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<section id=\"knee\"><h2>Latency against throughput</h2><p class=\"lead\">Open load, swept to saturation; each \
         latency counts from the moment the append was due, so a queue shows. Where the curve turns up is as much as \
         this machine takes.</p>",
    );
    for (index, set) in sets.iter().enumerate() {
        let first = set[0].point;
        let rule = if first.sync_rule.is_empty() { "no standby" } else { &first.sync_rule };
        let title = format!("{}, {rule}, {}", first.level, units::bytes(first.record_bytes));
        let marks = |p50: bool| {
            let mark = |row: &&&Row<'_>| {
                let summary = if p50 { row.p50() } else { row.p99() };
                let name = if p50 { "p50" } else { "p99" };
                let (offered, got) = (row.load_label(), units::per_second(row.per_s().median));
                Mark {
                    x: row.per_s().median,
                    value: summary.median,
                    low: summary.min,
                    high: summary.max,
                    text: format!("offered {offered}, got {got}/s\n{name} {}", with_range(&summary)),
                }
            };
            set.iter().filter(|row| kept_up(row)).collect::<Vec<_>>().iter().map(mark).collect::<Vec<_>>()
        };
        let chart = Lines {
            label: format!("Commit latency against commits per second, {title}"),
            x_name: "commits per second",
            p50: marks(true),
            p99: marks(false),
            uprights: Vec::new(),
        };
        text.push_str(&format!("<h3>{}</h3>", escape(&title)));
        if !chart.p50.is_empty() {
            let caption = "Points in the order of the offered load. Points that the generator could not offer are left out; the \
                           table names them.";
            text.push_str(&figure(
                &format!("knee-{index}"),
                true,
                LEGEND_QUANTILES,
                &lines(&chart, &units::short_count),
                caption,
            ));
        }
        text.push_str(&knee_table(set));
    }
    text + "</section>"
}

fn kept_up(row: &Row<'_>) -> bool {
    row.repetitions.iter().all(|point| point.detail.kept_up != Some(false))
}

fn knee_table(set: &[&Row<'_>]) -> String {
    let body: String = set
        .iter()
        .map(|row| {
            let share = row.summary(|point| point.detail.of_saturation);
            let lag = row.summary(|point| point.detail.generator_lag_ns.map(|lag| lag.p99 as f64));
            let cells = [
                share.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share.median)),
                units::per_second(row.per_s().median),
                units::micros(row.p50().median),
                units::micros(row.p99().median),
                units::micros(row.latency(|latency| latency.p999).median),
                lag.map_or("–".into(), |lag| units::micros(lag.median)),
            ];
            let refused = if kept_up(row) { "" } else { "refused: the generator could not offer it" };
            format!(
                "<tr><th scope=\"row\"><b>{}</b></th>{}<td>{refused}</td></tr>",
                row.load_label(),
                numbers(&cells)
            )
        })
        .collect();
    let head = [
        "offered",
        "#of saturation",
        "#commits/s",
        "#p50 µs",
        "#p99 µs",
        "#p99.9",
        "#generator late, p99",
        "",
    ];
    table(&head, &body)
}

/// A standby that takes nothing for a while, a chart for each rule. Nothing where the run has none.
pub(super) fn stall_section(report: &Report) -> String {
    let all = rows(report.points.iter().filter(|point| point.detail.stall.is_some()));
    if all.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<section id=\"stall\"><h2>A standby that stalls</h2><p class=\"lead\">One standby is stopped in mid-run and goes on \
         again. A rule that needs it waits for as long as it is gone; one that has another to count does not notice.</p>",
    );
    let mut body = String::new();
    for (index, row) in all.iter().enumerate() {
        let stalls: Vec<&Stall> =
            row.in_order().iter().filter_map(|point| point.detail.stall.as_ref()).collect();
        let Some(first) = stalls.first() else { continue };
        let title = format!("{} at {}, {}", row.point.sync_rule, row.point.level, row.load_label());
        let marks = |quantile: fn(&LatencyNs) -> u64, name: &'static str| -> Vec<Mark> {
            let of_slice = |at: usize| {
                let slices = stalls.iter().filter_map(|stall| stall.slices.get(at));
                let summary = Summary::of(
                    slices
                        .filter(|slice| slice.latency_ns.samples > 0)
                        .map(|slice| quantile(&slice.latency_ns) as f64),
                )?;
                let x = first.slices.get(at)?.at_s;
                Some(Mark {
                    x,
                    value: summary.median,
                    low: summary.min,
                    high: summary.max,
                    text: format!("records due from {x:.2} s on\n{name} {}", with_range(&summary)),
                })
            };
            (0..first.slices.len()).filter_map(of_slice).collect()
        };
        let chart = Lines {
            label: format!("Commit latency over time while {} is stopped, {title}", first.standby),
            x_name: "when the record was due, seconds",
            p50: marks(|latency| latency.p50, "p50"),
            p99: marks(|latency| latency.p99, "p99"),
            uprights: vec![
                (first.from_s, format!("{} stops", first.standby)),
                (first.until_s, format!("{} goes on", first.standby)),
            ],
        };
        text.push_str(&format!("<h3>{}</h3>", escape(&title)));
        text.push_str(&figure(
            &format!("stall-{index}"),
            true,
            LEGEND_QUANTILES,
            &lines(&chart, &units::digits),
            "Each dot is a slice of time; records belong to the slice in which they were due.",
        ));
        text.push_str(&slice_table(&chart));
        let part = |of: fn(&Stall) -> &LatencyNs| -> [String; 2] {
            let median = |quantile: fn(&LatencyNs) -> u64| {
                Summary::of(stalls.iter().map(|stall| quantile(of(stall)) as f64)).unwrap_or_default().median
            };
            [units::micros(median(|latency| latency.p50)), units::micros(median(|latency| latency.p99))]
        };
        let parts =
            [part(|stall| &stall.before_ns), part(|stall| &stall.during_ns), part(|stall| &stall.after_ns)];
        body.push_str(&format!(
            "<tr><th scope=\"row\"><b>{}</b></th><td>{}</td>{}</tr>",
            escape(&row.point.sync_rule),
            escape(&first.standby),
            numbers(&parts.concat())
        ));
    }
    let head =
        ["sync rule", "stopped", "#before p50 µs", "#p99", "#during p50 µs", "#p99", "#after p50 µs", "#p99"];
    text + &table(&head, &body) + "</section>"
}

fn slice_table(chart: &Lines) -> String {
    let of =
        |marks: &[Mark], x: f64| marks.iter().find(|mark| mark.x == x).map(|mark| units::micros(mark.value));
    let row = |mark: &Mark| {
        let cells = [units::micros(mark.value), of(&chart.p99, mark.x).unwrap_or_else(|| "–".into())];
        format!("<tr><th scope=\"row\">{:.2}</th>{}</tr>", mark.x, numbers(&cells))
    };
    let body: String = chart.p50.iter().map(row).collect();
    let table = table(&["due from, s", "#p50 µs", "#p99 µs"], &body);
    format!("<details><summary>Every slice as a table</summary>{table}</details>")
}
