//! A client that keeps many appends outstanding, and writes down what it was told.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use towline::client::{Client, Committed, Outcome};
use towline_core::types::{Level, Window};

/// One append as its client saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub level: Level,
    pub window: Option<Window>,
    pub called: Instant,
    pub answered: Instant,
    pub ack: Committed,
}

/// What the appends ask for, one after the other.
pub const ASKS: [(Level, Option<Window>); 12] = [
    (Level::On, Some(Window::Bytes(BYTES))),
    (Level::On, Some(Window::Records(RECORDS))),
    (Level::On, Some(Window::Micros(MICROS))),
    (Level::Local, None),
    (Level::RemoteWrite, Some(Window::Bytes(2 * BYTES))),
    (Level::RemoteApply, Some(Window::Records(2 * RECORDS))),
    (Level::RemoteWrite, Some(Window::Micros(2 * MICROS))),
    (Level::On, None),
    (Level::RemoteApply, Some(Window::Bytes(BYTES))),
    (Level::On, Some(Window::Infinite)),
    (Level::On, Some(Window::Bytes(0))),
    (Level::RemoteWrite, None),
];

// Less than what is outstanding during a round trip, so that they bind, and more than one batch now and then has.
const BYTES: u64 = 6_000;
const RECORDS: u64 = 16;
const MICROS: u64 = 2_500;

/// Keeps `outstanding` appends on their way until `count` are done; `during(n)` is called before the n-th.
pub fn run(
    address: SocketAddr,
    count: usize,
    outstanding: usize,
    mut during: impl FnMut(usize),
) -> Vec<Seen> {
    let mut client = Client::connect(address, 0).unwrap();
    let mut asked = Vec::with_capacity(count);
    let mut seen = Vec::with_capacity(count);
    let mut first = None;
    while seen.len() < count {
        while asked.len() < count && asked.len() - seen.len() < outstanding {
            let number = asked.len();
            during(number);
            let (level, window) = ASKS[number % ASKS.len()];
            let payload = vec![number as u8; 100 + number * 37 % 700];
            let called = Instant::now();
            let request = client.submit(&[&payload], level, window).unwrap();
            first.get_or_insert(request);
            asked.push((level, window, called));
        }
        let completion = client.recv_timeout(PATIENCE).unwrap();
        let answered = Instant::now();
        let Outcome::Committed(ack) = completion.outcome else { panic!("{completion:?}") };
        let (level, window, called) = asked[(completion.request - first.unwrap()) as usize];
        seen.push(Seen { level, window, called, answered, ack });
    }
    seen
}

const PATIENCE: Duration = Duration::from_secs(30);
