//! The rows of the matrix: what an acknowledgement waits for.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use towline::{Level, Window};

/// A row: level, window, rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name on the command line and in tables.
    pub name: String,
    /// The level of each append.
    pub level: Level,
    /// The window of each append.
    pub window: Option<Window>,
    /// Who counts.
    pub rule: String,
    /// Acknowledge as `local` when the rule has not been met for so long; the run makes sure that it is not.
    pub degrade_after: Option<Duration>,
}

impl Row {
    /// A row under the usual rule, any one of two standbys.
    pub fn new(name: &str, level: Level, window: Option<Window>) -> Row {
        let (name, rule) = (name.to_owned(), ANY_ONE.to_owned());
        Row { name, level, window, rule, degrade_after: None }
    }

    /// All rows, weakest first.
    pub fn all() -> Vec<Row> {
        let on = |name: &str, window| Row::new(name, Level::On, window);
        vec![
            Row::new("off", Level::Off, None),
            Row::new("local", Level::Local, None),
            Row { degrade_after: Some(DEGRADE_AFTER), ..on("degraded", None) },
            on("window-inf", Some(Window::Infinite)),
            on("window-64K", Some(Window::Bytes(64 << 10))),
            on("window-100records", Some(Window::Records(100))),
            on("window-20ms", Some(Window::Micros(20_000))),
            Row::new("remote_write", Level::RemoteWrite, None),
            on("on", None),
            Row { rule: "FIRST 1 (a, b)".to_owned(), ..on("on-first-1", None) },
            Row { rule: "ANY 2 (a, b)".to_owned(), ..on("on-any-2", None) },
            Row::new("remote_apply", Level::RemoteApply, None),
        ]
    }

    /// Windows of many sizes: those of payload bytes that are asked for between none and no end, and some of the other
    /// units.
    pub fn windows(sizes_bytes: &[u64]) -> Vec<Row> {
        let window = |name: String, window| Row::new(&name, Level::On, Some(window));
        let mut sizes = if sizes_bytes.is_empty() { SIZES_BYTES.to_vec() } else { sizes_bytes.to_vec() };
        sizes.push(0);
        sizes.sort_unstable();
        sizes.dedup();
        let bytes = sizes.into_iter().map(|size| match size {
            size if size > 0 && size.is_multiple_of(1024) => {
                window(format!("window-{}K", size >> 10), Window::Bytes(size))
            }
            size => window(format!("window-{size}"), Window::Bytes(size)),
        });
        let endless = window("window-inf".to_owned(), Window::Infinite);
        let records =
            [10, 100, 1000].map(|count| window(format!("window-{count}records"), Window::Records(count)));
        let times = [5, 20, 100].map(|ms| window(format!("window-{ms}ms"), Window::Micros(ms * 1000)));
        bytes.chain([endless]).chain(records).chain(times).collect()
    }

    /// The size in the name of a window of payload bytes, as [`Row::windows`] gives it.
    pub(crate) fn window_bytes(name: &str) -> Option<u64> {
        let size = name.strip_prefix("window-")?;
        match size.strip_suffix('K') {
            Some(size) => size.parse::<u64>().ok()?.checked_mul(1024),
            None => size.parse().ok(),
        }
    }

    /// How many standbys have to confirm.
    pub fn quorum(&self) -> usize {
        if self.rule.contains('2') { 2 } else { 1 }
    }

    /// Whether one certain standby has to confirm, while it is there.
    pub fn is_first(&self) -> bool {
        self.rule.starts_with("FIRST")
    }

    /// Whether its acknowledgements promise nothing beyond the primary.
    pub fn is_local(&self) -> bool {
        !self.level.is_remote() || self.degrade_after.is_some() || self.window == Some(Window::Infinite)
    }

    /// Whether each acknowledgement waits for its standbys, whatever happens.
    pub fn is_strict(&self) -> bool {
        self.level.is_remote() && self.window.is_none() && self.degrade_after.is_none()
    }

    /// A window that binds.
    pub fn bound(&self) -> Option<Window> {
        self.window.filter(|window| *window != Window::Infinite)
    }
}

/// Payload bytes, where no sweep names others.
const SIZES_BYTES: [u64; 6] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// The usual rule.
const ANY_ONE: &str = "ANY 1 (a, b)";
const DEGRADE_AFTER: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_sweep_stand_between_none_and_no_end() {
        let names = |sizes: &[u64]| Row::windows(sizes).into_iter().map(|row| row.name).collect::<Vec<_>>();
        let swept = names(&[16_000, 512, 2048, 512]);
        assert_eq!(swept[..5], ["window-0", "window-512", "window-2K", "window-16000", "window-inf"]);
        assert!(swept.contains(&"window-100records".to_owned()) && swept.contains(&"window-20ms".to_owned()));
        assert_eq!(names(&[]).len(), SIZES_BYTES.len() + swept.len() - 3);
        let sizes = ["window-16000", "window-2K", "window-20ms"].map(Row::window_bytes);
        assert_eq!(sizes, [Some(16_000), Some(2048), None], "a name says its size");
    }
}
