//! Systems side by side, a section for each promise.

use super::charts::{Dot, DotRow, RowGroup, dot_rows};
use super::tables::{self, numbers, table, with_range};
use super::{LEGEND_QUANTILES, escape, figure};
use crate::groups::Row;
use crate::peers::{Class, classes};
use crate::schema::Report;
use crate::units;

/// Nothing where the run compared nothing.
pub(super) fn section(report: &Report) -> String {
    let classes = classes(report);
    if classes.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<section id=\"compare\"><h2>Beside the alternatives</h2><p class=\"lead\">The same records, the same clients, the \
         same disk, repetitions interleaved. Each part holds what makes the same promise: an acknowledgement that \
         survives less is not faster, it is something else, and stands in a part of its own.</p>",
    );
    for (index, class) in classes.iter().enumerate() {
        text.push_str(&part(index, class));
    }
    text + "</section>"
}

fn part(index: usize, class: &Class<'_>) -> String {
    let title = match class.durable {
        true => format!("As <code>{}</code>", class.level),
        false => format!("Not durable, acknowledged as <code>{}</code>", class.level),
    };
    let latency = figure(
        &format!("compare-{index}"),
        true,
        LEGEND_QUANTILES,
        &dot_rows(
            &groups(class, |row| {
                let (p50, p99) = (row.p50(), row.p99());
                vec![
                    dot(&p99, false, format!("p99 {}", with_range(&p99))),
                    dot(&p50, true, format!("p50 {}", with_range(&p50))),
                ]
            }),
            &format!("Commit latency by system, acknowledged as {}", class.level),
            "commit latency",
            &units::duration,
        ),
        "The fastest p50 of each load stands first. Whiskers span the repetitions.",
    );
    let rate = figure(
        &format!("compare-rate-{index}"),
        true,
        "<span><i class=\"dot\"></i>commits per second, median</span>",
        &dot_rows(
            &groups(class, |row| {
                let rate = row.per_s();
                vec![dot(&rate, true, format!("{} commits/s", units::per_second(rate.median)))]
            }),
            &format!("Commits per second by system, acknowledged as {}", class.level),
            "commits per second",
            &units::short_count,
        ),
        "",
    );
    let mark = if class.durable { "met" } else { "unmet" };
    format!(
        "<h3>{title}</h3><p class=\"lead\">An acknowledgement survives <span class=\"verdict {mark}\">{}</span>.</p>\
         {latency}{rate}{}",
        escape(class.survives),
        rows_table(class)
    )
}

fn dot(summary: &crate::stats::Summary, filled: bool, text: String) -> Dot {
    Dot { value: summary.median, low: summary.min, high: summary.max, filled, text }
}

fn groups(class: &Class<'_>, dots: impl Fn(&Row<'_>) -> Vec<Dot>) -> Vec<RowGroup> {
    let group = |(load, rows): &(String, Vec<Row<'_>>)| RowGroup {
        name: load.clone(),
        floor: None,
        rows: rows
            .iter()
            .map(|row| DotRow {
                label: class.name(row),
                strong: row.point.system == "towline",
                bar: None,
                dots: dots(row),
            })
            .collect(),
    };
    class.loads.iter().map(group).collect()
}

fn rows_table(class: &Class<'_>) -> String {
    let mut body = String::new();
    for (load, rows) in &class.loads {
        for (index, row) in rows.iter().enumerate() {
            let first = if index == 0 {
                format!(
                    "<th scope=\"rowgroup\" rowspan=\"{}\" class=\"nowrap\"><b>{}</b></th>",
                    rows.len(),
                    escape(load)
                )
            } else {
                String::new()
            };
            let name = class.name(row);
            let name = if row.point.system == "towline" {
                format!("<b>{}</b>", escape(&name))
            } else {
                escape(&name)
            };
            let [p50, p99] = tables::intervals(row);
            let cells = [
                units::micros(row.p50().median),
                p50,
                units::micros(row.p99().median),
                p99,
                units::per_second(row.per_s().median),
            ];
            body.push_str(&format!(
                "<tr{}>{first}<td class=\"nowrap\">{name}<small>{}</small></td>{}<td>{}</td></tr>",
                if index == 0 { "" } else { " class=\"more\"" },
                escape(row.point.version.as_deref().unwrap_or("")),
                numbers(&cells),
                escape(row.point.note.as_deref().unwrap_or("")),
            ));
        }
    }
    table(&["load", "system", "#p50 µs", "#interval", "#p99 µs", "#interval", "#commits/s", "how"], &body)
}
