//! The client: numbered records over the socket at a steady rate, whether answers come or not, and a journal of every
//! end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use towline::client::{Client, ClientError, Completion, Outcome};
use towline::{Committed, Level, Lsn, Window};

use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::process::connect;
use crate::random::Random;

/// What is appended, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    pub(crate) window: Option<Window>,
    pub(crate) rate_per_s: f64,
}

/// One append of one record.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) key: u64,
    /// Which connection: each ends with the primary that it was made to.
    pub(crate) run: u32,
    /// When it was due, and when the socket had nothing of it yet.
    pub(crate) due_ns: u64,
    pub(crate) sent_ns: u64,
    pub(crate) end: End,
}

/// How an append ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Waiting,
    Acked { ack: Committed, at_ns: u64 },
    Refused,
    Indeterminate,
}

impl Append {
    pub(crate) fn ack(&self) -> Option<(&Committed, u64)> {
        match &self.end {
            End::Acked { ack, at_ns } => Some((ack, *at_ns)),
            _ => None,
        }
    }
}

/// Everything a client sent, in order, and how each ended.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) appends: Vec<Append>,
    runs: u32,
    acks: u64,
    connected: bool,
    /// Something that no node may answer.
    pub(crate) nonsense: Vec<String>,
}

/// The client's thread.
pub(crate) struct Load {
    journal: Arc<Mutex<Journal>>,
    target: Arc<Mutex<SocketAddr>>,
    began: Instant,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Orders {
    /// Send no more, wait for every end.
    stop: AtomicBool,
    /// End this connection.
    leave: AtomicBool,
    /// Wait for nothing.
    abandon: AtomicBool,
    /// Send large records.
    large: AtomicBool,
}

impl Load {
    pub(crate) fn start(plan: Plan, address: SocketAddr) -> Load {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let target = Arc::new(Mutex::new(address));
        let orders = Arc::new(Orders::default());
        let began = Instant::now();
        let mut sender = Sender {
            plan,
            journal: Arc::clone(&journal),
            target: Arc::clone(&target),
            orders: Arc::clone(&orders),
            began,
            next_key: 0,
            due_ns: 0,
        };
        let thread = std::thread::spawn(move || sender.run());
        Load { journal, target, began, orders, thread: Some(thread) }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// Nanoseconds since its start.
    pub(crate) fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Leaves its primary, and what it has not answered, for another.
    pub(crate) fn follow(&self, address: SocketAddr) {
        *lock(&self.target) = address;
        self.orders.leave.store(true, Ordering::Relaxed);
    }

    /// From now on its records are large, or as usual again.
    pub(crate) fn send_large(&self, large: bool) {
        self.orders.large.store(large, Ordering::Relaxed);
    }

    /// Where the n-th record that was acknowledged lies.
    pub(crate) fn place_of_ack(&self, number: usize) -> Option<Lsn> {
        let journal = self.journal();
        journal.appends.iter().filter_map(|append| append.ack().map(|(ack, _)| ack.lsn)).nth(number)
    }

    pub(crate) fn acks(&self) -> u64 {
        self.journal().acks
    }

    /// How many have been acknowledged of those that were sent after that moment.
    pub(crate) fn acks_of_sent_after(&self, moment_ns: u64) -> usize {
        let journal = self.journal();
        let later = journal.appends.iter().rev().take_while(|append| append.sent_ns > moment_ns);
        later.filter(|append| append.ack().is_some()).count()
    }

    /// Waits until `count` more acks have come.
    pub(crate) fn wait_more_acks(&self, context: &Context, count: u64) -> Result<()> {
        let wanted = self.acks() + count;
        context.wait(&format!("{count} more acknowledgements"), PATIENCE, || {
            Ok((self.acks() >= wanted).then_some(()))
        })
    }

    /// Waits until the last `count` acknowledgements of what was sent from now on are all at a level.
    pub(crate) fn wait_acks_at(&self, context: &Context, level: Level, count: usize) -> Result<()> {
        let since_ns = self.now_ns();
        context.wait(&format!("{count} acknowledgements at {level}"), PATIENCE, || {
            let journal = self.journal();
            let later = journal.appends.iter().rev().take_while(|append| append.sent_ns > since_ns);
            let acks = later.filter_map(Append::ack).take(count);
            let at_level = acks.take_while(|(ack, _)| ack.level == level).count();
            Ok((at_level == count).then_some(()))
        })
    }

    /// Waits until no ack has come for a while: everything that could be acknowledged is.
    pub(crate) fn wait_quiet(&self, context: &Context, quiet: Duration, limit: Duration) -> Result<()> {
        let (mut last, mut since) = (self.acks(), Instant::now());
        let end = Instant::now() + limit;
        while since.elapsed() < quiet && Instant::now() < end {
            context.sleep(Duration::from_millis(5))?;
            let acks = self.acks();
            if acks != last {
                (last, since) = (acks, Instant::now());
            }
        }
        Ok(())
    }

    /// Waits until the client has read all that a primary that is gone had told it.
    pub(crate) fn wait_disconnected(&self, context: &Context) -> Result<()> {
        context.wait("the client's end of connection", PATIENCE, || {
            Ok((!self.journal().connected).then_some(()))
        })
    }

    /// Sends no more; what has not ended when `limit` is over counts as indeterminate.
    pub(crate) fn finish(mut self, context: &Context, limit: Duration) -> Result<Journal> {
        self.orders.stop.store(true, Ordering::Relaxed);
        let end = Instant::now() + limit;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            context.check()?;
            if Instant::now() > end {
                self.orders.abandon.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.join();
        let mut journal = std::mem::take(&mut *self.journal());
        for append in journal.appends.iter_mut().filter(|append| matches!(append.end, End::Waiting)) {
            append.end = End::Indeterminate;
        }
        Ok(journal)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    /// Without waiting for any answer.
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Relaxed);
        self.orders.abandon.store(true, Ordering::Relaxed);
        self.join();
    }
}

struct Sender {
    plan: Plan,
    journal: Arc<Mutex<Journal>>,
    target: Arc<Mutex<SocketAddr>>,
    orders: Arc<Orders>,
    began: Instant,
    next_key: u64,
    due_ns: u64,
}

impl Sender {
    fn run(&mut self) {
        while !self.stopped() {
            self.orders.leave.store(false, Ordering::Relaxed);
            let target = *lock(&self.target);
            let Ok(mut client) = connect(target) else {
                std::thread::sleep(PAUSE);
                // What is due meanwhile is sent later, and counts from when it was due.
                continue;
            };
            let (run, first) = {
                let mut journal = lock(&self.journal);
                journal.connected = true;
                journal.runs += 1;
                (journal.runs, journal.appends.len())
            };
            self.serve(&mut client, run, first);
            lock(&self.journal).connected = false;
        }
    }

    /// Sends and receives until the connection ends, or, told to stop, until nothing is outstanding.
    fn serve(&mut self, client: &mut Client, run: u32, first: usize) {
        let mut hold_until = Instant::now();
        let orders = Arc::clone(&self.orders);
        let ends = || orders.abandon.load(Ordering::Relaxed) || orders.leave.load(Ordering::Relaxed);
        while !ends() {
            let stopping = self.stopped();
            if !stopping && Instant::now() >= hold_until {
                self.submit(client, run);
            }
            match client.recv_timeout(PAUSE) {
                Ok(completion) => {
                    let mut journal = lock(&self.journal);
                    let mut next = Some(completion);
                    while let Some(completion) = next.take() {
                        let at_ns = self.began.elapsed().as_nanos() as u64;
                        if journal.note(first, completion, at_ns) {
                            hold_until = Instant::now() + PAUSE;
                        }
                        next = client.try_recv().ok().flatten();
                    }
                }
                Err(ClientError::Timeout(_)) => {}
                Err(ClientError::Idle) if stopping => return,
                Err(ClientError::Idle) => std::thread::sleep(Duration::from_micros(500)),
                Err(ClientError::Lost { .. }) => return,
                Err(error) => {
                    lock(&self.journal).nonsense.push(error.to_string());
                    return;
                }
            }
        }
    }

    /// Sends what is due.
    fn submit(&mut self, client: &mut Client, run: u32) {
        let now_ns = self.began.elapsed().as_nanos() as u64;
        let step_ns = (1e9 / self.plan.rate_per_s) as u64;
        // After an outage not all that was due then is sent at once.
        self.due_ns = self.due_ns.max(now_ns.saturating_sub(MAX_BEHIND_NS));
        while self.due_ns <= now_ns && client.outstanding() < OUTSTANDING {
            let large = if self.orders.large.load(Ordering::Relaxed) { LARGE } else { 0 };
            let key = self.next_key | large;
            let bytes = payload(key);
            // Before it can be on its way: nobody sees an end of what is not in the journal yet, and a time taken later
            // could call an old record a new one. Not under the lock: a node without room takes nothing for a while.
            let sent_ns = self.began.elapsed().as_nanos() as u64;
            let append = Append { key, run, due_ns: self.due_ns, sent_ns, end: End::Waiting };
            lock(&self.journal).appends.push(append);
            if client.submit(&[&bytes], self.plan.level, self.plan.window).is_err() {
                lock(&self.journal).appends.pop();
                return;
            }
            self.next_key += 1;
            self.due_ns += step_ns;
        }
    }

    fn stopped(&self) -> bool {
        self.orders.stop.load(Ordering::Relaxed)
    }
}

impl Journal {
    /// Keeps the end of an append; whether the node does not take any now.
    fn note(&mut self, first: usize, completion: Completion, at_ns: u64) -> bool {
        let place = first + completion.request as usize - 1;
        let Some(append) = self.appends.get_mut(place).filter(|append| matches!(append.end, End::Waiting))
        else {
            self.nonsense.push(format!("an end for what is not outstanding: {completion:?}"));
            return false;
        };
        match completion.outcome {
            Outcome::Committed(ack) => {
                self.acks += 1;
                append.end = End::Acked { ack, at_ns };
                false
            }
            Outcome::Refused(_) => {
                append.end = End::Refused;
                true
            }
            Outcome::Indeterminate(_) => {
                append.end = End::Indeterminate;
                false
            }
        }
    }
}

/// What record `key` holds: its number, and bytes that follow from it.
pub(crate) fn payload(key: u64) -> Vec<u8> {
    let mut random = Random::new(key);
    let fill = match random.below(64) {
        _ if key & LARGE != 0 && key != u64::MAX => 6_000 + random.below(4_000),
        0 => random.below(5_000),
        _ => random.below(160),
    } as usize;
    let mut bytes = Vec::with_capacity(16 + fill);
    bytes.extend(key.to_le_bytes());
    while bytes.len() < 8 + fill {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(8 + fill);
    bytes
}

/// Appends one record of its own at `local` and waits for it, so that what is before it can be read to its end.
pub(crate) fn mark(context: &Context, address: SocketAddr, key: u64) -> Result<Committed> {
    let mut why = String::new();
    let done = context.wait("a last append", PATIENCE, || {
        let mut client = connect(address)?;
        client.submit(&[&payload(key)], Level::Local, None)?;
        let outcome = client.recv_timeout(Duration::from_secs(5)).map(|completion| completion.outcome);
        match outcome {
            Ok(Outcome::Committed(ack)) => Ok(Some(ack)),
            Ok(Outcome::Refused(text) | Outcome::Indeterminate(text)) => {
                why = text;
                Ok(None)
            }
            Err(error) => {
                why = error.to_string();
                Ok(None)
            }
        }
    });
    done.map_err(|error| match error {
        SurviveError::Late(what) => SurviveError::Late(format!("{what}: {why}")),
        other => other,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Set in the number of a record that is large.
const LARGE: u64 = 1 << 62;
const OUTSTANDING: usize = 1 << 14;
const PAUSE: Duration = Duration::from_millis(1);
const MAX_BEHIND_NS: u64 = 200_000_000;
const PATIENCE: Duration = Duration::from_secs(20);
