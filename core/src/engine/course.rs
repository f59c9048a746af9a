//! How far a question has come on its way through the chain.

use super::detour::{Alias, Detour};
use crate::cache::Key;
use crate::hash::KeyedState;
use crate::upstream::{Route, Way};
use crate::wire::{Asker, ClientSubnet, Name, RecordClass, RecordType};

/// A question on its way through the chain.
#[derive(Debug)]
pub(super) struct Course {
    /// What is looked up now.
    pub(super) key: Key,
    pub(super) record_type: RecordType,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
    /// What the client says of its network.
    pub(super) said: Option<ClientSubnet>,
    /// What upstreams are told of it.
    pub(super) subnet: Option<ClientSubnet>,
    /// Who may be asked.
    pub(super) route: Route,
    /// A plugin has put this question in place of the client's, and was not asked about it.
    pub(super) past_policy: bool,
    /// How it came from the client's question to this one.
    pub(super) detour: Detour,
    /// The place of the stage in the chain that comes next.
    pub(super) stage: usize,
    pub(super) policy: PolicyProgress,
}

/// How far the plugins are.
#[derive(Debug, Default)]
pub(super) struct PolicyProgress {
    /// The place, among the group's plugins, of the one that comes next.
    pub(super) next: usize,
    /// All have been asked: they are asked once for a question.
    pub(super) done: bool,
    /// What they have made of the question so far.
    pub(super) rewritten: Option<Rewritten>,
}

/// A question that plugins put in place of the client's.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) name: Name,
    pub(super) record_type: RecordType,
}

impl Course {
    /// The key of a name under what else is asked.
    pub(super) fn key_of(&self, hash: &KeyedState, name: &[u8], past_policy: bool) -> Key {
        Key::new(
            hash,
            name,
            self.record_type,
            RecordClass::IN,
            self.dnssec_ok,
            self.checking_disabled,
            self.subnet.as_ref().map(ClientSubnet::scope),
            Way { route: self.route, past_policy },
        )
    }

    /// The key of the same question from somebody whom plugins have let through.
    pub(super) fn key_let_through(&self, hash: &KeyedState) -> Key {
        self.key_of(hash, self.key.name(), false)
    }

    /// Goes on with another name that the present one stands for; the key and what depends on it are
    /// the caller's to renew.
    pub(super) fn follow(&mut self, asker: &Asker<'_>, to: Rewritten, ttl: u32) {
        self.stage = 0;
        self.record_type = to.record_type;
        self.detour.record_type =
            Some(to.record_type).filter(|record_type| *record_type != asked_type(asker));
        if to.name.as_wire() != self.key.name() {
            self.detour.aliases.push(Alias { target: to.name, ttl });
        }
    }
}

/// The type that a client asks for.
pub(super) fn asked_type(asker: &Asker<'_>) -> RecordType {
    let type_and_class = asker.question.last_chunk::<4>();
    type_and_class
        .map_or(RecordType(0), |[high, low, ..]| RecordType(u16::from_be_bytes([*high, *low])))
}
