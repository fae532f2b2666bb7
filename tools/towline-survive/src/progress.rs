//! How far a run is: a bar on a terminal, elsewhere a line a minute.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::matrix::lock;

pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// When the next line is due; `None` where a bar is seen.
    next_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Of so many steps; the template is the bar's.
    pub(crate) fn new(steps: u64, template: &str) -> Progress {
        let bar = ProgressBar::new(steps);
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let began = Instant::now();
        let next_line = bar.is_hidden().then(|| Mutex::new(began + LINE_EVERY));
        Progress { bar, began, next_line }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What is being done; a line says it with how far that is.
    pub(crate) fn say(&self, what: String, how_far: impl FnOnce() -> String) {
        if let Some(line) = self.line(Instant::now(), &what, how_far) {
            // Nobody to read it is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        self.bar.set_message(what);
    }

    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }

    /// How many steps are done, and of how many.
    pub(crate) fn steps(&self) -> (u64, u64) {
        (self.bar.position(), self.bar.length().unwrap_or_default())
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// The line that is due.
    fn line(&self, now: Instant, what: &str, how_far: impl FnOnce() -> String) -> Option<String> {
        let mut next = lock(self.next_line.as_ref()?);
        if now < *next {
            return None;
        }
        *next = now + LINE_EVERY;
        let minutes = now.saturating_duration_since(self.began).as_secs() / 60;
        Some(format!("after {minutes} min: {}, {what}", how_far()))
    }
}

const LINE_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_a_line_a_minute_says_how_far_it_is() {
        let mut progress = Progress::new(240, "{pos}/{len}");
        progress.next_line = Some(Mutex::new(progress.began + LINE_EVERY));
        let after = |seconds: u64| {
            let (done, all) = progress.steps();
            let now = progress.began + Duration::from_secs(seconds);
            progress.line(now, "on pause", || format!("{done} of {all}"))
        };
        assert_eq!(after(59), None);
        progress.set(37);
        assert_eq!(after(61).as_deref(), Some("after 1 min: 37 of 240, on pause"));
        assert_eq!(after(119), None, "the next one is due a minute later");
        assert!(after(121).is_some());
        progress.next_line = None;
        let seen = progress.line(progress.began + LINE_EVERY * 5, "on pause", String::new);
        assert_eq!(seen, None, "a bar is enough");
    }
}
