//! From a plotters drawing to an inline SVG of the page: theme colours, hover targets, no outside reference.

use super::axis::Scale;
use plotters::prelude::*;

/// Colours as drawn; the style sheet replaces each by a variable, so one drawing serves light, dark and paper.
pub(super) const INK: RGBColor = RGBColor(0x1A, 0x1A, 0x1A);
pub(super) const MUTED: RGBColor = RGBColor(0x6B, 0x6B, 0x6B);
pub(super) const GRID: RGBColor = RGBColor(0xE3, 0xE3, 0xE3);
pub(super) const PAPER: RGBColor = RGBColor(0xFD, 0xFD, 0xFD);
/// Okabe and Ito's colours, told apart by every kind of colour vision.
pub(super) const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xB2);
pub(super) const SKY: RGBColor = RGBColor(0xB5, 0xDD, 0xF5);
pub(super) const VERMILION: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
pub(super) const GREEN: RGBColor = RGBColor(0x00, 0x9E, 0x73);
pub(super) const PURPLE: RGBColor = RGBColor(0xCC, 0x79, 0xA7);

/// A drawing in one of two widths: plotters places text in pixels, so a phone gets a drawing of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Wide,
    Narrow,
}

impl Width {
    pub(super) fn pixels(self) -> i32 {
        match self {
            Self::Wide => 860,
            Self::Narrow => 350,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }
}

/// A place that tells its figures when it is pointed at.
pub(super) struct Hit {
    pub(super) x: i32,
    pub(super) y: i32,
    /// Lines apart by `\n`.
    pub(super) text: String,
}

/// Text of so many pixels; plotters takes the height of a line.
pub(super) fn font(pixels: f64) -> FontDesc<'static> {
    ("sans-serif", pixels * 1.24).into_font()
}

/// Draws through plotters and returns the element for the page.
pub(super) fn drawing(
    width: Width,
    height: i32,
    scale: Scale,
    label: &str,
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<Vec<Hit>, DrawError>,
) -> String {
    let mut text = String::new();
    let hits = {
        let area =
            SVGBackend::with_string(&mut text, (width.pixels() as u32, height as u32)).into_drawing_area();
        draw(&area).and_then(|hits| area.present().map(|()| hits).map_err(DrawError::from))
    };
    let hits = match hits {
        Ok(hits) => hits,
        // Writing into a string cannot fail; if it ever does, the reader is told, and the table is still there.
        Err(error) => {
            return format!(
                "<p class=\"note\">This chart could not be drawn: {}</p>",
                super::escape(&error.0)
            );
        }
    };
    let body = text.split_once('>').map_or("", |(_, body)| body);
    let body = body.trim_end().trim_end_matches("</svg>");
    let mut svg = format!(
        "<svg class=\"{} {}\" viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"{}\">",
        width.class(),
        scale.class(),
        width.pixels(),
        super::escape(label),
    );
    for line in body.lines() {
        svg.push_str(line.trim());
    }
    for hit in hits {
        svg.push_str(&format!(
            "<circle class=\"hit\" cx=\"{}\" cy=\"{}\" r=\"9\" tabindex=\"0\"><title>{}</title></circle>",
            hit.x,
            hit.y,
            super::escape(&hit.text)
        ));
    }
    svg.push_str("</svg>");
    svg
}

/// What plotters could not draw, in words.
#[derive(Debug)]
pub(super) struct DrawError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for DrawError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}
