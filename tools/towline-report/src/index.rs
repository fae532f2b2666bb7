//! `results/index.html`: one line per run, newest first, and the trend by commit.

use crate::html::{escape, page};
use crate::run_folder::{FolderError, write_atomically};
use crate::schema::{Level, Report};
use crate::survive_run::{SurviveRun, Verdict};
use crate::units;
use std::path::Path;

/// Writes `index.html` into the results folder.
///
/// # Errors
/// [`FolderError`] when the folder cannot be read or the file not be written.
pub fn write_index(results_dir: &Path) -> Result<(), FolderError> {
    let text = index_page(results_dir)?;
    write_atomically(&results_dir.join("index.html"), text.as_bytes())
}

/// The page over all runs in `<results_dir>/runs/`. A run whose report cannot be read is listed with the reason.
///
/// # Errors
/// [`FolderError`] when `runs/` is there and cannot be read.
pub fn index_page(results_dir: &Path) -> Result<String, FolderError> {
    let runs = results_dir.join("runs");
    let mut names: Vec<String> = Vec::new();
    let unreadable = |source| FolderError { path: runs.clone(), source };
    if runs.is_dir() {
        for entry in std::fs::read_dir(&runs).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    let mut body = String::from(
        "<header><p class=\"eyebrow\">Towline</p><h1>Runs</h1><p class=\"lead\">Every run kept here, newest first. \
         Figures of different runs are not comparable: only ratios inside one run are.</p></header><section>\
         <div class=\"scroll\"><table><thead><tr><th>started, UTC</th><th>run</th><th>commit</th><th>machine</th>\
         <th class=\"n\">local, 1 client</th><th class=\"n\">on, 1 client</th><th class=\"n\">on, most commits/s</th>\
         <th class=\"n\">checks met</th></tr></thead><tbody>",
    );
    let mut good = Vec::new();
    for name in names.iter().rev() {
        body.push_str(&match Report::load(&runs.join(name)) {
            Ok(report) => {
                let text = row(name, &report);
                good.push((name.clone(), report));
                text
            }
            Err(error) => {
                let reason = match error {
                    crate::LoadError::Missing { .. } => "no report: the run was interrupted".into(),
                    crate::LoadError::Newer { found, .. } => {
                        format!("written by a newer version (schema {found})")
                    }
                    _ => String::from("the report is damaged"),
                };
                format!(
                    "<tr><td></td><td>{}</td><td colspan=\"6\">{}</td></tr>",
                    escape(name),
                    escape(&reason)
                )
            }
        });
    }
    if names.is_empty() {
        body.push_str("<tr><td colspan=\"8\">No run yet.</td></tr>");
    }
    body.push_str("</tbody></table></div></section>");
    body.push_str(&survival_section(&SurviveRun::all(results_dir)));
    body.push_str(&other_evidence(results_dir));
    good.reverse();
    body.push_str(&crate::html::trend::sections(&good));
    Ok(page("Towline · runs", &body))
}

fn row(folder: &str, report: &Report) -> String {
    let p50 = |level| {
        let points = report.points.iter().filter(|point| point.level == level && is_headline(point));
        let values: Vec<f64> = points.map(|point| point.latency_ns.p50 as f64).collect();
        crate::stats::median(&values).map_or("–".into(), units::duration)
    };
    let most = report
        .points
        .iter()
        .filter(|point| point.level == Level::On && crate::advise::is_rung(point))
        .map(|point| point.achieved_per_s)
        .fold(f64::NAN, f64::max);
    let judged = report.checks.iter().filter(|check| check.met.is_some()).count();
    let met = report.checks.iter().filter(|check| check.met == Some(true)).count();
    let environment = &report.environment;
    format!(
        "<tr><td class=\"nowrap\">{}</td><td><a href=\"runs/{folder}/report.html\">{}</a></td><td>{}{}</td>\
         <td>{} cores · {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td></tr>",
        escape(&report.started_utc.replace('T', " ").replace('Z', "")),
        escape(&report.name),
        escape(&environment.commit),
        if environment.dirty == Some(true) { " + changes" } else { "" },
        environment.cores,
        escape(&environment.kernel),
        p50(Level::Local),
        p50(Level::On),
        units::per_second(most),
        if judged == 0 { "–".into() } else { format!("{met} of {judged}") },
        folder = escape(folder),
    )
}

/// Survival runs, newest first; nothing where there are none.
fn survival_section(runs: &[SurviveRun]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut body = String::new();
    for run in runs.iter().rev() {
        let mut kinds = Vec::new();
        if !run.cells.is_empty() {
            kinds.push(format!("levels × failures, {} cells", run.cells.len()));
        }
        if !run.windows.is_empty() {
            let crashes: u64 = run.windows.iter().map(|cell| cell.runs).sum();
            kinds.push(format!("{} windows, {crashes} crashes", run.windows.len()));
        }
        if let Some(soak) = &run.soak {
            let faults = units::grouped(soak.faults as f64);
            kinds.push(format!("long run of {:.0} min, {faults} failures", run.seconds / 60.0));
        }
        if run.interrupted {
            kinds.push("interrupted".into());
        }
        if run.broken_off.is_some() {
            kinds.push("given up before its end".into());
        }
        let count = |verdict| run.verdicts().filter(|one| *one == verdict).count();
        let counts = [Verdict::Passed, Verdict::Failed, Verdict::NotShown].map(count);
        let counts: String = counts.iter().map(|count| format!("<td class=\"n\">{count}</td>")).collect();
        body.push_str(&format!(
            "<tr><td class=\"nowrap\">{}</td><td><a href=\"{}/survive.html\">{}</a></td><td>{}</td><td>{}</td>\
             <td class=\"n\">{}</td>{counts}</tr>",
            escape(&run.began.replace('T', " ").replace('Z', "")),
            escape(&run.folder),
            escape(&kinds.join("; ")),
            escape(&run.commit),
            escape(&run.machine),
            units::grouped(run.acked() as f64),
        ));
    }
    format!(
        "<section id=\"survival\"><h2>What survives</h2><p class=\"lead\">Real nodes on disks that forget, failures at their \
         worst moment, and every acknowledged record looked for.</p><div class=\"scroll\"><table><thead><tr><th>started, UTC</th>\
         <th>run</th><th>commit</th><th>machine</th><th class=\"n\">records looked for</th><th class=\"n\">passed</th>\
         <th class=\"n\">failed</th><th class=\"n\">not shown</th></tr></thead><tbody>{body}</tbody></table></div></section>"
    )
}

/// Tables that other programs leave beside the runs; nothing where there are none.
fn other_evidence(results_dir: &Path) -> String {
    let is_there = |(name, _): &&(&str, &str)| results_dir.join(name).is_file();
    let items = EVIDENCE.iter().filter(is_there);
    let items: String =
        items.map(|(name, words)| format!("<li><a href=\"{name}\">{name}</a>: {words}</li>")).collect();
    if items.is_empty() {
        return String::new();
    }
    format!(
        "<section id=\"evidence\"><h2>Simulated worlds and bugs on purpose</h2><ul>{items}</ul></section>"
    )
}

const EVIDENCE: [(&str, &str); 2] = [
    ("worlds.md", "seeds played in the simulator, and what broke a promise there"),
    ("bugs.md", "bugs put in on purpose, and what caught each"),
];

/// One client of the library, over loopback; runs of any name measure it.
fn is_headline(point: &crate::schema::Point) -> bool {
    crate::advise::is_rung(point)
        && point.load == crate::schema::Load::closed(1)
        && point.client == crate::schema::Client::Embedded
        && point.link_rtt_us == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunFolder;
    use crate::synthetic;

    #[test]
    fn good_runs_are_linked_and_bad_ones_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(dir.path(), "abc", "canonical").unwrap();
        folder.write(&synthetic::canonical_report(1)).unwrap();
        let runs = dir.path().join("runs");
        std::fs::create_dir(runs.join("20200101T000000Z-abc-interrupted")).unwrap();
        std::fs::create_dir(runs.join("20200102T000000Z-abc-<new>")).unwrap();
        let newer = runs.join("20200102T000000Z-abc-<new>/report.json");
        std::fs::write(newer, "{\"schema_version\": 9}").unwrap();
        write_index(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("index.html")).unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        assert!(text.contains(&format!("href=\"runs/{name}/report.html\"")), "{text}");
        assert!(text.contains("the run was interrupted") && text.contains("schema 9"));
        assert!(text.contains("&lt;new&gt;") && !text.contains("<new>"));
        assert!(text.find(name).unwrap() < text.find("interrupted").unwrap(), "newest first");
    }

    #[test]
    fn runs_of_one_machine_have_a_trend_and_those_of_another_do_not_join_it() {
        let dir = tempfile::tempdir().unwrap();
        let ratio = |report: &mut Report, ratio: f64| {
            for point in &mut report.points {
                let floor = "durable_write_ns".into();
                point.ratio_to_floor = Some(crate::schema::FloorRatio { floor, p50_ratio: ratio });
            }
        };
        for (name, commit, cores, value) in
            [("a", "first", 2, 1.25), ("b", "second", 2, 1.5), ("c", "elsewhere", 64, 9.0)]
        {
            let mut report = synthetic::canonical_report(2);
            report.environment.commit = commit.into();
            report.environment.cores = cores;
            ratio(&mut report, value);
            let folder = dir.path().join("runs").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            report.save(&folder).unwrap();
        }
        let text = index_page(dir.path()).unwrap();
        let trend = &text[text.find("<section id=\"trend-0\"").unwrap()..];
        let place =
            |words: &str| trend.find(words).unwrap_or_else(|| panic!("{words:?} is missing in {trend}"));
        assert!(place("first") < place("second"), "the oldest first");
        assert!(trend.contains("1.25×") && trend.contains("1.50×") && trend.contains("chart-trend-0-rate"));
        assert!(!trend.contains("elsewhere") && !trend.contains("9.00×") && !text.contains("trend-1"));
    }

    #[test]
    fn survival_runs_are_listed_with_what_they_were() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!index_page(dir.path()).unwrap().contains("id=\"survival\""));
        let runs = [
            (
                "survive-1",
                r#"{"began":"2026-01-01T00:00:00Z","cells":[{"verdict":"passed","acked":5},{"verdict":"not_shown"}]}"#,
            ),
            (
                "survive-2",
                r#"{"began":"2026-01-02T00:00:00Z","commit":"<b>","windows":[{"verdict":"failed","runs":10}]}"#,
            ),
            (
                "survive-3",
                r#"{"began":"2026-01-03T00:00:00Z","seconds":3600,"soak":{"faults":5120,"acked":12000000,"rows":[{"notes":[]}]}}"#,
            ),
        ];
        for (name, text) in runs {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("survive.json"), text).unwrap();
        }
        std::fs::write(dir.path().join("bugs.md"), "| bug |").unwrap();
        let text = index_page(dir.path()).unwrap();
        assert!(text.contains("<a href=\"bugs.md\">") && !text.contains("worlds.md"));
        let rows: Vec<&str> = text[text.find("id=\"survival\"").unwrap()..].split("<tr>").skip(2).collect();
        assert!(
            rows[0].contains("survive-3/survive.html")
                && rows[0].contains("long run of 60 min, 5,120 failures")
        );
        assert!(rows[0].contains("12,000,000"), "{}", rows[0]);
        assert!(rows[1].contains("1 windows, 10 crashes") && rows[1].contains("&lt;b&gt;"), "{}", rows[1]);
        assert!(rows[2].contains("levels × failures, 2 cells"));
        let counts =
            "<td class=\"n\">5</td><td class=\"n\">1</td><td class=\"n\">0</td><td class=\"n\">1</td>";
        assert!(rows[2].contains(counts), "{}", rows[2]);
    }

    #[test]
    fn no_runs_is_a_page_too() {
        let dir = tempfile::tempdir().unwrap();
        assert!(index_page(dir.path()).unwrap().contains("No run yet."));
    }
}
