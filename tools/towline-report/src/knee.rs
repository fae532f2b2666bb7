//! Where a window sweep bends: by the formula, and as measured.
//!
//! *Formula*: W* = λ × (N + F_standby − F), at least one batch. N + F_standby is the pair floor of the run plus what
//! the emulated link adds: on one machine the two flushes share a disk, so it is measured, not computed.
//! *Measured*: the smallest bounded window whose p50 is within 10 % of the p50 at ω = ∞ under the same load.

use crate::schema::{Arrival, Knee, Load, Point, Report, Window};
use crate::stats::median;

/// How near to ω = ∞ counts as there.
pub const NEARNESS: f64 = 1.10;

/// One curve of the sweep: every point has the same load, link and record size.
#[derive(Clone, Debug)]
pub struct Curve<'a> {
    /// What the emulated link adds to a round trip, µs.
    pub link_rtt_us: f64,
    /// The load.
    pub load: Load,
    /// Payload bytes of a record.
    pub record_bytes: f64,
    /// All repetitions of all windows.
    pub points: Vec<&'a Point>,
}

impl Curve<'_> {
    /// Payload bytes per second: the offered load of an open loop, what was achieved at ω = ∞ in a closed one.
    pub fn lambda_bytes_per_s(&self) -> f64 {
        let offered = self.points.iter().find_map(|point| point.offered_per_s);
        let per_s = match (self.load.arrival, offered) {
            (Arrival::OpenPerS(rate), _) => rate,
            (_, Some(rate)) => rate,
            _ => self.median_of(Window::Inf, |point| point.achieved_per_s).unwrap_or(0.0),
        };
        per_s * self.record_bytes
    }

    /// A window as payload bytes at this curve's record size and rate.
    pub fn in_bytes(&self, window: Window) -> f64 {
        match window {
            Window::Bytes(bytes) => bytes as f64,
            Window::Records(records) => records as f64 * self.record_bytes,
            Window::Micros(micros) => micros as f64 * 1e-6 * self.lambda_bytes_per_s(),
            Window::Inf => f64::INFINITY,
        }
    }

    /// The windows of the sweep, smallest first.
    pub fn windows(&self) -> Vec<Window> {
        let mut windows: Vec<Window> = self.points.iter().filter_map(|point| point.window).collect();
        windows.sort_by(|a, b| self.in_bytes(*a).total_cmp(&self.in_bytes(*b)));
        windows.dedup();
        windows
    }

    /// Median over the repetitions at one window.
    pub fn median_of(&self, window: Window, value: impl Fn(&Point) -> f64) -> Option<f64> {
        let values: Vec<f64> = self
            .points
            .iter()
            .filter(|point| point.window == Some(window))
            .map(|point| value(point))
            .collect();
        median(&values)
    }

    /// The smallest bounded window whose p50 is within [`NEARNESS`] of that at ω = ∞.
    pub fn measured(&self) -> Option<Window> {
        let p50 = |window| self.median_of(window, |point| point.latency_ns.p50 as f64);
        let limit_ns = NEARNESS * p50(Window::Inf)?;
        self.windows()
            .into_iter()
            .filter(|window| *window != Window::Inf)
            .find(|window| p50(*window).is_some_and(|p50_ns| p50_ns <= limit_ns))
    }

    /// The window before [`Self::measured`], where there is one above 0.
    fn too_small(&self) -> Option<Window> {
        let measured = self.measured()?;
        let smaller = self.windows().into_iter().take_while(|window| *window != measured).last();
        smaller.filter(|window| self.in_bytes(*window) > 0.0)
    }

    fn batch_bytes(&self) -> f64 {
        let batches: Vec<f64> = self
            .points
            .iter()
            .filter_map(|point| {
                Some(point.latency_ns.samples as f64 / point.batches.filter(|&n| n > 0)? as f64)
            })
            .collect();
        self.record_bytes * median(&batches).unwrap_or(1.0).max(1.0)
    }
}

/// W* = λ × (N + F_standby − F), at least one batch; times in ns.
pub fn formula_bytes(
    lambda_bytes_per_s: f64,
    remote_ns: f64,
    durable_write_ns: f64,
    batch_bytes: f64,
) -> f64 {
    (lambda_bytes_per_s * (remote_ns - durable_write_ns) * 1e-9).max(batch_bytes)
}

/// Commit latency that the model of the window predicts, ns. Open load: max(F, N + F_standby − ω/λ). Closed loop of
/// c clients, whose throughput is at most (c × record + ω) / (N + F_standby): c × record over that, at least F.
pub fn predicted_ns(knee: &Knee, window_bytes: f64, record_bytes: f64) -> f64 {
    let remote_ns = match knee.load.arrival {
        Arrival::Closed(clients) => {
            let outstanding = f64::from(clients) * record_bytes;
            knee.remote_ns * outstanding / (outstanding + window_bytes).max(1.0)
        }
        Arrival::OpenPerS(_) if knee.lambda_bytes_per_s > 0.0 => {
            knee.remote_ns - window_bytes / knee.lambda_bytes_per_s * 1e9
        }
        Arrival::OpenPerS(_) => knee.remote_ns,
    };
    remote_ns.max(knee.durable_write_ns)
}

/// The curves of the window sweep, by link and load, in the order of the report.
pub fn curves(report: &Report) -> Vec<Curve<'_>> {
    let mut curves: Vec<Curve<'_>> = Vec::new();
    for point in report.experiment("window").filter(|point| point.window.is_some()) {
        let same = |curve: &&mut Curve<'_>| {
            curve.link_rtt_us == point.link_rtt_us
                && curve.points[0].level == point.level
                && curve.load == point.load
                && curve.record_bytes == point.record_bytes
                && same_unit(curve.points[0].window, point.window, &curve.points)
        };
        match curves.iter_mut().find(same) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve {
                link_rtt_us: point.link_rtt_us,
                load: point.load,
                record_bytes: point.record_bytes,
                points: vec![point],
            }),
        }
    }
    curves
}

/// The knees of a report's window sweep, one per curve. None where the floors are missing.
pub fn of_report(report: &Report) -> Vec<Knee> {
    curves(report).iter().filter_map(|curve| of_curve(report, curve)).collect()
}

/// The knee of one curve; `None` where the floors are missing.
pub fn of_curve(report: &Report, curve: &Curve<'_>) -> Option<Knee> {
    let durable_write_ns = report.floors.durable_write_ns.as_ref()?.p50 as f64;
    let pair_ns = report.floors.pair_commit_ns.as_ref()?.p50 as f64;
    let remote_ns = pair_ns + added_by_link_ns(report, curve);
    let lambda = curve.lambda_bytes_per_s();
    let batch_bytes = curve.batch_bytes();
    let p50 = |window| curve.median_of(window, |point| point.latency_ns.p50 as f64);
    let ends = curve.windows().first().copied().and_then(p50).zip(p50(Window::Inf));
    Some(Knee {
        link_rtt_us: curve.link_rtt_us,
        load: curve.load,
        lambda_bytes_per_s: lambda,
        durable_write_ns,
        remote_ns,
        formula_bytes: formula_bytes(lambda, remote_ns, durable_write_ns, batch_bytes),
        formula_under_load_bytes: ends.map(|(zero, inf)| formula_bytes(lambda, zero, inf, batch_bytes)),
        measured_bytes: curve.measured().map(|window| curve.in_bytes(window)),
        too_small_bytes: curve.too_small().map(|window| curve.in_bytes(window)),
    })
}

/// What the link adds to a round trip: as measured where the run did, else as asked for.
fn added_by_link_ns(report: &Report, curve: &Curve<'_>) -> f64 {
    let measured: Vec<f64> = curve.points.iter().filter_map(|point| point.link_rtt_measured_us).collect();
    match (median(&measured), &report.floors.round_trip_ns) {
        (Some(measured_us), Some(bare)) => (measured_us * 1e3 - bare.p50 as f64).max(0.0),
        _ => curve.link_rtt_us * 1e3,
    }
}

/// A curve has windows of one unit; ∞ belongs to any.
fn same_unit(first: Option<Window>, other: Option<Window>, points: &[&Point]) -> bool {
    let unit = |window: Option<Window>| match window {
        Some(Window::Bytes(_)) => 1,
        Some(Window::Records(_)) => 2,
        Some(Window::Micros(_)) => 3,
        _ => 0,
    };
    let of_curve =
        points.iter().map(|point| unit(point.window)).find(|unit| *unit != 0).unwrap_or(unit(first));
    of_curve == 0 || unit(other) == 0 || of_curve == unit(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Environment, FloorNs};
    use crate::synthetic;

    #[test]
    fn the_formula_of_a_known_case() {
        // 10 MB/s, 5.14 ms remote, 0.1 ms local: 10e6 × 5.04e-3 = 50,400 bytes.
        assert!((formula_bytes(10e6, 5.14e6, 1e5, 256.0) - 50_400.0).abs() < 1e-6);
        assert_eq!(formula_bytes(1e3, 1.4e5, 1e5, 256.0), 256.0, "at least one batch");
        assert_eq!(formula_bytes(1e9, 9e4, 1e5, 4096.0), 4096.0, "a standby faster than the own disk");
    }

    #[test]
    fn a_curve_that_follows_the_model_bends_where_the_formula_says() {
        let mut report = Report::new("test", Vec::new(), Environment::default());
        let floor = |p50| Some(FloorNs { p50, p99: p50, ..FloorNs::default() });
        report.floors.durable_write_ns = floor(100_000);
        report.floors.pair_commit_ns = floor(140_000);
        let lambda = 10_000.0 * 256.0;
        let model = |window_bytes: f64| (5_140_000.0 - window_bytes / lambda * 1e9).max(100_000.0) as u64;
        let bounded = [0u64, 1024, 2048, 4096, 8192, 12288, 13312, 16384, 65536];
        for repetition in 0..3 {
            for bytes in bounded {
                let mut point = synthetic::window_point(Window::Bytes(bytes), 5000.0, model(bytes as f64));
                point.repetition = repetition;
                report.points.push(point);
            }
            let mut point = synthetic::window_point(Window::Inf, 5000.0, 100_000);
            point.repetition = repetition;
            report.points.push(point);
        }
        let knees = of_report(&report);
        assert_eq!(knees.len(), 1);
        let knee = &knees[0];
        assert_eq!(knee.formula_bytes, lambda * 5_040_000.0 * 1e-9);
        assert_eq!(knee.formula_under_load_bytes, Some(lambda * 5_040_000.0 * 1e-9));
        assert_eq!(knee.measured_bytes, Some(13312.0), "the first window past {}", knee.formula_bytes);
        assert_eq!(knee.too_small_bytes, Some(12288.0));
        assert_eq!(predicted_ns(knee, 0.0, 256.0), 5_140_000.0);
        assert_eq!(predicted_ns(knee, 1e9, 256.0), 100_000.0);
    }

    #[test]
    fn in_a_closed_loop_the_model_bends_at_the_same_formula() {
        // 8 clients of 256 B at F = 0.1 ms: λ = 20.48 MB/s, W* = λ × 5.04 ms = 103,219 bytes.
        let lambda = 8.0 * 256.0 / 1e-4;
        let knee = Knee {
            link_rtt_us: 5000.0,
            load: Load::closed(8),
            lambda_bytes_per_s: lambda,
            durable_write_ns: 1e5,
            remote_ns: 5.14e6,
            formula_bytes: formula_bytes(lambda, 5.14e6, 1e5, 256.0),
            formula_under_load_bytes: None,
            measured_bytes: None,
            too_small_bytes: None,
        };
        assert_eq!(predicted_ns(&knee, 0.0, 256.0), 5.14e6);
        assert!((predicted_ns(&knee, knee.formula_bytes, 256.0) - 1e5).abs() < 1.0);
        assert!(predicted_ns(&knee, 0.9 * knee.formula_bytes, 256.0) > 1.05e5);
    }

    #[test]
    fn links_and_loads_are_curves_of_their_own() {
        let mut report = Report::new("test", Vec::new(), Environment::default());
        for link_rtt_us in [0.0, 5000.0] {
            for window in [Window::Bytes(0), Window::Bytes(4096), Window::Inf] {
                report.points.push(synthetic::window_point(window, link_rtt_us, 1));
            }
        }
        let mut other_load = synthetic::window_point(Window::Bytes(0), 0.0, 1);
        other_load.load = Load::open(77.0);
        report.points.push(other_load);
        assert_eq!(curves(&report).iter().map(|curve| curve.points.len()).collect::<Vec<_>>(), [3, 3, 1]);
        assert!(of_report(&report).is_empty(), "no floors, no formula");
    }
}
