//! The charts of the page: a row of dots for every level and load, and latency against the window.
//!
//! Drawn by `plotters` as SVG and not by plotly: plotly's script weighs 4.5 MB a page (1.6 MB packed), and every run
//! is kept in git; an SVG is a few kilobytes, prints as vectors, takes the page's theme, and is there without any
//! script. What plotly would add, zooming, is not needed for 15 rows; the figures are in the table below each chart.

use super::axis::{Axis, Scale};
use super::svg::{BLUE, GREEN, GRID, Hit, INK, MUTED, PAPER, PURPLE, SKY, VERMILION};
use super::svg::{DrawError, Width, drawing, font};
use crate::knee::{self, Curve};
use crate::schema::{Knee, Window};
use crate::units;
use plotters::coord::Shift;
use plotters::prelude::{Cartesian2d, ChartBuilder, ChartContext, Circle, Color, DrawingArea, FontStyle};
use plotters::prelude::{DashedLineSeries, LabelAreaPosition, LineSeries, PathElement, RGBColor};
use plotters::prelude::{SVGBackend, TRANSPARENT, Text, TextStyle};

/// One group of rows: a level, with the floor it is held against.
pub(super) struct RowGroup {
    pub(super) name: String,
    /// Value of a line across the group's rows, with what it is.
    pub(super) floor: Option<(f64, String)>,
    pub(super) rows: Vec<DotRow>,
}

/// One row: its dots, joined by a line.
pub(super) struct DotRow {
    pub(super) label: String,
    /// The label stands out.
    pub(super) strong: bool,
    /// A thick bar under the dots, from and to.
    pub(super) bar: Option<(f64, f64)>,
    pub(super) dots: Vec<Dot>,
}

/// One figure with its spread over the repetitions.
pub(super) struct Dot {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Filled blue, or an open vermilion ring.
    pub(super) filled: bool,
    pub(super) text: String,
}

/// Rows of dots over one axis, in both scales and widths.
pub(super) fn dot_rows(groups: &[RowGroup], label: &str, axis: &str, tick: &dyn Fn(f64) -> String) -> String {
    let mut text = String::new();
    for width in [Width::Wide, Width::Narrow] {
        for scale in [Scale::Log, Scale::Linear] {
            text.push_str(&dot_rows_once(groups, label, axis, tick, width, scale));
        }
    }
    text
}

fn dot_rows_once(
    groups: &[RowGroup],
    label: &str,
    axis: &str,
    tick: &dyn Fn(f64) -> String,
    width: Width,
    scale: Scale,
) -> String {
    let row_height = 21;
    let (heading, gap, left) = if width == Width::Wide { (0, 15, 214) } else { (22, 12, 84) };
    let rows: usize = groups.iter().map(|group| group.rows.len()).sum();
    let plot_height = rows as i32 * row_height + groups.len() as i32 * (heading + gap);
    let height = plot_height + 52;
    let values = groups.iter().flat_map(|group| {
        let dots = group.rows.iter().flat_map(|row| &row.dots);
        dots.flat_map(|dot| [dot.low, dot.high]).chain(group.floor.iter().map(|floor| floor.0))
    });
    let values_axis = scale.axis(values, if width == Width::Wide { 9 } else { 5 }, tick);
    drawing(width, height, scale, label, |area| {
        let mut hits = Vec::new();
        let mut chart = ChartBuilder::on(area)
            .margin_right(14)
            .set_label_area_size(LabelAreaPosition::Left, left)
            .set_label_area_size(LabelAreaPosition::Bottom, 52)
            .build_cartesian_2d(
                values_axis.clone(),
                Axis { low: -f64::from(plot_height), high: 0.0, ticks: Vec::new() },
            )?;
        mesh(&mut chart, axis)?;
        let mut y = 0;
        for group in groups {
            let top = y + gap / 2;
            if width == Width::Narrow {
                put_text(area, &group.name, (0, top + 4), 13.0, INK, true)?;
            }
            y = top + heading;
            let group_height = group.rows.len() as i32 * row_height;
            if let Some((value, _)) = &group.floor {
                let x = scale.place(*value);
                let ends = [(x, -f64::from(y)), (x, -f64::from(y + group_height))];
                chart.draw_series(std::iter::once(PathElement::new(ends, INK.stroke_width(2))))?;
            }
            for (index, row) in group.rows.iter().enumerate() {
                let middle = y + row_height / 2;
                let color = if row.strong { INK } else { MUTED };
                if width == Width::Wide {
                    if index == 0 {
                        put_text(area, &group.name, (0, middle - 7), 13.0, INK, true)?;
                    }
                    put_text(area, &row.label, (112, middle - 6), 12.0, color, row.strong)?;
                } else {
                    put_text(area, &row.label, (0, middle - 6), 12.0, color, row.strong)?;
                }
                let at = -f64::from(middle);
                let place = |value: f64| (scale.place(value), at);
                if let (Some(first), Some(last)) = (row.dots.first(), row.dots.last()) {
                    let ends = [place(first.value), place(last.value)];
                    chart.draw_series(std::iter::once(PathElement::new(ends, GRID.stroke_width(4))))?;
                }
                if let Some((from, to)) = row.bar {
                    // On a logarithmic axis the start may lie before its beginning.
                    let from = scale.place(from).max(values_axis.low);
                    let ends = [(from, at), (scale.place(to).max(from), at)];
                    chart.draw_series(std::iter::once(PathElement::new(ends, SKY.stroke_width(9))))?;
                }
                for dot in &row.dots {
                    let color = if dot.filled { BLUE } else { VERMILION };
                    let ends = [place(dot.low), place(dot.high)];
                    chart.draw_series(std::iter::once(PathElement::new(ends, color.stroke_width(2))))?;
                    draw_dot(&mut chart, place(dot.value), dot.filled, 5)?;
                    let (x, y) = chart.plotting_area().map_coordinate(&place(dot.value));
                    hits.push(Hit { x, y, text: format!("{} · {}\n{}", group.name, row.label, dot.text) });
                }
                y += row_height;
            }
            y += gap - gap / 2;
        }
        Ok(hits)
    })
}

/// p50 and p99 against the window for one link and load, in both scales and widths.
pub(super) fn window_curve(curve: &Curve<'_>, knee: Option<&Knee>, label: &str) -> String {
    let mut text = String::new();
    for width in [Width::Wide, Width::Narrow] {
        for scale in [Scale::Linear, Scale::Log] {
            text.push_str(&window_curve_once(curve, knee, label, width, scale));
        }
    }
    text
}

fn window_curve_once(
    curve: &Curve<'_>,
    knee: Option<&Knee>,
    label: &str,
    width: Width,
    scale: Scale,
) -> String {
    let rows = crate::groups::rows(curve.points.iter().copied());
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
        let mut chart = ChartBuilder::on(area)
            .margin_right(18)
            .margin_top(44)
            .set_label_area_size(LabelAreaPosition::Left, if width == Width::Wide { 76 } else { 58 })
            .set_label_area_size(LabelAreaPosition::Bottom, 52)
            .build_cartesian_2d(windows, latencies)?;
        chart
            .configure_mesh()
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .disable_x_mesh()
            .label_style(font(12.0).color(&MUTED))
            .x_desc("window ω")
            .axis_desc_style(font(12.0).color(&MUTED))
            .draw()?;
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
            let quantile = |row: &crate::groups::Row<'_>| if filled { row.p50() } else { row.p99() };
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
                let window = crate::table::window_words(Some(*window));
                let text = format!("ω = {window}\n{name} {}", super::tables::with_range(&spread));
                hits.push(Hit { x, y, text });
            }
        }
        Ok(hits)
    })
}

/// ω on a logarithmic axis in bytes, with 0 and ∞ as ends of their own.
struct WindowAxis {
    from: f64,
    first: f64,
    last: f64,
    to: f64,
    places: Vec<(f64, String)>,
}

impl WindowAxis {
    const END: f64 = 1.3;

    fn of(curve: &Curve<'_>, knee: Option<&Knee>) -> Self {
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
            .map(|window| (axis.place(curve, window), crate::table::window_words(Some(window))))
            .collect();
        axis
    }

    fn place(&self, curve: &Curve<'_>, window: Window) -> f64 {
        self.place_of_bytes(curve.in_bytes(window))
    }

    fn place_of_bytes(&self, bytes: f64) -> f64 {
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
    fn labelled(&self, width: Width) -> Vec<(f64, String)> {
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

pub(super) type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

pub(super) fn draw_dot(
    chart: &mut Plane<'_, '_>,
    place: (f64, f64),
    filled: bool,
    radius: i32,
) -> Result<(), DrawError> {
    if filled {
        chart.draw_series(std::iter::once(Circle::new(place, radius, BLUE.filled())))?;
    } else {
        chart.draw_series(std::iter::once(Circle::new(place, radius, PAPER.filled())))?;
        chart.draw_series(std::iter::once(Circle::new(place, radius, VERMILION.stroke_width(2))))?;
    }
    Ok(())
}

fn mesh(chart: &mut Plane<'_, '_>, axis: &str) -> Result<(), DrawError> {
    chart
        .configure_mesh()
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .disable_y_mesh()
        .disable_y_axis()
        .label_style(font(12.0).color(&MUTED))
        .x_desc(axis)
        .axis_desc_style(font(12.0).color(&MUTED))
        .draw()?;
    Ok(())
}

fn put_text(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    text: &str,
    at: (i32, i32),
    pixels: f64,
    color: RGBColor,
    bold: bool,
) -> Result<(), DrawError> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    area.draw(&Text::new(text.to_owned(), at, font(pixels).style(style).color(&color)))?;
    Ok(())
}

pub(super) fn put_aligned(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    text: &str,
    at: (i32, i32),
    pixels: f64,
    color: RGBColor,
    to_left: bool,
) -> Result<(), DrawError> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    let side = if to_left { HPos::Right } else { HPos::Left };
    let style = TextStyle::from(font(pixels)).color(&color).pos(Pos::new(side, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}
