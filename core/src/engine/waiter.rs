//! Waiters: what of a client's query is kept until its answer comes.

use super::ReplyTo;
use super::detour::Detour;
use super::question::Client;
use crate::time::Instant;
use crate::wire::{Asker, ClientEdns, Flags, ReplyOptions};

/// A client's query that waits for a fetch.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) client: Client,
    pub(super) reply_to: ReplyTo,
    id: u16,
    flags: Flags,
    question: Box<[u8]>,
    edns: Option<ClientEdns>,
    limit: usize,
    options: ReplyOptions,
    pub(super) arrived: Instant,
    /// When it is told that nothing has come.
    pub(super) deadline: Instant,
    /// How its answer differs from what is found; `None` if it does not.
    pub(super) detour: Option<Box<Detour>>,
}

impl Waiter {
    pub(super) fn new(
        asker: &Asker<'_>,
        client: Client,
        reply_to: ReplyTo,
        arrived: Instant,
        deadline: Instant,
        detour: Option<Box<Detour>>,
    ) -> Self {
        Self {
            client,
            reply_to,
            id: asker.id,
            flags: asker.flags,
            question: asker.question.into(),
            edns: asker.edns,
            limit: asker.limit,
            options: asker.options,
            arrived,
            deadline,
            detour,
        }
    }

    pub(super) fn asker(&self) -> Asker<'_> {
        Asker {
            id: self.id,
            flags: self.flags,
            question: &self.question,
            edns: self.edns,
            limit: self.limit,
            options: self.options,
        }
    }
}
