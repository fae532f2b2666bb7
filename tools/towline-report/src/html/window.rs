//! The lag window: latency against ω for one link and load after the other, and the axis of ω.

use super::axis::{Axis, Scale};
use super::charts::{draw_dot, plane, put_aligned};
use super::svg::{BLUE, GREEN, Hit, MUTED, PURPLE, VERMILION, Width, drawing};
use super::{LEGEND_QUANTILES, escape, figure, loss, tables};
use crate::groups::{self, Row, rows};
use crate::knee::{self, Curve};
use crate::schema::{Arrival, Knee, Report, Window};
use crate::survive_run::SurviveRun;
use crate::table::{capitalised, knees, link_words, window_words};
use crate::units;
use plotters::prelude::{Color, DashedLineSeries, LineSeries, PathElement};

/// The window sweep: a curve for each link and load, and under it what crashes lost, where that is known.
pub(super) fn section(report: &Report, loss: Option<&SurviveRun>) -> String {
    let curves = knee::curves(report);
    if curves.is_empty() {
        return String::new();
    }
    let knees = knees(report);
    let mut text = String::from(
        "<section id=\"window\"><h2>The lag window</h2><p class=\"lead\">One dial from synchronous (ω = 0) to \
         asynchronous (ω = ∞). A commit is acknowledged once it is durable here and at most ω of payload is not yet \
         durable there: if this machine is lost, the acknowledged records that go with it lie within one span of ω. \
         Past the knee a larger window buys nothing.</p>",
    );
    for (index, curve) in curves.iter().enumerate() {
        let knee = knees.iter().find(|knee| knee.link_rtt_us == curve.link_rtt_us && knee.load == curve.load);
        let load = groups::load_label(curve.points[0]);
        let title = format!(
            "{}, {load} of {}",
            capitalised(&link_words(curve.link_rtt_us)),
            units::bytes(curve.record_bytes)
        );
        let mut legend = LEGEND_QUANTILES.to_owned();
        if knee.is_some() {
            legend.push_str(
                "<span><i class=\"model\"></i>model of p50</span><span><i class=\"formula\"></i>knee by the formula</span>",
            );
        }
        if knee.is_some_and(|knee| knee.measured_bytes.is_some()) {
            legend.push_str("<span><i class=\"measured\"></i>knee measured</span>");
        }
        let label = format!("Commit latency against the window, {title}");
        text.push_str(&format!("<h3>{}</h3>", escape(&title)));
        text.push_str(&figure(
            &format!("window-{index}"),
            hides_p50(curve),
            &legend,
            &window_curve(curve, knee, &label),
            match curve.load.arrival {
                Arrival::OpenPerS(_) => {
                    "The same offered load for every ω. The model is max(F, N + F<sub>standby</sub> − ω/λ), from the \
                     floors alone."
                }
                Arrival::Closed(_) => {
                    "The same clients for every ω. The model is max(F, (N + F<sub>standby</sub>) · c·r / (c·r + ω)) for \
                     c clients with records of r bytes, from the floors alone."
                }
            },
        ));
        text.push_str(&tables::window(report, curve));
        if let Some(run) = loss {
            text.push_str(&loss::of_curve(report, run, curve, knee, index));
        }
    }
    text.push_str(&tables::knees(&knees));
    text.push_str(&loss.map_or_else(String::new, |run| loss::other_units(&curves, run)));
    text.push_str("</section>");
    text
}

/// p50 and p99 against the window for one link and load, in both scales and widths.
fn window_curve(curve: &Curve<'_>, knee: Option<&Knee>, label: &str) -> String {
    let mut text = String::new();
    for width in [Width::Wide, Width::Narrow] {
        for scale in [Scale::Linear, Scale::Log] {
            text.push_str(&window_curve_once(curve, knee, label, width, scale));
        }
    }
    text
}

/// Whether one bad p99 would press the line of the p50 flat on a linear axis.
fn hides_p50(curve: &Curve<'_>) -> bool {
    let most =
        |value: fn(&Row<'_>) -> f64| rows(curve.points.iter().copied()).iter().map(value).fold(0.0, f64::max);
    most(|row| row.p99().max) > 8.0 * most(|row| row.p50().max)
}

fn window_curve_once(
    curve: &Curve<'_>,
    knee: Option<&Knee>,
    label: &str,
    width: Width,
    scale: Scale,
) -> String {
    let rows = rows(curve.points.iter().copied());
    let points: Vec<_> = curve
        .windows()
        .into_iter()
        .filter_map(|window| {
            rows.iter().find(|row| row.point.window == Some(window)).map(|row| (window, row))
        })
        .collect();
    let axis = WindowAxis::of(curve, knee);
    let values =
        points.iter().flat_map(|(_, row)| [row.p50().min, row.p50().max, row.p99().min, row.p99().max]);
    let latencies = scale.axis(values, 7, &units::duration);
    let (low, high) = (latencies.low, latencies.high);
    let height = if width == Width::Wide { 380 } else { 330 };
    drawing(width, height, scale, label, |area| {
        let mut hits = Vec::new();
        let windows = Axis { low: axis.from, high: axis.to, ticks: axis.labelled(width) };
        let mut chart = plane(area, (windows, latencies), 44, "window ω", width)?;
        if let Some(knee) = knee {
            let steps = 120;
            let model = (0..=steps).map(|step| {
                let place = axis.first + (axis.last - axis.first) * f64::from(step) / f64::from(steps);
                (place, scale.place(knee::predicted_ns(knee, axis.bytes_at(place), curve.record_bytes)))
            });
            let inside = model.filter(|(_, y)| (low..=high).contains(y));
            chart.draw_series(LineSeries::new(inside, MUTED.stroke_width(1)))?;
            let formula = axis.place_of_bytes(knee.formula_bytes);
            let measured = knee.measured_bytes.map(|bytes| axis.place_of_bytes(bytes));
            // Outwards from the other line, and never out of the drawing.
            let middle = (axis.from + axis.to) / 2.0;
            let measured_to_left = match measured {
                Some(measured) if measured > formula && measured < middle => false,
                Some(measured) if measured < formula && measured > middle => true,
                Some(measured) => measured > axis.from + 0.7 * (axis.to - axis.from),
                None => false,
            };
            let formula_to_left = if formula < axis.from + 0.3 * (axis.to - axis.from) {
                false
            } else {
                formula > middle || measured.is_some_and(|measured| measured > formula)
            };
            let measured_words = format!("measured {}", units::bytes(knee.measured_bytes.unwrap_or(0.0)));
            let formula_words = format!("formula W* {}", units::bytes(knee.formula_bytes));
            let lines = [
                (Some(formula), GREEN, formula_words, 6, formula_to_left),
                (measured, PURPLE, measured_words, 22, measured_to_left),
            ];
            for (place, color, words, text_y, to_left) in lines {
                let Some(place) = place.filter(|place| (axis.from..=axis.to).contains(place)) else {
                    continue;
                };
                let ends = [(place, low), (place, high)];
                chart.draw_series(DashedLineSeries::new(ends, 5, 4, color.stroke_width(2)))?;
                let (x, top) = chart.plotting_area().map_coordinate(&(place, high));
                area.draw(&PathElement::new([(x, top), (x, text_y + 6)], color.stroke_width(1)))?;
                let from = (if to_left { x - 6 } else { x + 6 }, text_y);
                put_aligned(area, &words, from, 12.0, color, to_left)?;
            }
        }
        for filled in [false, true] {
            let quantile = |row: &Row<'_>| if filled { row.p50() } else { row.p99() };
            let color = if filled { BLUE } else { VERMILION };
            let line: Vec<_> = points
                .iter()
                .map(|(window, row)| (axis.place(curve, *window), scale.place(quantile(row).median)))
                .collect();
            let bounded: Vec<_> =
                line.iter().copied().filter(|(x, _)| (axis.first..=axis.last).contains(x)).collect();
            chart.draw_series(LineSeries::new(bounded.iter().copied(), color.stroke_width(2)))?;
            // 0 and ∞ have no place on a logarithmic axis: their part of the line is dashed.
            for pair in line.windows(2) {
                if pair[0].0 < axis.first || pair[1].0 > axis.last {
                    chart.draw_series(DashedLineSeries::new(
                        [pair[0], pair[1]],
                        3,
                        4,
                        color.stroke_width(2),
                    ))?;
                }
            }
            for ((window, row), place) in points.iter().zip(&line) {
                let spread = quantile(row);
                let ends = [(place.0, scale.place(spread.min)), (place.0, scale.place(spread.max))];
                chart.draw_series(std::iter::once(PathElement::new(ends, color.stroke_width(2))))?;
                draw_dot(&mut chart, *place, filled, 4)?;
                let (x, y) = chart.plotting_area().map_coordinate(place);
                let name = if filled { "p50" } else { "p99" };
                let window = window_words(Some(*window));
                let text = format!("ω = {window}\n{name} {}", tables::with_range(&spread));
                hits.push(Hit { x, y, text });
            }
        }
        Ok(hits)
    })
}

/// ω on a logarithmic axis in bytes, with 0 and ∞ as ends of their own.
pub(super) struct WindowAxis {
    pub(super) from: f64,
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) to: f64,
    places: Vec<(f64, String)>,
}

impl WindowAxis {
    pub(super) const END: f64 = 1.3;

    pub(super) fn of(curve: &Curve<'_>, knee: Option<&Knee>) -> Self {
        let bounded = curve.windows().into_iter().map(|window| curve.in_bytes(window));
        let bounded = bounded.filter(|bytes| *bytes > 0.0 && bytes.is_finite());
        let marks = knee.map(|knee| knee.formula_bytes).into_iter().filter(|bytes| *bytes > 0.0);
        let all: Vec<f64> = bounded.chain(marks).map(f64::log2).collect();
        let first = all.iter().copied().fold(f64::INFINITY, f64::min);
        let last = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (first, last) = if all.is_empty() { (0.0, 1.0) } else { (first, last.max(first + 0.1)) };
        let mut axis = Self {
            from: first - Self::END - 0.4,
            first,
            last,
            to: last + Self::END + 0.4,
            places: Vec::new(),
        };
        axis.places = curve
            .windows()
            .into_iter()
            .map(|window| (axis.place(curve, window), window_words(Some(window))))
            .collect();
        axis
    }

    fn place(&self, curve: &Curve<'_>, window: Window) -> f64 {
        self.place_of_bytes(curve.in_bytes(window))
    }

    pub(super) fn place_of_bytes(&self, bytes: f64) -> f64 {
        match bytes {
            _ if bytes <= 0.0 => self.first - Self::END,
            _ if bytes.is_infinite() => self.last + Self::END,
            _ => bytes.log2(),
        }
    }

    fn bytes_at(&self, place: f64) -> f64 {
        place.exp2()
    }

    /// Places with a label: both ends, and of the others as many as there is room for.
    pub(super) fn labelled(&self, width: Width) -> Vec<(f64, String)> {
        let room = if width == Width::Wide { 66.0 } else { 58.0 };
        let per_place = f64::from(width.pixels() - 100) / (self.to - self.from);
        let mut kept: Vec<(f64, String)> = Vec::new();
        let end = self.places.last().map_or(f64::INFINITY, |place| place.0);
        for (index, (place, text)) in self.places.iter().enumerate() {
            let clear = |other: f64| (place - other).abs() * per_place >= room;
            let is_end = index + 1 == self.places.len();
            if is_end || (kept.last().is_none_or(|last| clear(last.0)) && clear(end)) {
                kept.push((*place, text.clone()));
            }
        }
        kept
    }
}
