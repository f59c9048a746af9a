//! One question through the chain, up to the point where something has to be asked of somebody.
//!
//! Reads the snapshot and the cache and writes a reply; changes nothing else, allocates nothing on
//! a cache hit. What cannot be answered here comes back as [`Verdict::Forward`].

use std::net::SocketAddr;

use super::Transport;
use crate::cache::Key;
use crate::config::{Snapshot, Stage, SubnetPolicy};
use crate::engine::Shared;
use crate::limits::{MESSAGE_OCTETS, NAME_OCTETS};
use crate::metrics::{Counter, Counters};
use crate::planted::{Bug, is_planted};
use crate::policy::{
    Acl, BlockSetId, DISCOVERY_NAME, DISCOVERY_TTL_SECONDS, FIREFOX_CANARY, Hosts, HostsAnswer,
    Reason, fold, special,
};
use crate::proxy;
use crate::time::Instant;
use crate::wire::{
    Asker, ClientSubnet, Flags, LocalData, LocalRecord, MalformedSubnet, Owner, QueryView, Rcode,
    RecordClass, RecordType, Rejected, ReplySettings, local_soa, local_zone_soa, write_answer,
    write_local, write_rcode,
};

/// Who asks, and over what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
}

impl Client {
    /// Whose datagram it is, and what is in it behind the header that a proxy has to put in front.
    /// None if a proxy did not.
    pub(super) fn of_datagram<'m>(
        proxies: &Acl,
        peer: SocketAddr,
        message: &'m [u8],
    ) -> Option<(Self, &'m [u8])> {
        let (client, message) = if proxies.is_empty() || !proxies.allows(peer.ip()) {
            (peer, message)
        } else {
            let (client, message) = proxy::split_datagram(message)?;
            (client.unwrap_or(peer), message)
        };
        let address = SocketAddr::new(fold(client.ip()), client.port());
        Some((Self { address, transport: Transport::Udp }, message))
    }
}

/// What a question led to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once; a box would cost a miss an allocation")]
pub(super) enum Verdict<'m> {
    /// A reply of this many octets was written.
    Reply(Written<'m>),
    /// It has to be forwarded.
    Forward(Forward<'m>),
    /// It gets no reply.
    Drop,
}

/// A reply that was written, and what it says.
#[derive(Debug)]
pub(super) struct Written<'m> {
    pub(super) len: usize,
    pub(super) asker: Asker<'m>,
    pub(super) rcode: Rcode,
    pub(super) reason: Reason,
}

/// A question to be forwarded.
#[derive(Debug)]
pub(super) struct Forward<'m> {
    pub(super) key: Key,
    pub(super) asker: Asker<'m>,
    pub(super) subnet: Option<ClientSubnet>,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
}

/// What deciding about a question needs to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Desk<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) shared: &'a Shared,
    pub(super) counters: &'a Counters,
}

impl Desk<'_> {
    /// Takes a message from a client; a reply goes into `reply`, at least 512 octets long.
    pub(super) fn decide<'m>(
        &self,
        now: Instant,
        message: &'m [u8],
        client: Client,
        reply: &mut [u8],
    ) -> Verdict<'m> {
        let parsed = QueryView::parse(message);
        if matches!(parsed, Err(Rejected::Drop)) {
            self.counters.count(Counter::DroppedGarbage);
            return Verdict::Drop;
        }
        self.count_query(client.transport);
        let allowed = self.snapshot.acl.allows(client.address.ip());
        let query = match parsed {
            Ok(query) => query,
            Err(Rejected::Reply { mut asker, rcode, options }) => {
                asker.options = self.reply_options(now, client, &options);
                if !allowed {
                    return self.not_allowed(asker, reply);
                }
                let reason = match rcode {
                    Rcode::NOTIMP => Reason::NotSupported,
                    Rcode::BADVERS => Reason::BadVersion,
                    _ => Reason::Malformed,
                };
                return self.rcode(asker, rcode, reason, reply);
            }
            Err(Rejected::Drop) => return Verdict::Drop,
        };
        let limit = match client.transport {
            Transport::Udp if is_planted(Bug::SizeLimitIgnored) => MESSAGE_OCTETS,
            Transport::Udp => query.udp_limit(self.snapshot.listen.udp_size),
            Transport::Tcp | Transport::Dot | Transport::Doh => MESSAGE_OCTETS,
        };
        let mut asker = query.asker(limit.min(reply.len()));
        asker.options = self.reply_options(now, client, &query.options());
        if !allowed {
            return self.not_allowed(asker, reply);
        }
        if self.has_malformed_option(client.transport, &query.options()) {
            return self.rcode(asker, Rcode::FORMERR, Reason::Malformed, reply);
        }
        if !is_served(query.record_type(), query.record_class()) {
            return self.rcode(asker, Rcode::REFUSED, Reason::NotSupported, reply);
        }
        match self.client_subnet(&query, client) {
            Ok(subnet) => {
                // Only who said one hears of it.
                asker.options.subnet = subnet.filter(|_| query.client_subnet().is_some());
                self.run_chain(now, &query, subnet, asker, reply)
            }
            Err(MalformedSubnet) => self.rcode(asker, Rcode::FORMERR, Reason::Malformed, reply),
        }
    }

    /// What is told of the client's network, as the first upstream for the name wants it that wants it
    /// at all (RFC 7871 section 7.1). All answers to the question are kept for this network alone.
    fn client_subnet(
        &self,
        query: &QueryView<'_>,
        client: Client,
    ) -> Result<Option<ClientSubnet>, MalformedSubnet> {
        if !self.snapshot.tells_client_subnets {
            return Ok(None);
        }
        let mut lower_name = [0; NAME_OCTETS];
        let lower_name = &mut lower_name[..query.name().len()];
        lower_name.copy_from_slice(query.name());
        lower_name.make_ascii_lowercase();
        let of_best_zone = self.snapshot.routes.candidates(lower_name).first();
        let upstreams = of_best_zone.into_iter().flatten();
        let mut policies = upstreams.map(|place| self.snapshot.upstreams[*place].client_subnet);
        let Some(policy) = policies.find(|policy| *policy != SubnetPolicy::Off) else {
            return Ok(None);
        };
        let said = query.client_subnet().map(ClientSubnet::parse).transpose()?;
        Ok(match (policy, said) {
            (SubnetPolicy::Off, _) | (SubnetPolicy::Pass, None) => None,
            (SubnetPolicy::Pass, Some(said)) => Some(said),
            (SubnetPolicy::Add(lengths), Some(said)) => Some(said.shortened(lengths)),
            (SubnetPolicy::Add(lengths), None) => ClientSubnet::of(client.address.ip(), lengths),
        })
    }

    fn run_chain<'m>(
        &self,
        now: Instant,
        query: &QueryView<'m>,
        subnet: Option<ClientSubnet>,
        asker: Asker<'m>,
        reply: &mut [u8],
    ) -> Verdict<'m> {
        let dnssec_ok = query.edns().is_some_and(|edns| edns.dnssec_ok);
        let checking_disabled = query.flags().contains(Flags::CD);
        let key = Key::new(
            &self.shared.hash,
            query.name(),
            query.record_type(),
            query.record_class(),
            dnssec_ok,
            checking_disabled,
            subnet.as_ref().map(ClientSubnet::scope),
        );
        for stage in &self.snapshot.chain {
            let answered = match stage {
                Stage::Blacklist => self.blacklist(&key, asker, reply),
                Stage::Hosts => self.hosts(&key, query.record_type(), asker, reply),
                Stage::Cache => self.cached(now, &key, asker, reply),
                Stage::Policy => None, // no plugin can be configured yet
                Stage::Upstream => match self.kept_home(&key, query.record_type(), asker, reply) {
                    Some(answered) => Some(answered),
                    None if query.flags().contains(Flags::RD) => {
                        let forward = Forward { key, asker, subnet, dnssec_ok, checking_disabled };
                        return Verdict::Forward(forward);
                    }
                    None => {
                        let reason = Reason::RecursionNotDesired;
                        return self.rcode(asker, Rcode::REFUSED, reason, reply);
                    }
                },
            };
            if let Some((len, rcode, reason)) = answered {
                return self.written(len, asker, rcode, reason, reply);
            }
        }
        self.rcode(asker, Rcode::SERVFAIL, Reason::NoRoute, reply)
    }

    fn blacklist(&self, key: &Key, asker: Asker<'_>, reply: &mut [u8]) -> Option<Answered> {
        let set = self.snapshot.blocking.set(BlockSetId::default())?;
        set.blocks(key.name())?;
        self.counters.count(Counter::Blocked);
        let error = Reason::Blocked.note();
        let len = write_rcode(reply, &asker, self.settings(), Rcode::REFUSED, error);
        Some((len, Rcode::REFUSED, Reason::Blocked))
    }

    fn hosts(
        &self,
        key: &Key,
        record_type: RecordType,
        asker: Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        let hosts = self.snapshot.hosts.as_ref()?;
        let records = hosts_records(hosts, key.name(), record_type)?;
        self.counters.count(Counter::HostsAnswers);
        let soa = local_soa(hosts.ttl());
        let authority = if records.is_empty() { &[soa][..] } else { &[] };
        let settings = self.settings();
        let len = write_local(reply, &asker, settings, Rcode::NOERROR, &records, authority, None);
        Some((len, Rcode::NOERROR, Reason::Hosts))
    }

    fn cached(
        &self,
        now: Instant,
        key: &Key,
        asker: Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        if !self.snapshot.cache.enabled {
            return None;
        }
        let settings = self.settings();
        let found = self.shared.cache.lookup(key, now, |answer| {
            let rcode = answer.rcode();
            let failed = rcode == Rcode::SERVFAIL;
            let reason = if failed { Reason::CachedFailure } else { Reason::Cached };
            let error = reason.note();
            let len = write_answer(reply, &asker, settings, answer, now, error);
            if is_planted(Bug::LetterCaseLost) {
                let name = asker.question.len().saturating_sub(4);
                reply.iter_mut().skip(12).take(name).for_each(u8::make_ascii_lowercase);
            }
            (len, rcode, reason)
        });
        let hit = found.is_some();
        self.counters.count(if hit { Counter::CacheHits } else { Counter::CacheMisses });
        found
    }

    /// What is never forwarded: our own designation, special names that no zone routes, and ANY.
    fn kept_home(
        &self,
        key: &Key,
        record_type: RecordType,
        asker: Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        self.designation(key, record_type, asker, reply)
            .or_else(|| self.canary(key, asker, reply))
            .or_else(|| self.special_name(key, record_type, asker, reply))
            .or_else(|| (record_type == RecordType::ANY).then(|| self.minimal_any(asker, reply)))
    }

    /// Which encrypted listeners of ours serve the same as this one does (RFC 9462 section 4).
    fn designation(
        &self,
        key: &Key,
        record_type: RecordType,
        asker: Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
        let discovery = self.snapshot.listen.ddr.as_ref()?;
        let is_asked = matches!(record_type, RecordType::SVCB | RecordType::ANY);
        if !is_asked || key.name() != DISCOVERY_NAME || discovery.is_empty() {
            return None;
        }
        self.counters.count(Counter::SpecialAnswers);
        let (records, settings) = (discovery.records(), self.settings());
        let len = write_local(reply, &asker, settings, Rcode::NOERROR, &records, &[], None);
        Some((len, Rcode::NOERROR, Reason::SpecialName))
    }

    /// The name that does not exist where Firefox is to stay with us.
    fn canary(&self, key: &Key, asker: Asker<'_>, reply: &mut [u8]) -> Option<Answered> {
        if !self.snapshot.routing.firefox_canary || key.name() != FIREFOX_CANARY {
            return None;
        }
        self.counters.count(Counter::SpecialAnswers);
        let soa = [local_zone_soa(FIREFOX_CANARY, DISCOVERY_TTL_SECONDS)];
        let len = write_local(reply, &asker, self.settings(), Rcode::NXDOMAIN, &[], &soa, None);
        Some((len, Rcode::NXDOMAIN, Reason::SpecialName))
    }

    fn special_name(
        &self,
        key: &Key,
        record_type: RecordType,
        asker: Asker<'_>,
        reply: &mut [u8],
    ) -> Option<Answered> {
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
        let len = write_local(reply, &asker, self.settings(), rcode, &records, authority, None);
        Some((len, rcode, Reason::SpecialName))
    }

    /// Answers ANY with one record made up for it (RFC 8482 section 4.2): what a cache or an
    /// upstream happens to have is not what clients hope for, and large answers serve attackers.
    fn minimal_any(&self, asker: Asker<'_>, reply: &mut [u8]) -> Answered {
        self.counters.count(Counter::AnyAnswers);
        let len =
            write_local(reply, &asker, self.settings(), Rcode::NOERROR, &[MINIMAL_ANY], &[], None);
        (len, Rcode::NOERROR, Reason::MinimalAny)
    }

    fn not_allowed<'m>(&self, asker: Asker<'m>, reply: &mut [u8]) -> Verdict<'m> {
        self.counters.count(Counter::AclRefused);
        self.rcode(asker, Rcode::REFUSED, Reason::NotAllowed, reply)
    }

    fn rcode<'m>(
        &self,
        asker: Asker<'m>,
        rcode: Rcode,
        reason: Reason,
        reply: &mut [u8],
    ) -> Verdict<'m> {
        let len = write_rcode(reply, &asker, self.settings(), rcode, reason.note());
        self.written(len, asker, rcode, reason, reply)
    }

    fn written<'m>(
        &self,
        len: usize,
        asker: Asker<'m>,
        rcode: Rcode,
        reason: Reason,
        reply: &[u8],
    ) -> Verdict<'m> {
        count_reply(self.counters, rcode, &reply[..len]);
        Verdict::Reply(Written { len, asker, rcode, reason })
    }

    fn settings(&self) -> ReplySettings {
        ReplySettings { udp_size: self.snapshot.listen.udp_size }
    }

    fn count_query(&self, transport: Transport) {
        self.counters.count(Counter::Queries);
        match transport {
            Transport::Udp => self.counters.count(Counter::QueriesUdp),
            Transport::Tcp => self.counters.count(Counter::QueriesTcp),
            Transport::Dot => self.counters.count(Counter::QueriesDot),
            Transport::Doh => self.counters.count(Counter::QueriesDoh),
        }
    }
}

/// Length, rcode and reason of a reply.
type Answered = (usize, Rcode, Reason);

/// Counts a reply by what it says.
pub(super) fn count_reply(counters: &Counters, rcode: Rcode, reply: &[u8]) {
    counters.count(match rcode {
        Rcode::NOERROR => Counter::RepliesNoError,
        Rcode::FORMERR => Counter::RepliesFormErr,
        Rcode::SERVFAIL => Counter::RepliesServFail,
        Rcode::NXDOMAIN => Counter::RepliesNxDomain,
        Rcode::NOTIMP => Counter::RepliesNotImp,
        Rcode::REFUSED => Counter::RepliesRefused,
        _ => Counter::RepliesOther,
    });
    const TC: u8 = 0x02; // in the third octet of a header
    if reply.get(2).is_some_and(|flags| flags & TC != 0) {
        counters.count(Counter::RepliesTruncated);
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

/// Whether the question is one for a forwarder: class IN, and a type that one question and one answer
/// can carry, so no transfers and no transaction types (RFC 6895 section 3.1). Other classes have no
/// tree of names that an upstream could walk; what people ask in Chaosnet is about the server itself
/// (RFC 4892), which does not introduce itself to strangers and does not ask others to.
fn is_served(record_type: RecordType, class: RecordClass) -> bool {
    const META_TYPES: std::ops::RangeInclusive<u16> = 249..=254; // TKEY TSIG IXFR AXFR MAILB MAILA
    let meta =
        META_TYPES.contains(&record_type.0) || record_type == RecordType::OPT || record_type.0 == 0;
    !meta && class == RecordClass::IN
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
            let pointer = |name: &'a crate::wire::Name| LocalData::Name(name.as_wire());
            Some(names.iter().map(|name| record(RecordType::PTR, pointer(name))).collect())
        }
    }
}
