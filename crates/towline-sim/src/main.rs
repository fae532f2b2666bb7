//! `towline-sim`: replays one simulated world, or searches many for a broken promise.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use towline_sim::{MARKS, Run, run};

const USAGE: &str = "\
The very node that ships, in simulated worlds with crashes, cut links, failing and full disks.

  towline-sim run --seed N                         one world, with its trace
  towline-sim swarm [--minutes M] [--seeds N] [--from N]
                                                   worlds on all cores until the time or the seeds are over
                                                   (default: 1 minute); each failure prints the line that replays it

Exit codes: 0 every promise held, 1 one was broken, 2 wrong usage.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match parse(&words) {
        Ok(Command::Help) => say(USAGE).map(|()| true),
        Ok(Command::Run { seed }) => replay(seed),
        Ok(Command::Swarm { from, seeds, time }) => swarm(from, seeds, time),
        Err(why) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "towline-sim: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

enum Command {
    Help,
    Run { seed: u64 },
    Swarm { from: u64, seeds: Option<u64>, time: Option<Duration> },
}

fn parse(words: &[String]) -> Result<Command, String> {
    let mut words = words.iter().map(String::as_str);
    let command = words.next().unwrap_or("--help");
    let mut numbers = BTreeMap::new();
    while let Some(word) = words.next() {
        if matches!(word, "--help" | "-h") {
            return Ok(Command::Help);
        }
        let known =
            matches!((command, word), ("run", "--seed") | ("swarm", "--minutes" | "--seeds" | "--from"));
        if !known {
            return Err(format!("'{word}' is not known to '{command}'"));
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
        let number: u64 = value.parse().map_err(|_| format!("{word} {value}: not a whole number"))?;
        numbers.insert(word, number);
    }
    match command {
        "run" => {
            let seed = numbers.get("--seed").copied().ok_or("run needs --seed N")?;
            Ok(Command::Run { seed })
        }
        "swarm" => {
            let seeds = numbers.get("--seeds").copied();
            let minutes = numbers.get("--minutes").copied().or(if seeds.is_none() { Some(1) } else { None });
            let time = minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
            Ok(Command::Swarm { from: numbers.get("--from").copied().unwrap_or(0), seeds, time })
        }
        "--help" | "-h" | "help" => Ok(Command::Help),
        other => Err(format!("'{other}' is no command")),
    }
}

fn replay(seed: u64) -> io::Result<bool> {
    let run = run(seed, true);
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in &run.trace {
        writeln!(out, "{line}")?;
    }
    match &run.failure {
        None => writeln!(
            out,
            "world {seed}: every promise held; {} appends, {} faults, {} crashes, trace hash {:016x}",
            run.appends, run.faults, run.crashes, run.hash
        )?,
        Some(failure) => writeln!(out, "world {seed} BROKE A PROMISE: {failure}")?,
    }
    out.flush()?;
    Ok(run.failure.is_none())
}

fn swarm(from: u64, seeds: Option<u64>, time: Option<Duration>) -> io::Result<bool> {
    let start = Instant::now();
    let next = AtomicU64::new(from);
    let is_due = |seed: u64| {
        let in_time = time.is_none_or(|time| start.elapsed() < time);
        in_time && seeds.is_none_or(|seeds| seed - from < seeds)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sum = Sum::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !is_due(seed) {
                return sum;
            }
            sum.take(&run(seed, false));
        }
    };
    let sums: Vec<Sum> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect()
    });
    let sum = sums.into_iter().fold(Sum::default(), Sum::and);
    let seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "{} worlds in {seconds:.1} s ({:.1}/s on {threads} threads): {} appends, {} faults, {} crashes, {} acks",
        sum.worlds,
        sum.worlds as f64 / seconds.max(0.001),
        sum.appends,
        sum.faults,
        sum.crashes,
        sum.acks
    ))?;
    let missing: Vec<&str> = MARKS.iter().copied().filter(|mark| !sum.counts.contains_key(mark)).collect();
    say(&format!(
        "never reached: {}",
        if missing.is_empty() { "nothing".to_owned() } else { missing.join(", ") }
    ))?;
    say(&format!("broken promises: {}", sum.failed))?;
    Ok(sum.failed == 0 && sum.worlds > 0)
}

#[derive(Default)]
struct Sum {
    worlds: u64,
    failed: u64,
    appends: u64,
    faults: u64,
    crashes: u64,
    acks: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn take(&mut self, run: &Run) {
        self.worlds += 1;
        self.appends += run.appends;
        self.faults += run.faults;
        self.crashes += run.crashes;
        self.acks += run.acks.iter().sum::<u64>();
        run.counts
            .iter()
            .filter(|(_, n)| **n > 0)
            .for_each(|(what, n)| *self.counts.entry(what).or_default() += n);
        if run.failure.is_some() {
            self.failed += 1;
            let line = format!("replay: cargo run --release -p towline-sim -- run --seed {}", run.seed);
            // A closed output stops nothing: the exit code still tells.
            let _ = say(&line);
        }
    }

    fn and(mut self, other: Sum) -> Sum {
        self.worlds += other.worlds;
        self.failed += other.failed;
        self.appends += other.appends;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.acks += other.acks;
        other.counts.into_iter().for_each(|(what, n)| *self.counts.entry(what).or_default() += n);
        self
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
