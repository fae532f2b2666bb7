//! The choice itself: the weakest rung, the widest window, or which half of the goal stands in the way.

use super::{AdviseError, Goal, Half, Rung, Verdict, WindowPoint};
use crate::schema::Level;
use crate::units;

/// Chooses among what was measured; `rungs` and `windows` weakest and narrowest first.
pub(super) fn verdict(goal: &Goal, rungs: &[Rung], windows: &[WindowPoint]) -> Result<Verdict, AdviseError> {
    let Some(need) = goal.survive.need() else { return Ok(nothing_survives(rungs)) };
    let survivors: Vec<&Rung> = rungs.iter().filter(|rung| rung.survives).collect();
    let Some(weakest) = survivors.first() else {
        let standbys = need.standbys;
        return Err(AdviseError::NoSurvivor { level: need.level, standbys, more: standbys + 1 });
    };
    let widest = windows
        .iter()
        .rev()
        .find(|point| point.window_bytes <= goal.lose_bytes && point.p99_upper_ns <= goal.p99_ns)
        .filter(|_| goal.lose_bytes > 0);
    let met = survivors.iter().find(|rung| rung.meets(goal.p99_ns));
    // A window lowers what the weakest rung waits for; it never makes a stronger one necessary.
    let chosen = met.or(widest.map(|_| weakest));
    Ok(match chosen {
        Some(rung) => Verdict::Met {
            level: rung.level,
            sync_rule: rung.sync_rule.clone(),
            window_bytes: widest.map(|point| point.window_bytes).filter(|bytes| *bytes > 0),
            without_window: met.is_some(),
        },
        None => Verdict::Impossible {
            half: Half::Latency,
            why: too_slow(goal, weakest),
            nearest: nearest(goal, rungs, &survivors, windows),
        },
    })
}

fn nothing_survives(rungs: &[Rung]) -> Verdict {
    let most = rungs.iter().map(|rung| rung.waits_for_standbys).max().unwrap_or(0);
    Verdict::Impossible {
        half: Half::Survival,
        why: "no level survives the loss of every disk that held the log".into(),
        nearest: vec![format!(
            "`on` survives the loss of all but one of the disks it waited for, its own and k others: this run's rules \
             wait for {most}. Ask for primary-disk+standbys-power (k = 1) or two-disks (k = 2), \
             and keep a standby where its disk does not share the fate of the others."
        )],
    }
}

fn too_slow(goal: &Goal, weakest: &Rung) -> String {
    format!(
        "`{}` is the weakest measured level that survives it, and its p99 is {}, not {}",
        weakest.level,
        by_load(weakest),
        units::duration(goal.p99_ns)
    )
}

/// From the side of survival, from the side of latency, and by what a window would give up.
fn nearest(goal: &Goal, rungs: &[Rung], survivors: &[&Rung], windows: &[WindowPoint]) -> Vec<String> {
    let mut sentences = Vec::new();
    let lighter = survivors.iter().find_map(|rung| {
        let heaviest = rung.loads.iter().rev().find(|load| load.p99_upper_ns <= goal.p99_ns)?;
        Some((rung, &heaviest.load))
    });
    if let Some((rung, load)) = lighter {
        sentences.push(format!("with {load}, `{}` meets both", rung.level));
    }
    let fastest = survivors.iter().min_by(|a, b| a.worst_p99_ns().total_cmp(&b.worst_p99_ns()));
    if let Some(rung) = fastest {
        sentences.push(format!(
            "the lowest p99 that survives it is {}, at `{}`: ask for that much",
            units::duration(rung.worst_p99_ns()),
            rung.level
        ));
    }
    let narrowest = windows.iter().find(|point| point.window_bytes > 0 && point.p99_upper_ns <= goal.p99_ns);
    if let Some(point) = narrowest {
        sentences.push(format!(
            "a lag window of {} meets the p99 and loses at most that much acknowledged payload: --lose {}",
            units::bytes(point.window_bytes as f64),
            point.window_bytes
        ));
    }
    let strongest = rungs.iter().rev().find(|rung| !rung.survives && rung.meets(goal.p99_ns));
    sentences.push(match strongest {
        Some(rung) => {
            format!("the strongest level that meets the p99 is `{}`; it loses {}", rung.level, rung.loses)
        }
        None => {
            let least = rungs.iter().map(Rung::worst_p99_ns).fold(f64::INFINITY, f64::min);
            format!(
                "no level of this run meets that p99 at these loads, whatever it survives; the least is {}",
                units::duration(least)
            )
        }
    });
    sentences
}

/// Where the weakest level that would do was not measured: that it stands below the answer.
pub(super) fn not_measured(goal: &Goal, rungs: &[Rung], answer: Level) -> Option<String> {
    let weakest = goal.survive.need()?.level;
    let measured = rungs.iter().any(|rung| rung.level == weakest);
    (weakest < answer && !measured).then(|| {
        format!("`{weakest}` would survive it too; this run did not measure it under these conditions")
    })
}

/// `158 µs with 1 client, 1.2 ms with 32 clients`.
fn by_load(rung: &Rung) -> String {
    let each =
        rung.loads.iter().map(|load| format!("{} with {}", units::duration(load.p99_upper_ns), load.load));
    each.collect::<Vec<_>>().join(", ")
}

/// Whether a level can have a window.
pub(super) fn takes_window(level: Level) -> bool {
    level > Level::Local
}
