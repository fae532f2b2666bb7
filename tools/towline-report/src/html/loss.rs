//! The lower half of a window sweep: what repeated crashes really lost at each ω, beside the bound, on the axis of the
//! curve above.

use super::axis::{Axis, Scale};
use super::charts::{draw_dot, plane};
use super::svg::{DrawError, Hit, INK, Width, drawing};
use super::tables::{numbers, table};
use super::window::WindowAxis;
use super::{escape, figure};
use crate::knee::Curve;
use crate::schema::{Arrival, Knee, Report, Window};
use crate::survive_run::{Cell, SurviveRun};
use crate::table::window_words;
use crate::units;
use plotters::prelude::{Color, PathElement};

/// Chart and table for the windows that lie within a curve's sweep; nothing where none of them was crashed, or where
/// the sweep's windows are not bytes.
pub(super) fn of_curve(
    report: &Report,
    run: &SurviveRun,
    curve: &Curve<'_>,
    knee: Option<&Knee>,
    index: usize,
) -> String {
    let axis = WindowAxis::of(curve, knee);
    let crashes: Vec<Crashed<'_>> =
        run.windows.iter().filter_map(Crashed::of).filter(|crashed| crashed.lies_on(&axis)).collect();
    let in_bytes = curve.windows().iter().all(|window| matches!(window, Window::Bytes(_) | Window::Inf));
    if !in_bytes || !crashes.iter().any(Crashed::is_bounded) {
        return String::new();
    }
    let mut text = String::from("<h4>What crashes lost at each of these windows</h4>");
    text.push_str(&figure(
        &format!("loss-{index}"),
        true,
        "<span><i class=\"dot\"></i>median loss</span><span><i class=\"ring\"></i>largest loss</span>\
         <span><i class=\"bound\"></i>bound: ω</span>",
        &chart(&axis, &crashes, "Acknowledged payload that crashes lost against the window"),
        &origin(report, run, curve),
    ));
    let body: String = crashes.iter().map(|crashed| table_row(crashed.cell)).collect();
    text + &table(&HEAD, &body)
}

/// The table of windows that no curve's axis can hold: records and times. Nothing where the run has none.
pub(super) fn other_units(curves: &[Curve<'_>], run: &SurviveRun) -> String {
    let is_other = |cell: &&Cell| matches!(cell.row.window, Some(Window::Records(_) | Window::Micros(_)));
    let body: String = run.windows.iter().filter(is_other).map(table_row).collect();
    if curves.is_empty() || body.is_empty() {
        return String::new();
    }
    format!("<h3>What crashes lost within windows of other units</h3>{}", table(&HEAD, &body))
}

/// A window of bytes that was crashed again and again.
struct Crashed<'a> {
    cell: &'a Cell,
    window_bytes: f64,
    /// `None` in runs that kept only the largest.
    median: Option<f64>,
    largest: f64,
}

impl<'a> Crashed<'a> {
    fn of(cell: &'a Cell) -> Option<Self> {
        let window_bytes = match cell.row.window? {
            Window::Bytes(bytes) => bytes as f64,
            Window::Inf => f64::INFINITY,
            Window::Records(_) | Window::Micros(_) => return None,
        };
        let median = cell.median_loss().map(|size| size as f64);
        Some(Self { cell, window_bytes, median, largest: cell.largest_loss()? as f64 })
    }

    fn is_bounded(&self) -> bool {
        self.window_bytes > 0.0 && self.window_bytes.is_finite()
    }

    fn lies_on(&self, axis: &WindowAxis) -> bool {
        !self.is_bounded() || (axis.first - 0.01..=axis.last + 0.01).contains(&self.window_bytes.log2())
    }
}

fn chart(axis: &WindowAxis, crashes: &[Crashed<'_>], label: &str) -> String {
    let mut text = String::new();
    for width in [Width::Wide, Width::Narrow] {
        for scale in [Scale::Log, Scale::Linear] {
            text.push_str(&chart_once(axis, crashes, label, width, scale));
        }
    }
    text
}

fn chart_once(axis: &WindowAxis, crashes: &[Crashed<'_>], label: &str, width: Width, scale: Scale) -> String {
    let losses = LossAxis::of(axis, crashes, scale);
    let height = if width == Width::Wide { 330 } else { 300 };
    drawing(width, height, scale, label, |area| {
        let mut hits = Vec::new();
        let windows = Axis { low: axis.from, high: axis.to, ticks: axis.labelled(width) };
        let mut chart = plane(area, (windows, losses.axis.clone()), 14, "window ω", width)?;
        // On the line the whole window is lost. It bends where one axis is in powers and the other is not.
        let steps = if scale == Scale::Log { 1 } else { 60 };
        let bound = (0..=steps).map(|step| {
            let place = axis.first + (axis.last - axis.first) * f64::from(step) / f64::from(steps);
            (place, losses.place(place.exp2()))
        });
        chart
            .draw_series(std::iter::once(PathElement::new(bound.collect::<Vec<_>>(), INK.stroke_width(2))))?;
        for crashed in crashes {
            let at = axis.place_of_bytes(crashed.window_bytes);
            let median = crashed.median.map(|median| (median, true, 3));
            for (loss, filled, radius) in std::iter::once((crashed.largest, false, 6)).chain(median) {
                let place = (at, losses.place(loss));
                draw_dot(&mut chart, place, filled, radius)?;
                let (x, y) = chart.plotting_area().map_coordinate(&place);
                hits.push(Hit { x, y, text: hover(crashed.cell, loss, filled) });
            }
        }
        Ok::<_, DrawError>(hits)
    })
}

fn hover(cell: &Cell, loss: f64, is_median: bool) -> String {
    let name = if is_median { "median loss" } else { "largest loss" };
    let share = match share_of_bound(cell, loss) {
        Some(share) => format!(" = {share} of ω"),
        None => String::new(),
    };
    format!(
        "ω = {}\n{name} {}{share}\n{} of {} crashes lost something",
        window_words(cell.row.window),
        units::bytes(loss),
        cell.losing_runs,
        cell.runs
    )
}

/// Losses upwards: in powers with a place of its own for none, or in equal steps.
struct LossAxis {
    scale: Scale,
    none: f64,
    axis: Axis,
}

impl LossAxis {
    fn of(windows: &WindowAxis, crashes: &[Crashed<'_>], scale: Scale) -> Self {
        let sizes = crashes.iter().flat_map(|crashed| [crashed.median.unwrap_or(0.0), crashed.largest]);
        let sizes = sizes.chain([windows.first.exp2(), windows.last.exp2()]).filter(|size| *size > 0.0);
        let least = sizes.clone().fold(f64::INFINITY, f64::min).log2();
        let most = sizes.fold(1.0, f64::max);
        if scale == Scale::Linear {
            let axis = scale.axis(std::iter::once(most), 7, &units::bytes);
            return Self { scale, none: 0.0, axis };
        }
        let (none, high) = (least - WindowAxis::END, most.log2() + 0.6);
        let every = ((high - least) / 6.0).ceil().max(1.0) as usize;
        let powers = (least.ceil() as i32..=high.floor() as i32).step_by(every);
        let mut ticks = vec![(none, "none".to_owned())];
        ticks.extend(powers.map(|power| (f64::from(power), units::bytes(f64::from(power).exp2()))));
        Self { scale, none, axis: Axis { low: none - 0.4, high, ticks } }
    }

    fn place(&self, bytes: f64) -> f64 {
        match self.scale {
            Scale::Linear => bytes,
            Scale::Log if bytes > 0.0 => bytes.log2(),
            Scale::Log => self.none,
        }
    }
}

/// Where the losses come from, and how that differs from the curve above.
fn origin(report: &Report, run: &SurviveRun, curve: &Curve<'_>) -> String {
    let mut text = format!(
        "For each ω the primary and its disk were lost while its standbys were late, again and again; then a standby was \
         promoted and every acknowledged record looked for. From <code>{}</code>",
        escape(&run.folder)
    );
    if !run.commit.is_empty() {
        let same = if run.commit == report.environment.commit { "the same commit" } else { "commit" };
        text.push_str(&format!(", {same} {}", escape(&run.commit)));
    }
    let differs = run.machine_differs(&report.environment);
    if !differs.is_empty() {
        text.push_str(&format!(", <b>of another machine</b> ({})", escape(&differs.join("; "))));
    }
    let above = match curve.load.arrival {
        Arrival::OpenPerS(rate) => format!("{} a second", units::per_second(rate)),
        Arrival::Closed(clients) => format!("{clients} clients in a closed loop"),
    };
    text + &format!(
        ". Its load is another one: {} records a second of mixed sizes from one client over the socket, to two standbys; \
         above it is {above} of {}. The bound holds for any load. \
         A window had the time to fill before the crash; at ∞, where nothing ever fills, the standbys were cut off for \
         a moment only, and the loss is what the load brought in that time.",
        units::per_second(run.rate_per_s),
        units::bytes(curve.record_bytes),
    )
}

fn table_row(cell: &Cell) -> String {
    let words = |size: u64| match cell.row.window {
        Some(Window::Records(_)) => format!("{} records", units::grouped(size as f64)),
        Some(Window::Micros(_)) => units::duration(size as f64 * 1e3),
        _ => units::bytes(size as f64),
    };
    let largest = cell.largest_loss().unwrap_or_default();
    let cells = [
        cell.runs.to_string(),
        cell.losing_runs.to_string(),
        cell.median_loss().map_or_else(|| "–".into(), words),
        words(largest),
        units::grouped(cell.largest.records as f64),
        share_of_bound(cell, largest as f64).unwrap_or_else(|| "–".into()),
    ];
    format!(
        "<tr><th scope=\"row\"><b>{}</b></th>{}<td>{}</td></tr>",
        escape(&window_words(cell.row.window)),
        numbers(&cells),
        cell.verdict.words()
    )
}

fn share_of_bound(cell: &Cell, loss: f64) -> Option<String> {
    let size = match cell.row.window? {
        Window::Bytes(size) | Window::Records(size) | Window::Micros(size) => size,
        Window::Inf => return None,
    };
    (size > 0).then(|| format!("{:.0} %", 100.0 * loss / size as f64))
}

const HEAD: [&str; 8] = [
    "ω, the bound",
    "#crashes",
    "#with a loss",
    "#median loss",
    "#largest loss",
    "#its records",
    "#of the bound",
    "verdict",
];

#[cfg(test)]
mod tests {
    use super::super::{render_html, render_html_with_loss};
    use crate::synthetic;

    #[test]
    fn losses_stand_under_the_curve_with_their_origin_and_only_where_they_are_known() {
        let report = synthetic::full_report(1);
        assert!(!render_html(&report).contains("What crashes lost"));
        let mut run = synthetic::survive_run();
        let page = render_html_with_loss(&report, Some(&run));
        assert!(page.find("id=\"chart-window-0\"").unwrap() < page.find("id=\"chart-loss-0\"").unwrap());
        assert!(page.find("id=\"chart-loss-0\"").unwrap() < page.find("id=\"chart-window-1\"").unwrap());
        for expected in [
            "survive-20261123T165000Z",
            "the same commit 2c895ff01234",
            "Its load is another one: 6,000 records a second",
            "largest loss 962\u{a0}B = 94 % of ω",
            "10 of 10 crashes lost something",
            "windows of other units",
            "<b>100 records</b>",
        ] {
            assert!(page.contains(expected), "{expected:?} is missing");
        }
        assert!(!page.contains("of another machine") && !page.contains("NaN"));
        run.cores = 64;
        run.folder = "<img>".into();
        let page = render_html_with_loss(&report, Some(&run));
        assert!(page.contains("<b>of another machine</b> (cores: 64 and 2)") && !page.contains("<img"));
    }

    #[test]
    fn a_run_that_lost_nothing_at_all_is_drawn_too() {
        let mut run = synthetic::survive_run();
        run.windows.iter_mut().for_each(|cell| cell.loss_sizes.fill(0));
        let page = render_html_with_loss(&synthetic::canonical_report(1), Some(&run));
        assert!(page.contains("chart-loss-0") && !page.contains("NaN") && !page.contains("inf "));
        run.windows.iter_mut().for_each(|cell| cell.loss_sizes.clear());
        let page = render_html_with_loss(&synthetic::canonical_report(1), Some(&run));
        assert!(
            page.contains("largest loss 962") && !page.contains("median loss 962") && !page.contains("NaN")
        );
        run.windows.truncate(1);
        assert!(!render_html_with_loss(&synthetic::canonical_report(1), Some(&run)).contains("chart-loss"));
    }
}
