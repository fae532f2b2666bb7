//! The page in a real browser: every chart shows its marks, and nothing complains or asks the network.

#![allow(clippy::unwrap_used)] // helpers of tests panic as the tests do

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use towline_report::{knee, schema, survive_run};

#[path = "../src/synthetic.rs"]
mod synthetic;

/// What a run with every experiment draws: levels × loads × quantiles, windows × quantiles, and so on.
const MARKS: [(&str, usize); 23] = [
    ("ladder-latency", 5 * 3 * 2),
    ("ladder-rate", 5 * 3),
    ("window-0", 12 * 2),
    ("window-1", 12 * 2),
    // Windows of the sweep that were crashed, 0 and ∞ among them × median and largest.
    ("loss-0", 12 * 2),
    ("loss-1", 12 * 2),
    ("replay-latency", 5 * 2),
    ("sync-rules-latency", 4 * 2),
    ("standbys-latency", 4 * 2),
    ("shards-latency", 2 * 2),
    ("rtt-latency", 2 * 4 * 2),
    // Systems × loads × quantiles; the last class is not durable.
    ("compare-0", 4 * 2 * 2),
    ("compare-rate-0", 4 * 2),
    ("compare-1", 2 * 2 * 2),
    ("compare-2", 2 * 2 * 2),
    ("compare-3", 2 * 2),
    ("timeline-0", 9 * 2),
    ("timeline-levels-0", 4 * 2),
    // The load that the generator could not offer is not drawn.
    ("knee-0", 7 * 2),
    ("knee-1", 7 * 2),
    ("stall-0", 18 * 2),
    ("stall-1", 18 * 2),
    ("standbys-rate", 4),
];

#[test]
fn every_chart_shows_its_marks_on_a_desk_and_on_a_phone() {
    let Some(browser) = browser() else { return };
    let page =
        towline_report::render_html_with_loss(&synthetic::full_report(3), Some(&synthetic::survive_run()));
    for (width, height) in [(1280, 900), (500, 900)] {
        let (dom, log) = dump(&browser, &page, width, height);
        assert!(dom.contains("data-ready=\"yes\""), "the page's script did not end at {width} px");
        assert!(!dom.contains("data-errors"), "an error at {width} px");
        assert!(!log.contains("CONSOLE"), "the console said at {width} px:\n{log}");
        for (chart, expected) in MARKS {
            assert_eq!(marks(&dom, chart), Some(expected), "marks of {chart} at {width} px");
        }
    }
}

#[test]
fn a_page_whose_script_is_broken_is_noticed() {
    let Some(browser) = browser() else { return };
    let page = towline_report::render_html(&synthetic::canonical_report(1));
    let broken = page.replace("const tip =", "const tip = nothing.at.all; const unused =");
    assert_ne!(page, broken);
    let (dom, log) = dump(&browser, &broken, 1280, 900);
    assert!(!dom.contains("data-ready=\"yes\"") && log.contains("CONSOLE"), "{log}");
    let hidden = page.replace("</style>", ".plots { display: none; }</style>");
    let (dom, _) = dump(&browser, &hidden, 1280, 900);
    assert_eq!(marks(&dom, "ladder-latency"), Some(0), "marks that nobody sees were counted");
}

fn marks(dom: &str, chart: &str) -> Option<usize> {
    let figure = &dom[dom.find(&format!("id=\"chart-{chart}\""))?..];
    let tag = &figure[..figure.find('>')?];
    let count = tag.split("data-marks=\"").nth(1)?;
    count.split('"').next()?.parse().ok()
}

/// The document after its script ran, and what the browser logged.
fn dump(browser: &Path, page: &str, width: u32, height: u32) -> (String, String) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("report.html");
    std::fs::write(&file, page).unwrap();
    let (dom, log) = (dir.path().join("dom"), dir.path().join("log"));
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"])
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&dom).unwrap())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", text(&log));
    (text(&dom), text(&log))
}

/// A Chromium, or nothing with a loud word; in CI nothing is a failure.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI has no Chromium: install it, this test must run"
        );
        eprintln!("SKIPPED: no Chromium in PATH, so nobody looked at the page");
    }
    found
}
