//! One question from its octets to the chain: what is no query, not allowed or not served is answered
//! here, everything else goes through the stages.

use std::net::SocketAddr;

use super::Transport;
use super::chain::Desk;
use super::course::{Course, PolicyProgress, asked_type};
use super::detour::Detour;
use crate::cache::Key;
use crate::limits::{MESSAGE_OCTETS, NAME_OCTETS};
use crate::metrics::{Counter, Counters};
use crate::planted::{Bug, is_planted};
use crate::policy::{Acl, Reason, fold};
use crate::proxy;
use crate::time::Instant;
use crate::wire::{
    Asker, ClientSubnet, Flags, MalformedSubnet, QueryView, Rcode, RecordClass, RecordType,
    Rejected,
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
pub(super) enum Verdict<'m> {
    /// A reply of this many octets was written, and is still to be counted.
    Reply(Written<'m>),
    /// It has to be forwarded.
    Forward(Forward<'m>),
    /// The process of the plugin at this place has to be asked.
    Suspend(Forward<'m>, usize),
    /// A plugin wants it to get no reply.
    Ignore,
    /// It is no query, and gets no reply.
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

/// A question that somebody else has to be asked about.
#[derive(Debug)]
pub(super) struct Forward<'m> {
    pub(super) asker: Asker<'m>,
    pub(super) course: Course,
}

impl Desk<'_> {
    /// Takes a message from a client; a reply goes into `reply`, at least 512 octets long.
    pub(super) fn decide<'m>(
        &mut self,
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
        let tells = self.snapshot.tells_client_subnets;
        let said = query.client_subnet().filter(|_| tells).map(ClientSubnet::parse).transpose();
        let is_malformed = said == Err(MalformedSubnet);
        let course = self.begin(client, &asker, said.unwrap_or_default());
        if is_malformed && self.subnet_policy(course.key.name(), course.route).is_some() {
            return self.rcode(asker, Rcode::FORMERR, Reason::Malformed, reply);
        }
        // Only who said one hears of it.
        asker.options.subnet = course.subnet.filter(|_| query.client_subnet().is_some());
        self.run(now, client, asker, course, reply)
    }

    /// A question at the beginning of the chain.
    pub(super) fn begin(
        &self,
        client: Client,
        asker: &Asker<'_>,
        said: Option<ClientSubnet>,
    ) -> Course {
        let (name, record_type) = (asker.name(), asked_type(asker));
        let dnssec_ok = asker.edns.is_some_and(|edns| edns.dnssec_ok);
        let checking_disabled = asker.flags.contains(Flags::CD);
        let route = self.snapshot.groups.of(client.address.ip()).route;
        let mut subnet = None;
        if self.snapshot.tells_client_subnets {
            let mut lower_name = [0; NAME_OCTETS];
            let lower_name = &mut lower_name[..name.len()];
            lower_name.copy_from_slice(name);
            lower_name.make_ascii_lowercase();
            subnet = self.client_subnet(client, said, lower_name, route);
        }
        let key = Key::new(
            &self.shared.hash,
            name,
            record_type,
            RecordClass::IN,
            dnssec_ok,
            checking_disabled,
            subnet.as_ref().map(ClientSubnet::scope),
            route,
        );
        Course {
            key,
            record_type,
            dnssec_ok,
            checking_disabled,
            said,
            subnet,
            route,
            past_policy: false,
            detour: Detour::default(),
            stage: 0,
            policy: PolicyProgress::default(),
        }
    }

    fn not_allowed<'m>(&self, asker: Asker<'m>, reply: &mut [u8]) -> Verdict<'m> {
        self.counters.count(Counter::AclRefused);
        self.rcode(asker, Rcode::REFUSED, Reason::NotAllowed, reply)
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
