//! The charts of the page: a row of dots for every level and load; what other charts share.
//!
//! Drawn by `plotters` as SVG and not by plotly: plotly's script weighs 4.5 MB a page (1.6 MB packed), and every run
//! is kept in git; an SVG is a few kilobytes, prints as vectors, takes the page's theme, and is there without any
//! script. What plotly would add, zooming, is not needed for 15 rows; the figures are in the table below each chart.

use super::axis::{Axis, Scale};
use super::svg::{BLUE, GRID, Hit, INK, MUTED, PAPER, SKY, VERMILION};
use super::svg::{DrawError, Width, drawing, font};
use plotters::coord::Shift;
use plotters::prelude::{Cartesian2d, ChartBuilder, ChartContext, Circle, Color, DrawingArea, FontStyle};
use plotters::prelude::{LabelAreaPosition, PathElement, RGBColor};
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
    let labels = groups.iter().flat_map(|group| &group.rows).map(|row| row.label.chars().count());
    // So wide is a strong letter on average, with some room before the plane.
    let longest = 10 + 7 * labels.max().unwrap_or(0) as i32;
    let names = groups.iter().map(|group| group.name.chars().count());
    let names = (16 + 8 * names.max().unwrap_or(0) as i32).clamp(112, 224);
    let (heading, gap, left) = match width {
        Width::Wide => (0, 15, (names + longest).max(214)),
        Width::Narrow => (22, 12, longest.clamp(84, 150)),
    };
    let rows: usize = groups.iter().map(|group| group.rows.len()).sum();
    let plot_height = rows as i32 * row_height + groups.len() as i32 * (heading + gap);
    let height = plot_height + 52;
    let values = groups.iter().flat_map(|group| {
        let dots = group.rows.iter().flat_map(|row| &row.dots);
        dots.flat_map(|dot| [dot.low, dot.high]).chain(group.floor.iter().map(|floor| floor.0))
    });
    // Long labels leave less room for ticks.
    let ticks = if width == Width::Wide { 9 - (left - 214) / 70 } else { 5 };
    let values_axis = scale.axis(values, ticks.max(4) as usize, tick);
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
                    put_text(area, &row.label, (names, middle - 6), 12.0, color, row.strong)?;
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

pub(super) type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

/// A plane with a latency, a loss or a rate upwards. `margin_top` is room for words above it.
pub(super) fn plane<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, Shift>,
    (xs, ys): (Axis, Axis),
    margin_top: i32,
    x_name: &str,
    width: Width,
) -> Result<Plane<'a, 'b>, DrawError> {
    let mut plane = ChartBuilder::on(area)
        .margin_right(18)
        .margin_top(margin_top)
        .set_label_area_size(LabelAreaPosition::Left, if width == Width::Wide { 76 } else { 58 })
        .set_label_area_size(LabelAreaPosition::Bottom, 52)
        .build_cartesian_2d(xs, ys)?;
    plane
        .configure_mesh()
        .axis_style(GRID)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .disable_x_mesh()
        .label_style(font(12.0).color(&MUTED))
        .x_desc(x_name)
        .axis_desc_style(font(12.0).color(&MUTED))
        .draw()?;
    Ok(plane)
}

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
