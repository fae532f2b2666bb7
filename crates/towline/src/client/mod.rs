//! A client of a node's port: pipelined appends with a level each, tail, status, rule, trim.
//!
//! One [`Client`] is one connection to one shard. [`submit`](Client::submit) and [`recv`](Client::recv) are apart, so
//! that one thread keeps many appends outstanding; both sides stay bounded, and neither can block the other: while
//! the node takes no more bytes, the client goes on reading what it answers.
//!
//! ```no_run
//! use towline::{Level, client::Client};
//!
//! let mut client = Client::connect("127.0.0.1:7401", 0)?;
//! let first = client.submit(&[b"one"], Level::On, None)?;
//! let second = client.submit(&[b"two"], Level::Local, None)?;
//! for _ in [first, second] {
//!     let completion = client.recv()?;
//!     println!("{} {:?}", completion.request, completion.outcome);
//! }
//! # Ok::<(), towline::client::ClientError>(())
//! ```

mod connection;
mod error;
mod hand_over;
mod request;
mod status;
mod tail;

use std::collections::VecDeque;
use std::io::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use towline_core::format::Frame;
use towline_core::types::{Level, LogId, Lsn, NodeId, Window};
use towline_runtime::deadline;

pub use self::error::ClientError;
pub use self::hand_over::{PromoteOptions, Promotion};
pub use self::tail::{ClientTail, TailRecords};
pub use towline_core::format::{Committed, Outcome};

use self::connection::{Connection, Received};
pub(crate) use self::request::frame_name;
use self::request::{client_hello, record_lengths};

/// Bytes that may wait to be sent before `submit` itself waits for the node to take them.
const OUTPUT_BYTES: usize = 256 << 10;

/// As for a handle in the node's own process.
const RULE_LIMIT: Duration = Duration::from_secs(10);

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Requests that may be outstanding at once; `submit` answers [`ClientError::Full`] beyond.
    pub max_outstanding: usize,
    /// How long a waiting client polls (yielding the processor between polls) before it sleeps.
    pub spin: Duration,
    /// How long connecting, the hello and its answer may take together; and the answer to a status request.
    pub connect_timeout: Duration,
    /// The name this client gives in its hello.
    pub name: String,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            max_outstanding: 1024,
            spin: Duration::from_micros(50),
            connect_timeout: Duration::from_secs(3),
            name: "client".to_owned(),
        }
    }
}

/// The end of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The number that [`Client::submit`] returned.
    pub request: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A connection to one shard of a node.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    options: ClientOptions,
    log: LogId,
    node: NodeId,
    shards: u16,
    /// Requests from `first` on, in the order sent; `None` once answered.
    outstanding: VecDeque<Option<Asked>>,
    first: u64,
    unanswered: usize,
    ready: VecDeque<Completion>,
    /// The command whose answer is waited for. One that was given up may still be answered, and is not this one.
    awaited: u64,
    /// The answer to a request other than an append.
    answer: Option<Answer>,
    /// Status requests that are not answered yet; only the last one's answer is waited for.
    statuses: u32,
    awaits_status: bool,
    /// Set when the connection has ended; every request then outstanding is indeterminate.
    lost: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// An append or a wait: its end goes to `recv`.
    Append,
    /// A command: its end goes to the call that waits for it.
    Command,
}

#[derive(Debug)]
enum Answer {
    Done(String),
    Status(String),
    Promoted(Promotion),
    Paused(Lsn),
}

/// To wait for many connections at once: when it is readable, [`Client::try_recv`] makes progress.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Client {
    /// Connects to shard `shard` of the node at `address` with default options.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::Silent`], [`ClientError::Refused`] (another version, no such shard, too
    /// many connections) or [`ClientError::Protocol`].
    pub fn connect(address: impl ToSocketAddrs + std::fmt::Debug, shard: u16) -> Result<Client, ClientError> {
        Client::connect_with(address, shard, ClientOptions::default())
    }

    /// Connects with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with(
        address: impl ToSocketAddrs + std::fmt::Debug,
        shard: u16,
        options: ClientOptions,
    ) -> Result<Client, ClientError> {
        let deadline = deadline(options.connect_timeout);
        let mut connection = Connection::open(&address, deadline)?;
        connection.push(&Frame::Hello(client_hello(shard, &options.name)))?;
        let answer = connection.next_before(deadline, options.spin).map_err(|error| match error {
            // Nothing was asked for yet: there is nothing to be in doubt about.
            ClientError::Lost { address, why } => {
                let source = Error::other(format!("closed before the node answered ({why})"));
                ClientError::Connect { address: address.to_string(), source }
            }
            other => other,
        })?;
        let (log, node, shards) = match answer {
            Some(Received { frame: Frame::WelcomeClient { log, node, shards, .. }, .. }) => {
                (log, node, shards)
            }
            Some(Received { frame: Frame::Refused { code, message }, .. }) => {
                return Err(ClientError::Refused { address: connection.address(), code, message });
            }
            Some(Received { frame, .. }) => {
                return Err(connection.protocol_error(format!("{} instead of a welcome", frame_name(&frame))));
            }
            None => {
                let address = connection.address();
                return Err(ClientError::Silent { address, limit: options.connect_timeout });
            }
        };
        Ok(Client {
            connection,
            options,
            log,
            node,
            shards,
            outstanding: VecDeque::new(),
            first: 1,
            unanswered: 0,
            ready: VecDeque::new(),
            awaited: 0,
            answer: None,
            statuses: 0,
            awaits_status: false,
            lost: None,
        })
    }

    /// Where the node serves.
    pub fn address(&self) -> SocketAddr {
        self.connection.address()
    }

    /// The log served there.
    pub fn log_id(&self) -> LogId {
        self.log
    }

    /// The node that serves it.
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// Shards that the node serves; a connection speaks to one of them.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Requests whose end has not been received yet.
    pub fn outstanding(&self) -> usize {
        self.unanswered + self.ready.len()
    }

    /// Completions that have been received and not been taken: so often [`try_recv`](Client::try_recv) answers without
    /// asking the operating system.
    pub fn arrived(&self) -> usize {
        self.ready.len()
    }

    /// Sends records as one atomic append and returns its number; the end comes with [`recv`](Client::recv). The
    /// bytes leave at the next `recv`, `try_recv` or [`flush`](Client::flush), or when enough have gathered.
    ///
    /// # Errors
    /// [`ClientError::Full`] and [`ClientError::Invalid`] (no record, or over the limits): nothing was sent.
    /// [`ClientError::Lost`]: the outcome of everything outstanding is indeterminate and still comes by `recv`.
    pub fn submit(
        &mut self,
        payloads: &[&[u8]],
        level: Level,
        window: Option<Window>,
    ) -> Result<u64, ClientError> {
        let lengths = record_lengths(payloads)?;
        let request = self.start(Asked::Append)?;
        let frame = Frame::Append { request, level, window, lengths };
        let sent = self.connection.push(&frame);
        self.sent(sent)?;
        for payload in payloads {
            self.connection.push_bytes(payload);
        }
        while self.lost.is_none() && self.connection.pending_output() > OUTPUT_BYTES {
            self.turn(None)?;
        }
        Ok(request)
    }

    /// Asks for a completion when everything up to `lsn` is safe at `level`; the end comes with [`recv`](Client::recv).
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn submit_wait(&mut self, lsn: Lsn, level: Level) -> Result<u64, ClientError> {
        let request = self.start(Asked::Append)?;
        let sent = self.connection.push(&Frame::Wait { request, lsn, level });
        self.sent(sent)?;
        Ok(request)
    }

    /// Hands what was submitted to the operating system without waiting for an answer.
    ///
    /// # Errors
    /// [`ClientError::Lost`] and [`ClientError::Protocol`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        if self.lost.is_none() {
            let sent = self.connection.push_out();
            self.sent(sent)?;
        }
        // It takes no more: perhaps because its answers are not taken.
        while self.lost.is_none() && self.connection.pending_output() > 0 {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Waits for the next completion, in the order in which requests end. After a lost connection it returns every
    /// outstanding append once, as indeterminate.
    ///
    /// # Errors
    /// [`ClientError::Idle`] when nothing is outstanding, [`ClientError::Lost`] when besides the connection is gone,
    /// [`ClientError::Protocol`].
    pub fn recv(&mut self) -> Result<Completion, ClientError> {
        loop {
            if let Some(completion) = self.try_recv()? {
                return Ok(completion);
            }
            self.turn(None)?;
        }
    }

    /// Waits for the next completion, at most `timeout`.
    ///
    /// # Errors
    /// As [`Client::recv`], and [`ClientError::Timeout`]: the request is still outstanding.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Completion, ClientError> {
        let deadline = deadline(timeout);
        loop {
            if let Some(completion) = self.try_recv()? {
                return Ok(completion);
            }
            if Instant::now() >= deadline {
                return Err(ClientError::Timeout(timeout));
            }
            self.turn(Some(deadline))?;
        }
    }

    /// The next completion if one has arrived; never waits.
    ///
    /// # Errors
    /// As [`Client::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Completion>, ClientError> {
        if self.ready.is_empty() && self.lost.is_none() {
            self.pump()?;
        }
        match self.ready.pop_front() {
            Some(completion) => Ok(Some(completion)),
            None => match &self.lost {
                Some(why) => Err(self.lost_error(why.clone())),
                None if self.unanswered == 0 => Err(ClientError::Idle),
                None => Ok(None),
            },
        }
    }

    /// Appends one record and waits for its acknowledgement.
    ///
    /// # Errors
    /// [`ClientError::Rejected`]: nothing was written. [`ClientError::Indeterminate`] and [`ClientError::Lost`]: it
    /// may be in the log or not. Else as [`Client::submit`].
    pub fn append(
        &mut self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Committed, ClientError> {
        let request = self.submit(&[payload], level, window)?;
        self.end_of(request)
    }

    /// Waits until everything up to `lsn` is safe at `level`.
    ///
    /// # Errors
    /// As [`Client::append`].
    pub fn wait(&mut self, lsn: Lsn, level: Level) -> Result<Committed, ClientError> {
        let request = self.submit_wait(lsn, level)?;
        self.end_of(request)
    }

    /// Changes the sync rule; returns when the new rule is in force: when the change is safe under the old rule and the
    /// new one, which needs the standbys of both. Waits for that at most 10 s.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason: a rule that cannot be read or cannot be met by the standbys
    /// configured, or a change before it that is not in force yet. [`ClientError::Timeout`]: it is in the log, and comes
    /// into force when the standbys of both rules are there. [`ClientError::Lost`]: it may be in force or not.
    pub fn set_rule(&mut self, rule: &str) -> Result<(), ClientError> {
        self.set_rule_within(rule, RULE_LIMIT)
    }

    /// As [`set_rule`](Client::set_rule), and waits at most `limit`.
    ///
    /// # Errors
    /// As [`set_rule`](Client::set_rule).
    pub fn set_rule_within(&mut self, rule: &str, limit: Duration) -> Result<(), ClientError> {
        let request = self.start(Asked::Command)?;
        self.command(request, &Frame::SetRule { request, rule: rule.to_owned() }, Some(limit))
    }

    /// Lets the node recycle what lies below `below`; standbys that still need it hold it back.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason, [`ClientError::Lost`].
    pub fn trim(&mut self, below: Lsn) -> Result<(), ClientError> {
        let request = self.start(Asked::Command)?;
        self.command(request, &Frame::Trim { request, below }, None)
    }

    /// Follows the log with this connection: the records that begin at or after `from`; 0 is the log's start. Without
    /// `unsafe_too` the node sends only what it has flushed and the sync rule has made safe. Whether it still has
    /// `from`, and whether anything begins where it has no record yet, the first batch says.
    ///
    /// # Errors
    /// [`ClientError::Full`] while requests are outstanding; [`ClientError::Lost`].
    pub fn tail(mut self, from: Lsn, unsafe_too: bool) -> Result<ClientTail, ClientError> {
        if self.outstanding() > 0 {
            return Err(ClientError::Full { limit: 0 });
        }
        self.connection.push(&Frame::Tail { from, unsafe_too })?;
        Ok(ClientTail::new(self.connection, self.options.spin))
    }

    /// Takes a number for a request, or says why none may be sent.
    fn start(&mut self, asked: Asked) -> Result<u64, ClientError> {
        if let Some(why) = &self.lost {
            return Err(self.lost_error(why.clone()));
        }
        if self.outstanding() >= self.options.max_outstanding {
            return Err(ClientError::Full { limit: self.options.max_outstanding });
        }
        let request = self.first + self.outstanding.len() as u64;
        self.outstanding.push_back(Some(asked));
        self.unanswered += 1;
        Ok(request)
    }

    fn command(&mut self, request: u64, frame: &Frame, limit: Option<Duration>) -> Result<(), ClientError> {
        match self.ask(request, frame, limit)? {
            Answer::Done(error) if error.is_empty() => Ok(()),
            Answer::Done(error) => Err(ClientError::Rejected(error)),
            _ => Err(self.connection.protocol_error("an answer to something else".to_owned())),
        }
    }

    /// Sends a command and waits for its answer, at most `limit`.
    fn ask(&mut self, request: u64, frame: &Frame, limit: Option<Duration>) -> Result<Answer, ClientError> {
        self.awaited = request;
        let sent = self.connection.push(frame);
        self.sent(sent)?;
        self.await_answer(limit)
    }

    fn await_answer(&mut self, limit: Option<Duration>) -> Result<Answer, ClientError> {
        let deadline = limit.map(deadline);
        loop {
            self.pump()?;
            if let Some(answer) = self.answer.take() {
                return Ok(answer);
            }
            if let Some(why) = &self.lost {
                return Err(self.lost_error(why.clone()));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(ClientError::Timeout(limit.unwrap_or_default()));
            }
            self.turn(deadline)?;
        }
    }

    /// Waits for the end of one append; ends of others that come first are kept for `recv`.
    fn end_of(&mut self, request: u64) -> Result<Committed, ClientError> {
        loop {
            if let Some(at) = self.ready.iter().position(|completion| completion.request == request) {
                return match self.ready.remove(at).map(|completion| completion.outcome) {
                    Some(Outcome::Committed(committed)) => Ok(committed),
                    Some(Outcome::Refused(why)) => Err(ClientError::Rejected(why)),
                    Some(Outcome::Indeterminate(why)) => Err(ClientError::Indeterminate(why)),
                    None => Err(ClientError::Idle),
                };
            }
            if let Some(why) = &self.lost {
                return Err(self.lost_error(why.clone()));
            }
            self.turn(None)?;
        }
    }

    /// One turn: send and receive what can be, wait for the socket when nothing could, at most until `deadline`.
    fn turn(&mut self, deadline: Option<Instant>) -> Result<(), ClientError> {
        let moved = self.pump()?;
        if !moved && self.lost.is_none() && self.ready.is_empty() && self.answer.is_none() {
            let spin = self.options.spin;
            let waited = self.connection.wait(deadline, spin);
            self.sent(waited)?;
            self.take_frames()?;
        }
        Ok(())
    }

    /// Sends and receives what can be without waiting; whether anything moved.
    fn pump(&mut self) -> Result<bool, ClientError> {
        let moved = match self.connection.pump() {
            Ok(moved) => moved,
            Err(error) => {
                // Answers that arrived before the end still count.
                self.take_frames()?;
                self.lose(error)?;
                return Ok(true);
            }
        };
        self.take_frames()?;
        Ok(moved)
    }

    fn take_frames(&mut self) -> Result<(), ClientError> {
        loop {
            match self.connection.next() {
                Ok(Some(received)) => self.take(received.frame)?,
                Ok(None) => return Ok(()),
                Err(error) => return self.lose(error),
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), ClientError> {
        match frame {
            Frame::Appended { request, outcome } => match self.finish(request) {
                Some(Asked::Append) => self.ready.push_back(Completion { request, outcome }),
                _ => {
                    return self.lose(
                        self.unexpected(format!("an answer to request {request}, which is not outstanding")),
                    );
                }
            },
            Frame::Done { request, error } => match self.finish(request) {
                Some(Asked::Command) => self.answered(request, Answer::Done(error)),
                Some(Asked::Append) => {
                    self.ready.push_back(Completion { request, outcome: Outcome::Refused(error) });
                }
                None => {
                    return self.lose(
                        self.unexpected(format!("an answer to request {request}, which is not outstanding")),
                    );
                }
            },
            Frame::Promoted { request, term, start, adopters, warnings } => {
                self.finish(request);
                let warnings = warnings.lines().map(str::to_owned).collect();
                self.answered(request, Answer::Promoted(Promotion { term, start, adopters, warnings }));
            }
            Frame::Paused { request, end } => {
                self.finish(request);
                self.answered(request, Answer::Paused(end));
            }
            Frame::Status { json } => {
                self.statuses = self.statuses.saturating_sub(1);
                if self.statuses == 0 && self.awaits_status {
                    self.answer = Some(Answer::Status(json));
                }
            }
            Frame::Heartbeat { term } => self.connection.push(&Frame::Heartbeat { term })?,
            Frame::Refused { code, message } => {
                let address = self.connection.address();
                return self.lose(ClientError::Refused { address, code, message });
            }
            other => return self.lose(self.unexpected(frame_name(&other))),
        }
        Ok(())
    }

    fn answered(&mut self, request: u64, answer: Answer) {
        if request == self.awaited {
            self.answer = Some(answer);
        }
    }

    fn finish(&mut self, request: u64) -> Option<Asked> {
        let at = usize::try_from(request.checked_sub(self.first)?).ok()?;
        let asked = self.outstanding.get_mut(at)?.take()?;
        self.unanswered -= 1;
        while self.outstanding.front() == Some(&None) {
            self.outstanding.pop_front();
            self.first += 1;
        }
        Some(asked)
    }

    /// The connection has ended: every append that was not answered is indeterminate.
    fn lose(&mut self, error: ClientError) -> Result<(), ClientError> {
        if self.lost.is_some() {
            return Ok(());
        }
        let why = match &error {
            ClientError::Lost { why, .. } => why.clone(),
            other => other.to_string(),
        };
        for (at, asked) in std::mem::take(&mut self.outstanding).into_iter().enumerate() {
            if asked == Some(Asked::Append) {
                let outcome = Outcome::Indeterminate(format!("connection lost: {why}"));
                self.ready.push_back(Completion { request: self.first + at as u64, outcome });
            }
        }
        self.unanswered = 0;
        self.lost = Some(why);
        Ok(())
    }

    fn sent(&mut self, result: Result<(), ClientError>) -> Result<(), ClientError> {
        match result {
            Err(error @ (ClientError::Lost { .. } | ClientError::Protocol { .. })) => self.lose(error),
            other => other,
        }
    }

    fn lost_error(&self, why: String) -> ClientError {
        ClientError::Lost { address: self.connection.address(), why }
    }

    fn unexpected(&self, what: String) -> ClientError {
        self.connection.protocol_error(format!("unexpected {what}"))
    }
}
