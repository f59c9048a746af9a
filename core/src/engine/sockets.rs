//! UDP sockets towards upstreams: taking one for a query, replies, failures, retirement.

use super::attempt::Failure;
use super::fetch::{AttemptVia, Candidate, Carrier};
use super::{Action, Due, Engine, Event, FetchHandle, IoFailure, Out};
use crate::batch::ReceiveBatch;
use crate::handle::SocketHandle;
use crate::limits::{
    HEADER_OCTETS, MISMATCHES_BEFORE_STREAM, MISMATCHES_PER_SOCKET, QUESTION_OCTETS, SOCKET_AGE,
    SOCKETS_PER_UPSTREAM,
};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::upstream::{Owner, UpstreamSocket, spell};
use crate::wire::{Rcode, ResponseView};

impl Engine {
    /// A random one of the endpoint's sockets, opened if its place is empty or its time is over.
    pub(super) fn take_socket(&mut self, now: Instant, endpoint: usize) -> Option<SocketHandle> {
        let place = self.rng.ports.below(SOCKETS_PER_UPSTREAM);
        if let Some(handle) = self.endpoints[endpoint].sockets[place] {
            let socket = self.sockets.get(handle).expect("a place names a live socket");
            if !socket.is_used_up(now) {
                return Some(handle);
            }
            self.retire_socket(handle);
        }
        self.open_socket(now, endpoint, place).or_else(|| {
            let others = self.endpoints[endpoint].sockets.iter().flatten();
            let usable =
                |handle| self.sockets.get(handle).is_some_and(|socket| !socket.is_used_up(now));
            others.copied().find(|handle| usable(*handle))
        })
    }

    fn open_socket(&mut self, now: Instant, endpoint: usize, place: usize) -> Option<SocketHandle> {
        let timers = &mut self.timers;
        let made = self.sockets.insert_with(|handle| {
            let timer = timers.allocate(Due::Socket(handle));
            timers.set(timer, now + SOCKET_AGE);
            UpstreamSocket::new(endpoint, place, now, timer)
        });
        let Ok(socket) = made else {
            self.report_limit(now, Counter::LimitSockets, "upstream sockets");
            return None;
        };
        let state = &mut self.endpoints[endpoint];
        state.sockets[place] = Some(socket);
        let (remote, source) = (state.remote, state.settings.source);
        self.metrics.counters.count(Counter::SocketsOpened);
        self.actions.push_back(Action::OpenSocket { socket, remote, source });
        Some(socket)
    }

    /// The socket is open: send what waited for it.
    pub(super) fn socket_opened(&mut self, now: Instant, handle: SocketHandle) {
        let Some(socket) = self.sockets.get_mut(handle) else {
            return self.metrics.counters.count(Counter::DeadHandles);
        };
        socket.open = true;
        for fetch in std::mem::take(&mut socket.waiting) {
            let still_waits = self
                .sockets
                .get(handle)
                .is_some_and(|socket| socket.ids.owners().any(|owner| owner == fetch));
            if still_waits {
                self.send_query(now, fetch, &mut Out(None));
            }
        }
    }

    /// The network refused on this socket: its queries go elsewhere.
    pub(super) fn socket_failed(&mut self, now: Instant, handle: SocketHandle, why: IoFailure) {
        let Some(socket) = self.sockets.get(handle) else {
            return self.metrics.counters.count(Counter::DeadHandles);
        };
        let owners: Vec<FetchHandle> = socket.ids.owners().collect();
        // An ICMP error says something of the other host, not of this socket: it goes on.
        let usable = socket.open && matches!(why, IoFailure::Refused | IoFailure::Unreachable);
        if !usable {
            self.retire_socket(handle);
        }
        for fetch in owners {
            self.attempt_failed(now, fetch, Failure::Network(why), &mut Out(None));
        }
    }

    /// Replies, or what looks like some.
    pub(super) fn upstream_datagrams(
        &mut self,
        now: Instant,
        handle: SocketHandle,
        received: &ReceiveBatch,
        out: &mut Out<'_>,
    ) {
        for (meta, message) in received.iter() {
            if !self.sockets.contains(handle) {
                self.metrics.counters.count(Counter::DeadHandles);
                continue;
            }
            let taken = match self.owner_of(handle, message) {
                Ok(None) => Ok(()),
                Ok(Some(fetch)) if meta.truncated => self.cut_datagram(now, fetch, message, out),
                Ok(Some(fetch)) => self.upstream_datagram(now, handle, fetch, message, out),
                Err(what) => Err(what),
            };
            if let Err(what) = taken {
                self.mismatch(now, handle, what, out);
            }
        }
    }

    /// The question in flight that a datagram's id stands for; none if it comes too late.
    fn owner_of(
        &self,
        handle: SocketHandle,
        message: &[u8],
    ) -> Result<Option<FetchHandle>, Counter> {
        let id = ResponseView::peek_id(message).ok_or(Counter::ReplyGarbage)?;
        let socket = self.sockets.get(handle).expect("checked by the caller");
        match socket.ids.owner(id) {
            Owner::Live(fetch) => Ok(Some(fetch)),
            Owner::GaveUp => {
                self.metrics.counters.count(Counter::ReplyLate);
                Ok(None)
            }
            Owner::Unknown => Err(Counter::ReplyUnknownId),
        }
    }

    /// Takes a datagram if its question matches too. The socket is connected, so the kernel has
    /// compared addresses and ports.
    fn upstream_datagram(
        &mut self,
        now: Instant,
        socket: SocketHandle,
        fetch: FetchHandle,
        message: &[u8],
        out: &mut Out<'_>,
    ) -> Result<(), Counter> {
        let view = ResponseView::parse(message).map_err(|_| Counter::ReplyGarbage)?;
        self.check_question(fetch, &view)?;
        let lacks_cookie = self.lacks_cookie(fetch, &view)?;
        let other_case = self.case_differs(fetch, &view);
        if other_case {
            self.metrics.counters.count(Counter::ReplyOtherCase);
            self.fetches.get_mut(fetch).expect("its id is in flight").case_differs = true;
        }
        if other_case || lacks_cookie {
            // The server's own habit or a spoofer's good guess: only a stream can tell. Who knew the
            // port is not to meet the question there again.
            self.retire_socket(socket);
            self.ask_over_stream(now, fetch, out);
        } else {
            self.reply(now, fetch, &view, Carrier::Datagram, out);
        }
        Ok(())
    }

    /// Whether a reply that is for what was asked does not repeat the letter case that was sent.
    fn case_differs(&mut self, handle: FetchHandle, view: &ResponseView<'_>) -> bool {
        let fetch = self.fetches.get(handle).expect("an id in flight has a fetch");
        let Some(bits) = fetch.attempt.case.filter(|_| !view.question().is_empty()) else {
            return false;
        };
        let mut sent = [0; QUESTION_OCTETS];
        let sent = &mut sent[..fetch.question.len()];
        sent.copy_from_slice(&fetch.question);
        spell(sent, bits);
        let differs = view.question() != sent;
        if let Candidate::Endpoint(endpoint) = fetch.candidate()
            && !differs
        {
            self.endpoints[endpoint].case.kept();
        }
        differs
    }

    /// A datagram that is longer than we ever said we could take: if it is the reply, it is as good
    /// as one with TC.
    fn cut_datagram(
        &mut self,
        now: Instant,
        fetch: FetchHandle,
        message: &[u8],
        out: &mut Out<'_>,
    ) -> Result<(), Counter> {
        let sent = &self.fetches.get(fetch).expect("an id in flight has a fetch").question;
        let question = message.get(HEADER_OCTETS..HEADER_OCTETS + sent.len());
        let (name, rest) = sent.split_at(sent.len() - 4);
        if !question.is_some_and(|question| {
            question[..name.len()].eq_ignore_ascii_case(name) && question.ends_with(rest)
        }) {
            return Err(Counter::ReplyWrongQuestion);
        }
        self.metrics.counters.count(Counter::UpstreamTruncated);
        self.ask_over_stream(now, fetch, out);
        Ok(())
    }

    /// Whether a reply is for what was asked. A server that could not read the question may leave
    /// it out.
    pub(super) fn check_question(
        &self,
        fetch: FetchHandle,
        view: &ResponseView<'_>,
    ) -> Result<(), Counter> {
        let fetch = self.fetches.get(fetch).expect("an id in flight has a fetch");
        let sent = &fetch.question;
        // An answer for another network answers another question (RFC 7871 section 7.3).
        if let Some((subnet, echoed)) = fetch.subnet.zip(view.client_subnet())
            && !subnet.is_echoed_by(echoed)
        {
            return Err(Counter::ReplyWrongSubnet);
        }
        let errors = [Rcode::FORMERR, Rcode::SERVFAIL, Rcode::NOTIMP, Rcode::REFUSED];
        let unread = view.question().is_empty() && errors.contains(&view.rcode());
        let any = is_planted(Bug::WrongQuestionAccepted);
        if unread || view.matches_question(sent) || any {
            Ok(())
        } else {
            Err(Counter::ReplyWrongQuestion)
        }
    }

    /// A datagram that answers no query of ours. It changes nothing, but many of them mean that
    /// somebody has found the port and is guessing ids: the port is given up, and if the guessing
    /// goes on, what is still in flight on it is asked where ids cannot be guessed.
    fn mismatch(&mut self, now: Instant, handle: SocketHandle, what: Counter, out: &mut Out<'_>) {
        self.metrics.counters.count(what);
        let Some(socket) = self.sockets.get_mut(handle) else {
            return;
        };
        socket.mismatches += 1;
        if socket.mismatches == MISMATCHES_PER_SOCKET {
            let upstream = self.endpoints[socket.endpoint].settings.name.clone();
            self.retire_socket(handle);
            self.report(now, Event::UpstreamSpoofed { upstream });
        } else if socket.mismatches == MISMATCHES_BEFORE_STREAM {
            let owners: Vec<FetchHandle> = socket.ids.owners().collect();
            for fetch in owners {
                self.ask_over_stream(now, fetch, out);
            }
        }
    }

    /// Takes a socket out of its place; it is closed when its last query has ended.
    pub(super) fn retire_socket(&mut self, handle: SocketHandle) {
        let Some(socket) = self.sockets.get_mut(handle) else {
            return;
        };
        if socket.retired {
            return;
        }
        socket.retired = true;
        let state = &mut self.endpoints[socket.endpoint];
        state.sockets[socket.place] = None;
        state.retired_sockets += 1;
        self.close_socket_if_done(handle);
    }

    fn close_socket_if_done(&mut self, handle: SocketHandle) {
        let Some(socket) = self.sockets.get(handle) else {
            return;
        };
        if !socket.retired || socket.ids.live() > 0 {
            return;
        }
        let (endpoint, timer) = (socket.endpoint, socket.timer);
        self.sockets.remove(handle);
        self.timers.release(timer);
        self.endpoints[endpoint].retired_sockets -= 1;
        self.actions.push_back(Action::CloseSocket { socket: handle });
    }

    /// A query on this socket has ended.
    pub(super) fn release_socket_id(
        &mut self,
        fetch: FetchHandle,
        handle: SocketHandle,
        id: u16,
        late: bool,
    ) {
        let Some(socket) = self.sockets.get_mut(handle) else {
            return;
        };
        if late {
            socket.ids.give_up(id);
        } else {
            socket.ids.release(id);
        }
        if !socket.open {
            socket.waiting.retain(|waiting| *waiting != fetch);
        }
        let state = &mut self.endpoints[socket.endpoint];
        state.in_flight -= 1;
        if state.removed {
            self.retire_socket(handle); // nobody else will take it
        }
        self.close_socket_if_done(handle);
    }

    /// Whether the socket of the attempt in flight is open.
    pub(super) fn is_socket_open(&self, fetch: FetchHandle) -> bool {
        let Some(fetch) = self.fetches.get(fetch) else {
            return false;
        };
        match fetch.attempt.via {
            AttemptVia::Socket(socket, _) => {
                self.sockets.get(socket).is_some_and(|socket| socket.open)
            }
            AttemptVia::Nothing | AttemptVia::Conn(..) | AttemptVia::Host(_) => false,
        }
    }
}
