//! Orders to a mount in another process: one line of JSON each way over an abstract Unix socket.
//!
//! The socket's name is the target of a hidden link at the mount's root, so a mount is found by its path, and nothing
//! is left behind when a process dies.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::disk::{Cut, CutReport, HIDDEN, Status};
use crate::faults::FaultChange;
use crate::shared::Shared;

/// A mount that another process holds, found by its path.
#[derive(Clone, Debug)]
pub struct Remote {
    mountpoint: PathBuf,
    name: OsString,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no live mount of powercut.
    #[error("{path}: no powercut is mounted there ({source}); `powercut mount {path} --over DIR` makes one")]
    NotMounted {
        /// Where it was looked for.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The mount's process did not answer.
    #[error("{path}: its powercut does not answer: {source}")]
    Connection {
        /// The mount.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The mount refused.
    #[error("{path}: {why}")]
    Refused {
        /// The mount.
        path: PathBuf,
        /// What it said.
        why: String,
    },
}

impl Remote {
    /// Finds the mount at `mountpoint`.
    ///
    /// # Errors
    /// [`ControlError::NotMounted`].
    pub fn find(mountpoint: &Path) -> Result<Self, ControlError> {
        let not_mounted = |source| ControlError::NotMounted { path: mountpoint.to_owned(), source };
        let name = std::fs::read_link(mountpoint.join(HIDDEN)).map_err(not_mounted)?.into_os_string();
        if !name.as_bytes().starts_with(PREFIX) {
            return Err(not_mounted(io::Error::other("its control has another name")));
        }
        Ok(Self { mountpoint: mountpoint.to_owned(), name })
    }

    /// Cuts the power; see [`Mount::cut`](crate::Mount::cut).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn cut(&self, cut: Cut, restore: bool) -> Result<CutReport, ControlError> {
        match self.order(&Order::Cut { cut, restore })? {
            Answer::Cut(report) => Ok(report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Switches the power on again.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn restore(&self) -> Result<(), ControlError> {
        self.order(&Order::Restore).map(drop)
    }

    /// Changes the troubles.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn change_faults(&self, change: FaultChange) -> Result<(), ControlError> {
        self.order(&Order::Faults(change)).map(drop)
    }

    /// What the mount holds.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn status(&self) -> Result<Status, ControlError> {
        match self.order(&Order::Status)? {
            Answer::Status(status) => Ok(status),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Asks the process to make everything durable, unmount and end; waits until it has.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn unmount(&self) -> Result<(), ControlError> {
        self.order(&Order::Unmount)?;
        let deadline = Instant::now() + UNMOUNT_LIMIT;
        while self.connect().is_ok() {
            if Instant::now() > deadline {
                return Err(self.failed(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn order(&self, order: &Order) -> Result<Answer, ControlError> {
        let ask = || -> io::Result<Answer> {
            let mut stream = self.connect()?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            let mut line = serde_json::to_vec(order)?;
            line.push(b'\n');
            stream.write_all(&line)?;
            let mut answer = String::new();
            BufReader::new(stream).take(MAX_LINE).read_line(&mut answer)?;
            Ok(serde_json::from_str(&answer)?)
        };
        match ask().map_err(|error| self.failed(error))? {
            Answer::Refused(why) => Err(ControlError::Refused { path: self.mountpoint.clone(), why }),
            answer => Ok(answer),
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(self.name.as_bytes())?)
    }

    fn failed(&self, source: io::Error) -> ControlError {
        ControlError::Connection { path: self.mountpoint.clone(), source }
    }

    fn unexpected(&self, answer: &Answer) -> ControlError {
        self.failed(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {answer:?}")))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Cut { cut: Cut, restore: bool },
    Restore,
    Faults(FaultChange),
    Status,
    Unmount,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Cut(CutReport),
    Status(Status),
    Done,
    Refused(String),
}

/// Takes orders for one mount, until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    name: OsString,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A name that nobody else uses, and a socket that has it.
    pub(crate) fn bind() -> io::Result<(UnixListener, OsString)> {
        let mut name = PREFIX.to_vec();
        // Unique on this machine: a process and a time within it.
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        name.extend_from_slice(format!("{}-{}", std::process::id(), since.as_nanos()).as_bytes());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Ok((listener, OsStr::from_bytes(&name).to_owned()))
    }

    /// Starts to take orders. `unmount` is called when somebody asks for it.
    pub(crate) fn start(
        listener: UnixListener,
        name: OsString,
        shared: Arc<Shared>,
        unmount: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("powercut-control".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                match stream {
                    Ok(stream) => {
                        if let Err(error) = serve(stream, &shared, &unmount) {
                            eprintln!("powercut: an order got lost: {error}");
                        }
                    }
                    // Out of descriptors, say: not in a hot loop.
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Self { stop, name, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let woken = SocketAddr::from_abstract_name(self.name.as_bytes())
            .and_then(|address| UnixStream::connect_addr(&address));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn serve(stream: UnixStream, shared: &Shared, unmount: &impl Fn()) -> io::Result<()> {
    stream.set_read_timeout(Some(ORDER_LIMIT))?;
    stream.set_write_timeout(Some(ORDER_LIMIT))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?.uid;
    let mut line = String::new();
    let mut reader = BufReader::new(&stream).take(MAX_LINE);
    reader.read_line(&mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    // An abstract socket has no mode: anybody of this machine may connect.
    let answer = if !peer.is_root() && peer != rustix::process::geteuid() {
        Answer::Refused("the mount belongs to another user".to_owned())
    } else {
        match serde_json::from_str(&line) {
            Ok(order) => obey(&order, shared, unmount),
            Err(error) => Answer::Refused(format!("not an order of this version: {error}")),
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    (&stream).write_all(&bytes)
}

fn obey(order: &Order, shared: &Shared, unmount: &impl Fn()) -> Answer {
    match order {
        Order::Cut { cut, restore } => {
            let mut disk = shared.disk();
            match disk.cut(*cut) {
                Ok(report) => {
                    if *restore {
                        disk.restore();
                    }
                    Answer::Cut(report)
                }
                Err(rustix::io::Errno::ALREADY) => Answer::Refused("the power is off already".to_owned()),
                Err(errno) => {
                    Answer::Refused(format!("the directory below: {errno}; its contents are in doubt"))
                }
            }
        }
        Order::Restore => {
            shared.disk().restore();
            Answer::Done
        }
        Order::Faults(change) => {
            shared.disk().faults.apply(change);
            Answer::Done
        }
        Order::Status => Answer::Status(shared.disk().status()),
        Order::Unmount => {
            unmount();
            Answer::Done
        }
    }
}

const PREFIX: &[u8] = b"powercut-";
const MAX_LINE: u64 = 64 * 1024;
const ORDER_LIMIT: Duration = Duration::from_secs(5);
/// A cut rereads the whole directory below.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
const UNMOUNT_LIMIT: Duration = Duration::from_secs(60);
