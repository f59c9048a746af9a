//! Upstreams that are known by a host name: looked up at the bootstrap servers, never through
//! ourselves, and again when the TTL is over. Questions wait for the first address.
//!
//! A look-up is a fetch like any other, so that what protects clients' questions from spoofers,
//! losses and old servers protects it too.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::BinDecodable;

use super::attempt::Failure;
use super::fetch::{Asked, Attempt, AttemptVia, Candidate, Purpose};
use super::lifecycle::Named;
use super::{Due, Engine, Event, FetchHandle, Out};
use crate::cache::Key;
use crate::config::{ListenSocket, UpstreamSettings};
use crate::handle::HostHandle;
use crate::limits::{CANDIDATES, LOOKUP_DEADLINE};
use crate::metrics::Counter;
use crate::policy::fold;
use crate::time::Instant;
use crate::upstream::{Family, HostName, RoundEnd, Route};
use crate::wire::{Name, Rcode, RecordClass, ResponseView};

/// CNAMEs followed towards an address, as resolvers commonly do.
const CNAMES: usize = 16;

impl Engine {
    /// Asks for all addresses of a host name, unless that is being done.
    pub(super) fn look_up(&mut self, now: Instant, handle: HostHandle, out: &mut Out<'_>) {
        let Some(host) = self.hosts.get_mut(handle).filter(|host| host.in_flight == 0) else {
            return;
        };
        host.in_flight = Family::ALL.len();
        self.timers.cancel(host.timer);
        let name = host.name.clone();
        for family in Family::ALL {
            let asked = self.address_question(&name, family);
            let mut candidates = self.bootstrap.clone();
            self.order(&mut candidates);
            let deadline = now + LOOKUP_DEADLINE;
            let purpose = Purpose::Address(handle, family);
            match self.start_fetch(now, purpose, asked, candidates, deadline) {
                Some(fetch) => self.next_attempt(now, fetch, out),
                None => self.lookup_failed(now, handle, out),
            }
        }
    }

    fn address_question(&self, name: &Name, family: Family) -> Asked {
        let wire = name.as_wire();
        let record_type = family.record_type();
        let key = Key::new(
            &self.shared.hash,
            wire,
            record_type,
            RecordClass::IN,
            false,
            false,
            None,
            Route::General,
        );
        let [high, low] = record_type.0.to_be_bytes();
        let [class_high, class_low] = RecordClass::IN.0.to_be_bytes();
        let question = [key.name(), &[high, low, class_high, class_low]].concat().into();
        Asked { key, question, subnet: None, dnssec_ok: false, checking_disabled: false }
    }

    /// A bootstrap server has answered.
    pub(super) fn lookup_answered(
        &mut self,
        now: Instant,
        handle: HostHandle,
        family: Family,
        view: &ResponseView<'_>,
        out: &mut Out<'_>,
    ) {
        let Some(host) = self.hosts.get_mut(handle) else { return };
        let found = match view.rcode() {
            Rcode::NOERROR | Rcode::NXDOMAIN => addresses_in(view.message(), &host.name, family),
            _ => None,
        };
        let Some((addresses, ttl)) = found else {
            return self.lookup_failed(now, handle, out);
        };
        let (port, source) = (host.port, host.settings.source);
        let addresses = addresses.into_iter().map(fold);
        // Nothing of the other family can be reached from there.
        let is_reached = |ip: &IpAddr| source.is_none_or(|own| own.is_ipv4() == ip.is_ipv4());
        let addresses = addresses.filter(is_reached);
        let addresses = addresses.filter(|ip| self.leads_elsewhere(*ip, port)).collect();
        let Some(host) = self.hosts.get_mut(handle) else { return };
        host.found(family, addresses, ttl);
        self.lookup_ended(now, handle, out);
    }

    /// No bootstrap server has an answer.
    pub(super) fn lookup_failed(&mut self, now: Instant, handle: HostHandle, out: &mut Out<'_>) {
        self.lookup_ended(now, handle, out);
    }

    /// One look-up of a round has ended: questions that waited go on as soon as there is an address,
    /// or once there will be none.
    fn lookup_ended(&mut self, now: Instant, handle: HostHandle, out: &mut Out<'_>) {
        let Some(host) = self.hosts.get_mut(handle) else { return };
        host.in_flight -= 1;
        if host.in_flight == 0 {
            self.end_lookup_round(now, handle);
        } else {
            self.place_host(now, handle);
        }
        let Some(host) = self.hosts.get_mut(handle) else { return };
        let has_address = !host.endpoints.is_empty();
        if !has_address && host.in_flight > 0 {
            return;
        }
        for fetch in std::mem::take(&mut host.waiting) {
            if has_address {
                self.release_attempt(fetch, false);
                self.next_attempt(now, fetch, out);
            } else {
                self.attempt_failed(now, fetch, Failure::NoAddress, out);
            }
        }
    }

    fn end_lookup_round(&mut self, now: Instant, handle: HostHandle) {
        let Some(host) = self.hosts.get_mut(handle) else { return };
        let RoundEnd { next, found } = host.end_round(now);
        self.timers.set(host.timer, next);
        let counter = if found { Counter::LookupsFound } else { Counter::LookupsFailed };
        self.metrics.counters.count(counter);
        let had_failed = std::mem::replace(&mut host.failed, !found);
        let has_others = self.place_host(now, handle);
        if has_others || had_failed != found {
            return; // told already, or no news
        }
        let Some(host) = self.hosts.get(handle) else { return };
        let (upstream, name) = (host.settings.name.clone(), host.name.to_string());
        let addresses = host.addresses().collect();
        self.report(
            now,
            if found {
                Event::HostFound { upstream, host: name, addresses }
            } else {
                Event::HostNotFound { upstream, host: name, known: addresses }
            },
        );
    }

    /// Whether an address is one that another machine, or another process, may have: what is sent to
    /// one of our own listeners would come back.
    fn leads_elsewhere(&self, ip: IpAddr, port: u16) -> bool {
        let is_ours = |listener: &ListenSocket| {
            let own = listener.addr.ip();
            let reached = own == ip || (own.is_unspecified() && ip.is_loopback());
            reached && listener.addr.port() == port
        };
        !ip.is_unspecified()
            && !ip.is_multicast()
            && !self.snapshot.listen.sockets.iter().any(is_ours)
    }

    /// Gives each address of a host an endpoint, and lets go of those it no longer has. Whether these
    /// are others than before.
    fn place_host(&mut self, now: Instant, handle: HostHandle) -> bool {
        let has_others = self.place_addresses(now, handle, &mut Named::default());
        if has_others {
            self.retire_unused();
        }
        has_others
    }

    /// Gives each address of a host an endpoint. Whether these are others than before.
    pub(super) fn place_addresses(
        &mut self,
        now: Instant,
        handle: HostHandle,
        named: &mut Named,
    ) -> bool {
        let Some(host) = self.hosts.get(handle) else { return false };
        let settings = Arc::clone(&host.settings);
        let remotes: Vec<_> = host.addresses().collect();
        let places = remotes.iter().map(|remote| self.place_endpoint(&settings, *remote, named));
        let endpoints: Vec<usize> = places.collect();
        let Some(host) = self.hosts.get_mut(handle) else { return false };
        if host.endpoints == endpoints {
            return false;
        }
        host.endpoints = endpoints;
        let (upstream, host) = (settings.name.clone(), host.name.to_string());
        self.report(now, Event::HostFound { upstream, host, addresses: remotes });
        true
    }

    /// Puts a question to a host's endpoints, or lets it wait for the first one.
    pub(super) fn try_host(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        name: HostHandle,
        out: &mut Out<'_>,
    ) -> Result<(), Failure> {
        let host = self.hosts.get_mut(name).ok_or(Failure::NoAddress)?;
        let fetch = self.fetches.get_mut(handle).expect("the caller has the fetch");
        if let Some(first) = host.endpoints.first().copied() {
            let endpoints = host.endpoints.iter().map(|place| Candidate::Endpoint(*place));
            fetch.candidates.splice(fetch.cursor..=fetch.cursor, endpoints);
            fetch.candidates.truncate(CANDIDATES.max(fetch.cursor + 1));
            return self.try_endpoint(now, handle, first, out);
        }
        // The next round is some time away; or it may fail as the last one did, and there is
        // somebody else.
        if host.in_flight == 0 || (host.failed && fetch.candidates.len() > 1) {
            return Err(Failure::NoAddress);
        }
        host.waiting.push(handle);
        fetch.attempt = Attempt {
            via: AttemptVia::Host(name),
            deadline: fetch.deadline.min(now + host.settings.timeout),
            ..Attempt::none(now)
        };
        self.arm_fetch(handle);
        Ok(())
    }

    /// A question waits no longer for a host's address.
    pub(super) fn leave_host(&mut self, name: HostHandle, fetch: FetchHandle) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.waiting.retain(|waiting| *waiting != fetch);
        }
    }

    /// The place of the host of an upstream: the one it has, or a new one to be looked up.
    pub(super) fn keep_host(
        &mut self,
        settings: &Arc<UpstreamSettings>,
        name: &Name,
        port: u16,
    ) -> HostHandle {
        let known = self.hosts.iter().find(|(_, host)| host.settings == *settings);
        if let Some((handle, _)) = known {
            return handle;
        }
        // Another upstream of this name knows addresses already, or the same one before its settings
        // changed.
        let is_alike = |host: &HostName| host.name == *name && host.port == port;
        let alike = self.hosts.iter().find(|(_, host)| is_alike(host));
        let known = alike.map(|(_, host)| host.known()).unwrap_or_default();
        let timers = &mut self.timers;
        let made = self.hosts.insert_with(|handle| {
            let timer = timers.allocate(Due::Host(handle));
            HostName::new(settings.clone(), name.clone(), port, known, timer)
        });
        made.expect("there is room for the hosts of two configurations")
    }

    /// Forgets a host that no upstream has any more.
    pub(super) fn forget_host(&mut self, now: Instant, handle: HostHandle) {
        let Some(host) = self.hosts.remove(handle) else { return };
        self.timers.release(host.timer);
        for fetch in host.waiting {
            self.attempt_failed(now, fetch, Failure::NoAddress, &mut Out(None));
        }
    }

    /// Whoever is asked for addresses now, the answer is no longer waited for.
    pub(super) fn abandon_lookups(&mut self) {
        for fetch in self.fetches.handles() {
            let purpose = self.fetches.get(fetch).map(|fetch| fetch.purpose);
            if let Some(Purpose::Address(host, _)) = purpose {
                self.end_fetch(fetch);
                if let Some(host) = self.hosts.get_mut(host) {
                    host.abandon_round();
                }
            }
        }
    }
}

/// The addresses that an answer has for a name, by way of its CNAMEs, and the least TTL on the way;
/// `None` if it cannot be read.
fn addresses_in(message: &[u8], name: &Name, family: Family) -> Option<(Vec<IpAddr>, u32)> {
    let message = Message::from_vec(message).ok()?;
    let mut owner = hickory_proto::rr::Name::from_bytes(name.as_wire()).ok()?;
    let mut ttl = u32::MAX;
    for _ in 0..=CNAMES {
        let of_owner = || message.answers.iter().filter(|record| record.name == owner);
        let mut addresses = Vec::new();
        for record in of_owner() {
            let ip = match (&record.data, family) {
                (RData::A(a), Family::V4) => IpAddr::V4(a.0),
                (RData::AAAA(aaaa), Family::V6) => IpAddr::V6(aaaa.0),
                _ => continue,
            };
            ttl = ttl.min(record.ttl);
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let alias = of_owner().find_map(|record| {
            let RData::CNAME(target) = &record.data else { return None };
            Some((target.0.clone(), record.ttl))
        });
        match alias {
            Some((target, alias_ttl)) if addresses.is_empty() => {
                ttl = ttl.min(alias_ttl);
                owner = target;
            }
            _ => return Some((addresses, ttl)),
        }
    }
    Some((Vec::new(), 0))
}
