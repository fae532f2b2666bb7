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

    /// Windows of many sizes, in each unit.
    pub fn windows() -> Vec<Row> {
        let window = |name: String, window| Row::new(&name, Level::On, Some(window));
        let bytes =
            [4_u64, 16, 64, 256].map(|kib| window(format!("window-{kib}K"), Window::Bytes(kib << 10)));
        let records =
            [10, 100, 1000].map(|count| window(format!("window-{count}records"), Window::Records(count)));
        let times = [5, 20, 100].map(|ms| window(format!("window-{ms}ms"), Window::Micros(ms * 1000)));
        bytes.into_iter().chain(records).chain(times).collect()
    }

    /// How many standbys have to confirm.
    pub fn quorum(&self) -> usize {
        if self.rule.contains('2') { 2 } else { 1 }
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

/// The usual rule.
const ANY_ONE: &str = "ANY 1 (a, b)";
const DEGRADE_AFTER: Duration = Duration::from_millis(50);
