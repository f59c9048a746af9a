//! Replies to questions that are blocked, for their name or for what their answer leads to.

use super::chain::Answered;
use super::course::asked_type;
use super::leads::{self, PRIVATE, marks_of};
use crate::config::Snapshot;
use crate::metrics::{Counter, Counters};
use crate::planted::{Bug, is_planted};
use crate::policy::{BlockSet, Group, Reason};
use crate::wire::{
    Asker, ErrorNote, Rcode, RecordType, ReplySettings, ResponseView, local_soa, write_local,
};

/// Answers a question in the way of a blacklist; `by` is told beside the extended error.
pub(super) fn write_blocked(
    set: &BlockSet,
    asker: &Asker<'_>,
    settings: ReplySettings,
    reason: Reason,
    by: &str,
    reply: &mut [u8],
) -> Answered {
    let mut answer = set.answer(asked_type(asker));
    if is_planted(Bug::BlockModeIgnored) {
        answer = BlockSet::default().answer(asked_type(asker));
    }
    let note = reason.extended_error().map(|error| ErrorNote { error, text: by });
    let authority = answer.authority.as_slice();
    let len = write_local(reply, asker, settings, answer.rcode, &answer.answers, authority, note);
    (len, answer.rcode, reason)
}

/// Blocks an answer for what it leads to: a listed name, or a private address.
pub(super) fn write_refused_lead(
    snapshot: &Snapshot,
    group: &Group,
    counters: &Counters,
    bits: u64,
    view: Option<&ResponseView<'_>>,
    asker: &Asker<'_>,
    reply: &mut [u8],
) -> Answered {
    let settings = ReplySettings { udp_size: snapshot.listen.udp_size };
    let set = snapshot.blocking.set(group.block_set);
    if let Some(set) = set
        && bits & !PRIVATE & marks_of(group.block_set) != 0
    {
        counters.count(Counter::BlockedLeads);
        let by = view.and_then(|view| leads::blocking_list(set, view)).unwrap_or_default();
        return write_blocked(set, asker, settings, Reason::Blocked, by, reply);
    }
    counters.count(Counter::Rebinding);
    let (rcode, reason) = (Rcode::NOERROR, Reason::Rebinding);
    let note = reason.extended_error().map(|error| ErrorNote { error, text: REBINDING });
    let soa = [local_soa(REBINDING_TTL)];
    let len = write_local(reply, asker, settings, rcode, &[], &soa, note);
    (len, rcode, reason)
}

/// What [`write_refused_lead`] answers, and why.
pub(super) fn refused_as(snapshot: &Snapshot, group: &Group, bits: u64) -> (Rcode, Reason) {
    let own = marks_of(group.block_set) & !PRIVATE;
    match snapshot.blocking.set(group.block_set).filter(|_| bits & own != 0) {
        // The rcode does not depend on the type.
        Some(set) => (set.answer(RecordType::A).rcode, Reason::Blocked),
        None => (Rcode::NOERROR, Reason::Rebinding),
    }
}

/// What clients are told of an answer that the rebinding guard holds back.
const REBINDING: &str = "private address in a public answer";
/// Seconds that such an answer may be remembered.
const REBINDING_TTL: u32 = 60;
