//! Ctrl-C: the first ends the run in order, the second everything at once.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Interrupt {
    pub(crate) stop: Arc<AtomicBool>,
    handle: Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Interrupt {
    pub(crate) fn install() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for Ctrl-C")?;
        let handle = signals.handle();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let watch = move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    towline_bench::process::kill_all();
                    std::process::exit(130);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(watch);
        Ok(Self { stop, handle, thread: Some(thread.context("cannot watch for Ctrl-C")?) })
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
