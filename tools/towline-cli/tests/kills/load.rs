//! The client: numbered records over the socket, as many outstanding as allowed, and a journal of every end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use towline::client::{Client, ClientError, ClientOptions, Completion, Outcome};
use towline::{Committed, Level, Lsn, Window};

use crate::Random;
use crate::support::PATIENCE;

/// Payload bytes a second at most.
const BYTES_PER_S: f64 = 24e6;
/// Beyond so many of them less by far: however long a round takes, it has to fit the retention.
const MANY_BYTES: f64 = 100e6;
const BYTES_PER_S_BEYOND: f64 = 0.3e6;
/// What may be sent at once when nothing was sent for a while.
const BURST_BYTES: f64 = 400e3;
const OUTSTANDING: usize = 1000;
const PAUSE: Duration = Duration::from_millis(4);

/// What is appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    pub(crate) window: Option<Window>,
    /// Every so many appends one at `local`, in between; 0: never.
    pub(crate) barrier_every: u64,
}

impl Plan {
    pub(crate) fn at(level: Level) -> Plan {
        Plan { level, window: None, barrier_every: 0 }
    }

    fn level_of(&self, request: usize) -> Level {
        let is_barrier = self.barrier_every > 0 && (request as u64 + 1).is_multiple_of(self.barrier_every);
        if is_barrier { Level::Local } else { self.level }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.window {
            Some(window) => write!(f, "{} within {window:?}", self.level),
            None => write!(f, "{}", self.level),
        }
    }
}

/// One append, atomic over all its records.
#[derive(Debug)]
pub(crate) struct Append {
    /// The number of its first record.
    pub(crate) key: u64,
    pub(crate) records: u64,
    pub(crate) level: Level,
    /// Which connection: each ends with the primary that it was made to.
    pub(crate) run: u64,
    pub(crate) end: End,
}

impl Append {
    pub(crate) fn ack(&self) -> Option<&Committed> {
        match &self.end {
            End::Acked { ack, .. } => Some(ack),
            _ => None,
        }
    }
}

/// How an append ended.
#[derive(Debug)]
pub(crate) enum End {
    Waiting,
    Acked {
        ack: Committed,
        at: Instant,
    },
    /// The node says that it wrote nothing.
    Refused,
    /// Nobody knows.
    Indeterminate,
}

/// Everything that was sent, in order.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) appends: Vec<Append>,
    /// When each connection ended.
    pub(crate) run_ends: Vec<Instant>,
    acks: u64,
    connected: bool,
}

/// The client's thread.
pub(crate) struct Load {
    journal: Arc<Mutex<Journal>>,
    stop: Arc<AtomicBool>,
    abandon: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(plan: Plan, address: SocketAddr, seed: u64) -> Load {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let [stop, abandon] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let mut sender = Sender {
            plan,
            journal: Arc::clone(&journal),
            stop: Arc::clone(&stop),
            abandon: Arc::clone(&abandon),
            random: Random::new(seed),
            next_key: 0,
            budget: 0.0,
            spent: 0.0,
            budget_at: Instant::now(),
        };
        let thread = std::thread::spawn(move || sender.run(address));
        Load { journal, stop, abandon, thread: Some(thread) }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }

    pub(crate) fn sent(&self) -> usize {
        self.journal().appends.len()
    }

    /// Acknowledgements of what was sent from the n-th append on.
    pub(crate) fn acks_from(&self, first: usize) -> usize {
        self.journal().appends[first..].iter().filter(|append| append.ack().is_some()).count()
    }

    /// Where the newest append that was acknowledged ends.
    pub(crate) fn last_acked_end(&self) -> Option<Lsn> {
        self.journal().appends.iter().rev().find_map(|append| append.ack().map(|ack| ack.end))
    }

    /// Waits until `count` more acks have come: after every restart it has to go on.
    pub(crate) fn wait_more_acks(&self, count: u64, tell: impl Fn() -> String) {
        let wanted = self.journal().acks + count;
        let deadline = Instant::now() + PATIENCE;
        while self.journal().acks < wanted {
            assert!(Instant::now() < deadline, "no acks any more: {}", tell());
            assert!(!self.thread.as_ref().unwrap().is_finished(), "the client has ended: {}", tell());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the client has noticed that its primary is gone, and has read all that it had been told.
    pub(crate) fn wait_disconnected(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.journal().connected {
            assert!(Instant::now() < deadline, "the client does not notice that its primary is gone");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends no more, waits for every end.
    pub(crate) fn finish(mut self, tell: impl Fn() -> String) -> Journal {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            assert!(Instant::now() < deadline, "the last appends never end: {}", tell());
            std::thread::sleep(PAUSE);
        }
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.journal())
    }
}

impl Drop for Load {
    /// Without waiting for anything: the test has failed already.
    fn drop(&mut self) {
        self.abandon.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Sender {
    plan: Plan,
    journal: Arc<Mutex<Journal>>,
    stop: Arc<AtomicBool>,
    abandon: Arc<AtomicBool>,
    random: Random,
    next_key: u64,
    budget: f64,
    spent: f64,
    budget_at: Instant,
}

impl Sender {
    fn run(&mut self, address: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) && !self.abandon.load(Ordering::Relaxed) {
            let options = ClientOptions { max_outstanding: OUTSTANDING, ..ClientOptions::default() };
            let Ok(mut client) = Client::connect_with(address, 0, options) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let (run, first) = {
                let mut journal = self.journal.lock().unwrap();
                journal.connected = true;
                (journal.run_ends.len() as u64, journal.appends.len())
            };
            self.serve(&mut client, run, first);
            let mut journal = self.journal.lock().unwrap();
            journal.connected = false;
            journal.run_ends.push(Instant::now());
        }
    }

    /// Sends and receives until the connection ends, or, told to stop, until nothing is outstanding.
    fn serve(&mut self, client: &mut Client, run: u64, first: usize) {
        let mut hold_until = Instant::now();
        while !self.abandon.load(Ordering::Relaxed) {
            let stopping = self.stop.load(Ordering::Relaxed);
            if !stopping && Instant::now() >= hold_until {
                self.submit(client, run, first);
            }
            match client.recv_timeout(PAUSE) {
                Ok(completion) => {
                    let mut journal = self.journal.lock().unwrap();
                    let mut next = Some(completion);
                    while let Some(completion) = next.take() {
                        if journal.note(first, completion) {
                            hold_until = Instant::now() + PAUSE;
                        }
                        next = client.try_recv().ok().flatten();
                    }
                }
                Err(ClientError::Timeout(_)) => {}
                Err(ClientError::Idle) if stopping => return,
                Err(ClientError::Idle) => std::thread::sleep(Duration::from_millis(1)),
                Err(ClientError::Lost { .. }) => return,
                Err(error) => panic!("the client: {error}"),
            }
        }
    }

    fn submit(&mut self, client: &mut Client, run: u64, first: usize) {
        let now = Instant::now();
        let since = now.duration_since(self.budget_at).as_secs_f64();
        let rate = if self.spent < MANY_BYTES { BYTES_PER_S } else { BYTES_PER_S_BEYOND };
        self.budget = (self.budget + since * rate).min(BURST_BYTES);
        self.budget_at = now;
        while client.outstanding() < OUTSTANDING && self.budget > 0.0 {
            let records = if self.random.below(16) == 0 { 3 } else { 1 };
            let key = self.next_key;
            let payloads: Vec<Vec<u8>> = (key..key + records).map(payload).collect();
            let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let mut journal = self.journal.lock().unwrap();
            let level = self.plan.level_of(journal.appends.len());
            let window = self.plan.window.filter(|_| level.is_remote());
            // Under the lock: nobody sees an end of what is not in the journal yet.
            let Ok(request) = client.submit(&slices, level, window) else { return };
            assert_eq!(request as usize - 1, journal.appends.len() - first);
            journal.appends.push(Append { key, records, level, run, end: End::Waiting });
            drop(journal);
            self.next_key += records;
            let bytes = payloads.iter().map(|payload| payload.len() as f64).sum::<f64>();
            self.budget -= bytes;
            self.spent += bytes;
        }
    }
}

impl Journal {
    /// Keeps the end of an append; whether the node does not take any now.
    fn note(&mut self, first: usize, completion: Completion) -> bool {
        let append = &mut self.appends[first + completion.request as usize - 1];
        assert!(matches!(append.end, End::Waiting), "a second end for {append:?}: {completion:?}");
        let mut is_refused = false;
        append.end = match completion.outcome {
            Outcome::Committed(ack) => {
                self.acks += 1;
                End::Acked { ack, at: Instant::now() }
            }
            Outcome::Refused(_) => {
                is_refused = true;
                End::Refused
            }
            Outcome::Indeterminate(_) => End::Indeterminate,
        };
        is_refused
    }
}

/// What record `key` holds: its number, and bytes that follow from it; some records span blocks.
pub(crate) fn payload(key: u64) -> Vec<u8> {
    let mut random = Random::new(key);
    let fill = if random.below(64) == 0 { random.below(20_000) } else { random.below(400) } as usize;
    let mut bytes = key.to_le_bytes().to_vec();
    while bytes.len() < 8 + fill {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(8 + fill);
    bytes
}
