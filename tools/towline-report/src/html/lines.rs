//! A chart of p50 and p99 over something that can be measured: a rate, a time.

use super::axis::{Axis, Scale};
use super::charts::{draw_dot, plane, put_aligned};
use super::svg::{BLUE, DrawError, GREEN, Hit, PURPLE, VERMILION, Width, drawing};
use crate::units;
use plotters::prelude::{Color, DashedLineSeries, LineSeries, PathElement};

/// One figure along the way.
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Lines apart by `\n`.
    pub(super) text: String,
}

/// What the chart is made of.
pub(super) struct Lines {
    /// Said for those who cannot see it.
    pub(super) label: String,
    /// What x is.
    pub(super) x_name: &'static str,
    pub(super) p50: Vec<Mark>,
    pub(super) p99: Vec<Mark>,
    /// Upright lines with their words: the first green, the second purple.
    pub(super) uprights: Vec<(f64, String)>,
}

/// In both scales and widths. `x_tick` words a place on the x axis.
pub(super) fn lines(chart: &Lines, x_tick: &dyn Fn(f64) -> String) -> String {
    let mut text = String::new();
    for width in [Width::Wide, Width::Narrow] {
        for scale in [Scale::Log, Scale::Linear] {
            text.push_str(&lines_once(chart, x_tick, width, scale));
        }
    }
    text
}

fn lines_once(chart: &Lines, x_tick: &dyn Fn(f64) -> String, width: Width, scale: Scale) -> String {
    let wide = width == Width::Wide;
    let all = || chart.p50.iter().chain(&chart.p99);
    let latencies = scale.axis(all().flat_map(|mark| [mark.low, mark.high]), 7, &units::duration);
    let places = all().map(|mark| mark.x).chain(chart.uprights.iter().map(|upright| upright.0));
    let xs: Axis = Scale::Linear.axis(places, if wide { 9 } else { 5 }, x_tick);
    let (low, high) = (latencies.low, latencies.high);
    drawing(width, if wide { 360 } else { 320 }, scale, &chart.label, |area| {
        let mut hits = Vec::new();
        let end = xs.high;
        let margin_top = if chart.uprights.is_empty() { 14 } else { 44 };
        let mut plane = plane(area, (xs, latencies), margin_top, chart.x_name, width)?;
        for (index, (x, words)) in chart.uprights.iter().enumerate() {
            let color = if index == 0 { GREEN } else { PURPLE };
            let ends = [(*x, low), (*x, high)];
            plane.draw_series(DashedLineSeries::new(ends, 5, 4, color.stroke_width(2)))?;
            let (left, top) = plane.plotting_area().map_coordinate(&(*x, high));
            let text_y = 6 + 16 * index as i32;
            area.draw(&PathElement::new([(left, top), (left, text_y + 6)], color.stroke_width(1)))?;
            let to_left = *x > end / 2.0;
            put_aligned(
                area,
                words,
                (if to_left { left - 6 } else { left + 6 }, text_y),
                12.0,
                color,
                to_left,
            )?;
        }
        for (marks, filled) in [(&chart.p99, false), (&chart.p50, true)] {
            let color = if filled { BLUE } else { VERMILION };
            let line: Vec<(f64, f64)> = marks.iter().map(|mark| (mark.x, scale.place(mark.value))).collect();
            if filled {
                plane.draw_series(LineSeries::new(line.iter().copied(), color.stroke_width(2)))?;
            } else {
                for pair in line.windows(2) {
                    let dashes = DashedLineSeries::new([pair[0], pair[1]], 6, 4, color.stroke_width(2));
                    plane.draw_series(dashes)?;
                }
            }
            for (mark, place) in marks.iter().zip(line) {
                let ends = [(mark.x, scale.place(mark.low)), (mark.x, scale.place(mark.high))];
                plane.draw_series(std::iter::once(PathElement::new(ends, color.stroke_width(2))))?;
                draw_dot(&mut plane, place, filled, 4)?;
                let (x, y) = plane.plotting_area().map_coordinate(&place);
                hits.push(Hit { x, y, text: mark.text.clone() });
            }
        }
        Ok::<_, DrawError>(hits)
    })
}
