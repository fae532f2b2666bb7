//! A rung of the ladder, as the log knows it and as a report writes it.

use towline_core::types::Level;
use towline_report::schema;

/// As a report writes it.
pub fn shown(level: Level) -> schema::Level {
    match level {
        Level::Off => schema::Level::Off,
        Level::Local => schema::Level::Local,
        Level::RemoteWrite => schema::Level::RemoteWrite,
        Level::On => schema::Level::On,
        Level::RemoteApply => schema::Level::RemoteApply,
    }
}

/// As the log knows it.
pub fn of(level: schema::Level) -> Level {
    match level {
        schema::Level::Off => Level::Off,
        schema::Level::Local => Level::Local,
        schema::Level::RemoteWrite => Level::RemoteWrite,
        schema::Level::On => Level::On,
        schema::Level::RemoteApply => Level::RemoteApply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_comes_back_as_itself() {
        assert_eq!(Level::ALL.map(|level| of(shown(level))), Level::ALL);
    }
}
