//! A shard as a task in a glommio executor: it yields to its neighbours every turn, and sleeps on the ring's eventfd.

use std::io;
use std::time::Duration;

use glommio::io::BufferedFile;

use crate::error::StartError;
use crate::node::{Stopped, refused};
use crate::shard::seed::ShardSeed;
use crate::shard::{Pace, Shard};

impl ShardSeed {
    /// Carries the shard as a task of the glommio executor that polls this future, until the node stops. The ring,
    /// the arena and the log stay on this thread; the executor's other tasks get their turn after each of the
    /// shard's.
    ///
    /// # Errors
    /// [`StartError`] when the shard cannot start here, and how it ended when that was not by a clean stop.
    pub async fn run_in_glommio(self) -> Result<Result<(), String>, StartError> {
        // However this future ends, dropped included: nobody waits for the shard after that.
        let _stopped = Stopped(self.handle().shared);
        let shard = self.grow()?;
        carry(shard).await.map_err(StartError::system("sleep on the ring's eventfd"))
    }
}

pub(crate) async fn carry(mut shard: Shard) -> io::Result<Result<(), String>> {
    // Completions signal the very eventfd that producers signal: one sleep waits for both.
    let event = towline_uring::glommio_eventfd(shard.share_event()?)?;
    loop {
        match shard.turn() {
            Pace::Spin => {
                rustix::thread::sched_yield();
                glommio::yield_if_needed().await;
                glommio::executor().yield_task_queue_now().await;
            }
            Pace::Park(limit) => sleep(&mut shard, &event, limit).await?,
            Pace::Ended => {
                // The read that may still be in flight ends before the file goes.
                event.close().await.map_err(io::Error::from)?;
                return Ok(shard.finish());
            }
        }
    }
}

async fn sleep(shard: &mut Shard, event: &BufferedFile, limit: Duration) -> io::Result<()> {
    if !shard.begin_sleep(limit) {
        return Ok(());
    }
    // Neighbours run while this waits: the executor's own ring does the waiting.
    let woken = event.read_at(0, 8).await.map_err(io::Error::from);
    shard.end_sleep();
    woken.map(drop)
}

/// An executor for this shard alone, on the present thread.
pub(crate) fn carry_alone(
    seed: ShardSeed,
    up: &crossbeam::channel::Sender<Result<(), StartError>>,
) -> Result<(), String> {
    let builder = glommio::LocalExecutorBuilder::default().io_memory(IO_MEMORY_BYTES).ring_depth(RING_DEPTH);
    let executor = match builder.make() {
        Ok(executor) => executor,
        Err(error) => {
            let source = io::Error::other(error.to_string());
            return refused(up, StartError::System { what: "make a glommio executor", source });
        }
    };
    executor.run(async {
        match seed.grow() {
            Ok(shard) => {
                let _ = up.send(Ok(()));
                carry(shard).await.unwrap_or_else(|error| Err(error.to_string()))
            }
            Err(error) => refused(up, error),
        }
    })
}

/// The executor does no disk I/O of its own: what it registers counts against the memlock limit.
const IO_MEMORY_BYTES: usize = 64 << 10;
const RING_DEPTH: usize = 16;
