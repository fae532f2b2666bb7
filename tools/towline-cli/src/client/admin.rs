//! `towline rule` and `towline trim`.

use clap::Args;
use towline::Lsn;
use towline::client::ClientOptions;

use super::Target;
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
    out::line("in force")?;
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
    client.trim(args.below)?;
    out::line(&format!("trimmed below {}", args.below))?;
    Ok(())
}
