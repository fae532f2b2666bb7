//! The stage timeline as a waterfall: when each record was where, and when each level would have answered.

use super::charts::{Dot, DotRow, RowGroup, dot_rows};
use super::tables::{numbers, table, with_range};
use super::{LEGEND_QUANTILES, escape, figure};
use crate::schema::{LatencyNs, Level, Report, Timeline, TimelineStage};
use crate::stats::Summary;
use crate::units;

/// Nothing where the run timed no stage.
pub(super) fn section(report: &Report) -> String {
    let mut sets: Vec<Vec<&Timeline>> = Vec::new();
    for timeline in &report.timelines {
        let same = |set: &&mut Vec<&Timeline>| {
            let first = set[0];
            (&first.experiment, first.level, &first.sync_rule, first.standbys, first.load)
                == (
                    &timeline.experiment,
                    timeline.level,
                    &timeline.sync_rule,
                    timeline.standbys,
                    timeline.load,
                )
                && first.record_bytes == timeline.record_bytes
        };
        match sets.iter_mut().find(same) {
            Some(set) => set.push(timeline),
            None => sets.push(vec![timeline]),
        }
    }
    if sets.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<section id=\"timeline\"><h2>Where a record is when</h2><p class=\"lead\">One load, every record timed at every \
         watermark. Disk and network start together, so the standbys’ rows overlap the primary’s flush; the levels below \
         are computed on the very same records.</p>",
    );
    for (index, set) in sets.iter().enumerate() {
        text.push_str(&part(index, set));
    }
    text + "</section>"
}

/// One row of the waterfall over the repetitions.
struct Stage {
    node: String,
    name: String,
    /// p50 of the stage before it.
    from_ns: Option<f64>,
    p50: Summary,
    p99: Summary,
}

fn part(index: usize, set: &[&Timeline]) -> String {
    let first = set[0];
    let load = match first.load.arrival {
        crate::schema::Arrival::Closed(1) => "1 client".to_owned(),
        crate::schema::Arrival::Closed(clients) => format!("{clients} clients"),
        crate::schema::Arrival::OpenPerS(rate) => format!("{}/s", units::per_second(rate)),
    };
    let title =
        format!("{load} of {} at {}, {}", units::bytes(first.record_bytes), first.level, first.sync_rule);
    let (stages, levels) = (stages(set), levels(set));
    let rows = |stages: &[Stage]| -> Vec<RowGroup> {
        let mut groups: Vec<RowGroup> = Vec::new();
        for stage in stages {
            let row = DotRow {
                label: stage.name.clone(),
                strong: false,
                bar: stage.from_ns.map(|from| (from, stage.p50.median)),
                dots: vec![dot(&stage.p99, false, "p99"), dot(&stage.p50, true, "p50")],
            };
            match groups.last_mut().filter(|group| group.name == stage.node) {
                Some(group) => group.rows.push(row),
                None => groups.push(RowGroup { name: stage.node.clone(), floor: None, rows: vec![row] }),
            }
        }
        groups
    };
    let chart = |key: &str, stages: &[Stage], words: &str, caption: &str| {
        figure(
            &format!("{key}-{index}"),
            false,
            LEGEND_QUANTILES,
            &dot_rows(
                &rows(stages),
                &format!("{words}, {title}"),
                "since the start of the append",
                &units::duration,
            ),
            caption,
        )
    };
    let waterfall = chart(
        "timeline",
        &stages,
        "When each watermark reached the record",
        "A bar runs from the p50 of the stage before to the p50 of this one; a standby’s first stage begins where the \
         batch was closed on the primary. Standbys are seen as the primary knew them, half a round trip later.",
    );
    let answers = chart(
        "timeline-levels",
        &levels,
        "When each level would have acknowledged",
        "What the sync rule makes of the same watermarks.",
    );
    format!(
        "<h3>{}</h3>{waterfall}{}{answers}{}{}",
        escape(&title),
        stage_table("node", &stages),
        stage_table("", &levels),
        facts(set)
    )
}

fn dot(summary: &Summary, filled: bool, name: &str) -> Dot {
    let text = format!("{name} {}", with_range(summary));
    Dot { value: summary.median, low: summary.min, high: summary.max, filled, text }
}

fn over(values: impl Iterator<Item = LatencyNs> + Clone) -> (Summary, Summary) {
    let of = |quantile: fn(&LatencyNs) -> u64| {
        Summary::of(values.clone().map(|latency| quantile(&latency) as f64)).unwrap_or_default()
    };
    (of(|latency| latency.p50), of(|latency| latency.p99))
}

fn stages(set: &[&Timeline]) -> Vec<Stage> {
    let mut found: Vec<Stage> = Vec::new();
    let mut batched_ns = None;
    for stage in &set[0].stages {
        let same = set.iter().flat_map(|timeline| &timeline.stages);
        let same = same.filter(|other| other.node == stage.node && other.stage == stage.stage);
        let (p50, p99) = over(same.map(|stage| stage.after_ns));
        let before =
            found.iter().rev().find(|before| before.node == stage.node).map(|before| before.p50.median);
        found.push(Stage {
            node: stage.node.clone(),
            name: stage.stage.as_str().into(),
            from_ns: before.or(batched_ns),
            p50,
            p99,
        });
        if stage.stage == TimelineStage::Batched {
            batched_ns = Some(p50.median);
        }
    }
    found
}

fn levels(set: &[&Timeline]) -> Vec<Stage> {
    let of_level = |level: Level| {
        let same = set.iter().flat_map(|timeline| &timeline.levels).filter(move |time| time.level == level);
        let (p50, p99) = over(same.map(|time| time.after_ns));
        Stage { node: "acknowledged".into(), name: level.as_str().into(), from_ns: None, p50, p99 }
    };
    set[0].levels.iter().map(|time| of_level(time.level)).collect()
}

fn stage_table(node: &str, stages: &[Stage]) -> String {
    let body: String = stages
        .iter()
        .map(|stage| {
            let name =
                if node.is_empty() { String::new() } else { format!("<td>{}</td>", escape(&stage.node)) };
            let step =
                stage.from_ns.map_or("–".into(), |from| units::micros((stage.p50.median - from).max(0.0)));
            let mut cells = vec![units::micros(stage.p50.median), units::micros(stage.p99.median)];
            if !node.is_empty() {
                cells.push(step);
            }
            format!("<tr><th scope=\"row\"><b>{}</b></th>{name}{}</tr>", escape(&stage.name), numbers(&cells))
        })
        .collect();
    match node {
        "" => table(&["level", "#p50 µs", "#p99 µs"], &body),
        node => table(&["stage", node, "#p50 µs", "#p99 µs", "#after the one before"], &body),
    }
}

fn facts(set: &[&Timeline]) -> String {
    let records: u64 = set.iter().map(|timeline| timeline.records).sum();
    let left_out: u64 = set.iter().map(|timeline| timeline.left_out).sum();
    let (look, _) = over(set.iter().map(|timeline| timeline.look_every_ns));
    let mut text = format!(
        "<p class=\"note\">{} records timed at every watermark, {} left out; the watermarks were looked at every {} in the \
         median.",
        units::grouped(records as f64),
        units::grouped(left_out as f64),
        units::duration(look.median)
    );
    let costs: Vec<_> = set.iter().filter_map(|timeline| timeline.instrument).collect();
    if let Some(ratio) = Summary::of(costs.iter().map(|cost| cost.ratio)) {
        let low = costs.iter().map(|cost| cost.interval.low).fold(f64::INFINITY, f64::min);
        let high = costs.iter().map(|cost| cost.interval.high).fold(0.0, f64::max);
        text.push_str(&format!(
            " Timing them changed p50 by {:+.1} % ({:+.1} to {:+.1} %), against the same load without, in alternation.",
            100.0 * (ratio.median - 1.0),
            100.0 * (low - 1.0),
            100.0 * (high - 1.0),
        ));
    }
    text + "</p>"
}
