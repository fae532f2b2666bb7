//! A user-space link emulator: delay, rate, stall, cut, one-way
