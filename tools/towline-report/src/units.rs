//! Numbers for people: few digits, one unit per column, thousands apart, no line break before a unit.

/// A duration with its unit: `98.4 µs`, `5.12 ms`.
pub(crate) fn duration(ns: f64) -> String {
    match ns {
        _ if !ns.is_finite() => "–".into(),
        _ if ns == 0.0 => "0".into(),
        _ if ns < 999.5 => format!("{}\u{a0}ns", digits(ns)),
        _ if ns < 999_500.0 => format!("{}\u{a0}µs", digits(ns / 1e3)),
        _ if ns < 999_500_000.0 => format!("{}\u{a0}ms", digits(ns / 1e6)),
        _ => format!("{}\u{a0}s", digits(ns / 1e9)),
    }
}

/// Microseconds for a column: `0.213`, `7.33`, `98.4`, `5,120`.
pub(crate) fn micros(ns: f64) -> String {
    let us = ns / 1e3;
    match us {
        _ if !us.is_finite() => "–".into(),
        _ if us < 0.9995 => format!("{us:.3}"),
        _ if us < 9.995 => format!("{us:.2}"),
        _ if us < 999.95 => format!("{us:.1}"),
        _ => grouped(us),
    }
}

/// Per second, for a column: `12,345`.
pub(crate) fn per_second(rate: f64) -> String {
    if rate.is_finite() { grouped(rate) } else { "–".into() }
}

/// A count in words of a headline: `12.3 k`, `3.05 million`.
pub(crate) fn short_count(count: f64) -> String {
    match count {
        _ if !count.is_finite() => "–".into(),
        _ if count < 999.5 => digits(count),
        _ if count < 999_500.0 => format!("{}\u{a0}k", digits(count / 1e3)),
        _ => format!("{}\u{a0}million", digits(count / 1e6)),
    }
}

/// Bytes, binary where that is exact: `4 KiB`, `12.9 KiB`, `256 B`.
pub(crate) fn bytes(count: f64) -> String {
    match count {
        _ if count.is_infinite() => "∞".into(),
        _ if !count.is_finite() => "–".into(),
        _ if count < 1024.0 => format!("{}\u{a0}B", grouped(count)),
        _ if count < 1024.0 * 1024.0 => format!("{}\u{a0}KiB", digits(count / 1024.0)),
        _ if count < 1024.0 * 1024.0 * 1024.0 => format!("{}\u{a0}MiB", digits(count / 1048576.0)),
        _ => format!("{}\u{a0}GiB", digits(count / 1073741824.0)),
    }
}

/// A bandwidth: `1.94 GB/s`.
pub(crate) fn bandwidth(bytes_per_s: f64) -> String {
    match bytes_per_s {
        _ if !bytes_per_s.is_finite() => "–".into(),
        _ if bytes_per_s < 999.5 => format!("{}\u{a0}B/s", digits(bytes_per_s)),
        _ if bytes_per_s < 999.5e3 => format!("{}\u{a0}kB/s", digits(bytes_per_s / 1e3)),
        _ if bytes_per_s < 999.5e6 => format!("{}\u{a0}MB/s", digits(bytes_per_s / 1e6)),
        _ => format!("{}\u{a0}GB/s", digits(bytes_per_s / 1e9)),
    }
}

/// A ratio: `1.08×`, `12.4×`.
pub(crate) fn ratio(value: f64) -> String {
    match value {
        _ if !value.is_finite() => "–".into(),
        _ if value < 9.995 => format!("{value:.2}×"),
        _ if value < 99.95 => format!("{value:.1}×"),
        _ => format!("{}×", grouped(value)),
    }
}

/// Three significant digits, without trailing zeros after the point.
pub(crate) fn digits(value: f64) -> String {
    let text = match value.abs() {
        v if v >= 99.95 => return grouped(value),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number with thousands apart.
pub fn grouped(value: f64) -> String {
    let rounded = value.round();
    let plain = format!("{:.0}", rounded.abs());
    let mut text = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if rounded < 0.0 { format!("−{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(duration(98_400.0), "98.4\u{a0}µs");
        assert_eq!(duration(5_120_000.0), "5.12\u{a0}ms");
        assert_eq!(duration(999_600.0), "1\u{a0}ms");
        assert_eq!(duration(0.0), "0");
        assert_eq!(duration(213.0), "213\u{a0}ns");
        assert_eq!(micros(213.0), "0.213");
        assert_eq!(micros(999.6), "1.00");
        assert_eq!(micros(98_432.0), "98.4");
        assert_eq!(micros(5_120_400.0), "5,120");
        assert_eq!(bytes(4096.0), "4\u{a0}KiB");
        assert_eq!(bytes(0.0), "0\u{a0}B");
        assert_eq!(bytes(f64::INFINITY), "∞");
        assert_eq!(bytes(13_209.6), "12.9\u{a0}KiB");
        assert_eq!(bandwidth(1.94e9), "1.94\u{a0}GB/s");
        assert_eq!(per_second(173_249.6), "173,250");
        assert_eq!(short_count(3_050_000.0), "3.05\u{a0}million");
        assert_eq!(ratio(1.0849), "1.08×");
        assert_eq!(grouped(-1234.0), "−1,234");
        assert_eq!(duration(f64::NAN), "–");
    }
}
