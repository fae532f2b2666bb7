//! A run as one page that needs no network.

use std::fs;
use std::path::Path;

use crate::error::{Result, SurviveError};
use crate::failure::Failure;
use crate::predict::Promise;
use crate::record::{CellResult, SurviveReport, Verdict};
use crate::replay;
use crate::soak::SoakVerdict;
use crate::table::{level_p50_us, row_names, short};
use towline::Window;

/// Shows a run again: writes its page anew from its `survive.json`, and returns what it holds.
///
/// # Errors
/// [`SurviveError`]: there is no whole result, or the page cannot be written.
pub fn rewrite(folder: &Path) -> Result<SurviveReport> {
    let path = folder.join("survive.json");
    let text = fs::read_to_string(&path).map_err(SurviveError::file(&path, "cannot be read"))?;
    let damaged =
        |why: String| SurviveError::Late(format!("{}: not a whole survival run ({why})", path.display()));
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    // A list would be read as the fields in order, and its length be complained of.
    if !value.is_object() {
        return Err(damaged("it is no JSON object".to_owned()));
    }
    let report: SurviveReport = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
    let path = folder.join("survive.html");
    fs::write(&path, render(&report)).map_err(SurviveError::file(&path, "cannot be written"))?;
    Ok(report)
}

/// The page.
pub(crate) fn render(report: &SurviveReport) -> String {
    let mut body = summary(report);
    if !report.cells.is_empty() {
        body += &matrix(&report.cells);
        body += &reads(report);
    }
    if !report.windows.is_empty() {
        body += &windows(&report.windows);
    }
    body += &soak(report);
    if !report.cells.is_empty() {
        body += "<h2>Every cell</h2>\n";
        body += &details(report);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>Towline · what survives</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n\
         </html>\n"
    )
}

fn summary(report: &SurviveReport) -> String {
    let count = |verdict| report.verdicts().filter(|one| *one == verdict).count();
    let acked: u64 = report.cells.iter().chain(&report.windows).map(|cell| cell.acked).sum::<u64>()
        + report.soak.as_ref().map_or(0, |soak| soak.acked);
    let mut text = "<h1>What survives</h1>\n".to_owned();
    text += &format!(
        "<p class=\"lead\">{} passed, {} failed, {} not shown; {} acknowledged records were looked for.{}</p>\n",
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::NotShown),
        apart(&acked.to_string()),
        match report.incomplete() {
            why if why.is_empty() => why,
            why => format!(" <b>Incomplete</b>: {}.", escape(&why)),
        },
    );
    text += &format!(
        "<p>One primary and two standbys, each a process of its own on a file system that forgets what was not flushed; \
         one client over the socket, {} appends a second in an open loop. A failure is made at its worst moment; then \
         the log that is left is read, byte for byte, and held against the client's journal. {}, {}, {:.0} s, {} \
         at a time, seed {}, towline {}.</p>\n",
        apart(&report.rate_per_s.to_string()),
        escape(&report.began),
        escape(&format!(
            "{}{}",
            report.machine,
            if report.commit.is_empty() { String::new() } else { format!(", commit {}", report.commit) }
        )),
        report.seconds,
        if report.lanes == 1 { "one cluster".to_owned() } else { format!("{} clusters", report.lanes) },
        report.seed,
        escape(&report.program),
    );
    text
}

fn matrix(cells: &[CellResult]) -> String {
    let rows = row_names(cells);
    let mut text = "<h2>Acknowledged records that are gone</h2>\n<div class=\"scroll\"><table class=\"matrix\">\n<tr><th>"
        .to_owned();
    rows.iter().for_each(|name| text += &format!("<th>{}", escape(name).replace('_', "_<wbr>")));
    for failure in Failure::ALL {
        if !cells.iter().any(|cell| cell.failure == failure) {
            continue;
        }
        text += &format!("\n<tr><th title=\"{}\">{failure}<small>{}</small>", failure.what(), failure.what());
        for name in &rows {
            match cells.iter().find(|cell| cell.failure == failure && cell.row.name == *name) {
                None => text += "<td>",
                Some(cell) => {
                    text += &format!(
                        "<td class=\"{}\" title=\"{}\">{}",
                        class(cell),
                        tip(cell),
                        apart(&short(cell))
                    )
                }
            }
        }
    }
    text += "\n<tr><th>p50 before the failure<small>several clusters at once: for the order of the levels</small>";
    for name in &rows {
        text += &level_p50_us(cells, name)
            .map_or_else(|| "<td>".to_owned(), |us| format!("<td>{:.2} ms", us / 1000.0));
    }
    text += "\n</table></div>\n<p class=\"key\"><span class=\"zero\">0</span> nothing lost, as promised \
             <span class=\"due\">17 lost</span> the level does not survive this, and the run saw it \
             <span class=\"within\">17 = 40 %</span> lost within the window, and which share of it \
             <span class=\"not-shown\">not shown</span> a loss is due and none was seen \
             <span class=\"failed\">FAILED</span> a promise was broken</p>\n";
    text
}

fn reads(report: &SurviveReport) -> String {
    if report.reads.is_empty() {
        return String::new();
    }
    let mut text = "<h2>A read on a standby right after the acknowledgement</h2>\n<table>\n\
                    <tr><th>level<th>reads<th>misses<th>verdict"
        .to_owned();
    for read in &report.reads {
        let (level, verdict) = (read.level, read.verdict.words());
        text += &format!(
            "\n<tr><td>{level}<td>{}<td>{}<td class=\"{}\">{verdict} {}",
            read.reads,
            read.misses,
            class_of(read.verdict),
            escape(&read.note)
        );
    }
    text + "\n</table>\n<p>Both standbys count, a round trip of 4 ms away, and the primary's disk is the slow one. Each has an \
            application that keeps the keys it is given, 6 ms a batch, and each key is looked up there. Under \
            <code>on</code> the record is flushed on the standby and not yet visible, for it has not heard that the \
            primary has flushed, too; under <code>remote_apply</code> it is.</p>\n"
}

/// Bound and largest loss of each window, as bars of one scale: the share of the window.
fn windows(cells: &[CellResult]) -> String {
    let mut text = "<h2>Window against loss</h2>\n<p>For each window the primary and its disk were lost while its \
                    standbys were late, again and again, and a standby was promoted. The bar is the largest loss as a \
                    share of the window; the line is the bound.</p>\n<div class=\"scroll\"><table class=\"bars\">\n\
                    <tr><th>window<th>runs<th>with a loss<th>median loss<th>largest loss<th>its span<th>share of the window<th>p50"
        .to_owned();
    for cell in cells {
        let loss = &cell.largest;
        let share = loss.window_share;
        let width = (share * 200.0).clamp(0.0, 238.0);
        text += &format!(
            "\n<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}, {:.1} ms<td class=\"bar\"><svg width=\"240\" height=\"14\" role=\"img\" aria-label=\"{:.0} % of the window\">\
             <rect width=\"{width:.1}\" height=\"10\" y=\"2\" class=\"{}\"/>\
             <line x1=\"200\" x2=\"200\" y1=\"0\" y2=\"14\"/></svg> {:.0} %<td>{:.2} ms",
            cell.row.window.map_or_else(String::new, |window| apart(&window.to_string())),
            cell.runs,
            cell.losing_runs,
            apart(&median_words(cell)),
            size_words(loss.records, loss.payload_bytes),
            size_words(loss.span_records, loss.span_bytes),
            loss.spread_us as f64 / 1000.0,
            share * 100.0,
            class_of(cell.verdict),
            share * 100.0,
            cell.p50_us / 1000.0,
        );
    }
    text + "\n</table></div>\n"
}

fn size_words(records: u64, bytes: u64) -> String {
    apart(&format!("{records} records, {bytes} B"))
}

fn median_words(cell: &CellResult) -> String {
    let Some(size) = cell.median_loss() else { return String::new() };
    match cell.row.bound() {
        Some(Window::Records(_)) => format!("{size} records"),
        Some(Window::Micros(_)) => format!("{:.1} ms", size as f64 / 1000.0),
        _ => format!("{size} B"),
    }
}

fn soak(report: &SurviveReport) -> String {
    let Some(soak) = &report.soak else { return String::new() };
    let lead = match soak.verdict() {
        Verdict::Passed => "Every promise was kept.".to_owned(),
        Verdict::Failed => "<b>A promise was broken.</b>".to_owned(),
        Verdict::NotShown => format!("<b>Not shown</b>: {}.", escape(&soak.missing.join("; "))),
    };
    let mut text = format!(
        "<h2>Long run</h2>\n<p class=\"lead\">{} faults in {:.0} s on {} clusters, {} acknowledged records. Lost at \
         <code>on</code> and above, under what they survive: {}. Doubled, changed, out of order, weaker than asked: {}. {lead}</p>\n\
         <p>What a level loses where it is said to lose is measured here, and marked; at <code>on</code> and above a loss is \
         due only where all copies that counted are gone.</p>\n<div class=\"scroll\"><table class=\"soak\">\n\
         <tr><th>level<th>clusters<th>acknowledged<th>doubled, changed,<br>out of order<th>lost<th>clusters with a loss\
         <th>largest loss<th>verdict",
        apart(&soak.faults.to_string()),
        apart(&format!("{:.0}", report.seconds)),
        apart(&soak.rounds.to_string()),
        apart(&soak.acked.to_string()),
        soak.lost_at_on_and_above,
        soak.anomalies
    );
    for row in &soak.rows {
        let class = match row.verdict() {
            SoakVerdict::Failed => "failed",
            SoakVerdict::NothingLost => "zero",
            SoakVerdict::WithinWindow => "within",
            SoakVerdict::CopiesGone | SoakVerdict::LevelLoses => "due",
        };
        let words = row.verdict().words();
        let verdict = match row.notes.is_empty() {
            true => words.to_owned(),
            false => {
                let again = row.failed_rounds.iter().map(|number| replay::of_round(report, *number));
                let again: String = again.map(|line| format!("<br><code>{}</code>", escape(&line))).collect();
                format!("{words} {}{again}", escape(&row.notes.join("; ")))
            }
        };
        let loss = if row.lost == 0 { "zero" } else { class };
        text += &format!(
            "\n<tr><td>{}<td>{}<td>{}<td class=\"{}\">{}<td class=\"{loss}\">{}<td>{}<td>{}<td \
             class=\"{class}\">{verdict}",
            escape(&row.row.name),
            row.rounds,
            apart(&row.acked.to_string()),
            if row.anomalies > 0 { "failed" } else { "zero" },
            row.anomalies,
            apart(&row.lost.to_string()),
            row.losing_rounds,
            size_words(row.largest.records, row.largest.payload_bytes),
        );
    }
    text += "\n</table></div>\n<h3>Failures by kind</h3>\n<table>\n<tr><th>failure<th>times";
    soak.by_failure
        .iter()
        .for_each(|(name, times)| text += &format!("\n<tr><td>{}<td>{times}", escape(name)));
    text + "\n</table>\n"
}

fn details(report: &SurviveReport) -> String {
    let mut text = "<div class=\"scroll\"><table class=\"cells\">\n<tr><th>level<th>failure<th>promise<th>runs<th>acknowledged<th>\
                    outcome unknown<th>lost<th>largest loss<th>spread<th>of the window<th>p50<th>p99<th>verdict"
        .to_owned();
    for cell in &report.cells {
        let loss = &cell.largest;
        text += &format!(
            "\n<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{:.1} ms<td>{}<td>{:.2} ms<td>\
             {:.2} ms<td class=\"{}\">{} {}{}",
            escape(&cell.row.name),
            cell.failure,
            cell.promise,
            cell.runs,
            apart(&cell.acked.to_string()),
            apart(&cell.indeterminate.to_string()),
            apart(&cell.lost.to_string()),
            size_words(loss.records, loss.payload_bytes),
            loss.spread_us as f64 / 1000.0,
            cell.row.bound().map_or_else(String::new, |_| format!("{:.0} %", loss.window_share * 100.0)),
            cell.p50_us / 1000.0,
            cell.p99_us / 1000.0,
            class(cell),
            cell.verdict.words(),
            escape(&cell.notes.join("; ")),
            match cell.verdict {
                Verdict::Passed => String::new(),
                _ => format!("<br><code>{}</code>", escape(&replay::of_cell(report, cell))),
            },
        );
    }
    text + "\n</table></div>\n"
}

fn class(cell: &CellResult) -> &'static str {
    match (cell.verdict, cell.promise) {
        (Verdict::Passed, Promise::Zero) => "zero",
        (Verdict::Passed, Promise::Within(_)) => "within",
        (Verdict::Passed, Promise::Loses | Promise::Latest(_)) => "due",
        (verdict, _) => class_of(verdict),
    }
}

fn class_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "zero",
        Verdict::Failed => "failed",
        Verdict::NotShown => "not-shown",
    }
}

fn tip(cell: &CellResult) -> String {
    escape(&format!(
        "{} under {}: promise {}; {} of {} acknowledged lost in {} runs; {}",
        cell.row.name,
        cell.failure.what(),
        cell.promise,
        cell.lost,
        cell.acked,
        cell.runs,
        if cell.notes.is_empty() { cell.verdict.words().to_owned() } else { cell.notes.join("; ") },
    ))
}

/// A text with the thousands of its whole numbers apart.
fn apart(text: &str) -> String {
    let mut apart = String::with_capacity(text.len() + 8);
    let mut is_fraction = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits.max(first.len_utf8()));
        for (at, c) in number.char_indices() {
            if digits > 0 && !is_fraction && at > 0 && (number.len() - at).is_multiple_of(3) {
                apart.push(',');
            }
            apart.push(c);
        }
        is_fraction = digits > 0 && behind.starts_with('.') || digits == 0 && is_fraction && first == '.';
        rest = behind;
    }
    apart
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root{--bg:#fff;--fg:#1a1c1e;--dim:#5c6370;--line:#d8dce2;--zero:#dff3e4;--due:#e4ebfa;--within:#e3f0f6;--miss:#fff0c7;--bad:#fbd5d5}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e8eb;--dim:#9aa3ad;--line:#343a41;--zero:#173a25;--due:#1f2e4d;--within:#183442;--miss:#4a3c0c;--bad:#5a1d1d}}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;margin:0}
main{max-width:1200px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0 0 8px}h2{font-size:19px;margin:32px 0 8px}h3{font-size:16px;margin:24px 0 6px}.lead{font-size:17px}
.scroll{overflow-x:auto}.matrix th:first-child,.soak td:first-child,.bars td:first-child{position:sticky;left:0;background:var(--bg)}.scroll th{white-space:normal}.scroll th,.scroll td{padding:3px 6px}
.matrix{font-size:12px}.cells{font-size:11.5px}.scroll .cells th,.scroll .cells td{padding:3px 4px}
.bars .bar{text-align:left}.matrix th:first-child{min-width:170px}.cells td:nth-child(2),.cells th:nth-child(2){text-align:left}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{border:1px solid var(--line);padding:4px 8px;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{font-weight:600}
th small{display:block;font-weight:400;color:var(--dim);white-space:normal;max-width:260px}
th:last-child,td:last-child{text-align:left;white-space:normal}.matrix th:last-child,.matrix td:last-child{text-align:right;white-space:nowrap}
.zero{background:var(--zero)}.due{background:var(--due)}.within{background:var(--within)}
.not-shown{background:var(--miss)}.failed{background:var(--bad);font-weight:600}
.soak td:last-child{white-space:nowrap}.key span{padding:1px 6px;margin:0 4px 0 12px}.key span:first-child{margin-left:0}
svg{vertical-align:middle}svg rect.zero{fill:#3a8f5c}svg rect.failed{fill:#c33}svg rect.not-shown{fill:#c90}svg line{stroke:currentColor}
@media(max-width:600px){main{padding:14px}.matrix th:first-child{min-width:110px}}
@page{size:A4 landscape;margin:10mm}
@media print{:root{--bg:#fff;--fg:#1a1c1e;--dim:#5c6370;--line:#d8dce2;--zero:#dff3e4;--due:#e4ebfa;--within:#e3f0f6;--miss:#fff0c7;--bad:#fbd5d5}
main{max-width:none;padding:0}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.scroll{overflow:visible}
.scroll table{font-size:8.5px;width:100%}.scroll th,.scroll td,.scroll .cells th,.scroll .cells td{padding:2px 3px;white-space:normal}
.matrix th:first-child,.soak td:first-child,.bars td:first-child{position:static}.matrix th:first-child{min-width:0}
.matrix th small{font-size:7px}tr{break-inside:avoid}h2,h3{break-after:avoid}}
";

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn thousands_are_apart_and_nothing_else_is_touched() {
        let of = |text: &str| apart(text);
        assert_eq!(of("11914 records, 1498648 B"), "11,914 records, 1,498,648 B");
        assert_eq!(of("999"), "999");
        assert_eq!(of("1000"), "1,000");
        assert_eq!(of("5000 µs 3.14159 ∞ 12345.6789"), "5,000 µs 3.14159 ∞ 12,345.6789");
        assert_eq!(of("lost. 4000"), "lost. 4,000");
        assert_eq!(of(""), "");
    }
}
