//! What talks to a running node over its port.

mod admin;
mod append;
mod input;
mod stall;
mod status;
mod tail;

pub(crate) use admin::{RuleArgs, TrimArgs, rule, trim};
pub(crate) use append::{AppendArgs, append};
pub(crate) use status::{StatusArgs, new_table, shard_status, status};
pub(crate) use tail::{Format, TailArgs, print_record, tail};

use clap::Args;
use towline::client::{Client, ClientError, ClientOptions};

/// Which node and which of its logs.
#[derive(Args, Debug, Clone)]
pub(crate) struct Target {
    /// The node's address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7401")]
    address: String,
    /// The shard
    #[arg(long, value_name = "N", default_value_t = 0)]
    shard: u16,
}

impl Target {
    fn connect(&self, options: ClientOptions) -> Result<Client, ClientError> {
        Client::connect_with(self.address.as_str(), self.shard, options)
    }
}
