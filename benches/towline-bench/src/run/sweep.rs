//! Which windows a sweep looks at.

use towline_core::types::Window;

/// 0, finite windows from an eighth of the knee to eight times it, closer together near the knee, ∞; `steps` in all.
/// Below one record every window is 0, so the smallest finite one holds two.
pub(super) fn windows(steps: usize, knee_bytes: f64, record_bytes: u64) -> Vec<Window> {
    let finite = steps.saturating_sub(2).max(2);
    let lowest = (knee_bytes / 8.0).max(2.0 * record_bytes as f64);
    let highest = (knee_bytes * 8.0).max(lowest * 32.0);
    let (middle, half) = ((lowest * highest).sqrt(), (highest / lowest).sqrt());
    let mut windows = vec![Window::Bytes(0)];
    for step in 0..finite {
        let from_middle = 2.0 * step as f64 / (finite as f64 - 1.0) - 1.0;
        let power = from_middle.signum() * from_middle.abs().powf(1.6);
        let bytes = two_digits(middle * half.powf(power)) as u64;
        windows.push(Window::Bytes(bytes.max(2 * record_bytes)));
    }
    windows.push(Window::Infinite);
    windows
}

/// Rounded to two significant digits.
pub(super) fn two_digits(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(windows: &[Window]) -> Vec<u64> {
        windows
            .iter()
            .filter_map(|window| if let Window::Bytes(n) = window { Some(*n) } else { None })
            .collect()
    }

    #[test]
    fn a_sweep_spans_the_knee_and_both_ends() {
        let windows = windows(9, 64_000.0, 256);
        assert_eq!((windows.len(), windows[0], windows[8]), (9, Window::Bytes(0), Window::Infinite));
        let sizes = bytes(&windows);
        assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
        assert_eq!((sizes[1], sizes[4], sizes[7]), (8_000, 64_000, 510_000));
    }

    #[test]
    fn where_the_knee_is_less_than_a_batch_the_windows_still_hold_records() {
        let sizes = bytes(&windows(9, 300.0, 256));
        assert_eq!(sizes[1], 512);
        assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
        assert!(sizes[7] >= 16_000);
    }

    #[test]
    fn figures_have_two_digits() {
        for (value, rounded) in [(47_123.0, 47_000.0), (9.96, 10.0), (1.23, 1.2), (0.0, 0.0), (256.0, 260.0)]
        {
            assert!((two_digits(value) - rounded).abs() < 1e-9 * rounded.max(1.0), "{value}");
        }
    }
}
