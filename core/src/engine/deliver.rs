//! Replies and queries on their way out: into the caller's batch if there is one with room, else
//! into the outbox; onto streams always through the connection's own buffer.

use super::question::{Client, Written, count_reply};
use super::waiter::Waiter;
use super::{Engine, Event, QueryRecord, ReplyTo};
use crate::batch::{TransmitBatch, Via};
use crate::limits::OUTBOX_DATAGRAMS;
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::policy::Reason;
use crate::time::{Duration, Instant};
use crate::wire::{Asker, Rcode, RecordType, ReplySettings};

/// The batch of the call that is being handled, if it has one.
#[derive(Debug)]
pub(super) struct Out<'a>(pub(super) Option<&'a mut TransmitBatch>);

/// A datagram that waits for [`Engine::poll_transmit`].
#[derive(Debug)]
pub(super) struct Late {
    via: Via,
    bytes: Box<[u8]>,
}

impl Engine {
    /// Writes a waiter's reply and sends it on its way.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        waiter: Waiter,
        rcode: Rcode,
        reason: Reason,
        out: &mut Out<'_>,
        write: impl Fn(&mut [u8], &Asker<'_>, ReplySettings) -> usize,
    ) {
        let settings = ReplySettings { udp_size: self.snapshot.listen.udp_size };
        let asker = waiter.asker();
        match waiter.reply_to {
            ReplyTo::Datagram(via) => {
                let counters = &self.metrics.counters;
                if let Some(mut slot) = out.0.as_mut().and_then(|batch| batch.reserve()) {
                    let reply = slot.buffer();
                    let len = write(reply, &asker, settings);
                    count_reply(counters, rcode, &reply[..len]);
                    slot.commit(via, len);
                } else {
                    let len = write(&mut self.scratch, &asker, settings);
                    self.hand_over(now, waiter.reply_to, rcode, len, &mut Out(None));
                }
            }
            ReplyTo::Stream(_) | ReplyTo::Exchange(_) => {
                let len = write(&mut self.scratch, &asker, settings);
                self.hand_over(now, waiter.reply_to, rcode, len, out);
            }
        }
        if is_planted(Bug::ReplyTwice)
            && let ReplyTo::Datagram(via) = waiter.reply_to
        {
            let len = write(&mut self.scratch, &asker, settings);
            self.send_late(now, via, self.scratch[..len].into());
        }
        self.log_query(now, waiter.client, &asker, rcode, reason, waiter.arrived);
    }

    /// Sends the reply in the scratch buffer to whoever has waited for it, and counts it. What has not
    /// waited long enough for its batch to leave goes with it, in its turn.
    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        reply_to: ReplyTo,
        rcode: Rcode,
        len: usize,
        out: &mut Out<'_>,
    ) {
        let taken = match reply_to {
            ReplyTo::Datagram(via) => {
                let reply = &self.scratch[..len];
                let slot = out.0.as_mut().and_then(|batch| batch.reserve());
                let is_sent = slot.is_some_and(|mut slot| {
                    let Some(room) = slot.buffer().get_mut(..len) else { return false };
                    room.copy_from_slice(reply);
                    slot.commit(via, len);
                    true
                });
                if !is_sent {
                    let bytes = reply.into();
                    self.send_late(now, via, bytes);
                }
                true
            }
            ReplyTo::Stream(conn) => self.answer_stream(now, conn, len),
            ReplyTo::Exchange(exchange) => self.answer_exchange(now, exchange, len),
        };
        let uncounted =
            is_planted(Bug::StreamReplyUncounted) && matches!(reply_to, ReplyTo::Stream(_));
        if !taken {
            self.metrics.counters.count(Counter::DroppedClientGone);
        } else if !uncounted {
            count_reply(&self.metrics.counters, rcode, &self.scratch[..len]);
        }
    }

    /// A client that has waited gets no reply.
    pub(super) fn ignore(&mut self, now: Instant, reply_to: ReplyTo) {
        self.metrics.counters.count(Counter::DroppedPolicy);
        match reply_to {
            ReplyTo::Datagram(_) => {}
            ReplyTo::Stream(conn) => self.ignore_on_stream(now, conn),
            ReplyTo::Exchange(exchange) => self.ignore_exchange(now, exchange),
        }
    }

    /// Logs a query that was answered at once, if queries are logged.
    pub(super) fn log_written(&mut self, now: Instant, client: Client, written: &Written<'_>) {
        self.log_query(now, client, &written.asker, written.rcode, written.reason, now);
    }

    pub(super) fn log_query(
        &mut self,
        now: Instant,
        client: Client,
        asker: &Asker<'_>,
        rcode: Rcode,
        reason: Reason,
        arrived: Instant,
    ) {
        if !self.snapshot.logging.log_queries {
            return;
        }
        let (name, record_type) = match asker.question.split_last_chunk::<4>() {
            Some((name, [high, low, ..])) => (name, u16::from_be_bytes([*high, *low])),
            None => (&[][..], 0),
        };
        let took: Duration = now.since(arrived);
        self.report(
            now,
            Event::Query(Box::new(QueryRecord {
                client: client.address,
                transport: client.transport,
                name: name.into(),
                record_type: RecordType(record_type),
                rcode,
                reason,
                took,
            })),
        );
    }

    /// Puts a datagram into the batch at hand, or into the outbox.
    pub(super) fn send(&mut self, now: Instant, via: Via, bytes: &[u8], out: &mut Out<'_>) {
        if let Some(mut slot) = out.0.as_mut().and_then(|batch| batch.reserve())
            && let Some(room) = slot.buffer().get_mut(..bytes.len())
        {
            room.copy_from_slice(bytes);
            slot.commit(via, bytes.len());
        } else {
            self.send_late(now, via, bytes.into());
        }
    }

    pub(super) fn send_late(&mut self, now: Instant, via: Via, bytes: Box<[u8]>) {
        if self.outbox.len() >= OUTBOX_DATAGRAMS {
            self.report_limit(now, Counter::LimitOutbox, "outbox");
            return;
        }
        self.outbox.push_back(Late { via, bytes });
    }

    /// Moves waiting datagrams into the batch; whether more are left than fitted.
    pub(super) fn flush_outbox(&mut self, transmit: &mut TransmitBatch) -> bool {
        while let Some(late) = self.outbox.front() {
            let Some(mut slot) = transmit.reserve() else {
                return true;
            };
            if let Some(room) = slot.buffer().get_mut(..late.bytes.len()) {
                room.copy_from_slice(&late.bytes);
                slot.commit(late.via, late.bytes.len());
            } else {
                // The caller's slots are smaller than the engine was told they are.
                self.metrics.counters.count(Counter::SendFailures);
            }
            self.outbox.pop_front();
        }
        false
    }
}
