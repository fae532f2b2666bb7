//! `towline tail`: the records of a log as lines.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use towline::Lsn;
use towline::client::{ClientOptions, TailRecords};
use towline_core::node::NodeWatermarks;

use super::Target;
use super::shard_status;
use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::parse_lsn;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline tail                         everything that is safe now, one payload per line
  towline tail --follow --format json  and whatever comes, with its LSN
  towline tail --from 0/00102000       the records that begin there or later

Shows what the node has flushed and the sync rule has made safe. --unsafe-too also shows what a failover may take back.")]
pub(crate) struct TailArgs {
    #[command(flatten)]
    target: Target,
    /// The records that begin there or later. To go on later, take 'next' or 'end' of the JSON: a place that the node
    /// does not have yet has to be one where a batch will begin
    #[arg(long, value_name = "LSN", value_parser = parse_lsn, default_value = "0/00000000")]
    from: Lsn,
    /// Go on with what is appended from now on
    #[arg(long)]
    follow: bool,
    /// Also what is not yet safe by the sync rule
    #[arg(long)]
    unsafe_too: bool,
    /// How records are printed
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The payload as it is, and a line end
    Raw,
    /// LSN and payload, two digits a byte
    Hex,
    /// An object a line: lsn, end, next, and the payload as text or, where it is none, in hex
    Json,
}

pub(crate) fn tail(args: TailArgs) -> Outcome {
    let options = || ClientOptions { name: "tail".to_owned(), ..Default::default() };
    let end = if args.follow {
        None
    } else {
        let mut client = args.target.connect(options())?;
        Some(readable_end(&shard_status(&mut client)?.node.watermarks, &args)?)
    };
    let mut stdout = out::stdout();
    let mut tail = args.target.connect(options())?.tail(args.from, args.unsafe_too)?;
    let mut at = args.from;
    let mut heard = Instant::now();
    while end.is_none_or(|end| at < end) {
        match tail.next_batch_timeout(QUIET)? {
            // All there is: the log ends in batches without records.
            Some(batch) if batch.bytes.is_empty() && !args.follow => break,
            Some(batch) => {
                print_batch(&mut stdout, &batch, args.format)?;
                at = batch.next;
                heard = Instant::now();
            }
            // Shown before sleeping.
            None if args.follow => stdout.flush()?,
            None if heard.elapsed() < PATIENCE => {}
            None => {
                stdout.flush()?;
                let error = anyhow::anyhow!(
                    "the node sent nothing for {} s; what was printed ends at {at}: go on with --from {at}",
                    PATIENCE.as_secs()
                );
                return Err(Failure::new(Code::Unavailable, error));
            }
        }
    }
    stdout.flush()?;
    Ok(())
}

/// Up to where it reads when it does not follow.
fn readable_end(marks: &NodeWatermarks, args: &TailArgs) -> Result<Lsn, Failure> {
    let flushed = marks.flushed.lsn;
    if args.from > flushed {
        let text = format!("nothing begins at {}: what is flushed ends at {flushed}", args.from);
        return Err(Failure::new(Code::Failed, anyhow::Error::msg(text)));
    }
    if args.unsafe_too {
        return Ok(flushed);
    }
    if marks.safe <= args.from.max(marks.log_start) && args.from < flushed {
        out::note(&format!(
            "towline: nothing from {} on is safe by the sync rule; --unsafe-too shows what is flushed, up to {flushed}",
            args.from.max(marks.log_start)
        ));
    }
    Ok(flushed.min(marks.safe))
}

/// How long nothing comes before what was printed is flushed.
const QUIET: Duration = Duration::from_millis(200);
/// A node that owes records and sends none for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn print_batch(to: &mut impl Write, batch: &TailRecords, format: Format) -> io::Result<()> {
    batch
        .records()
        .try_for_each(|record| print_record(to, record.lsn, record.end, &record.payload, batch.next, format))
}

/// Prints one record.
pub(crate) fn print_record(
    to: &mut impl Write,
    lsn: Lsn,
    end: Lsn,
    payload: &[u8],
    next: Lsn,
    format: Format,
) -> io::Result<()> {
    match format {
        Format::Raw => {
            to.write_all(payload)?;
            to.write_all(b"\n")
        }
        Format::Hex => writeln!(to, "{} {}", lsn, hex(payload)),
        Format::Json => {
            let (key, text) = match std::str::from_utf8(payload) {
                Ok(text) => ("text", text.to_owned()),
                Err(_) => ("hex", hex(payload)),
            };
            let line = serde_json::json!({
                "lsn": lsn.to_string(),
                "end": end.to_string(),
                "next": next.to_string(),
                "bytes": payload.len(),
                key: text,
            });
            writeln!(to, "{line}")
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
