//! How a node is opened: what a log and a standby have in common, once.

use std::fmt;
use std::net::SocketAddr;

use towline_core::node::Event;
use towline_runtime::{Host, NodeOptions, PeerAddress, Primitive};

/// Options of a node that is about to be opened: a [`LogBuilder`](crate::LogBuilder) or a
/// [`StandbyBuilder`](crate::StandbyBuilder), by what it is opened as. What is not set is as in [`NodeOptions`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it opens"]
pub struct NodeBuilder<Kind> {
    pub(crate) options: NodeOptions,
    pub(crate) kind: Kind,
}

impl<Kind> NodeBuilder<Kind> {
    /// This node's name: in status tables and, a standby's, in sync rules. Default: `primary` or `standby`.
    pub fn name(mut self, name: &str) -> Self {
        self.options.name = name.to_owned();
        self
    }

    /// How many logs, each with a thread of its own; a standby receives as many as its primary has. Default: 1.
    pub fn shards(mut self, count: u16) -> Self {
        self.options.shards = count;
        self
    }

    /// Opens a port for clients, for the status and, on a standby, for its primary. Port 0 takes a free one. There is no
    /// authentication: choose a loopback address or a network you trust. Default: no port; a standby's is
    /// `127.0.0.1:7401`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.options.listen = Some(address);
        self
    }

    /// Ships to a standby that listens at `address` (`host:port`); `name` is its name in the sync rule. A standby ships
    /// on what it receives (cascading). May be called again for more.
    pub fn standby(mut self, name: &str, address: impl fmt::Display) -> Self {
        self.options.standbys.push(PeerAddress { name: name.to_owned(), address: address.to_string() });
        self
    }

    /// Bytes of each shard's arena, a power of two; it bounds what is in flight. Default: 64 MiB.
    pub fn arena_bytes(mut self, bytes: u64) -> Self {
        self.options.arena_bytes = bytes;
        self
    }

    /// Goes through the page cache, for a file system without direct I/O.
    pub fn buffered(mut self, buffered: bool) -> Self {
        self.options.buffered = buffered;
        self
    }

    /// How writes are made durable. Default: as calibrated for the device.
    pub fn primitive(mut self, primitive: Primitive) -> Self {
        self.options.primitive = Some(primitive);
        self
    }

    /// What carries the shard loops: a thread each, or a glommio executor. Default: a thread.
    pub fn host(mut self, host: Host) -> Self {
        self.options.host = host;
        self
    }

    /// Called with what an operator should know, on the shard's thread: it must return at once.
    pub fn on_event(mut self, sink: impl Fn(u16, &Event) + Send + Sync + 'static) -> Self {
        self.options.on_event = Some(std::sync::Arc::new(sink));
        self
    }

    /// Any other option, by its field.
    pub fn options(mut self, change: impl FnOnce(&mut NodeOptions)) -> Self {
        change(&mut self.options);
        self
    }
}

impl<Kind> fmt::Debug for NodeBuilder<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}
