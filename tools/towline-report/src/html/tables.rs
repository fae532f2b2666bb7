//! The tables of the page.

use super::escape;
use crate::groups::{Row, rows};
use crate::knee::Curve;
use crate::schema::{Check, Client, FloorNs, Floors, Knee, Point, PrimitiveRace, Report, Window};
use crate::stats::Summary;
use crate::table::{check_spread, check_value, link_words, ratio_and_floor, window_words};
use crate::units;

/// `158 µs (150 µs – 163 µs)`; without a range where there was one repetition.
pub(super) fn with_range(summary: &Summary) -> String {
    let median = units::duration(summary.median);
    if summary.count < 2 {
        return median;
    }
    format!("{median} ({} – {})", units::duration(summary.min), units::duration(summary.max))
}

/// The load, and what else tells this row from the others of its level.
pub(super) fn row_label(row: &Row<'_>, all: &[Row<'_>]) -> String {
    let peers = || all.iter().filter(|other| other.point.level == row.point.level);
    let mut label = row.load_label();
    if peers().any(|other| other.point.client != row.point.client) && row.point.client == Client::Socket {
        label.push_str(", socket");
    }
    if peers().any(|other| other.point.standbys != row.point.standbys) {
        let count = row.point.standbys;
        label.push_str(&format!(", {count} standby{}", if count == 1 { "" } else { "s" }));
    }
    if peers().any(|other| other.point.record_bytes != row.point.record_bytes) {
        label.push_str(&format!(", {}", units::bytes(row.point.record_bytes)));
    }
    if peers().any(|other| other.point.sync_rule != row.point.sync_rule) && !row.point.sync_rule.is_empty() {
        label.push_str(&format!(", {}", short_rule(&row.point.sync_rule)));
    }
    if peers().any(|other| other.point.shards != row.point.shards) {
        let shards = row.point.shards;
        label.push_str(&if shards == 1 { ", 1 shard".into() } else { format!(", {shards} shards") });
    }
    if peers().any(|other| other.point.link_rtt_us != row.point.link_rtt_us) {
        let link = row.point.link_rtt_us;
        label.push_str(&if link == 0.0 {
            ", no link".into()
        } else {
            format!(", {}", units::duration(link * 1e3))
        });
    }
    label
}

/// `ANY 2 (a, b, c)` as `ANY 2`: the names are in the table's note.
fn short_rule(rule: &str) -> &str {
    let head = rule.split('(').next().unwrap_or(rule).trim();
    if head.is_empty() { rule } else { head }
}

/// The 95 % interval of p50 and p99 over the repetitions; of few of them the range, of one nothing.
pub(super) fn intervals(row: &Row<'_>) -> [String; 2] {
    [row.p50_interval(), row.p99_interval()].map(|interval| {
        interval.map_or("–".into(), |interval| {
            format!("{} – {}", units::micros(interval.low), units::micros(interval.high))
        })
    })
}

pub(super) fn latency(report: &Report, points: &[Row<'_>]) -> String {
    let mut body = String::new();
    let mut level_before = None;
    for row in points {
        let point = row.point;
        let first = level_before != Some(point.level);
        level_before = Some(point.level);
        let name = if first {
            let rows = points.iter().filter(|other| other.point.level == point.level).count();
            let (level, waits_for) = (point.level, point.level.waits_for());
            format!("<th scope=\"rowgroup\" rowspan=\"{rows}\"><b>{level}</b><small>{waits_for}</small></th>")
        } else {
            String::new()
        };
        let (ratio, floor) = ratio_and_floor(report, row);
        let p50 = row.p50();
        let [p50_interval, p99_interval] = intervals(row);
        // Below the figure: columns of their own would be wider than a page.
        let with_interval = |figure: f64, interval: &str| {
            let interval = if interval == "–" {
                String::new()
            } else {
                format!("<small>{}</small>", escape(interval))
            };
            format!("<td class=\"n\">{}{interval}</td>", units::micros(figure))
        };
        let quantile = |of: fn(&crate::schema::LatencyNs) -> u64| units::micros(row.latency(of).median);
        // Of fewer samples than that a quantile is the largest.
        let enough = |samples| row.least_samples() >= samples;
        let p99 = |interval: &str| match enough(100) {
            true => with_interval(row.p99().median, interval),
            false => numbers(&["–".into()]),
        };
        body.push_str(&format!(
            "<tr{}>{name}<td class=\"nowrap\">{}</td>{}{}{}{}<td class=\"nowrap\">{}</td>{}</tr>",
            if first { "" } else { " class=\"more\"" },
            escape(&row_label(row, points)),
            with_interval(p50.median, &p50_interval),
            numbers(&[quantile(|latency| latency.p90)]),
            p99(&p99_interval),
            numbers(&[
                if enough(1000) { quantile(|latency| latency.p999) } else { "–".into() },
                units::micros(row.max_ns()),
                units::per_second(row.per_s().median),
                ratio,
            ]),
            escape(&floor),
            numbers(&[units::grouped(row.samples() as f64)]),
        ));
    }
    table(
        &[
            "level",
            "load",
            "#p50 µs",
            "#p90",
            "#p99",
            "#p99.9",
            "#max",
            "#commits/s",
            "#× floor",
            "floor",
            "#samples",
        ],
        &body,
    )
}

/// The sweep of one curve, and below it what was measured without a window under the same load.
pub(super) fn window(report: &Report, curve: &Curve<'_>) -> String {
    let same_load = |point: &&Point| {
        point.window.is_none() && point.load == curve.load && point.link_rtt_us == curve.link_rtt_us
    };
    let beside = report.experiment("window").filter(same_load);
    let points = rows(curve.points.iter().copied().chain(beside));
    let mut body = String::new();
    for window in curve.windows().into_iter().map(Some).chain([None]) {
        for row in points.iter().filter(|row| row.point.window == window) {
            let name = match window {
                Some(window @ (Window::Records(_) | Window::Micros(_))) => {
                    let unit = if matches!(window, Window::Records(_)) { "records" } else { "µs" };
                    let most = row.summary(|point| Some(point.fill_in_unit.as_ref()?.max as f64));
                    let most = most.map(|most| {
                        format!("<small>fill at most {} {unit}</small>", units::grouped(most.max))
                    });
                    escape(&window_words(Some(window))) + most.as_deref().unwrap_or_default()
                }
                Some(_) => escape(&window_words(window)),
                None => format!("<code>{}</code>, no window", row.point.level),
            };
            let fill = row.fill();
            let bytes = |value: Option<f64>| value.map_or("–".into(), units::bytes);
            let waited = row.waited() as f64 / row.samples().max(1) as f64;
            let cells = [
                units::micros(row.p50().median),
                units::micros(row.p99().median),
                units::per_second(row.per_s().median),
                bytes(fill.map(|fill| fill.0)),
                bytes(fill.map(|fill| fill.1)),
                bytes(fill.map(|fill| fill.2)),
                bytes(row.exposure_max()),
                units::grouped(row.waited() as f64),
                format!("{:.0} %", (100.0 * waited).min(100.0)),
            ];
            body.push_str(&format!("<tr><th scope=\"row\"><b>{name}</b></th>{}</tr>", numbers(&cells)));
        }
    }
    let head = [
        "ω",
        "#p50 µs",
        "#p99 µs",
        "#commits/s",
        "#fill p50",
        "#fill p99",
        "#fill max",
        "#exposure max",
        "#waited",
        "#of all",
    ];
    table(&head, &body)
}

/// What a commit costs in the steady state, where the run counted it.
pub(super) fn costs(points: &[Row<'_>]) -> String {
    let mut body = String::new();
    for row in points {
        let figure = |value: Option<Summary>| value.map_or("–".into(), |value| units::digits(value.median));
        let enters = row.summary(|point| point.enters_per_flush);
        let allocations = row.summary(|point| point.allocations_per_commit);
        let per_batch = row.summary(|point| {
            Some(point.latency_ns.samples as f64 / point.batches.filter(|&batches| batches > 0)? as f64)
        });
        if enters.is_none() && allocations.is_none() && per_batch.is_none() {
            continue;
        }
        let over_median = row.summary(|point| Some(point.mean_ns? / point.latency_ns.p50.max(1) as f64));
        let steal = row.summary(|point| point.steal_percent);
        let cells = [
            figure(per_batch),
            figure(enters),
            figure(allocations),
            over_median.map_or("–".into(), |ratio| units::ratio(ratio.median)),
            steal.map_or("–".into(), |steal| format!("{} %", units::digits(steal.max))),
        ];
        body.push_str(&format!(
            "<tr><th scope=\"row\"><b>{}</b></th><td class=\"nowrap\">{}</td>{}</tr>",
            row.point.level,
            escape(&row_label(row, points)),
            numbers(&cells)
        ));
    }
    if body.is_empty() {
        return String::new();
    }
    let head = [
        "level",
        "load",
        "#commits per batch",
        "#enters per flush",
        "#allocations per commit",
        "#mean / p50",
        "#steal",
    ];
    format!("<h3>What a commit costs</h3>{}", table(&head, &body))
}

pub(super) fn knees(knees: &[Knee]) -> String {
    if knees.is_empty() {
        return String::new();
    }
    let mut body = String::new();
    for knee in knees {
        let cells = [
            units::bandwidth(knee.lambda_bytes_per_s),
            units::duration(knee.durable_write_ns),
            units::duration(knee.remote_ns),
            units::bytes(knee.formula_bytes),
            knee.formula_under_load_bytes.map_or("–".into(), units::bytes),
            measured_words(knee),
        ];
        body.push_str(&format!(
            "<tr><th scope=\"row\"><b>{}</b></th>{}</tr>",
            link_words(knee.link_rtt_us),
            numbers(&cells)
        ));
    }
    let head = ["link", "#λ", "#F", "#N + F standby", "#W* from floors", "#W* under load", "#measured"];
    format!(
        "<h3>The knee</h3><p>By the formula W* = λ (N + F<sub>standby</sub> − F), at least one batch: once with the \
         floors, once with both ends of the curve itself in their place. Measured: the smallest ω whose p50 is within \
         10 % of that at ∞; in brackets the next smaller one, which is not.</p>{}",
        table(&head, &body)
    )
}

fn measured_words(knee: &Knee) -> String {
    let smaller = match knee.too_small_bytes {
        Some(bytes) => format!(" ({})", units::bytes(bytes)),
        None => String::new(),
    };
    knee.measured_bytes.map_or("not reached".into(), |bytes| units::bytes(bytes) + &smaller)
}

pub(super) fn checks(checks: &[Check]) -> String {
    let (judged, missing): (Vec<_>, Vec<_>) = checks.iter().partition(|check| check.met.is_some());
    let mut body = String::new();
    for check in judged {
        let (class, mark, words) = match check.met {
            Some(true) => ("met", "✓", "met"),
            _ => ("unmet", "✗", "not met"),
        };
        let note =
            check.note.as_ref().map_or(String::new(), |note| format!("<small>{}</small>", escape(note)));
        body.push_str(&format!(
            "<tr><th scope=\"row\">{}{note}</th><td>{}</td>{}<td>{}</td>\
             <td class=\"nowrap\"><span class=\"verdict {class}\"><i aria-hidden=\"true\">{mark}</i>{words}</span></td></tr>",
            escape(&check.measure),
            escape(&check.bar),
            numbers(&[check_value(check), check_spread(check)]),
            escape(check.floor.as_deref().unwrap_or("–")),
        ));
    }
    let mut text = String::new();
    if !body.is_empty() {
        text.push_str(&table(&["measure", "bar", "#measured", "#spread", "held against", ""], &body));
    }
    // Rows of dashes would hide the others.
    if !missing.is_empty() {
        let bar = |check: &&Check| format!("<li>{}: {}</li>", escape(&check.measure), escape(&check.bar));
        text.push_str(&format!(
            "<details><summary>Not measured in this run: {}</summary><ul>{}</ul></details>",
            missing.len(),
            missing.iter().map(bar).collect::<String>()
        ));
    }
    text
}

pub(super) fn floors(floors: &Floors) -> String {
    let mut body = String::new();
    let latencies: [(&str, &str, &Option<FloorNs>); 4] = [
        ("durable write", "4 KiB, O_DIRECT, one in flight", &floors.durable_write_ns),
        (
            "bare pair",
            "durable write while a peer gets the bytes, writes them durably and answers",
            &floors.pair_commit_ns,
        ),
        ("round trip", "small message, two processes", &floors.round_trip_ns),
        ("copy + CRC", "256 B into the arena", &floors.append_copy_ns),
    ];
    for (name, what, floor) in latencies {
        if let Some(floor) = floor {
            let cells = [units::micros(floor.p50 as f64), units::micros(floor.p99 as f64), String::new()];
            body.push_str(&floor_row(name, what, &cells));
        }
    }
    let rates = [
        (
            "durable writes",
            "4 KiB, 32 in flight",
            floors.durable_writes_per_s_depth32.map(|n| format!("{}/s", units::per_second(n))),
        ),
        ("disk", "sequential direct writes", floors.disk_bytes_per_s.map(units::bandwidth)),
        ("network", "one TCP stream, two processes", floors.net_bytes_per_s.map(units::bandwidth)),
    ];
    for (name, what, rate) in rates {
        if let Some(rate) = rate {
            body.push_str(&floor_row(name, what, &[String::new(), String::new(), rate]));
        }
    }
    if body.is_empty() {
        return "<p>This run measured no floors.</p>".into();
    }
    table(&["floor", "what", "#p50 µs", "#p99 µs", "#rate"], &body)
}

pub(super) fn primitives(races: &[PrimitiveRace]) -> String {
    if races.is_empty() {
        return String::new();
    }
    // First the race, one write in flight; then the winner with more of them.
    let again = |(index, race): (usize, &PrimitiveRace)| {
        races[..index].iter().any(|before| (&before.name, before.depth) == (&race.name, race.depth))
    };
    let depths = races.iter().enumerate().position(again).unwrap_or(races.len());
    let (race, depths) = races.split_at(depths);
    let mut text = format!(
        "<h3>Ways to make a write durable</h3><p class=\"lead\">4 KiB, one write in flight; the fastest here is used.</p>{}",
        primitives_table(race)
    );
    if let Some(winner) = depths.first() {
        text.push_str(&format!(
            "<h4>{} with more writes in flight</h4>{}",
            escape(&winner.name),
            primitives_table(depths)
        ));
    }
    text
}

fn primitives_table(races: &[PrimitiveRace]) -> String {
    let marked = races.iter().any(|race| race.chosen) && races.iter().any(|race| race.name != races[0].name);
    let mut body = String::new();
    for race in races {
        let cells = [
            race.depth.to_string(),
            units::micros(race.p50_ns as f64),
            units::micros(race.p99_ns as f64),
            units::per_second(race.per_s),
        ];
        body.push_str(&format!(
            "<tr><th scope=\"row\"><b>{}</b></th>{}{}</tr>",
            escape(&race.name),
            numbers(&cells),
            match (marked, race.chosen) {
                (false, _) => "",
                (true, true) => "<td>used</td>",
                (true, false) => "<td></td>",
            }
        ));
    }
    let head = ["primitive", "#in flight", "#p50 µs", "#p99 µs", "#per second", ""];
    table(&head[..if marked { 6 } else { 5 }], &body)
}

pub(super) fn environment(report: &Report) -> String {
    let environment = &report.environment;
    let percent =
        |value: Option<f64>| value.map_or("unknown".into(), |value| format!("{} %", units::digits(value)));
    let commit = match environment.dirty {
        Some(true) => format!("{} with uncommitted changes", environment.commit),
        _ => environment.commit.clone(),
    };
    let fua = match environment.fua {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let hypervisor = if environment.hypervisor.is_empty() {
        String::new()
    } else {
        format!(" ({})", environment.hypervisor)
    };
    let entries = [
        ("commit", commit),
        ("started", format!("{} UTC", report.started_utc.replace('T', " ").replace('Z', ""))),
        ("kernel", environment.kernel.clone()),
        ("processor", format!("{}{hypervisor}", environment.cpu)),
        ("cores", environment.cores.to_string()),
        ("memory", units::bytes(environment.memory_bytes as f64)),
        (
            "locked memory",
            environment.memlock_bytes.map_or("unlimited".into(), |bytes| units::bytes(bytes as f64)),
        ),
        ("file system", format!("{} ({})", environment.file_system, environment.mount_options)),
        ("device", environment.device.clone()),
        ("scheduler", environment.scheduler.clone()),
        ("write cache", environment.write_cache.clone()),
        ("forced unit access", fua.into()),
        ("durability primitive", environment.durability_primitive.clone()),
        ("flush depth", environment.flush_depth.to_string()),
        ("congestion control", environment.congestion_control.clone()),
        ("network path", environment.network_path.clone()),
        ("governor", environment.governor.clone()),
        ("steal time", percent(environment.steal_percent)),
        ("processor pressure", percent(environment.cpu_pressure_percent)),
    ];
    let items: String = entries
        .iter()
        // Mount options are one long word.
        .map(|(name, value)| {
            format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(value).replace(',', ",<wbr>"))
        })
        .collect();
    format!("<dl class=\"facts\">{items}</dl>")
}

fn floor_row(name: &str, what: &str, cells: &[String]) -> String {
    format!("<tr><th scope=\"row\"><b>{name}</b></th><td>{what}</td>{}</tr>", numbers(cells))
}

/// A header with `#` before it stands over numbers.
pub(super) fn table(head: &[&str], body: &str) -> String {
    let head: String = head
        .iter()
        .map(|name| match name.strip_prefix('#') {
            Some(name) => format!("<th scope=\"col\" class=\"n\">{name}</th>"),
            None => format!("<th scope=\"col\">{name}</th>"),
        })
        .collect();
    format!("<div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")
}

pub(super) fn numbers(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("<td class=\"n\">{}</td>", escape(cell))).collect()
}
