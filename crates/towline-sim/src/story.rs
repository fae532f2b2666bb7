//! The lines of a world that is being watched. One world runs on a thread at a time.

use std::cell::RefCell;

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A new story; nothing is kept unless `keep`.
pub fn begin(keep: bool) {
    LINES.with_borrow_mut(|lines| *lines = keep.then(Vec::new));
}

/// One line, made only if somebody watches.
pub fn say(line: impl FnOnce() -> String) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push(line());
        }
    });
}

/// What was kept.
pub fn end() -> Vec<String> {
    LINES.take().unwrap_or_default()
}
