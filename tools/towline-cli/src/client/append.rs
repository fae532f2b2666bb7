//! `towline append`: records from standard input into a log, pipelined.

use std::collections::BTreeMap;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use clap::Args;
use towline::client::{Client, ClientError, ClientOptions, Committed, Outcome as Ended};
use towline::{Level, Window};
use towline_core::types::limits::MAX_RECORD_BYTES;

use super::Target;
use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::parse_window;

#[derive(Args)]
#[command(after_help = "\
Examples:
  echo hello | towline append --level local
  seq 1 100000 | towline append --level on --outstanding 256 > acks.txt
  towline append --level on --window 64K < lines.txt     (when all but the last 64 KiB are safe)
  producer | towline append --length-prefixed            (each record behind its length)

Prints one line per record, in the order of the input: its LSN and the level achieved, which is lower than the level \
asked for when no sync rule is in force or the node has degraded. A record that was refused prints 'refused: …', one \
whose outcome is not known 'indeterminate: …'; the exit code is then 1 or 4.")]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    target: Target,
    /// What each acknowledgement waits for: off, local, remote_write, on or remote_apply
    #[arg(long, default_value = "on", value_name = "LEVEL")]
    level: Level,
    /// Acknowledge when at most so much is not yet safe: 64K (payload bytes), 100records, 5ms, or inf
    #[arg(long, value_name = "WINDOW", value_parser = parse_window)]
    window: Option<Window>,
    /// Records on their way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    outstanding: u16,
    /// Read records as a u32 length (little-endian) and so many bytes, instead of lines
    #[arg(long)]
    length_prefixed: bool,
    /// Append so many records of the input as one: after any crash all of them are there or none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    atomic: u16,
}

pub(crate) fn append(args: AppendArgs) -> Outcome {
    let options = ClientOptions {
        max_outstanding: usize::from(args.outstanding),
        name: "append".to_owned(),
        ..Default::default()
    };
    let client = args.target.connect(options)?;
    let mut run = Run {
        client,
        acks: out::stdout(),
        early: BTreeMap::new(),
        next: None,
        refused: 0,
        unavailable: false,
        unknown: 0,
    };
    let read = run.feed(&read_ahead(args.length_prefixed)?, &args);
    // What was sent is waited for, and printed, whatever ended the input.
    let drained = run.drain(0);
    run.acks.flush()?;
    read?;
    drained?;
    match (run.unknown, run.refused) {
        (0, 0) => Ok(()),
        (0, refused) => Err(Failure::new(
            if run.unavailable { Code::Unavailable } else { Code::Failed },
            anyhow::anyhow!("{refused} append(s) refused; nothing of them was written"),
        )),
        (unknown, refused) => Err(Failure::new(
            Code::Unavailable,
            anyhow::anyhow!(
                "{unknown} append(s) may be in the log or not, {refused} refused; read the log to find out"
            ),
        )),
    }
}

struct Run<W: Write> {
    client: Client,
    acks: W,
    /// Ends that came before those of earlier records.
    early: BTreeMap<u64, Ended>,
    /// The request whose end is printed next.
    next: Option<u64>,
    refused: u64,
    /// Some were refused because the node cannot serve: another try, or another node, may help.
    unavailable: bool,
    unknown: u64,
}

impl<W: Write> Run<W> {
    /// Sends what the input gives and prints what ends, whichever comes first: a slow input does not hold back
    /// acknowledgements, and a slow node does not hold more of the input than may be outstanding.
    fn feed(&mut self, input: &Receiver<Result<Vec<u8>, Failure>>, args: &AppendArgs) -> Outcome {
        let mut group: Vec<Vec<u8>> = Vec::new();
        loop {
            let next = match input.try_recv() {
                Ok(next) => Some(next?),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => {
                    self.client.flush()?;
                    self.acks.flush()?;
                    if self.client.outstanding() == 0 {
                        input.recv().ok().transpose()?
                    } else {
                        self.take_within(LOOK)?;
                        continue;
                    }
                }
            };
            let more = next.is_some();
            group.extend(next);
            if group.len() == usize::from(args.atomic) || (!more && !group.is_empty()) {
                self.drain(usize::from(args.outstanding) - 1)?;
                let payloads: Vec<&[u8]> = group.iter().map(Vec::as_slice).collect();
                let request = self.client.submit(&payloads, args.level, args.window)?;
                self.next.get_or_insert(request);
                group.clear();
                self.take_ready()?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Prints what ends within `time`.
    fn take_within(&mut self, time: Duration) -> Outcome {
        match self.client.recv_timeout(time) {
            Ok(completion) => Ok(self.ended(completion.request, completion.outcome)?),
            Err(ClientError::Timeout(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Prints what has ended, without waiting.
    fn take_ready(&mut self) -> Outcome {
        while self.client.outstanding() > 0
            && let Some(completion) = self.client.try_recv()?
        {
            self.ended(completion.request, completion.outcome)?;
        }
        Ok(())
    }

    /// Waits until at most `outstanding` requests have not ended.
    fn drain(&mut self, outstanding: usize) -> Outcome {
        while self.client.outstanding() > outstanding {
            self.take_ready()?;
            if self.client.outstanding() > outstanding {
                // About to sleep: what is known so far is shown first.
                self.acks.flush()?;
                let completion = self.client.recv()?;
                self.ended(completion.request, completion.outcome)?;
            }
        }
        Ok(())
    }

    fn ended(&mut self, request: u64, outcome: Ended) -> io::Result<()> {
        self.early.insert(request, outcome);
        while let Some(next) = self.next
            && let Some(outcome) = self.early.remove(&next)
        {
            self.next = Some(next + 1);
            match outcome {
                Ended::Committed(committed) => print_ack(&mut self.acks, &committed)?,
                Ended::Refused(why) => {
                    self.refused += 1;
                    self.unavailable |= NOT_SERVING.iter().any(|start| why.starts_with(start));
                    writeln!(self.acks, "refused: {}", one_line(&why))?;
                }
                Ended::Indeterminate(why) => {
                    self.unknown += 1;
                    writeln!(self.acks, "indeterminate: {}", one_line(&why))?;
                }
            }
        }
        Ok(())
    }
}

/// How a node begins the reason when nothing is wrong with the request.
const NOT_SERVING: [&str; 4] = ["unavailable", "fenced", "poisoned", "the node is stopping"];

fn print_ack(to: &mut impl Write, committed: &Committed) -> io::Result<()> {
    writeln!(to, "{} {}", committed.lsn, committed.level)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Reads standard input on a thread of its own, a few records ahead. The channel ends with the input.
fn read_ahead(length_prefixed: bool) -> io::Result<Receiver<Result<Vec<u8>, Failure>>> {
    let (sender, receiver) = sync_channel(READ_AHEAD);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut record = Vec::new();
            let read = if length_prefixed {
                read_prefixed(&mut input, &mut record)
            } else {
                read_line(&mut input, &mut record)
            };
            let next = match read {
                Ok(true) => Ok(record),
                Ok(false) => return,
                Err(failure) => Err(failure),
            };
            let failed = next.is_err();
            if sender.send(next).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Records read ahead of what is sent; each may be as long as a record can be.
const READ_AHEAD: usize = 16;
/// How long a waiting append looks at the node before it looks at the input again.
const LOOK: Duration = Duration::from_millis(2);

/// A line without its end; false at the end of the input.
fn read_line(input: &mut impl BufRead, record: &mut Vec<u8>) -> Result<bool, Failure> {
    // One more than allowed, and the line's end: enough to see that a line is too long without holding it.
    input.take(MAX_RECORD_BYTES + 2).read_until(b'\n', record)?;
    if record.is_empty() {
        return Ok(false);
    }
    if record.last() == Some(&b'\n') {
        record.pop();
    }
    if record.len() as u64 > MAX_RECORD_BYTES {
        return Err(too_long(None));
    }
    Ok(true)
}

/// A record behind its length; false at the end of the input.
fn read_prefixed(input: &mut impl BufRead, record: &mut Vec<u8>) -> Result<bool, Failure> {
    if input.fill_buf()?.is_empty() {
        return Ok(false);
    }
    let cut = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Failure::new(
            Code::Failed,
            anyhow::anyhow!("standard input ends inside a record; the records before it were appended"),
        ),
        _ => Failure::from(error),
    };
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_le_bytes(length);
    if u64::from(length) > MAX_RECORD_BYTES {
        return Err(too_long(Some(length)));
    }
    record.resize(length as usize, 0);
    input.read_exact(record).map_err(cut)?;
    Ok(true)
}

fn too_long(length: Option<u32>) -> Failure {
    let length = length.map_or("more".to_owned(), |length| format!("{length} bytes"));
    Failure::new(
        Code::Failed,
        anyhow::anyhow!(
            "a record of {length} in standard input, and {MAX_RECORD_BYTES} is the limit: split it; the records before it were appended"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_or_without_a_line_end() {
        let mut input = &b"one\n\ntwo"[..];
        let mut records = Vec::new();
        loop {
            let mut record = Vec::new();
            if !read_line(&mut input, &mut record).unwrap() {
                break;
            }
            records.push(record);
        }
        assert_eq!(records, [&b"one"[..], b"", b"two"]);
    }

    #[test]
    fn a_line_over_the_limit_is_refused_without_being_held() {
        let long = vec![b'x'; MAX_RECORD_BYTES as usize * 2];
        let mut record = Vec::new();
        assert!(read_line(&mut &long[..], &mut record).is_err());
        assert!(record.len() as u64 <= MAX_RECORD_BYTES + 2);
        let mut exact = vec![b'x'; MAX_RECORD_BYTES as usize];
        exact.push(b'\n');
        record.clear();
        assert!(read_line(&mut &exact[..], &mut record).unwrap());
        assert_eq!(record.len() as u64, MAX_RECORD_BYTES);
    }

    #[test]
    fn prefixed_records_are_whole_or_refused() {
        let mut input = &b"\x03\0\0\0abc\0\0\0\0\x05\0\0\0ab"[..];
        let mut record = Vec::new();
        assert!(read_prefixed(&mut input, &mut record).unwrap());
        assert_eq!(record, b"abc");
        record.clear();
        assert!(read_prefixed(&mut input, &mut record).unwrap());
        assert_eq!(record, b"");
        record.clear();
        assert!(read_prefixed(&mut input, &mut record).is_err(), "cut short");
        assert!(read_prefixed(&mut &b"\xff\xff\xff\xff"[..], &mut record).is_err(), "over the limit");
        assert!(!read_prefixed(&mut &b""[..], &mut record).unwrap());
    }
}
