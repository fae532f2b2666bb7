//! `towline rule` and `towline trim`.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use towline::Lsn;
use towline::client::{Client, ClientError, ClientOptions};

use super::{Target, shard_status};
use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::{parse_duration, parse_lsn};

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline rule 'ANY 1 (a, b)'      any one of a and b
  towline rule 'FIRST 2 (a, b, c)' the first two that are there, in this order
  towline rule '*'                 any one of those configured
  towline rule ''                  nobody: remote levels behave as local, and acknowledgements say so

The change is a record in the log. It is in force when this command says so: whatever waits across it satisfies both \
the old rule and the new one, which takes the standbys of both. So it does not end a stall: bring back a standby that the \
old rule names, or start an empty one by its name; until then the change waits in the log (exit code 4).")]
pub(crate) struct RuleArgs {
    /// The new rule
    rule: String,
    #[command(flatten)]
    target: Target,
    /// How long to wait for it to be in force
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    timeout: Duration,
}

pub(crate) fn rule(args: RuleArgs) -> Outcome {
    let mut client = args.target.connect(ClientOptions::default())?;
    match client.set_rule_within(&args.rule, args.timeout) {
        Err(ClientError::Timeout(limit)) => return Err(not_in_force(&mut client, limit)),
        other => other?,
    }
    out::line(&format!("in force{}", of_shards(&args.target, client.shards())))?;
    Ok(())
}

/// What the change waits for, as far as the node can say.
fn not_in_force(client: &mut Client, limit: Duration) -> Failure {
    let status = shard_status(client).map(|status| status.node);
    let why = match &status {
        Ok(node) if node.gate.pending.is_some() => format!(
            "it is in the log and comes into force when it is safe under '{}' and the new rule: the standbys of both \
             are needed, and `towline status` shows which are missing",
            node.gate.rule.rule
        ),
        _ => "`towline status` says which rule holds".to_owned(),
    };
    Failure::new(Code::Unavailable, anyhow!("the sync rule is not in force after {limit:?}; {why}"))
}

#[derive(Args)]
#[command(after_help = "\
Example:
  towline trim 0/04000000

Whole segments that end at or below the LSN are recycled. Standbys that are registered and behind hold them back, up \
to the node's --hold-bytes.")]
pub(crate) struct TrimArgs {
    /// Nothing below is needed any more
    #[arg(value_name = "LSN", value_parser = parse_lsn)]
    below: Lsn,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn trim(args: TrimArgs) -> Outcome {
    let mut client = args.target.connect(ClientOptions::default())?;
    // The node lets nothing go that it has not flushed; the log can only have grown since this answer.
    let end = shard_status(&mut client)?.node.watermarks.flushed.lsn;
    client.trim(args.below)?;
    let what = match args.below > end {
        true => format!("trimmed below {end}, where the log ends: it does not reach to {}", args.below),
        false => format!("trimmed below {}", args.below),
    };
    out::line(&format!("{what}{}", of_shards(&args.target, client.shards())))?;
    Ok(())
}

/// Each shard is a log of its own: which one it was, where there are others.
fn of_shards(target: &Target, shards: u16) -> String {
    match shards {
        ..=1 => String::new(),
        _ => format!(" in shard {} of {shards} only; --shard names another", target.shard),
    }
}
