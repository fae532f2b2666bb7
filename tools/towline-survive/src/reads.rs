//! A read on a standby after an acknowledgement: under `on` it may miss the write, under `remote_apply` it sees it.

use std::time::Duration;

use linkem::Direction;
use serde::{Deserialize, Serialize};
use towline::Level;
use towline_runtime::ShardStatus;

use crate::cluster::{Cluster, PRIMARY, STANDBYS};
use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::load::payload;
use crate::process::connect;
use crate::record::Verdict;
use crate::row::Row;

/// Reads on a standby right after acknowledgements at a level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadResult {
    /// The level.
    pub level: Level,
    /// Acknowledged writes that were then looked for on a standby.
    pub reads: u64,
    /// Those that were not visible there yet.
    pub misses: u64,
    /// `remote_apply` never misses; `on` has to be seen missing.
    pub verdict: Verdict,
    /// What went wrong, when something did.
    pub note: String,
}

/// Looks, for `on` and for `remote_apply`.
pub(crate) fn read_after_write(context: &Context) -> Result<Vec<ReadResult>> {
    [Level::On, Level::RemoteApply].into_iter().map(|level| look(context, level)).collect()
}

fn look(context: &Context, level: Level) -> Result<ReadResult> {
    let (mut misses, mut note) = (0, String::new());
    match misses_of(context, level) {
        Ok(counted) => misses = counted,
        Err(error @ (SurviveError::Late(_) | SurviveError::Node { .. } | SurviveError::Client(_))) => {
            note = error.to_string();
        }
        Err(error) => return Err(error),
    }
    let verdict = match level {
        _ if !note.is_empty() => Verdict::Failed,
        Level::RemoteApply if misses > 0 => Verdict::Failed,
        Level::On if misses == 0 => Verdict::NotShown,
        _ => Verdict::Passed,
    };
    Ok(ReadResult { level, reads: READS, misses, verdict, note })
}

fn misses_of(context: &Context, level: Level) -> Result<u64> {
    // Both count, so that each acknowledgement stands for the one that is asked; the way is long enough to be ahead of.
    let rule = "ANY 2 (a, b)".to_owned();
    let cluster = Cluster::start(context, &Row { rule, ..Row::new("reads", level, None) })?;
    cluster.each_link(|link| link.set_delay(Direction::Both, ONE_WAY));
    // A standby shows what the primary, too, has flushed. Where that comes last, the acknowledgement is on its way
    // before the standby hears of it.
    cluster.slow_flush(PRIMARY, SLOW_PRIMARY);
    let mut client = connect(cluster.address(PRIMARY))?;
    let mut reader = connect(cluster.address(STANDBYS[0]))?;
    let mut misses = 0;
    for key in 0..READS {
        context.check()?;
        let ack = client.append(&payload(key), level, None)?;
        let status: ShardStatus = serde_json::from_str(&reader.status()?)
            .map_err(|error| SurviveError::Late(format!("a status cannot be read: {error}")))?;
        misses += u64::from(status.node.watermarks.applied < ack.end);
    }
    Ok(misses)
}

const READS: u64 = 60;
const ONE_WAY: Duration = Duration::from_millis(2);
const SLOW_PRIMARY: Duration = Duration::from_millis(10);
