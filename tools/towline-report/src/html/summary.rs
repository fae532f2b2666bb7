//! The top of the page: three numbers and what they mean, for a reader who stops there.

use super::escape;
use crate::groups::{Row, rows};
use crate::peers::system_words;
use crate::schema::{Arrival, Client, Knee, Level, Point, Report, Window};
use crate::stats::PairedRatio;
use crate::table::{knees, link_words, ratio_and_floor};
use crate::{knee, units};

/// Header, tiles and prose.
pub(super) fn render(report: &Report) -> String {
    let mut ladder = rows(report.experiment("ladder"));
    if ladder.is_empty() {
        // A run of another name measured its levels too.
        let rung = |point: &&Point| {
            crate::advise::is_rung(point) && point.link_rtt_us == 0.0 && point.experiment != "compare"
        };
        ladder = rows(report.points.iter().filter(rung));
    }
    let mut tiles = compared(report);
    if tiles.is_empty() {
        tiles = self::tiles(report, &ladder);
    }
    let mut text = header(report);
    text.push_str("<section id=\"summary\">");
    if !tiles.is_empty() {
        text.push_str("<div class=\"tiles\">");
        for tile in &tiles {
            text.push_str(&format!(
                "<div class=\"tile\"><p class=\"name\">{}</p><p class=\"value\">{}</p><p class=\"sub\">{}</p></div>",
                tile.name, tile.value, tile.sub
            ));
        }
        text.push_str("</div>");
    }
    let sentences = prose(report, &ladder);
    if !sentences.is_empty() {
        text.push_str(&format!("<p class=\"prose\">{}</p>", sentences.join(" ")));
    }
    text.push_str("</section>");
    text
}

struct Tile {
    name: String,
    value: String,
    sub: String,
}

fn header(report: &Report) -> String {
    let environment = &report.environment;
    let repetitions = match report.repetitions() {
        0 => "no points".into(),
        1 => "one repetition".into(),
        count => format!("{count} repetitions"),
    };
    let mut facts = vec![
        format!("{} UTC", report.started_utc.replace('T', " ").replace('Z', "")),
        format!("commit {}", environment.commit),
        format!("{} cores, Linux {}", environment.cores, environment.kernel),
        repetitions,
    ];
    if let Some(seconds) = report.took_s {
        facts.push(format!("{seconds:.0} s"));
    }
    let facts: String = facts.iter().map(|fact| format!("<span>{}</span>", escape(fact))).collect();
    let badge = if report.indicative {
        "<span class=\"badge\">indicative</span>"
    } else {
        "<span class=\"badge solid\">ten repetitions or more</span>"
    };
    let noisy = if crate::noise::of_report(report).is_noisy() {
        "<span class=\"badge noisy\">noisy</span>"
    } else {
        ""
    };
    format!(
        "<header><p class=\"eyebrow\">Towline · measured run</p><h1>{}{badge}{noisy}</h1><p class=\"facts-line\">{facts}</p></header>",
        escape(&report.name)
    )
}

fn tiles(report: &Report, ladder: &[Row<'_>]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for (level, name) in
        [(Level::Local, "Durable on this machine"), (Level::On, "Durable on this machine and a standby")]
    {
        if let Some(row) = single_client(ladder, level) {
            let (ratio, floor) = ratio_and_floor(report, row);
            let against =
                if floor.is_empty() { String::new() } else { format!(", {ratio} the {floor} floor") };
            tiles.push(Tile {
                name: name.into(),
                value: value(&units::duration(row.p50().median)),
                sub: format!("<code>{level}</code>, p50 of one client{against}"),
            });
        }
    }
    if let Some((knee, zero, at_knee)) = headline_window(report) {
        let window = units::bytes(knee.measured_bytes.unwrap_or(knee.formula_bytes));
        tiles.push(Tile {
            name: format!("Lag window that suffices, {}", link_words(knee.link_rtt_us)),
            value: value(&window),
            sub: format!(
                "p50 falls from {} to {}; a crash costs at most {window} of acknowledged payload",
                units::duration(zero),
                units::duration(at_knee),
            ),
        });
    }
    if let Some(row) = busiest(ladder, Level::On).filter(|_| tiles.len() < 3) {
        tiles.push(Tile {
            name: "Durable on two, under load".into(),
            value: value(&units::short_count(row.per_s().median)),
            sub: format!("commits per second at <code>on</code>, {}", escape(&row.load_label())),
        });
    }
    tiles
}

/// Where systems were compared: against the best of the same promise, as ratios over the repetitions.
fn compared(report: &Report) -> Vec<Tile> {
    let classes = crate::peers::classes(report);
    let class = |level| classes.iter().find(|class| class.durable && class.level == level);
    let mut tiles = Vec::new();
    let (on, local) = (class(Level::On), class(Level::Local));
    let wanted = [
        (on, true, "Latency of <code>on</code>"),
        (on, false, "Commits per second at <code>on</code>"),
        (local, false, "Durable appends per second on one machine"),
    ];
    for (class, lightest, name) in wanted {
        let load = class.and_then(|class| if lightest { class.loads.first() } else { class.loads.last() });
        let Some((load, rows)) = load else { continue };
        if let Some(tile) = against_best(load, rows, lightest, name) {
            tiles.push(tile);
        }
    }
    tiles
}

fn against_best(load: &str, rows: &[Row<'_>], latency: bool, name: &str) -> Option<Tile> {
    let figure = |row: &&Row<'_>| if latency { row.p50().median } else { -row.per_s().median };
    let best = |own: bool, socket: bool| {
        let kind = |row: &&Row<'_>| {
            (row.point.system == "towline") == own && (!socket || row.point.client == Client::Socket)
        };
        rows.iter().filter(kind).min_by(|a, b| figure(a).total_cmp(&figure(b)))
    };
    let peer = best(false, false)?;
    // What is on a socket is held against what is on a socket.
    let own = best(true, peer.point.client == Client::Socket)?;
    let values = |row: &Row<'_>| -> Vec<f64> {
        let figure =
            |point: &&Point| if latency { point.latency_ns.p50 as f64 } else { point.achieved_per_s };
        row.in_order().iter().map(figure).collect()
    };
    let ratio = PairedRatio::of(&values(own), &values(peer))?;
    let words = |row: &Row<'_>| match latency {
        true => units::duration(row.p50().median),
        false => format!("{}/s", units::per_second(row.per_s().median)),
    };
    let interval = match (ratio.summary.count, ratio.differs()) {
        (1, _) => String::new(),
        (count, _) if count < crate::stats::ENOUGH_PAIRS => "; too few repetitions for a claim".into(),
        (_, true) => format!("; 95 % interval {:.2} to {:.2}", ratio.interval.low, ratio.interval.high),
        (_, false) => "; no difference shown".into(),
    };
    Some(Tile {
        name: name.into(),
        value: units::ratio(ratio.summary.median),
        sub: format!(
            "{} {} {}, the best of the same promise ({}: {} instead of {}){interval}",
            if latency { "of what" } else { "what" },
            escape(system_words(&peer.point.system)),
            if latency { "takes" } else { "reaches" },
            escape(load),
            words(own),
            words(peer),
        ),
    })
}

fn prose(report: &Report, ladder: &[Row<'_>]) -> Vec<String> {
    let mut sentences = Vec::new();
    let p50 = |level| single_client(ladder, level).map(|row| row.p50().median);
    if let (Some(local), Some(on)) = (p50(Level::Local), p50(Level::On)) {
        sentences.push(format!(
            "Waiting for a standby’s disk as well as this machine’s costs {} more per commit for one client ({} instead of {}).",
            units::duration((on - local).max(0.0)),
            units::duration(on),
            units::duration(local),
        ));
    }
    if let (Some(local), Some(on)) = (busiest(ladder, Level::Local), busiest(ladder, Level::On)) {
        sentences.push(format!(
            "Under load the log takes {} commits per second at <code>local</code> ({}) and {} at <code>on</code> ({}).",
            units::per_second(local.per_s().median),
            escape(&local.load_label()),
            units::per_second(on.per_s().median),
            escape(&on.load_label()),
        ));
    }
    if let Some((knee, zero, at_knee)) = headline_window(report) {
        let measured = knee.measured_bytes.unwrap_or(knee.formula_bytes);
        sentences.push(format!(
            "Over {} a window of {} gives {} instead of {}, and bounds what a crash can lose to {} of acknowledged \
             payload; the formula put that point at {}.",
            match knee.link_rtt_us {
                0.0 => "loopback".into(),
                link_rtt_us => format!("a {}", link_words(link_rtt_us)),
            },
            units::bytes(measured),
            units::duration(at_knee),
            units::duration(zero),
            units::bytes(measured),
            units::bytes(knee.formula_bytes),
        ));
    }
    let unmet = report.checks.iter().filter(|check| check.met == Some(false)).count();
    let judged = report.checks.iter().filter(|check| check.met.is_some()).count();
    if judged > 0 {
        sentences.push(match unmet {
            0 => format!("All {judged} bars that this run measured are met."),
            1 => format!("One of the {judged} bars that this run measured is not met; <a href=\"#checks\">see below</a>."),
            _ => format!(
                "{unmet} of the {judged} bars that this run measured are not met; <a href=\"#checks\">see below</a>."
            ),
        });
    }
    sentences
}

/// The curve with the longest link whose knee was measured: p50 at the smallest window and at the knee.
fn headline_window(report: &Report) -> Option<(Knee, f64, f64)> {
    let knees = knees(report);
    let knee = knees
        .into_iter()
        .filter(|knee| knee.measured_bytes.is_some())
        .max_by(|a, b| a.link_rtt_us.total_cmp(&b.link_rtt_us))?;
    let curves = knee::curves(report);
    let curve =
        curves.iter().find(|curve| curve.link_rtt_us == knee.link_rtt_us && curve.load == knee.load)?;
    let p50 = |window: Window| curve.median_of(window, |point| point.latency_ns.p50 as f64);
    let zero = p50(*curve.windows().first()?)?;
    let at_knee = p50(curve.measured()?)?;
    Some((knee, zero, at_knee))
}

fn single_client<'r, 'a>(ladder: &'r [Row<'a>], level: Level) -> Option<&'r Row<'a>> {
    let one = |row: &&Row<'_>| row.point.level == level && row.point.load.arrival == Arrival::Closed(1);
    let embedded = |row: &&Row<'_>| row.point.client == Client::Embedded;
    ladder.iter().filter(one).find(embedded).or_else(|| ladder.iter().find(one))
}

fn busiest<'r, 'a>(ladder: &'r [Row<'a>], level: Level) -> Option<&'r Row<'a>> {
    let of_level = ladder.iter().filter(|row| row.point.level == level);
    of_level.max_by(|a, b| a.per_s().median.total_cmp(&b.per_s().median))
}

/// The number large, its unit small.
fn value(text: &str) -> String {
    match text.split_once('\u{a0}') {
        Some((number, unit)) => format!("{number}<small>{unit}</small>"),
        None => text.to_owned(),
    }
}
