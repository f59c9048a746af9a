//! Clients' datagrams: a question that can be answered at once is answered into the batch at hand.

use super::question::{Client, Verdict, count_reply};
use super::{Engine, Out, ReplyTo};
use crate::batch::{TransmitBatch, Via};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;

impl Engine {
    pub(super) fn client_datagram(
        &mut self,
        now: Instant,
        client: Client,
        via: Via,
        message: &[u8],
        transmit: &mut TransmitBatch,
    ) {
        let verdict = if let Some(mut slot) = transmit.reserve() {
            let (mut desk, _) = self.desk();
            let reply = slot.buffer();
            let verdict = desk.decide(now, message, client, reply);
            if let Verdict::Reply(written) = &verdict {
                count_reply(desk.counters, written.rcode, &reply[..written.len]);
                slot.commit(via, written.len);
            }
            verdict
        } else {
            let verdict = self.decide_in_scratch(now, message, client);
            if let Verdict::Reply(written) = &verdict {
                let bytes = self.scratch[..written.len].into();
                self.send_late(now, via, bytes);
            }
            verdict
        };
        match verdict {
            Verdict::Drop => {}
            Verdict::Ignore => self.metrics.counters.count(Counter::DroppedPolicy),
            Verdict::Reply(written) => self.log_written(now, client, &written),
            Verdict::Forward(forward) => {
                let mut via = via;
                if is_planted(Bug::SourceAddressLost)
                    && let Via::Listener { source, .. } = &mut via
                {
                    *source = None;
                }
                let reply_to = ReplyTo::Datagram(via);
                self.forward(now, forward, client, reply_to, now, &mut Out(Some(transmit)));
            }
            Verdict::Suspend(forward, plugin) => {
                let reply_to = ReplyTo::Datagram(via);
                let mut out = Out(Some(transmit));
                self.suspend(now, forward, plugin, client, reply_to, now, &mut out);
            }
        }
    }
}
