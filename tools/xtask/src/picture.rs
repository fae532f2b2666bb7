//! `cargo xtask picture RUN`: what stands beside Towline's `on` on the page of a run, as the README shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Looks at `run`'s page with a Chromium and writes `results/compare.png`.
pub(crate) fn run(root: &Path, run: &Path) -> Result<()> {
    let page = run.join("report.html");
    let text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let cut = cut(&text).with_context(|| format!("{} compares nothing", page.display()))?;
    let browser = browser().context("no Chromium in PATH: apt-get install chromium")?;
    // Below target: a browser in a container of its own sees no other temporary folder.
    let dir = root.join("target").join(format!("picture-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let result = taken(&browser, &cut, &dir, &root.join(PICTURE));
    let _ = fs::remove_dir_all(&dir);
    result?;
    println!("{PICTURE}: of {}", run.display());
    Ok(())
}

/// The head of the comparison and its part about `on`, with a word about its height.
fn cut(page: &str) -> Option<String> {
    let body = page.find("<main>")? + "<main>".len();
    let section = page.find(SECTION)?;
    let head = &page[section..section + page[section..].find("<h3>")?];
    let part = &page[page.find(PART)?..];
    // Its two charts; the table stands on the page.
    let (first, _) = part.match_indices(FIGURE_END).nth(1)?;
    let charts = &part[..first + FIGURE_END.len()];
    let frame = page[..body].replacen("</style>", &format!("{STYLE}</style>"), 1);
    Some(format!("{frame}{head}{charts}</section></main>{TELL_HEIGHT}</body></html>"))
}

fn taken(browser: &Path, page: &str, dir: &Path, picture: &Path) -> Result<()> {
    let file = dir.join("page.html");
    fs::write(&file, page).with_context(|| format!("writing {}", file.display()))?;
    let look = |height: u32, what: String| -> Result<String> {
        let output = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .arg("--force-device-scale-factor=1.5")
            .arg(format!("--user-data-dir={}", dir.join("profile").display()))
            .arg(format!("--window-size={WIDTH},{height}"))
            .arg(what)
            .arg(format!("file://{}", file.display()))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", browser.display()))?;
        ensure!(output.status.success(), "the browser ended with {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let dom = look(900, "--dump-dom".into())?;
    let height = height(&dom).context("the page did not tell its height")?;
    let shot = dir.join("shot.png");
    look(height, format!("--screenshot={}", shot.display()))?;
    if !shot.is_file() {
        bail!("the browser left no picture");
    }
    fs::copy(&shot, picture).with_context(|| format!("writing {}", picture.display()))?;
    Ok(())
}

fn height(dom: &str) -> Option<u32> {
    let (_, rest) = dom.split_once("data-height=\"")?;
    rest.split('"').next()?.parse().ok().filter(|height| (100..20_000).contains(height))
}

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

const PICTURE: &str = "results/compare.png";
const WIDTH: u32 = 1000;
const SECTION: &str = "<section id=\"compare\">";
const PART: &str = "<h3>As <code>on</code></h3>";
const FIGURE_END: &str = "</figure>";
const STYLE: &str = ".switch { display: none; } main { padding-top: 8px; padding-bottom: 8px; } \
                     section h2 { margin-top: 8px; } h3 { margin-top: 20px; }";
const TELL_HEIGHT: &str = "<script>document.documentElement.dataset.height = \
                           Math.ceil(document.querySelector('main').getBoundingClientRect().bottom);</script>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_about_on_is_cut_out_and_a_page_without_it_is_not() {
        let page = format!(
            "<style>a</style><main><p>summary</p>{SECTION}<h2>head</h2><h3>As <code>remote_apply</code></h3><p>stronger</p>\
             {PART}<figure>latency</figure><figure>rate</figure><table>rows</table></section></main>"
        );
        let cut = cut(&page).unwrap();
        for kept in ["head", "As <code>on</code>", "latency</figure>", "rate</figure>", STYLE, TELL_HEIGHT] {
            assert!(cut.contains(kept), "{kept}: {cut}");
        }
        for left_out in ["summary", "stronger", "rows"] {
            assert!(!cut.contains(left_out), "{left_out}: {cut}");
        }
        assert!(super::cut("<style></style><main></main>").is_none());
    }

    #[test]
    fn the_height_is_read_from_the_document() {
        assert_eq!(height("<html data-ready=\"yes\" data-height=\"812\">"), Some(812));
        assert_eq!(height("<html data-height=\"99999999\">"), None);
        assert_eq!(height("<html>"), None);
    }
}
