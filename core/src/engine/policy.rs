//! The stage of plugins: what they say becomes of a question.

use super::chain::{Desk, Step, Who};
use super::course::{Course, Rewritten, asked_type};
use super::plugins::Asked;
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::policy::{
    BlockSet, Choice, OnError, PolicyAction, PolicyError, PolicyQuestion, PolicyVerdict, Reason,
    TtlLimits,
};
use crate::time::Instant;
use crate::upstream::Route;
use crate::wire::{
    Asker, ErrorNote, LocalData, LocalRecord, Owner, Rcode, RecordType, local_soa, write_rcode,
    write_truncated,
};

/// TTL of the CNAME from a name to the one that a plugin puts in its place.
const REWRITE_TTL: u32 = 60;
/// TTL of the SOA beside addresses of a plugin that are not of the asked family.
const NO_DATA_TTL: u32 = 60;

impl Desk<'_> {
    /// Asks the plugins that have not been asked yet.
    pub(super) fn policy(
        &mut self,
        now: Instant,
        who: Who<'_>,
        course: &mut Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Step {
        if course.policy.done {
            return Step::On;
        }
        while let Some(plugin) = who.group.plugins.get(course.policy.next).copied() {
            let question = self.policy_question(who, course);
            let result = match self.plugins.ask(now, plugin, &question) {
                Asked::Decided(result) => result,
                Asked::Process => return Step::Suspend(plugin),
            };
            if let Some(end) = self.take_result(now, who, course, asker, plugin, result, reply) {
                return end;
            }
        }
        course.policy.done = true;
        let unchanged = |to: &Rewritten| {
            to.name.as_wire() == course.key.name() && to.record_type == course.record_type
        };
        let cache = self.cache_before_policy();
        match course.policy.rewritten.take().filter(|to| !unchanged(to)) {
            Some(to) => {
                course.past_policy = cache.is_some();
                self.restart(who, course, asker, to, REWRITE_TTL, reply)
            }
            None => {
                // What others have answered is kept beside what the cache was asked for.
                if let Some(cache) = cache.filter(|_| course.route != who.group.route) {
                    course.stage = cache;
                }
                Step::On
            }
        }
    }

    /// What a plugin is asked: the name as the plugin before it has left it.
    pub(super) fn policy_question<'c>(
        &self,
        who: Who<'_>,
        course: &'c Course,
    ) -> PolicyQuestion<'c> {
        let tells = self.tells_clients();
        let (name, record_type) = match &course.policy.rewritten {
            Some(rewritten) => (rewritten.name.as_wire(), rewritten.record_type),
            None => (course.key.name(), course.record_type),
        };
        PolicyQuestion {
            name,
            record_type,
            client: tells.then(|| who.client.address.ip()),
            transport: tells.then_some(who.client.transport),
        }
    }

    /// What a plugin has decided, or why it has not, becomes of the question. `None`: it goes on.
    #[expect(clippy::too_many_arguments, reason = "a question, its client, and what is said to it")]
    pub(super) fn take_result(
        &mut self,
        now: Instant,
        who: Who<'_>,
        course: &mut Course,
        asker: &Asker<'_>,
        plugin: usize,
        result: Result<PolicyVerdict, PolicyError>,
        reply: &mut [u8],
    ) -> Option<Step> {
        course.policy.next += 1;
        let result = result.and_then(|verdict| {
            let route = verdict.choice.as_ref().map(|choice| self.route(choice)).transpose()?;
            Ok((verdict, route))
        });
        match result {
            Ok((verdict, route)) => {
                self.plugins.succeeded(plugin);
                self.wish(who, course, route, verdict.ttl);
                self.act(who, course, asker, plugin, verdict.action, reply)
            }
            Err(error) => {
                self.plugins.failed(now, plugin, &error, self.counters);
                self.fail(who, asker, plugin, reply)
            }
        }
    }

    fn route(&self, choice: &Choice) -> Result<Route, PolicyError> {
        let (place, what, name) = match choice {
            Choice::Pool(name) => {
                (self.snapshot.pools.iter().position(|pool| **pool == **name), "pool", name)
            }
            Choice::Upstream(name) => {
                let mut upstreams = self.snapshot.upstreams.iter();
                (upstreams.position(|upstream| *upstream.name == **name), "upstream", name)
            }
        };
        let place = place.and_then(|place| u16::try_from(place).ok());
        match (place, choice) {
            (Some(place), Choice::Pool(_)) => Ok(Route::Pool(place)),
            (Some(place), Choice::Upstream(_)) => Ok(Route::Upstream(place)),
            (None, _) => Err(PolicyError::Result(format!("there is no {what} {name:?}"))),
        }
    }

    /// What is to hold for the answer.
    fn wish(&self, who: Who<'_>, course: &mut Course, route: Option<Route>, ttl: TtlLimits) {
        if !ttl.is_none() {
            course.detour.ttl = ttl;
        }
        if let Some(route) = route.filter(|_| !is_planted(Bug::ChoiceIgnored))
            && route != course.route
        {
            course.route = route;
            let name: Box<[u8]> = course.key.name().into();
            self.renew(who, course, &name);
        }
    }

    fn act(
        &self,
        who: Who<'_>,
        course: &mut Course,
        asker: &Asker<'_>,
        plugin: usize,
        action: PolicyAction,
        reply: &mut [u8],
    ) -> Option<Step> {
        match action {
            PolicyAction::Forward => {
                self.counters.count(Counter::PolicyForward);
                None
            }
            PolicyAction::Rewrite { name, record_type } => {
                self.counters.count(Counter::PolicyRewrite);
                let before = course.policy.rewritten.as_ref();
                let before = before.map_or(course.record_type, |before| before.record_type);
                let record_type = record_type.unwrap_or(before);
                course.policy.rewritten = Some(Rewritten { name, record_type });
                None
            }
            PolicyAction::Block => {
                self.counters.count(Counter::PolicyBlock);
                Some(Step::Answered(self.block_by(who, asker, plugin, reply)))
            }
            PolicyAction::LocalData { ttl, v4, v6 } => {
                self.counters.count(Counter::PolicyLocalData);
                if let Some(to) = course.policy.rewritten.take() {
                    course.follow(asker, to, REWRITE_TTL);
                }
                Some(self.local_data(course, asker, ttl, (&v4, &v6), reply))
            }
            PolicyAction::Drop => {
                self.counters.count(Counter::PolicyDrop);
                Some(Step::Drop)
            }
            PolicyAction::Truncate => {
                self.counters.count(Counter::PolicyTruncate);
                Self::is_datagram(who).then(|| {
                    let len = write_truncated(reply, asker, self.settings());
                    Step::Answered((len, Rcode::NOERROR, Reason::PolicyTruncated))
                })
            }
        }
    }

    /// A plugin has failed: what was configured for this.
    fn fail(
        &self,
        who: Who<'_>,
        asker: &Asker<'_>,
        plugin: usize,
        reply: &mut [u8],
    ) -> Option<Step> {
        if is_planted(Bug::PolicyFailsOpen) {
            return None;
        }
        match self.plugins.settings.on_error {
            OnError::Forward => None,
            OnError::Block => Some(Step::Answered(self.block_by(who, asker, plugin, reply))),
            OnError::ServFail => {
                let (rcode, reason) = (Rcode::SERVFAIL, Reason::PolicyFailed);
                let text = self.plugin_name(plugin);
                let note = reason.extended_error().map(|error| ErrorNote { error, text });
                let len = write_rcode(reply, asker, self.settings(), rcode, note);
                Some(Step::Answered((len, rcode, reason)))
            }
        }
    }

    /// In the way of the client's blacklist.
    fn block_by(
        &self,
        who: Who<'_>,
        asker: &Asker<'_>,
        plugin: usize,
        reply: &mut [u8],
    ) -> (usize, Rcode, Reason) {
        let none = BlockSet::default();
        let set = self.snapshot.blocking.set(who.group.block_set).unwrap_or(&none);
        self.block(set, asker, Reason::PolicyBlocked, self.plugin_name(plugin), reply)
    }

    fn plugin_name(&self, place: usize) -> &str {
        self.snapshot.plugins.plugins.get(place).map_or("", |plugin| plugin.name.as_str())
    }

    /// Addresses of the asked family.
    fn local_data(
        &self,
        course: &Course,
        asker: &Asker<'_>,
        ttl: u32,
        (v4, v6): (&[std::net::Ipv4Addr], &[std::net::Ipv6Addr]),
        reply: &mut [u8],
    ) -> Step {
        let asked = asked_type(asker);
        let wants = |family| asked == family || asked == RecordType::ANY;
        let record =
            |record_type, data| LocalRecord { owner: Owner::Question, record_type, ttl, data };
        let v4 = v4.iter().filter(|_| wants(RecordType::A));
        let v6 = v6.iter().filter(|_| wants(RecordType::AAAA));
        let v4 = v4.map(|ip| record(RecordType::A, LocalData::A(*ip)));
        let records: Vec<_> =
            v4.chain(v6.map(|ip| record(RecordType::AAAA, LocalData::Aaaa(*ip)))).collect();
        let soa = [local_soa(NO_DATA_TTL)];
        let authority = if records.is_empty() { &soa[..] } else { &[] };
        let len = self.local(course, asker, reply, Rcode::NOERROR, &records, authority);
        Step::Answered((len, Rcode::NOERROR, Reason::Policy))
    }
}
