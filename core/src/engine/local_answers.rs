//! Answers of our own: records of the configuration, the hosts file, and what is never forwarded.

use super::chain::{Answered, Desk, Step, Who};
use super::course::{Course, Rewritten, asked_type};
use crate::metrics::Counter;
use crate::policy::{
    DISCOVERY_NAME, DISCOVERY_TTL_SECONDS, FIREFOX_CANARY, Hosts, HostsAnswer, LocalAnswer, Reason,
    special,
};
use crate::wire::{
    Asker, LocalData, LocalRecord, Name, Owner, Rcode, RecordType, local_soa, local_zone_soa,
    write_local,
};

impl Desk<'_> {
    /// Records of the configuration, then the hosts file.
    pub(super) fn local_names(
        &self,
        who: Who<'_>,
        course: &mut Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Step {
        let (snapshot, record_type) = (self.snapshot, course.record_type);
        let (records, reason, ttl) =
            match snapshot.local_records.lookup(course.key.name(), record_type) {
                LocalAnswer::Records(records) => (records, Reason::LocalRecord, 0),
                LocalAnswer::NoData { ttl } => (Vec::new(), Reason::LocalRecord, ttl),
                LocalAnswer::Alias { target, ttl } => {
                    self.counters.count(Counter::LocalAnswers);
                    let name = Name::from_wire(target).expect("a local record's target is a name");
                    let to = Rewritten { name, record_type };
                    return self.restart(who, course, asker, to, ttl, reply);
                }
                LocalAnswer::NotListed => {
                    let Some(hosts) = &snapshot.hosts else { return Step::On };
                    let records = hosts_records(hosts, course.key.name(), record_type);
                    let falls_through = |records: &Vec<_>| {
                        records.is_empty() && snapshot.hosts_fallthrough && !is_address(record_type)
                    };
                    match records.filter(|records| !falls_through(records)) {
                        None => return Step::On,
                        Some(records) => (records, Reason::Hosts, hosts.ttl()),
                    }
                }
            };
        let is_hosts = reason == Reason::Hosts;
        self.counters.count(if is_hosts { Counter::HostsAnswers } else { Counter::LocalAnswers });
        let soa = [local_soa(ttl)];
        let authority = if records.is_empty() { &soa[..] } else { &[] };
        let len = self.local(course, asker, reply, Rcode::NOERROR, &records, authority);
        Step::Answered((len, Rcode::NOERROR, reason))
    }

    /// What is never forwarded: our own designation, special names that no zone routes, and ANY.
    pub(super) fn kept_home(
        &self,
        course: &Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        self.designation(course, asker, reply)
            .or_else(|| self.canary(course, asker, reply))
            .or_else(|| self.special_name(course, asker, reply))
            .or_else(|| {
                let is_any = course.record_type == RecordType::ANY;
                is_any.then(|| self.minimal_any(course, asker, reply))
            })
    }

    /// Which encrypted listeners of ours serve the same as this one does (RFC 9462 section 4).
    fn designation(
        &self,
        course: &Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        let discovery = self.snapshot.listen.ddr.as_ref()?;
        let is_asked = matches!(course.record_type, RecordType::SVCB | RecordType::ANY);
        if !is_asked || course.key.name() != DISCOVERY_NAME || discovery.is_empty() {
            return None;
        }
        self.counters.count(Counter::SpecialAnswers);
        let len = self.local(course, asker, reply, Rcode::NOERROR, &discovery.records(), &[]);
        Some((len, Rcode::NOERROR, Reason::SpecialName))
    }

    /// The name that does not exist where Firefox is to stay with us.
    fn canary(&self, course: &Course, asker: &Asker<'_>, reply: &mut [u8]) -> Option<Answered> {
        if !self.snapshot.routing.firefox_canary || course.key.name() != FIREFOX_CANARY {
            return None;
        }
        self.counters.count(Counter::SpecialAnswers);
        let soa = [local_zone_soa(FIREFOX_CANARY, DISCOVERY_TTL_SECONDS)];
        let len = self.local(course, asker, reply, Rcode::NXDOMAIN, &[], &soa);
        Some((len, Rcode::NXDOMAIN, Reason::SpecialName))
    }

    fn special_name(
        &self,
        course: &Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        let (key, record_type) = (&course.key, course.record_type);
        let name = special(key.name())?;
        let is_routed = || self.snapshot.routes.is_routed(key.name());
        let stays = || self.snapshot.routing.special_names && !is_routed();
        if name.is_parents(record_type) || !(name.is_never_forwarded() || stays()) {
            return None;
        }
        self.counters.count(Counter::SpecialAnswers);
        // Above a zone that is routed there is a name without records, not none: NXDOMAIN would deny
        // all that is below it (RFC 8020 section 2).
        let is_above_a_zone = self.snapshot.routes.is_above_a_zone(key.name());
        let rcode = if is_above_a_zone { Rcode::NOERROR } else { name.rcode() };
        let records = name.records(record_type);
        let soa = name.soa();
        let authority = if records.is_empty() { &[soa][..] } else { &[] };
        let len = self.local(course, asker, reply, rcode, &records, authority);
        Some((len, rcode, Reason::SpecialName))
    }

    /// Answers ANY with one record made up for it (RFC 8482 section 4.2): what a cache or an
    /// upstream happens to have is not what clients hope for, and large answers serve attackers.
    fn minimal_any(&self, course: &Course, asker: &Asker<'_>, reply: &mut [u8]) -> Answered {
        self.counters.count(Counter::AnyAnswers);
        let len = self.local(course, asker, reply, Rcode::NOERROR, &[MINIMAL_ANY], &[]);
        (len, Rcode::NOERROR, Reason::MinimalAny)
    }

    /// Writes records of our own, behind the aliases that led to them. Their owner
    /// [`Owner::Question`] is the name that is looked up now.
    pub(super) fn local(
        &self,
        course: &Course,
        asker: &Asker<'_>,
        reply: &mut [u8],
        rcode: Rcode,
        answers: &[LocalRecord<'_>],
        authority: &[LocalRecord<'_>],
    ) -> usize {
        let detour = &course.detour;
        let settings = self.settings();
        if detour.is_none() {
            return write_local(reply, asker, settings, rcode, answers, authority, None);
        }
        let asked = asked_type(asker);
        let carried = answers.iter().filter(|record| detour.carries(asked, record.record_type));
        let own: Vec<_> = carried.map(|record| detour.adapted(record)).collect();
        let mut soa: Vec<_> = authority.iter().map(|record| detour.adapted(record)).collect();
        if own.is_empty() && soa.is_empty() {
            soa.push(detour.adapted(&local_soa(answers.first().map_or(0, |record| record.ttl))));
        }
        let with_aliases: Vec<_> = detour.records().chain(own).collect();
        write_local(reply, asker, settings, rcode, &with_aliases, &soa, None)
    }
}

/// The answer to ANY: a CPU named after the RFC, no operating system. Not signed: we know of no zone
/// that is (RFC 8482 section 4.2 asks for it where one is known to be).
const MINIMAL_ANY: LocalRecord<'static> = LocalRecord {
    owner: Owner::Question,
    record_type: RecordType::HINFO,
    // Long enough to spare us those who ask again and again, as the RFC wants; an hour later at the
    // latest a client notices that our mind has changed.
    ttl: 3_600,
    data: LocalData::Raw(b"\x07RFC8482\0"),
};

/// Whether a hosts file answers questions of this type for a name that it lists, come what may.
fn is_address(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::A | RecordType::AAAA | RecordType::ANY)
}

/// The records that the hosts file has, or `None` if it does not know the name.
fn hosts_records<'a>(
    hosts: &'a Hosts,
    name: &[u8],
    record_type: RecordType,
) -> Option<Vec<LocalRecord<'a>>> {
    let ttl = hosts.ttl();
    let record = |record_type, data| LocalRecord { owner: Owner::Question, record_type, ttl, data };
    match hosts.lookup(name, record_type) {
        HostsAnswer::NotListed => None,
        HostsAnswer::NoData => Some(Vec::new()),
        HostsAnswer::Addresses { v4, v6 } => {
            let v4 = v4.iter().map(|ip| record(RecordType::A, LocalData::A(*ip)));
            let v6 = v6.iter().map(|ip| record(RecordType::AAAA, LocalData::Aaaa(*ip)));
            Some(v4.chain(v6).collect())
        }
        HostsAnswer::Pointers(names) => {
            let pointer = |name: &'a Name| LocalData::Name(name.as_wire());
            Some(names.iter().map(|name| record(RecordType::PTR, pointer(name))).collect())
        }
    }
}
