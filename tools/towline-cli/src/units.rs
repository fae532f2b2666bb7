//! Sizes, times, positions and windows as people write them on a command line or in a configuration file.

use std::time::Duration;

use towline::{Lsn, Window};

/// `4096`, `64K`, `16M`, `1G`; powers of 1024, with or without `iB`/`B`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].trim_end_matches("iB").trim_end_matches('B');
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("'{text}' is no size: write bytes as 4096, 64K, 16M or 1G")),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("'{text}' is no size: write bytes as 4096, 64K, 16M or 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

/// `50us`, `200ms`, `10s`, `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("'{text}' is no duration: write it as 50us, 200ms, 10s or 2m");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let micros_per_unit = match &text[digits.len()..] {
        "us" | "µs" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        _ => return Err(problem()),
    };
    let number: u64 = digits.parse().map_err(|_| problem())?;
    number.checked_mul(micros_per_unit).map(Duration::from_micros).ok_or_else(problem)
}

/// A position, as printed (`0/00003080`) or in bytes (`12416`).
pub(crate) fn parse_lsn(text: &str) -> Result<Lsn, String> {
    let problem = || format!("'{text}' is no LSN: write it as printed (0/00003080), or in bytes (12416)");
    match text.split_once('/') {
        Some((high, low)) => {
            let half =
                |part: &str| u64::from_str_radix(part, 16).ok().filter(|half| *half <= u64::from(u32::MAX));
            Ok(Lsn(half(high).ok_or_else(problem)? << 32 | half(low).ok_or_else(problem)?))
        }
        None => text.parse().map(Lsn).map_err(|_| problem()),
    }
}

/// `64KB` or `4096` payload bytes, `100records`, `5ms`, `inf`.
pub(crate) fn parse_window(text: &str) -> Result<Window, String> {
    let problem =
        || format!("'{text}' is no window: write it as 64K (payload bytes), 100records, 5ms, or inf");
    if text == "inf" {
        return Ok(Window::Infinite);
    }
    if let Some(count) = text.strip_suffix("records") {
        return count.trim_end().parse().map(Window::Records).map_err(|_| problem());
    }
    if let Ok(bytes) = parse_bytes(text) {
        return Ok(Window::Bytes(bytes));
    }
    let duration = parse_duration(text).map_err(|_| problem())?;
    u64::try_from(duration.as_micros()).map(Window::Micros).map_err(|_| problem())
}

/// A byte count for people.
pub(crate) fn show_bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        10_485_760..10_737_418_240 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64K"), Ok(65536));
        assert_eq!(parse_bytes("64KiB"), Ok(65536));
        assert_eq!(parse_bytes("1GB"), Ok(1 << 30));
        for bad in ["", "K", "-1", "1.5M", "4T", "99999999999G", "B4"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        for bad in ["", "10", "s", "1h", "-1s", "18446744073709551615m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn positions_are_read_as_they_are_printed() {
        for lsn in [Lsn(0), Lsn(12416), Lsn(5 << 32 | 77)] {
            assert_eq!(parse_lsn(&lsn.to_string()), Ok(lsn));
            assert_eq!(parse_lsn(&lsn.0.to_string()), Ok(lsn));
        }
        for bad in ["", "/", "0/", "1/1FFFFFFFF", "x", "-1"] {
            assert!(parse_lsn(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn windows() {
        assert_eq!(parse_window("64K"), Ok(Window::Bytes(65536)));
        assert_eq!(parse_window("100records"), Ok(Window::Records(100)));
        assert_eq!(parse_window("5ms"), Ok(Window::Micros(5000)));
        assert_eq!(parse_window("inf"), Ok(Window::Infinite));
        for bad in ["", "records", "many", "5h"] {
            assert!(parse_window(bad).is_err(), "{bad}");
        }
    }
}
