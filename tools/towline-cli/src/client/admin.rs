//! `towline rule` and `towline trim`.

use clap::Args;
use towline::Lsn;
use towline::client::ClientOptions;

use super::{Target, shard_status};
use crate::exit::Outcome;
use crate::out;
use crate::units::parse_lsn;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline rule 'ANY 1 (a, b)'      any one of a and b
  towline rule 'FIRST 2 (a, b, c)' the first two that are there, in this order
  towline rule '*'                 any one of those configured
  towline rule ''                  nobody: remote levels behave as local, and acknowledgements say so

The change is a record in the log. It is in force when this command returns: whatever waits across it satisfies both \
the old rule and the new one.")]
pub(crate) struct RuleArgs {
    /// The new rule
    rule: String,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn rule(args: RuleArgs) -> Outcome {
    let mut client = args.target.connect(ClientOptions::default())?;
    client.set_rule(&args.rule)?;
    out::line(&format!("in force{}", of_shards(&args.target, client.shards())))?;
    Ok(())
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
