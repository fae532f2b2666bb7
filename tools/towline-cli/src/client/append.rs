//! `towline append`: records from standard input into a log, pipelined.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use towline::client::{Client, ClientError, ClientOptions, Committed, Outcome as Ended};
use towline::{Level, Window};

use super::Target;
use super::input::read_ahead;
use super::stall::StallNotes;
use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::{parse_duration, parse_window};

#[derive(Args)]
#[command(after_help = "\
Examples:
  echo hello | towline append --level local
  seq 1 100000 | towline append --level on --outstanding 256 > acks.txt
  towline append --level on --window 64K < lines.txt     (when all but the last 64 KiB are safe)
  producer | towline append --length-prefixed            (each record behind its length)

Prints one line per record (with --atomic per append), in the order of the input: its LSN and the level achieved, which \
is lower than the level asked for when no sync rule is in force or the node has degraded. A record that was refused \
prints 'refused: …', one whose outcome is not known 'indeterminate: …'; the exit code is then 1 or 4.

Where the level cannot be had it waits, and after 5 s says on standard error what for. Ctrl-C, SIGTERM and --timeout \
give up: what is in flight then prints 'indeterminate: …' (exit code 130, 143, 4). Records without a line were not \
appended. Exit code 4 also when nobody reads standard output any more: an acknowledgement was lost.")]
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
    /// Give up when appends are in flight and none has ended for so long [default: wait]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Read records as a u32 length (little-endian) and so many bytes, instead of lines
    #[arg(long)]
    length_prefixed: bool,
    /// Append so many records of the input as one: after any crash all of them are there or none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    atomic: u16,
}

pub(crate) fn append(args: AppendArgs) -> Outcome {
    let signal = watch_signals()?;
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
        requests: None,
        refused: 0,
        unavailable: false,
        unknown: 0,
        signal,
        timeout: args.timeout,
        progress: Instant::now(),
        stall: StallNotes::new(args.target.clone(), args.level),
    };
    let read = run.feed(&read_ahead(args.length_prefixed)?, &args);
    // What was sent is waited for, and printed, whatever ended the input.
    let ended = match read {
        Ok(()) => run.drain(0),
        Err(Stop::Input(failure)) => run.drain(0).and(Err(Stop::Input(failure))),
        Err(stop) => Err(stop),
    };
    let ended = ended.and(run.acks.flush().map_err(Stop::from));
    match ended {
        Ok(()) => run.verdict(),
        Err(stop) => Err(run.give_up(stop)),
    }
}

/// Why a run ends before every append has.
enum Stop {
    /// The input cannot be read.
    Input(Failure),
    /// The connection has ended, and with it everything that was in flight.
    Client(Failure),
    /// Told to stop.
    Signal(i32),
    /// Nothing has ended for so long.
    Timeout(Duration),
    /// Nobody reads the acknowledgements.
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Output(error)
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Stop {
        Stop::Client(error.into())
    }
}

struct Run<W: Write> {
    client: Client,
    acks: W,
    /// Ends that came before those of earlier records.
    early: BTreeMap<u64, Ended>,
    /// The request whose end is printed next, and the last that was sent.
    requests: Option<(u64, u64)>,
    refused: u64,
    /// Some were refused because the node cannot serve: another try, or another node, may help.
    unavailable: bool,
    unknown: u64,
    /// The signal that came, or 0.
    signal: Arc<AtomicI32>,
    timeout: Option<Duration>,
    /// When something last ended, or the first of those in flight was sent.
    progress: Instant,
    stall: StallNotes,
}

impl<W: Write> Run<W> {
    /// Sends what the input gives and prints what ends, whichever comes first: a slow input does not hold back
    /// acknowledgements, and a slow node does not hold more of the input than may be outstanding.
    fn feed(&mut self, input: &Receiver<Result<Vec<u8>, Failure>>, args: &AppendArgs) -> Result<(), Stop> {
        let mut group: Vec<Vec<u8>> = Vec::new();
        loop {
            self.look()?;
            let next = match input.try_recv() {
                Ok(next) => Some(next.map_err(Stop::Input)?),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) if self.client.outstanding() > 0 => {
                    self.acks.flush()?;
                    self.take_within(LOOK)?;
                    continue;
                }
                Err(TryRecvError::Empty) => {
                    self.acks.flush()?;
                    match input.recv_timeout(TICK) {
                        Ok(next) => Some(next.map_err(Stop::Input)?),
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => None,
                    }
                }
            };
            let more = next.is_some();
            group.extend(next);
            if group.len() == usize::from(args.atomic) || (!more && !group.is_empty()) {
                self.drain(usize::from(args.outstanding) - 1)?;
                let payloads: Vec<&[u8]> = group.iter().map(Vec::as_slice).collect();
                if self.client.outstanding() == 0 {
                    self.progress = Instant::now();
                }
                let request = self.client.submit(&payloads, args.level, args.window)?;
                let (next, _) = self.requests.unwrap_or((request, request));
                self.requests = Some((next, request));
                group.clear();
                self.take_ready()?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Whether to go on waiting.
    fn look(&mut self) -> Result<(), Stop> {
        match self.signal.load(Ordering::Relaxed) {
            0 => {}
            signal => return Err(Stop::Signal(signal)),
        }
        let waiting = self.client.outstanding();
        if waiting > 0 {
            let waited = self.progress.elapsed();
            if let Some(timeout) = self.timeout.filter(|timeout| waited >= *timeout) {
                return Err(Stop::Timeout(timeout));
            }
            self.stall.look(waiting, waited);
        }
        Ok(())
    }

    /// Prints what ends within `time`.
    fn take_within(&mut self, time: Duration) -> Result<(), Stop> {
        match self.client.recv_timeout(time) {
            Ok(completion) => Ok(self.ended(completion.request, completion.outcome)?),
            Err(ClientError::Timeout(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Prints what has ended, without waiting.
    fn take_ready(&mut self) -> Result<(), Stop> {
        while self.client.outstanding() > 0
            && let Some(completion) = self.client.try_recv()?
        {
            self.ended(completion.request, completion.outcome)?;
        }
        Ok(())
    }

    /// Waits until at most `outstanding` requests have not ended.
    fn drain(&mut self, outstanding: usize) -> Result<(), Stop> {
        while self.client.outstanding() > outstanding {
            self.take_ready()?;
            if self.client.outstanding() > outstanding {
                self.look()?;
                // About to sleep: what is known so far is shown first.
                self.acks.flush()?;
                self.take_within(TICK)?;
            }
        }
        Ok(())
    }

    fn ended(&mut self, request: u64, outcome: Ended) -> io::Result<()> {
        self.progress = Instant::now();
        self.early.insert(request, outcome);
        while let Some((next, last)) = self.requests
            && let Some(outcome) = self.early.remove(&next)
        {
            self.requests = Some((next + 1, last));
            self.print(outcome)?;
        }
        Ok(())
    }

    fn print(&mut self, outcome: Ended) -> io::Result<()> {
        match outcome {
            Ended::Committed(committed) => print_ack(&mut self.acks, &committed),
            Ended::Refused(why) => {
                self.refused += 1;
                self.unavailable |= NOT_SERVING.iter().any(|start| why.starts_with(start));
                writeln!(self.acks, "refused: {}", one_line(&why))
            }
            Ended::Indeterminate(why) => {
                self.unknown += 1;
                writeln!(self.acks, "indeterminate: {}", one_line(&why))
            }
        }
    }

    /// Every append has ended.
    fn verdict(&self) -> Outcome {
        match (self.unknown, self.refused) {
            (0, 0) => Ok(()),
            (0, refused) => Err(Failure::new(
                if self.unavailable { Code::Unavailable } else { Code::Failed },
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

    /// Ends what is in flight as indeterminate, and says why.
    fn give_up(&mut self, stop: Stop) -> Failure {
        let (code, why) = match stop {
            Stop::Input(failure) | Stop::Client(failure) => return failure,
            Stop::Output(error) => {
                // Nothing more can be printed, and what the buffer held is lost too.
                let told = "some records were sent whose end nobody was told; read the log to find out";
                let text = format!("standard output cannot be written ({error}): stopped; {told}");
                return Failure::new(Code::Unavailable, anyhow::Error::msg(text));
            }
            Stop::Signal(SIGTERM) => (Code::Terminated, "ended by SIGTERM".to_owned()),
            Stop::Signal(_) => (Code::Interrupted, "interrupted".to_owned()),
            Stop::Timeout(timeout) => (Code::Unavailable, format!("nothing has ended for {timeout:?}")),
        };
        let before = self.unknown;
        let (next, last) = self.requests.unwrap_or((1, 0));
        for request in next..=last {
            let outcome = self.early.remove(&request);
            // Nobody may be reading any more: the message below still says it.
            let _ = self.print(outcome.unwrap_or_else(|| Ended::Indeterminate(why.clone())));
        }
        let _ = self.acks.flush();
        let unknown = self.unknown - before;
        Failure::new(code, anyhow::anyhow!("{why}; {unknown} append(s) in flight may be in the log or not"))
    }
}

/// How a node begins the reason when nothing is wrong with the request.
const NOT_SERVING: [&str; 4] = ["unavailable", "fenced", "poisoned", "the node is stopping"];
/// How long a waiting append looks at the node before it looks at the input again.
const LOOK: Duration = Duration::from_millis(2);
/// How long it sleeps before it looks for a signal.
const TICK: Duration = Duration::from_millis(100);
/// How long the end after a signal may take: the reader of standard output may have stopped reading.
const END_LIMIT: Duration = Duration::from_secs(1);

fn print_ack(to: &mut impl Write, committed: &Committed) -> io::Result<()> {
    writeln!(to, "{} {}", committed.lsn, committed.level)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Holds the signal that came. A second one, or an end that takes too long, ends the process.
fn watch_signals() -> Result<Arc<AtomicI32>, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let seen = Arc::new(AtomicI32::new(0));
    let set = Arc::clone(&seen);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        set.store(signal, Ordering::Relaxed);
        let limit = Instant::now() + END_LIMIT;
        while Instant::now() < limit && signals.pending().next().is_none() {
            std::thread::sleep(TICK / 5);
        }
        out::note("towline: interrupted; appends without a line may be in the log or not");
        std::process::exit(128 + signal);
    })?;
    Ok(seen)
}
