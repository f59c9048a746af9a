//! What has to come of a query: the configuration of the moment, the client and the name say it.

use std::net::IpAddr;

use balancedns_core::time::Instant;

use super::World;
use super::clients::{Question, Subject};
use crate::generation::{Asking, Blacklist, Decision, Mode, Policies};
use crate::message::{RD, types};
use crate::model::Verdict;
use crate::policy::{Act, Runtime};
use crate::truth::Kind;

/// Extended errors (RFC 8914 section 4) of what is refused.
const BLOCKED: u16 = 15;
const PROHIBITED: u16 = 18;
const NOT_SUPPORTED: u16 = 21;

/// Of a query what decides about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inquiry {
    subject: Subject,
    qtype: u16,
    flags: u16,
    /// Who asks, whatever is in between.
    client: IpAddr,
    stranger: bool,
    by_datagram: bool,
}

impl Inquiry {
    pub(super) fn of(question: &Question, by_datagram: bool) -> Self {
        let client = question.carried.unwrap_or(question.peer).ip();
        let Question { subject, qtype, flags, stranger, .. } = *question;
        Self { subject, qtype, flags, client, stranger, by_datagram }
    }
}

/// What may come of a query.
#[derive(Debug)]
pub(crate) struct Prospects {
    /// If no plugin fails.
    pub(crate) verdict: Verdict,
    /// If one does, as far as it may.
    pub(crate) others: Vec<Verdict>,
    /// Whom servers may be asked for.
    pub(super) asks: Vec<Asking>,
    /// The name that the executable has to decide about, if its name says how.
    pub(super) judged: Option<usize>,
    /// Whether an executable is asked.
    pub(super) may_be_suspended: bool,
    /// Whether what aliases lead to is blocked.
    pub(crate) blocks_targets: bool,
}

impl Prospects {
    const fn only(verdict: Verdict) -> Self {
        Self {
            verdict,
            others: Vec::new(),
            asks: Vec::new(),
            judged: None,
            may_be_suspended: false,
            blocks_targets: false,
        }
    }
}

/// A question that may wait for a plugin.
#[derive(Debug)]
pub(super) struct Suspended {
    /// Since when.
    pub(super) at: Instant,
    pub(super) engine: usize,
    pub(super) inquiry: Inquiry,
    /// Names that it has been counted as asking servers for.
    pub(super) noted: Vec<usize>,
}

impl World {
    /// A question that waited for a plugin begins again, under another configuration.
    pub(super) fn asks_again(&mut self, suspended: &mut Suspended) {
        let Suspended { engine, inquiry, noted, .. } = suspended;
        let number = self.workers[*engine].generation;
        for Asking { name, pool } in self.prospects(*engine, inquiry).asks {
            self.asked_at.insert((*engine, name, number, pool), self.now);
            self.passed_names.insert(name);
            if !noted.contains(&name) {
                noted.push(name);
                self.note_question(*engine, name, inquiry.qtype, true);
            }
        }
    }

    /// What may come of a query that reaches an engine now.
    pub(super) fn prospects(&self, engine: usize, question: &Inquiry) -> Prospects {
        if question.subject == Subject::Garbage {
            return Prospects::only(Verdict::Silence);
        }
        if question.stranger {
            return Prospects::only(Verdict::Rcode(5, Some(PROHIBITED)));
        }
        let generation = &self.generations[self.workers[engine].generation];
        match (question.subject, &generation.policies) {
            (Subject::Garbage, _) => Prospects::only(Verdict::Silence),
            (Subject::Refused(rcode), _) => {
                let error = matches!(rcode, 4 | 5).then_some(NOT_SUPPORTED);
                Prospects::only(Verdict::Rcode(rcode, error))
            }
            // Nobody asks for one where there are none.
            (Subject::Record(_), None) => Prospects::only(Verdict::Silence),
            (Subject::Record(host), Some(policies)) => {
                Prospects::only(Verdict::Record(policies.record(host)))
            }
            (Subject::Local(known), None) => {
                Prospects::only(Verdict::Local(known.rcode, known.answers))
            }
            (Subject::Local(known), Some(policies)) => {
                let mut prospects = Prospects::only(Verdict::Local(known.rcode, known.answers));
                if known.behind_cache {
                    prospects.others = self.failures(policies, question);
                }
                prospects
            }
            (Subject::Name(name), None) => {
                let blocked = self.truth.names()[name].blocked_group;
                if blocked == Some(generation.blocked_group()) {
                    return Prospects::only(Verdict::Rcode(5, Some(BLOCKED)));
                }
                let asking = Asking { name, pool: false };
                let verdict = forwarded(asking, question);
                let asks = if question.flags & RD == 0 { Vec::new() } else { vec![asking] };
                Prospects { asks, ..Prospects::only(verdict) }
            }
            (Subject::Name(name), Some(policies)) => self.policed(policies, question, name),
        }
    }

    /// What may come of a special name, which plugins see as well.
    fn failures(&self, policies: &Policies, question: &Inquiry) -> Vec<Verdict> {
        let client = question.client;
        let mut plugins = policies.plugins_for(client).iter();
        if !plugins.any(|plugin| self.may_fail(policies, *plugin)) {
            return Vec::new();
        }
        vec![Verdict::Failed, Verdict::Blocked(blacklist_of(policies, question))]
    }

    /// What may come of a name of the world, which passes lists and plugins.
    fn policed(&self, policies: &Policies, question: &Inquiry, name: usize) -> Prospects {
        let names = self.truth.names();
        let client = question.client;
        let own = policies.blocked_for(client);
        let is_blocked = |name: usize| own.is_some_and(|own| own.blocks(&names[name]));
        let way = Verdict::Blocked(blacklist_of(policies, question));
        if is_blocked(name) {
            return Prospects::only(way);
        }
        let may_fail = |plugin| self.may_fail(policies, plugin);
        let decisions = policies.decide(client, name, names, question.by_datagram, may_fail);
        let blocks_targets = own.is_some_and(|own| own.targets);
        let is_address = matches!(question.qtype, types::A | types::AAAA);
        let leads_to_blocked =
            |name: usize| blocks_targets && is_address && names[name].kind == Kind::Alias;
        let (mut verdicts, mut asks) = (Vec::new(), Vec::new());
        for decision in decisions {
            match decision {
                Decision::Forward(asking) if is_blocked(asking.name) => verdicts.push(way),
                Decision::Forward(asking) => {
                    verdicts.extend(leads_to_blocked(asking.name).then_some(way));
                    verdicts.push(forwarded(asking, question));
                    if question.flags & RD != 0 {
                        asks.push(asking);
                    }
                }
                Decision::Block => verdicts.push(way),
                Decision::Local(name) => verdicts.push(Verdict::Data(name, policies.variant)),
                Decision::Truncate => verdicts.push(Verdict::WantsTcp),
                Decision::Fail => verdicts.push(Verdict::Failed),
            }
        }
        // What was let pass once, by a plugin that failed or was not there, may be remembered.
        if !policies.before_cache && self.passed_names.contains(&name) {
            verdicts.extend(leads_to_blocked(name).then_some(way));
            verdicts.push(Verdict::Forwarded(name));
        }
        let verdict = verdicts.remove(0);
        // The same may come of a failure, by way of an alias.
        let is_clear = !verdicts.contains(&verdict);
        let judged = self.judged(policies, question, name).filter(|_| is_clear);
        let may_be_suspended = policies.plugins_for(client).contains(&Runtime::Exec);
        Prospects { verdict, others: verdicts, asks, judged, may_be_suspended, blocks_targets }
    }

    /// What comes of a question that has passed its plugins already: where its answer leads to is
    /// looked at when the answer comes, with the lists of that time.
    pub(super) fn blocked_as_answered(&self, engine: usize, question: &Inquiry) -> Option<Verdict> {
        let generation = &self.generations[self.workers[engine].generation];
        let policies = generation.policies.as_ref()?;
        let own = policies.blocked_for(question.client).filter(|own| own.targets)?;
        let Subject::Name(name) = question.subject else { return None };
        let names = self.truth.names();
        let mut led = [Some(name), None, None];
        for hop in 1..led.len() {
            let rewritten = led[hop - 1].and_then(|name| names[name].ruled);
            if let Some(Act::Rewrite(target)) = rewritten.map(|ruled| ruled.act) {
                led[hop] = Some(target);
            }
        }
        let is_alias = led.iter().flatten().any(|name| names[*name].kind == Kind::Alias);
        let is_address = matches!(question.qtype, types::A | types::AAAA);
        (is_alias && is_address).then_some(Verdict::Blocked(own))
    }

    /// The name that the executable sees, if it decides about it and nobody else does.
    fn judged(&self, policies: &Policies, question: &Inquiry, name: usize) -> Option<usize> {
        let names = self.truth.names();
        let plugins = policies.plugins_for(question.client);
        let mut seen = name;
        for (place, plugin) in plugins.iter().enumerate() {
            let ruled = names[seen].ruled.filter(|ruled| ruled.by == *plugin);
            match (plugin, ruled.map(|ruled| ruled.act)) {
                (Runtime::Exec, Some(Act::Block | Act::Local)) => return Some(seen),
                (Runtime::Exec, Some(Act::Rewrite(target))) => {
                    let ruled_on = |by| names[target].ruled.is_some_and(|ruled| ruled.by == by);
                    let by_others = plugins[place + 1..].iter().any(|later| ruled_on(*later));
                    return (!by_others).then_some(seen);
                }
                (Runtime::Exec, _) => return None,
                (Runtime::Lua, None) => {}
                (Runtime::Lua, Some(Act::Rewrite(target))) => seen = target,
                (Runtime::Lua, Some(_)) => return None,
            }
        }
        None
    }
}

/// Who is blocked by a plugin is so in the way of the client's list.
fn blacklist_of(policies: &Policies, question: &Inquiry) -> Blacklist {
    let nothing = Blacklist { names: 0, targets: false, mode: Mode::Refused };
    policies.blocked_for(question.client).unwrap_or(nothing)
}

/// What servers say, as far as they may be asked.
const fn forwarded(asking: Asking, question: &Inquiry) -> Verdict {
    if question.flags & RD == 0 {
        Verdict::Remembered(asking.name)
    } else {
        Verdict::Forwarded(asking.name)
    }
}
