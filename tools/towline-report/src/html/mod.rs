//! placeholder while the page is written
use crate::schema::Report;

/// The page.
pub fn render_html(report: &Report) -> String {
    format!("<!doctype html><title>{}</title>", report.name)
}
