//! Bugs on purpose (`towline_core::bugs`): whether one is switched on. In an ordinary build that is a constant, and
//! this crate does not know the core.

#[cfg(not(towline_bugs))]
macro_rules! bug {
    ($bug:ident) => {
        false
    };
}

#[cfg(towline_bugs)]
macro_rules! bug {
    ($bug:ident) => {
        towline_core::bugs::bug(towline_core::bugs::Bug::$bug)
    };
}
