//! An advice as text: the answer first, then what it rests on.

use super::choice::{not_measured, takes_window};
use super::{Advice, Half, Rung, Verdict};
use crate::schema::Level;
use crate::table::{cells, table};
use crate::units;

/// The answer, the ladder around it and the windows, as plain text.
pub fn format_advice(advice: &Advice) -> String {
    let goal = &advice.goal;
    let lose = match goal.lose_bytes {
        0 => String::from("nothing acknowledged lost"),
        bytes => format!("at most {} of acknowledged payload lost", units::bytes(bytes as f64)),
    };
    let mut text = format!(
        "goal: {} ({}), {lose}; p99 at most {}\nrun:  {}{}\n",
        goal.survive.as_str(),
        goal.survive.words(),
        units::duration(goal.p99_ns),
        advice.run,
        if advice.indicative { " (indicative: fewer than ten repetitions)" } else { "" },
    );
    for difference in &advice.machine_differs {
        text.push_str(&format!("NOT THIS MACHINE: {difference}\n"));
    }
    text.push('\n');
    text.push_str(&answer(advice));
    text.push_str(&format!(
        "\np99 in µs by load; p99 × and commits/s at the heaviest and the best of them\n{}\n",
        ladder(advice)
    ));
    if !advice.windows.is_empty() {
        text.push_str(&windows(advice));
    }
    text
}

fn answer(advice: &Advice) -> String {
    match &advice.verdict {
        Verdict::Met { level, sync_rule, window_bytes, without_window } => {
            let mut text = format!("answer: {level}");
            if takes_window(*level) {
                text.push_str(&format!(", sync rule {sync_rule}, "));
                text.push_str(&match window_bytes {
                    Some(bytes) => format!("window {}", units::bytes(*bytes as f64)),
                    None => "no window (ω = 0): any wider one can lose acknowledged records".into(),
                });
            }
            text.push('\n');
            if let Some(bytes) = window_bytes {
                let load = windows_at(advice, *level);
                text.push_str(&match without_window {
                    true => format!(
                        "  the widest measured window within --lose; the level meets the p99 without it too (window at {load})\n"
                    ),
                    false => format!("  the level alone is too slow; with the window it meets the p99 at {load}\n"),
                });
                text.push_str(&format!("  towline append --level {level} --window {bytes}\n"));
            } else {
                text.push_str(&format!("  towline append --level {level}\n"));
            }
            if let Some(sentence) = not_measured(&advice.goal, &advice.rungs, *level) {
                text.push_str(&format!("  {sentence}\n"));
            }
            if let Some(knee) = paying_window(advice) {
                text.push_str(&format!("  {knee}\n"));
            }
            text
        }
        Verdict::Impossible { half, why, nearest } => {
            let half = match half {
                Half::Survival => "what it must survive",
                Half::Latency => "the p99",
            };
            let mut text = format!("answer: cannot be met; the half that cannot is {half}: {why}\n");
            for sentence in nearest {
                text.push_str(&format!("  nearest: {sentence}\n"));
            }
            text
        }
    }
}

/// Where a reader has not offered to lose anything: what doing so would buy.
fn paying_window(advice: &Advice) -> Option<String> {
    let Verdict::Met { level, .. } = advice.verdict else { return None };
    let (zero, rest) = advice.windows.split_first().filter(|_| advice.goal.lose_bytes == 0)?;
    let least = rest.iter().map(|point| point.p50_ns).fold(f64::INFINITY, f64::min);
    let point = rest.iter().find(|point| point.p50_ns <= least * crate::knee::NEARNESS)?;
    // One p99 of a sweep is too noisy to promise anything by; the median is not.
    (point.p50_ns < 0.9 * zero.p50_ns).then(|| {
        format!(
            "at {}, who may lose {} of acknowledged payload gets a p50 of {} instead of {} (--lose {})",
            windows_at(advice, level),
            units::bytes(point.window_bytes as f64),
            units::duration(point.p50_ns),
            units::duration(zero.p50_ns),
            point.window_bytes,
        )
    })
}

/// The load of the windows, and their level where it is not the answer's: a run sweeps them at one level only.
fn windows_at(advice: &Advice, answer: Level) -> String {
    match advice.windows.first() {
        Some(point) if point.level != answer => {
            format!("`{}`, {} (this run has no windows at `{answer}`)", point.level, advice.windows_at)
        }
        _ => advice.windows_at.clone(),
    }
}

fn ladder(advice: &Advice) -> comfy_table::Table {
    let mut loads: Vec<&str> = Vec::new();
    for load in advice.rungs.iter().flat_map(|rung| &rung.loads) {
        if !loads.contains(&load.load.as_str()) {
            loads.push(&load.load);
        }
    }
    let titles: Vec<String> = loads.iter().map(|load| (*load).to_owned()).collect();
    let mut head = vec!["level"];
    head.extend(titles.iter().map(String::as_str));
    head.extend(["p99 ×", "commits/s", "loses"]);
    let chosen = match &advice.verdict {
        Verdict::Met { level, .. } => advice.rungs.iter().find(|rung| rung.level == *level),
        Verdict::Impossible { .. } => None,
    };
    let mut ladder = table(&head);
    for rung in &advice.rungs {
        let mark = if chosen == Some(rung) { "→ " } else { "" };
        let of_load = |name: &&str| {
            let load = rung.loads.iter().find(|load| load.load == *name);
            load.map_or("–".into(), |load| units::micros(load.p99_upper_ns))
        };
        let mut figures: Vec<String> = loads.iter().map(of_load).collect();
        figures.push(chosen.map_or("–".into(), |chosen| cost(rung, chosen)));
        figures.push(units::per_second(rung.most_per_s()));
        figures.push(rung.loses.clone());
        ladder.add_row(cells(&format!("{mark}{}", rung.level), &figures));
    }
    ladder
}

/// p99 of a rung over that of the chosen one, at the heaviest load that both have.
fn cost(rung: &Rung, chosen: &Rung) -> String {
    let shared = chosen.loads.iter().rev().find_map(|load| {
        let other = rung.loads.iter().find(|other| other.load == load.load)?;
        (load.p99_ns > 0.0).then_some(other.p99_ns / load.p99_ns)
    });
    shared.map_or("–".into(), units::ratio)
}

fn windows(advice: &Advice) -> String {
    let mut table = table(&["window ω", "p50 µs", "p99 µs", "loses at most"]);
    for point in &advice.windows {
        let bytes = units::bytes(point.window_bytes as f64);
        let loses = if point.window_bytes == 0 { "nothing".into() } else { bytes.clone() };
        let figures = [units::micros(point.p50_ns), units::micros(point.p99_upper_ns), loses];
        table.add_row(cells(&bytes, &figures));
    }
    let level = advice.windows[0].level;
    format!("\nlag windows at {level}, {}\n{table}\n", advice.windows_at)
}
