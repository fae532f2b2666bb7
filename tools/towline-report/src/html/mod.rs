//! `report.html`: one self-contained page that opens offline and asks the network for nothing.
//!
//! It reads from the top: three numbers and what they mean, then the ladder, the window, the replay, the bars, the
//! floors, the machine. Every chart has its table. Without a script everything is there but the hover boxes.

mod axis;
mod charts;
mod curves;
mod lines;
mod loss;
mod peers;
mod summary;
mod svg;
mod tables;
mod timeline;
pub(crate) mod trend;
mod window;

use crate::groups::{self, Row, rows};
use crate::noise::{MarkKind, MarkedRow};
use crate::schema::{Arrival, Level, Point, Report, Window};
use crate::survive_run::SurviveRun;
use crate::table::{latency_experiments, title_of};
use crate::units;
use charts::{Dot, DotRow, RowGroup};

/// The whole page.
pub fn render_html(report: &Report) -> String {
    render_html_with_loss(report, None)
}

/// The whole page; with what crashes really lost under the curves of the window, where a survival run says so.
pub fn render_html_with_loss(report: &Report, loss: Option<&SurviveRun>) -> String {
    let mut body = summary::render(report);
    body.push_str(&peers::section(report));
    for experiment in latency_experiments(report) {
        body.push_str(&latency_section(report, experiment));
        if experiment == "ladder" {
            body.push_str(&window::section(report, loss));
        }
    }
    if !report.points.iter().any(|point| point.experiment == "ladder") {
        body.push_str(&window::section(report, loss));
    }
    body.push_str(&timeline::section(report));
    body.push_str(&curves::knee_section(report));
    body.push_str(&curves::stall_section(report));
    body.push_str(&checks_section(report));
    body.push_str(&floors_section(report));
    body.push_str(&noise_section(report));
    body.push_str(&machine_section(report));
    body.push_str(&caveats_section(report));
    page(&format!("Towline · {}", report.name), &body)
}

/// The frame around a body: style, script, and nothing from outside.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n<script>\n{}</script>\n</body>\n</html>\n",
        escape(title),
        include_str!("style.css"),
        include_str!("page.js"),
    )
}

pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A chart with its scale switch and legend. `key` is unique on the page.
fn figure(key: &str, log_first: bool, legend: &str, plots: &str, caption: &str) -> String {
    let checked = |on: bool| if on { " checked" } else { "" };
    format!(
        "<figure class=\"chart\" id=\"chart-{key}\">\
         <input type=\"radio\" class=\"pick-log\" name=\"scale-{key}\" id=\"log-{key}\"{}>\
         <input type=\"radio\" class=\"pick-linear\" name=\"scale-{key}\" id=\"linear-{key}\"{}>\
         <div class=\"bar\"><div class=\"legend\">{legend}</div><div class=\"switch\">\
         <label for=\"log-{key}\">log</label><label for=\"linear-{key}\">linear</label></div></div>\
         <div class=\"plots\">{plots}</div><figcaption>{caption}</figcaption></figure>",
        checked(log_first),
        checked(!log_first),
    )
}

const LEGEND_QUANTILES: &str = "<span><i class=\"dot\"></i>p50</span><span><i class=\"ring\"></i>p99</span>";

fn latency_section(report: &Report, experiment: &str) -> String {
    let points = rows(report.experiment(experiment));
    let key = id_of(experiment);
    let lead = match experiment {
        "ladder" => {
            "Each commit level waits for one thing more. Dots show what a client waits at p50 and p99; the upright line \
             is the floor: what the bare machine takes for the same work, without any of Towline’s code above the ring."
        }
        "replay" => {
            "Write-ahead log recorded from a real PostgreSQL, record for record with its own sizes, replayed at each level."
        }
        "standbys" => "Any one of them counts; every one of them is shipped to.",
        "sync_rules" => "The same standbys and the same load; only who must have the record differs.",
        "shards" => "Each shard is a log with a core of its own.",
        "rtt" => {
            "The same load over an emulated link. The own disk is as far away as before (but the link’s threads need a \
             share of the cores); what a standby must answer costs a round trip."
        }
        "mixed" => {
            "A few records of a stream ask for more than the others. What the others wait does not change; only the few \
             pay. Both rows of a load are one run."
        }
        "bursts" => {
            "As many records per second, evenly or in bursts: the last record of a burst waits for those before it."
        }
        "sizes" => "Record sizes drawn from a distribution instead of one size.",
        "off" => {
            "One thread appends as fast as it can, an acknowledgement is a place in the log; all of it is flushed and \
             found again afterwards."
        }
        "stream" => {
            "One thread appends as fast as it can while a standby takes the log and the primary trims it."
        }
        "local_alone" => "Clients append and wait for the flush of this machine's disk alone.",
        "on_one_standby" | "on_any_1_of_2" => {
            "An acknowledgement waits for the flush of the own disk and of a standby's, both under way at once."
        }
        "memory" => {
            "One of two standbys is stopped for a while under a steady load: the primary's memory must stay as it was, and \
             the standby catch up."
        }
        "memory_past_retention" => {
            "The same for longer than the log is kept: the standby must be told to begin again."
        }
        _ => "",
    };
    let lead =
        if lead.is_empty() { String::new() } else { format!("<p class=\"lead\">{}</p>", escape(lead)) };
    let latency = figure(
        &format!("{key}-latency"),
        true,
        &format!("{LEGEND_QUANTILES}<span><i class=\"floor\"></i>floor of the level</span>"),
        &charts::dot_rows(
            &latency_groups(report, &points),
            &format!("{}: commit latency by level and load", title_of(experiment)),
            "commit latency",
            &units::duration,
        ),
        match points.iter().map(|row| row.repetitions.len()).max() {
            None | Some(0 | 1) => {
                "Measured once: nothing here says how far the figures move from run to run."
            }
            Some(2..=4) => {
                "Whiskers span the repetitions; a dot without one had less spread than its width. Below p50 and p99 in the \
                 table: their range over the repetitions."
            }
            Some(_) => {
                "Whiskers span the repetitions; a dot without one had less spread than its width. Below p50 and p99 in the \
                 table: their 95 % bootstrap interval over the repetitions."
            }
        },
    );
    let closed = points.iter().any(|row| matches!(row.point.load.arrival, Arrival::Closed(_)));
    let throughput = if closed {
        let floor = |row: &Row<'_>| row.point.level != Level::Off;
        let bare = report.floors.durable_writes_per_s_depth32.filter(|_| points.iter().any(floor));
        let legend = "<span><i class=\"dot\"></i>commits per second, median</span>".to_owned()
            + if bare.is_some() {
                "<span><i class=\"floor\"></i>bare durable writes, 32 in flight</span>"
            } else {
                ""
            };
        figure(
            &format!("{key}-rate"),
            true,
            &legend,
            &charts::dot_rows(
                &rate_groups(report, &points),
                &format!("{}: commits per second by level and load", title_of(experiment)),
                "commits per second",
                &units::short_count,
            ),
            if bare.is_some() {
                "Batches carry many commits, so a level can pass the rate of bare single writes."
            } else {
                ""
            },
        )
    } else {
        String::new()
    };
    format!(
        "<section id=\"{key}\"><h2>{}</h2>{lead}{latency}{}{throughput}{}</section>",
        escape(&title_of(experiment)),
        tables::latency(report, &points),
        tables::costs(&points),
    )
}

fn latency_groups(report: &Report, points: &[Row<'_>]) -> Vec<RowGroup> {
    grouped(points, |row| {
        let dot = |summary: crate::stats::Summary, filled: bool, name: &str| Dot {
            value: summary.median,
            low: summary.min,
            high: summary.max,
            filled,
            text: format!("{name} {}", tables::with_range(&summary)),
        };
        vec![dot(row.p99(), false, "p99"), dot(row.p50(), true, "p50")]
    })
    .into_iter()
    .map(|(level, row, rows)| {
        let floor = groups::floor_of(level, row.point.standbys, &report.floors)
            .filter(|_| row.point.link_rtt_us == 0.0);
        RowGroup {
            name: level.as_str().into(),
            floor: floor.map(|(name, p50_ns)| (p50_ns, name.into())),
            rows,
        }
    })
    .collect()
}

fn rate_groups(report: &Report, points: &[Row<'_>]) -> Vec<RowGroup> {
    grouped(points, |row| {
        let rate = row.per_s();
        vec![Dot {
            value: rate.median,
            low: rate.min,
            high: rate.max,
            filled: true,
            text: format!("{} commits/s", units::per_second(rate.median)),
        }]
    })
    .into_iter()
    .map(|(level, _, rows)| {
        let bare = report.floors.durable_writes_per_s_depth32.filter(|_| level != Level::Off);
        RowGroup { name: level.as_str().into(), floor: bare.map(|rate| (rate, "bare writes".into())), rows }
    })
    .collect()
}

/// The rows of each level, with the first of them.
fn grouped<'a, 'r>(
    points: &'r [Row<'a>],
    dots: impl Fn(&Row<'a>) -> Vec<Dot>,
) -> Vec<(Level, &'r Row<'a>, Vec<DotRow>)> {
    let mut found: Vec<(Level, &Row<'a>, Vec<DotRow>)> = Vec::new();
    for row in points {
        let label = tables::row_label(row, points);
        let dots = DotRow { label, strong: false, bar: None, dots: dots(row) };
        match found.last_mut() {
            Some((level, _, rows)) if *level == row.point.level => rows.push(dots),
            _ => found.push((row.point.level, row, vec![dots])),
        }
    }
    found
}

fn checks_section(report: &Report) -> String {
    if report.checks.is_empty() {
        return String::new();
    }
    let count = |met: Option<bool>| report.checks.iter().filter(|check| check.met == met).count();
    let mut lead = format!("{} met, {} not met", count(Some(true)), count(Some(false)));
    match count(None) {
        0 => {}
        missing => lead.push_str(&format!(", {missing} not measured in this run")),
    }
    format!(
        "<section id=\"checks\"><h2>What it must reach</h2><p class=\"lead\">{lead}. Ratios inside this run; the \
         spread is over its repetitions, or over the points where the worst of them counts.</p>{}</section>",
        tables::checks(&report.checks)
    )
}

fn floors_section(report: &Report) -> String {
    format!(
        "<section id=\"floors\"><h2>Floors of this machine</h2><p class=\"lead\">Measured in the same run, each waiting \
         in the way that is fastest here. Everything above is held against these.</p>{}{}</section>",
        tables::floors(&report.floors),
        tables::primitives(&report.primitives),
    )
}

fn noise_section(report: &Report) -> String {
    let noise = crate::noise::of_report(report);
    if noise.rows == 0 {
        return String::new();
    }
    let verdict = match (noise.is_noisy(), noise.of_rows.is_empty()) {
        (true, _) => "<b>This run is noisy.</b>",
        (false, true) => "Nothing was marked.",
        (false, false) => "The run as a whole is quiet; some rows are to be read with care.",
    };
    let items = noise.of_run.iter().map(|mark| escape(&mark.text));
    let line = |row: &MarkedRow| format!("{}: {}", escape(&row.row), escape(&row.why()));
    // Many rows crowd the processors by themselves: one line for those that have no other mark.
    let (crowded, others): (Vec<_>, Vec<_>) =
        noise.of_rows.iter().partition(|row| row.is_only(MarkKind::CrowdedProcessors));
    let crowded = (!crowded.is_empty()).then(|| {
        let share = crate::noise::PRESSURE_PERCENT;
        let rows: String = crowded.iter().map(|row| format!("<br>{}", line(row))).collect();
        format!(
            "<details><summary>CPU pressure above {share:.0} % and nothing else: {} rows. Where the threads of a row are more \
             than the cores, it makes that itself.</summary>{}</details>",
            crowded.len(),
            rows.trim_start_matches("<br>")
        )
    });
    let rows = others.iter().map(|row| line(row));
    let items: String = items.chain(rows).chain(crowded).map(|item| format!("<li>{item}</li>")).collect();
    let list = if items.is_empty() { String::new() } else { format!("<ul>{items}</ul>") };
    format!(
        "<section id=\"noise\"><h2>What disturbed it</h2><p class=\"lead\">{verdict} Marked are: {}. {} of {} rows are \
         marked; a run is noisy when it is marked as a whole, or more than {:.0} % of its rows are.</p>{list}</section>",
        escape(&crate::noise::bounds()),
        noise.of_rows.len(),
        noise.rows,
        100.0 * crate::noise::MARKED_ROWS,
    )
}

fn machine_section(report: &Report) -> String {
    format!(
        "<section id=\"machine\"><h2>Machine and command</h2><pre><code>{}</code></pre>{}</section>",
        escape(&crate::run_folder::shell_line(&report.command)),
        tables::environment(report),
    )
}

fn caveats_section(report: &Report) -> String {
    let mut items = vec![
        "One machine: primary, standbys and client share its cores, its disk and its loopback. Real standbys have \
         disks of their own and a real network between."
            .to_owned(),
        "Figures of a virtual machine move by tens of percent between runs. Only ratios inside one run count; never \
         compare microseconds of two runs."
            .to_owned(),
        "Percentiles come from histograms over all samples and are never averaged. With several repetitions the \
         median repetition stands, its spread beside it."
            .to_owned(),
    ];
    if report.environment.cores <= 2 {
        items.push(
            "Two cores: with 32 clients the generator and the log compete, and p99 shows the scheduler too."
                .into(),
        );
    }
    if report.indicative {
        items.push(format!(
            "Indicative: {} and no claim about a p99 is made below ten; run with <code>--repetitions 10</code> for one.",
            if report.repetitions() == 1 { "one repetition,".into() } else { format!("{} repetitions,", report.repetitions()) },
        ));
    }
    let weaker: u64 = report.points.iter().map(acks_below_their_level).sum();
    if weaker > 0 {
        items.push(format!(
            "{} acknowledgements achieved less than the level they asked for (no standby that counts, or degraded); \
             each of them said so.",
            units::grouped(weaker as f64)
        ));
    }
    items.extend(report.notes.iter().map(|note| escape(note)));
    let items: String = items.iter().map(|item| format!("<li>{item}</li>")).collect();
    format!("<section id=\"caveats\"><h2>How to read this</h2><ul>{items}</ul></section>")
}

fn acks_below_their_level(point: &Point) -> u64 {
    let asked = if point.window == Some(Window::Inf) { Level::Local } else { point.level };
    point
        .acks_by_achieved_level
        .iter()
        .filter(|(achieved, _)| **achieved < asked)
        .map(|(_, count)| count)
        .sum()
}

/// Letters, digits and dashes, for use as an id.
fn id_of(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn the_page_holds_every_part_and_nothing_from_outside() {
        let page = render_html(&synthetic::canonical_report(3));
        for id in ["ladder", "window", "replay", "checks", "floors", "machine", "caveats"] {
            assert!(page.contains(&format!("<section id=\"{id}\"")), "{id} is missing");
        }
        assert!(
            !page.contains("http://") && !page.contains("https://") && !page.contains("src="),
            "an outside reference"
        );
        assert!(page.len() < 1_000_000, "{} bytes", page.len());
    }

    #[test]
    fn every_experiment_has_its_section_only_where_it_was_run() {
        let full = render_html(&synthetic::full_report(3));
        let plain = render_html(&synthetic::canonical_report(3));
        for id in ["compare", "timeline", "knee", "stall", "sync-rules", "standbys", "shards", "rtt"] {
            let section = format!("<section id=\"{id}\"");
            assert!(full.contains(&section), "{id} is missing");
            assert!(!plain.contains(&section), "{id} was not run");
        }
        assert!(!full.contains("NaN") && !full.contains("could not be drawn"));
        for expected in [
            "Not durable, acknowledged as",
            "An acknowledgement survives",
            "Timing them changed p50 by +0.6 %",
            "refused: the generator could not offer it",
            "a goes on",
            "ANY 3",
            // 205 µs over the socket against PostgreSQL's 471 µs; three pairs are too few for a claim.
            "<p class=\"value\">0.4",
            "of what PostgreSQL takes, the best of the same promise (1 client: 2",
            "too few repetitions for a claim",
        ] {
            assert!(full.contains(expected), "{expected:?} is missing");
        }
        for part in full.split("<section").flat_map(|section| section.split("<h3")) {
            assert!(
                !part.contains("<figure") || part.contains("<table>"),
                "charts without a table: {part:.80}"
            );
        }
        assert!(full.len() < 2_500_000, "{} bytes", full.len());
    }

    #[test]
    fn a_quantile_of_too_few_samples_is_not_shown_and_a_bar_that_was_not_measured_is_no_row() {
        let mut report = synthetic::canonical_report(1);
        report.points.retain(|point| point.experiment == "replay" && point.level == Level::On);
        let last_quantiles = |report: &Report| {
            let page = render_html(report);
            let row = page.split("<b>on</b>").nth(1).and_then(|rest| rest.split("</tr>").next());
            row.expect("the row").matches(">–<").count()
        };
        let shown = last_quantiles(&report);
        report.points[0].latency_ns.samples = 99;
        assert_eq!(last_quantiles(&report), shown + 2);
        report.points[0].latency_ns.samples = 999;
        assert_eq!(last_quantiles(&report), shown + 1);

        report.checks.truncate(2);
        (report.checks[0].met, report.checks[1].met) = (Some(true), None);
        let page = render_html(&report);
        assert!(
            page.contains("Not measured in this run: 1") && page.matches("class=\"verdict met").count() == 1
        );
        report.checks.truncate(1);
        assert!(!render_html(&report).contains("Not measured in this run"));
    }

    #[test]
    fn names_from_a_report_cannot_become_markup() {
        let mut report = synthetic::canonical_report(1);
        report.name = "<script>alert(1)</script>".into();
        report.points[0].experiment = "<img onerror=x>".into();
        report.notes.push("<b onclick=y>".into());
        report.environment.cpu = "<i>\"cpu\"".into();
        let mut full = synthetic::full_report(1);
        let compared = full.points.iter_mut().find(|point| point.experiment == "compare");
        let compared = compared.unwrap();
        compared.system = "<script>alert(2)</script>".into();
        compared.survives = Some("<img>".into());
        compared.version = Some("<img src=x>".into());
        full.timelines[0].sync_rule = "<img>".into();
        full.timelines[0].stages[0].node = "<img>".into();
        let stalled = full.points.iter_mut().find(|point| point.detail.stall.is_some()).unwrap();
        stalled.sync_rule = "<img>".into();
        stalled.detail.stall.as_mut().unwrap().standby = "<img>".into();
        let page = render_html(&full);
        assert!(!page.contains("<img") && !page.contains("<script>alert"));
        let page = render_html(&report);
        for bad in ["<script>alert", "<img", "<b onclick", "<i>\"cpu"] {
            assert!(!page.contains(bad), "{bad} got through");
        }
    }

    #[test]
    fn windows_in_records_and_closed_loops_have_their_chart_too() {
        let mut report = synthetic::canonical_report(1);
        report.points.retain(|point| point.experiment != "window");
        report.knees.clear();
        for window in [Window::Records(0), Window::Records(1), Window::Records(64), Window::Inf] {
            let mut point = synthetic::window_point(window, 5000.0, 200_000);
            point.load = crate::schema::Load::closed(8);
            point.fill_in_unit = Some(crate::schema::Spread { p50: 3, p99: 7, max: 7 });
            report.points.push(point);
        }
        report.points.push(Point { window: None, ..synthetic::window_point(Window::Inf, 5000.0, 300_000) });
        let page = render_html(&report);
        for expected in [
            "64 records",
            "fill at most 7 records",
            "for c clients with records of r bytes",
            "id=\"chart-window-0\"",
        ] {
            assert!(page.contains(expected), "{expected:?} is missing");
        }
        assert!(!page.contains("NaN") && !page.contains("could not be drawn"));
    }

    #[test]
    fn a_report_without_points_is_still_a_page() {
        let page = render_html(&Report::new("empty", Vec::new(), Default::default()));
        assert!(page.contains("<section id=\"machine\""));
        assert!(!page.contains("NaN") && !page.contains("inf "));
    }
}
