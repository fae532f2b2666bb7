//! Writes the page of a made-up run, to look at while working on it: `synthetic_page OUT.html [REPETITIONS]`, with every experiment there is.

use towline_report::{knee, schema, survive_run};

#[path = "../src/synthetic.rs"]
mod synthetic;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().ok_or("usage: synthetic_page OUT.html [REPETITIONS]")?;
    let repetitions = arguments.next().map_or(Ok(3), |count| count.parse())?;
    let report = synthetic::full_report(repetitions);
    towline_report::print_tables(&report);
    std::fs::write(out, towline_report::render_html_with_loss(&report, Some(&synthetic::survive_run())))?;
    Ok(())
}
