//! The stages of the chain: each answers a question, changes it, or lets it go on.
//!
//! Reads the snapshot and the cache and writes a reply; changes nothing else but the state of plugins,
//! and allocates nothing on a plain cache hit. What cannot be answered here comes back as a
//! [`Verdict`] that says what is to be done.

use super::Transport;
use super::blocked::{write_blocked, write_refused_lead};
use super::course::{Course, Rewritten};
use super::leads::{self, Rules, marks_of};
use super::plugins::Plugins;
use super::question::{Client, Forward, Verdict, Written};
use crate::cache::Packed;
use crate::config::{Snapshot, Stage, SubnetPolicy};
use crate::engine::Shared;
use crate::metrics::{Counter, Counters};
use crate::planted::{Bug, is_planted};
use crate::policy::{BlockSet, Group, PolicyError, PolicyVerdict, Reason};
use crate::time::Instant;
use crate::upstream::Route;
use crate::wire::{
    Asker, ClientSubnet, Flags, Rcode, ReplySettings, ResponseView, limit_ttls, write_answer,
    write_local, write_rcode,
};

/// What deciding about a question needs to see.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) shared: &'a Shared,
    pub(super) counters: &'a Counters,
    pub(super) plugins: &'a mut Plugins,
    /// How answers are checked for what they lead to.
    pub(super) rules: Rules,
}

/// Who asks, and what holds for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) client: Client,
    pub(super) group: &'a Group,
}

/// What a stage does about a question.
#[derive(Debug)]
pub(super) enum Step {
    /// It goes on to the stage that comes next, which may be the first one again.
    On,
    /// It was answered.
    Answered(Answered),
    /// It has to be forwarded.
    Forward,
    /// A plugin's process has to be asked: which one.
    Suspend(usize),
    /// It gets no reply.
    Drop,
}

/// Length, rcode and reason of a reply.
pub(super) type Answered = (usize, Rcode, Reason);

impl<'a> Desk<'a> {
    /// Takes a question through the rest of the chain.
    pub(super) fn run<'m>(
        &mut self,
        now: Instant,
        client: Client,
        asker: Asker<'m>,
        mut course: Course,
        reply: &mut [u8],
    ) -> Verdict<'m> {
        let who = self.who(client);
        loop {
            let Some(stage) = self.snapshot.chain.get(course.stage) else {
                return self.rcode(asker, Rcode::SERVFAIL, Reason::NoRoute, reply);
            };
            course.stage += 1;
            let step = match stage {
                Stage::Blacklist => self.blacklist(who, &course, &asker, reply),
                Stage::Hosts => self.local_names(who, &mut course, &asker, reply),
                Stage::Cache => self.cached(now, who, &mut course, &asker, reply),
                Stage::Policy => self.policy(now, who, &mut course, &asker, reply),
                Stage::Upstream => self.upstream(&course, &asker, reply),
            };
            match step {
                Step::On => {}
                Step::Answered((len, rcode, reason)) => {
                    return Verdict::Reply(Written { len, asker, rcode, reason });
                }
                Step::Forward => return Verdict::Forward(Forward { asker, course }),
                Step::Suspend(plugin) => {
                    return Verdict::Suspend(Forward { asker, course }, plugin);
                }
                Step::Drop => return Verdict::Ignore,
            }
        }
    }

    /// Goes on with a question after the plugin that it has waited for.
    #[expect(clippy::too_many_arguments, reason = "a question, its client, and what is said to it")]
    pub(super) fn resume<'m>(
        &mut self,
        now: Instant,
        client: Client,
        asker: Asker<'m>,
        mut course: Course,
        plugin: usize,
        result: Result<PolicyVerdict, PolicyError>,
        reply: &mut [u8],
    ) -> Verdict<'m> {
        let who = self.who(client);
        match self.take_result(now, who, &mut course, &asker, plugin, result, reply) {
            Some(Step::Answered((len, rcode, reason))) => {
                Verdict::Reply(Written { len, asker, rcode, reason })
            }
            Some(Step::Drop) => Verdict::Ignore,
            // A verdict ends a question or lets it go on to the next plugin.
            None | Some(Step::On | Step::Forward | Step::Suspend(_)) => {
                course.stage -= 1; // the stage of plugins itself, for those that come after this one
                self.run(now, client, asker, course, reply)
            }
        }
    }

    /// What holds for a client.
    pub(super) fn who(&self, client: Client) -> Who<'a> {
        if is_planted(Bug::GroupOfEverybody) {
            return Who { client, group: self.snapshot.groups.everybody() };
        }
        Who { client, group: self.snapshot.groups.of(client.address.ip()) }
    }

    fn blacklist(
        &self,
        who: Who<'_>,
        course: &Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Step {
        let Some(set) = self.snapshot.blocking.set(who.group.block_set) else { return Step::On };
        let Some(blocked) = set.blocks(course.key.name()) else { return Step::On };
        self.counters.count(Counter::Blocked);
        Step::Answered(self.block(set, asker, Reason::Blocked, blocked.list, reply))
    }

    /// Answers a question in the way of a blacklist; `by` is told beside the extended error.
    pub(super) fn block(
        &self,
        set: &BlockSet,
        asker: &Asker<'_>,
        reason: Reason,
        by: &str,
        reply: &mut [u8],
    ) -> Answered {
        write_blocked(set, asker, self.settings(), reason, by, reply)
    }

    /// Goes on from the top of the chain with another name in place of the present one.
    pub(super) fn restart(
        &self,
        who: Who<'_>,
        course: &mut Course,
        asker: &Asker<'_>,
        to: Rewritten,
        ttl: u32,
        reply: &mut [u8],
    ) -> Step {
        let hops = u32::try_from(course.detour.aliases.len()).unwrap_or(u32::MAX);
        if hops >= self.snapshot.routing.rewrite_hops {
            let (rcode, reason) = (Rcode::SERVFAIL, Reason::TooManyHops);
            return Step::Answered((self.bare(asker, rcode, reason, reply), rcode, reason));
        }
        let name = to.name.clone();
        course.follow(asker, to, ttl);
        self.renew(who, course, name.as_wire());
        Step::On
    }

    /// Makes the key, and what is told of the client's network, those of this name.
    pub(super) fn renew(&self, who: Who<'_>, course: &mut Course, name: &[u8]) {
        course.subnet = self.client_subnet(who.client, course.said, name, course.route);
        course.key = course.key_of(&self.shared.hash, name, course.past_policy);
    }

    /// What is told of the client's network, as the first upstream for the name wants it that wants it
    /// at all (RFC 7871 section 7.1). All answers to the question are kept for this network alone.
    pub(super) fn client_subnet(
        &self,
        client: Client,
        said: Option<ClientSubnet>,
        lower_name: &[u8],
        route: Route,
    ) -> Option<ClientSubnet> {
        match (self.subnet_policy(lower_name, route)?, said) {
            (SubnetPolicy::Off, _) | (SubnetPolicy::Pass, None) => None,
            (SubnetPolicy::Pass, Some(said)) => Some(said),
            (SubnetPolicy::Add(lengths), Some(said)) => Some(said.shortened(lengths)),
            (SubnetPolicy::Add(lengths), None) => ClientSubnet::of(client.address.ip(), lengths),
        }
    }

    /// What the first upstream for the name wants to be told that wants anything.
    pub(super) fn subnet_policy(&self, lower_name: &[u8], route: Route) -> Option<SubnetPolicy> {
        if !self.snapshot.tells_client_subnets {
            return None;
        }
        let mut zones = self.snapshot.routes.candidates(lower_name).iter();
        let serves = |place: &&usize| self.snapshot.serves(**place, route);
        let of_best_zone = zones.find(|of_zone| of_zone.iter().any(|place| serves(&place)));
        let upstreams = of_best_zone.into_iter().flatten().filter(serves);
        let mut policies = upstreams.map(|place| self.snapshot.upstreams[*place].client_subnet);
        policies.find(|policy| *policy != SubnetPolicy::Off)
    }

    fn cached(
        &self,
        now: Instant,
        who: Who<'_>,
        course: &mut Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Step {
        if !self.snapshot.cache.enabled {
            return Step::On;
        }
        let mut found = self.find(now, who, course, asker, reply);
        if found.is_none() && course.past_policy {
            // What plugins have let through serves rewritten questions too.
            let let_through = course.key_let_through(&self.shared.hash);
            let own = std::mem::replace(&mut course.key, let_through);
            found = self.find(now, who, course, asker, reply);
            course.key = own;
        }
        let hit = found.is_some();
        self.counters.count(if hit { Counter::CacheHits } else { Counter::CacheMisses });
        found.map_or(Step::On, Step::Answered)
    }

    /// Answers from what the cache has under the present key.
    fn find(
        &self,
        now: Instant,
        who: Who<'_>,
        course: &Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        let is_plain = course.detour.is_direct();
        let found = self.shared.cache.lookup(&course.key, now, |answer| {
            let known =
                if self.rules.is_empty() { Some(0) } else { self.rules.known(answer.marks()) };
            match known {
                Some(marks) if is_plain && marks & marks_of(who.group.block_set) == 0 => {
                    Ok(self.write_cached(now, course, asker, answer, reply))
                }
                // Off the hot path, and not under the lock of a shard.
                known => Err((answer.bytes().to_vec(), known)),
            }
        });
        Some(match found? {
            Ok(answered) => answered,
            Err((packed, known)) => {
                self.cached_otherwise(now, who, course, asker, &packed, known, reply)
            }
        })
    }

    fn write_cached(
        &self,
        now: Instant,
        course: &Course,
        asker: &Asker<'_>,
        answer: Packed<'_>,
        reply: &mut [u8],
    ) -> Answered {
        let rcode = answer.rcode();
        let failed = rcode == Rcode::SERVFAIL;
        let reason = if failed { Reason::CachedFailure } else { Reason::Cached };
        let len = write_answer(reply, asker, self.settings(), answer, now, reason.note());
        if !course.detour.ttl.is_none() {
            limit_ttls(&mut reply[..len], asker, answer, course.detour.ttl);
        }
        if is_planted(Bug::LetterCaseLost) {
            let name = asker.question.len().saturating_sub(4);
            reply.iter_mut().skip(12).take(name).for_each(u8::make_ascii_lowercase);
        }
        (len, rcode, reason)
    }

    /// An answer in the cache that has to be checked again, is blocked for what it leads to, or answers
    /// another question than the client's.
    #[expect(clippy::too_many_arguments, reason = "everything that there is to know of it")]
    fn cached_otherwise(
        &self,
        now: Instant,
        who: Who<'_>,
        course: &Course,
        asker: &Asker<'_>,
        packed: &[u8],
        known: Option<u64>,
        reply: &mut [u8],
    ) -> Answered {
        let answer = Packed::new(packed);
        let question = leads::question(course.key.name(), course.record_type);
        let bits = known.unwrap_or_else(|| {
            let message = leads::unpacked(&question, answer, now);
            let Ok(view) = ResponseView::parse(&message) else { return 0 };
            let marks = self.rules.check(self.snapshot, course.key.name(), &view);
            self.shared.cache.mark(&course.key, answer.stored_at(), marks);
            marks.bits
        });
        if bits & marks_of(who.group.block_set) != 0 {
            let message = leads::unpacked(&question, answer, now);
            let view = ResponseView::parse(&message).ok();
            let (snapshot, counters) = (self.snapshot, self.counters);
            let view = view.as_ref();
            return write_refused_lead(snapshot, who.group, counters, bits, view, asker, reply);
        }
        let is_answer = matches!(answer.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN);
        if course.detour.is_direct() || !is_answer {
            return self.write_cached(now, course, asker, answer, reply);
        }
        match course.detour.repack(asker.question, answer, now) {
            Some(packed) => self.write_cached(now, course, asker, Packed::new(&packed), reply),
            None => {
                let (rcode, reason) = (Rcode::SERVFAIL, Reason::TooManyHops);
                (self.bare(asker, rcode, reason, reply), rcode, reason)
            }
        }
    }

    fn upstream(&self, course: &Course, asker: &Asker<'_>, reply: &mut [u8]) -> Step {
        if let Some(answered) = self.kept_home(course, asker, reply) {
            return Step::Answered(answered);
        }
        if asker.flags.contains(Flags::RD) {
            return Step::Forward;
        }
        if !course.detour.aliases.is_empty() {
            // As much as is known here: where the name leads to.
            let aliases: Vec<_> = course.detour.records().collect();
            let (rcode, settings) = (Rcode::NOERROR, self.settings());
            let len = write_local(reply, asker, settings, rcode, &aliases, &[], None);
            return Step::Answered((len, rcode, Reason::LocalRecord));
        }
        let (rcode, reason) = (Rcode::REFUSED, Reason::RecursionNotDesired);
        Step::Answered((self.bare(asker, rcode, reason, reply), rcode, reason))
    }

    /// Writes a reply that is only an rcode; its length.
    pub(super) fn bare(
        &self,
        asker: &Asker<'_>,
        rcode: Rcode,
        reason: Reason,
        reply: &mut [u8],
    ) -> usize {
        write_rcode(reply, asker, self.settings(), rcode, reason.note())
    }

    /// A reply that is only an rcode.
    pub(super) fn rcode<'m>(
        &self,
        asker: Asker<'m>,
        rcode: Rcode,
        reason: Reason,
        reply: &mut [u8],
    ) -> Verdict<'m> {
        let len = self.bare(&asker, rcode, reason, reply);
        Verdict::Reply(Written { len, asker, rcode, reason })
    }

    pub(super) fn settings(&self) -> ReplySettings {
        ReplySettings { udp_size: self.snapshot.listen.udp_size }
    }

    /// The place of the cache in the chain, if it stands before the plugins: what it has is then given
    /// out without asking them.
    pub(super) fn cache_before_policy(&self) -> Option<usize> {
        let place = |wanted| self.snapshot.chain.iter().position(|stage| *stage == wanted);
        let (cache, policy) = (place(Stage::Cache)?, place(Stage::Policy)?);
        (cache < policy && self.snapshot.cache.enabled).then_some(cache)
    }

    /// Whether plugins are told who asks: not while an answer that one client got is given to others.
    pub(super) fn tells_clients(&self) -> bool {
        self.cache_before_policy().is_none()
    }

    /// Where a client's own transport matters.
    pub(super) fn is_datagram(who: Who<'_>) -> bool {
        who.client.transport == Transport::Udp
    }
}
