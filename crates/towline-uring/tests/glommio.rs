//! A ring inside a glommio executor, asleep on its eventfd, beside a neighbour's task.
#![cfg(feature = "glommio")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use towline_uring::{
    ArenaConfig, ArenaOwner, Backing, DataFile, EventFd, FileMode, Ring, RingConfig, Wait, WritePrimitive,
    glommio_eventfd,
};

#[test]
fn a_task_sleeps_on_the_ring_while_a_neighbour_runs() {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(256 * 1024)
        .spawn(|| async move {
            let turns = Rc::new(Cell::new(0));
            let neighbour = glommio::spawn_local({
                let turns = Rc::clone(&turns);
                async move {
                    loop {
                        turns.set(turns.get() + 1);
                        glommio::timer::sleep(Duration::from_micros(100)).await;
                    }
                }
            });
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let mut ring = Ring::new(RingConfig::default(), arena()).unwrap();
            let event = EventFd::new().unwrap();
            ring.register_eventfd(&event).unwrap();
            let sleeper = glommio_eventfd(&event).unwrap();
            let file = DataFile::create(dir.path().join("log"), FileMode::Direct).unwrap();
            file.prealloc_zeroed(4096).unwrap();
            let fd = ring.attach(&file).unwrap();
            for n in 0..50 {
                ring.write_durable(fd, 0, 0..4096, WritePrimitive::Dsync, n).unwrap();
                ring.submit_and_wait(Wait::No).unwrap();
                let mut done = 0;
                while done == 0 {
                    sleeper.read_at(0, 8).await.unwrap();
                    ring.submit_and_wait(Wait::Poll).unwrap();
                    ring.drain(|completion| {
                        assert_eq!((completion.tag, completion.result), (n, Ok(4096)));
                        done += 1;
                    });
                }
            }
            sleeper.close().await.unwrap();
            neighbour.cancel().await;
            assert!(turns.get() > 10, "the neighbour had {} turns", turns.get());
        })
        .unwrap()
        .join()
        .unwrap();
}

fn arena() -> ArenaOwner {
    ArenaOwner::new(ArenaConfig {
        size: 64 * 1024,
        backing: Backing::Anonymous,
        block: 4096,
        header_len: 128,
        void_header: |len| (len as u64).to_le_bytes(),
        start: 0,
    })
    .unwrap()
}
