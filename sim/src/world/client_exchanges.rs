//! Clients that ask over HTTPS: many requests at once, bodies in pieces, requests that are none, resets,
//! and responses that nobody takes (RFC 8484).

use balancedns_core::handle::ExchangeHandle;
use balancedns_core::limits::{EXCHANGES_PER_CLIENT_CONN, MESSAGE_OCTETS, RESETS_PER_CONN};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::request;

use super::World;
use super::clients::{Question, Subject};
use super::links::CLOSED_WITHIN;
use super::queue::{Event, ExchangeEvent};
use super::worker::{End, Exchange};
use crate::fault::Fault;
use crate::generation::DOH_PATH;
use crate::invariant::{Broken, Invariant};
use crate::machine::{Http, Input, Output};
use crate::model::Channel;
use crate::reading::freshness;

/// The media type of DNS messages (RFC 8484 section 6).
pub(super) const DNS_MESSAGE: &str = "application/dns-message";
/// Exchanges of a flood: more than are let pass.
const FLOOD: usize = RESETS_PER_CONN as usize + 50;

/// An HTTP exchange of a client.
#[derive(Debug)]
pub(super) struct ClientExchange {
    pub(super) link: u64,
    /// Its handle, once it was opened.
    handle: Option<ExchangeHandle>,
    question: Question,
    due: Due,
    opened_at: Instant,
    /// All of the request has come.
    whole: bool,
    answered: bool,
    /// The client resets it instead of taking its response.
    then_resets: bool,
}

/// What has to come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// A DNS message.
    Answer,
    /// Something else, with this status.
    Status(u16),
}

/// A request on its way.
#[derive(Debug)]
struct Request {
    head: Box<request::Parts>,
    /// Its body; the last piece is the end of it, if it has one.
    body: Vec<Bytes>,
    ends: bool,
    due: Due,
}

/// Requests that are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Odd {
    Path,
    Method,
    MediaType,
    NoParameter,
    NoBase64,
    TooLong,
    TooLongAsAnnounced,
}

const ODDITIES: [Odd; 7] = [
    Odd::Path,
    Odd::Method,
    Odd::MediaType,
    Odd::NoParameter,
    Odd::NoBase64,
    Odd::TooLong,
    Odd::TooLongAsAnnounced,
];

impl World {
    /// A client makes some requests on a connection, all at once.
    pub(super) fn ask_by_exchanges(&mut self, number: u64, client: usize, count: usize) {
        let floods = self.faults.strike(Fault::ResetFlood);
        for _ in 0..if floods { FLOOD } else { count } {
            let mut question = self.make_question(client);
            // What an HTTP cache may keep has id 0 (RFC 8484 section 4.1).
            let id = if self.client_draw.chance(700) { 0 } else { self.client_draw.id() };
            question.set_id(id);
            let request = self.make_request(&question);
            let exchange = self.next_exchange;
            self.next_exchange += 1;
            let mut at = self.next_on_link(number);
            let event = |what| Event::Exchange(exchange, what);
            self.queue.push(at, event(ExchangeEvent::Opens(request.head)));
            if floods {
                self.queue.push(at, event(ExchangeEvent::Resets));
            }
            let last = request.body.len().saturating_sub(1);
            for (piece, octets) in request.body.into_iter().enumerate() {
                at = at + Duration::from_micros(self.client_draw.between(0, 2_000));
                let ends = piece == last && request.ends;
                self.queue.push(at, event(ExchangeEvent::Body(octets, ends)));
            }
            let resets = self.faults.strike(Fault::ExchangeReset);
            let then_resets = resets && self.client_draw.chance(300);
            if resets && !then_resets {
                let later = self.faults.draw(Fault::ExchangeReset).between(0, 100_000);
                let at = at + Duration::from_micros(later);
                self.queue.push(at, event(ExchangeEvent::Resets));
            }
            let exchange_state = ClientExchange {
                link: number,
                handle: None,
                question,
                due: request.due,
                opened_at: at,
                whole: false,
                answered: false,
                then_resets,
            };
            self.exchanges.insert(exchange, exchange_state);
        }
    }

    /// A little after whatever is under way on a connection.
    fn next_on_link(&mut self, number: u64) -> Instant {
        let pause = self.client_draw.between(5, 500);
        let link = self.links.get_mut(&number).expect("the caller has it");
        link.next_at = link.next_at.max(self.now) + Duration::from_micros(pause);
        link.next_at
    }

    fn make_request(&mut self, question: &Question) -> Request {
        let odd = self
            .faults
            .strike(Fault::OddRequest)
            .then(|| self.faults.draw(Fault::OddRequest).pick(&ODDITIES));
        let posts = match odd {
            Some(Odd::NoParameter | Odd::NoBase64) => false,
            Some(Odd::MediaType | Odd::TooLong | Odd::TooLongAsAnnounced) => true,
            Some(Odd::Path | Odd::Method) | None => self.client_draw.chance(500),
        };
        let path = if odd == Some(Odd::Path) { "/resolve" } else { DOH_PATH };
        let method = match (odd, posts) {
            (Some(Odd::Method), true) => "PUT",
            (Some(Odd::Method), false) => "HEAD",
            (_, true) => "POST",
            (_, false) => "GET",
        };
        let encoded = BASE64URL_NOPAD.encode(&question.message);
        let target = match odd {
            _ if posts => path.to_owned(),
            Some(Odd::NoParameter) => format!("{path}?name=a.example"),
            Some(Odd::NoBase64) => format!("{path}?dns=+{encoded}"),
            _ => format!("{path}?dns={encoded}"),
        };
        let media_type = if odd == Some(Odd::MediaType) { "application/json" } else { DNS_MESSAGE };
        let mut head = http::Request::builder().method(method).uri(target);
        if posts {
            head = head.header("content-type", media_type);
        }
        if odd == Some(Odd::TooLongAsAnnounced) {
            head = head.header("content-length", MESSAGE_OCTETS + 1);
        }
        let (head, ()) = head.body(()).expect("valid").into_parts();
        let mut body = match odd {
            _ if !posts => vec![Bytes::new()],
            Some(Odd::TooLong) => vec![Bytes::from(vec![0; 40_000]); 2],
            _ => self.in_pieces(question.message.clone()),
        };
        // What is refused at once needs no body, nor has what is reset one.
        let stops = posts && odd.is_none() && self.faults.strike(Fault::BodyStops);
        if stops && body.len() > 1 {
            body.pop();
        } else if stops {
            body.clear();
        }
        let due = self.due(question, odd, stops);
        Request { head: Box::new(head), body, ends: !stops, due }
    }

    /// Cuts a body here and there.
    fn in_pieces(&mut self, whole: Bytes) -> Vec<Bytes> {
        let (mut pieces, mut rest) = (Vec::new(), whole);
        while rest.len() > 1 && self.faults.strike(Fault::StreamPieces) {
            let cut = 1 + self.client_draw.below(rest.len() - 1);
            pieces.push(rest.split_to(cut));
        }
        pieces.push(rest);
        pieces
    }

    /// What has to come of a request. Who may not ask is told so before anything is read.
    fn due(&self, question: &Question, odd: Option<Odd>, stops: bool) -> Due {
        match odd {
            _ if question.stranger => Due::Status(403),
            Some(Odd::Path) => Due::Status(404),
            Some(Odd::Method) => Due::Status(405),
            Some(Odd::MediaType) => Due::Status(415),
            Some(Odd::NoParameter | Odd::NoBase64) => Due::Status(400),
            Some(Odd::TooLong | Odd::TooLongAsAnnounced) => Due::Status(413),
            None if stops => Due::Status(408),
            None if question.subject == Subject::Garbage => Due::Status(400),
            None => Due::Answer,
        }
    }

    /// Something happens with an exchange of a client.
    pub(super) fn exchange_event(
        &mut self,
        number: u64,
        event: ExchangeEvent,
    ) -> Result<(), Broken> {
        let Some(exchange) = self.exchanges.get(&number) else { return Ok(()) };
        let link = &self.links[&exchange.link];
        if !self.workers[link.life.engine].is_alive(link.life) {
            let number = exchange.link;
            self.drop_link(number);
            return Ok(());
        }
        match (event, exchange.handle) {
            (ExchangeEvent::Opens(head), _) => self.exchange_opens(number, head),
            (_, None) => {
                self.exchanges.remove(&number); // it never came to be
                Ok(())
            }
            (ExchangeEvent::Body(octets, end), Some(handle)) => {
                self.exchange_body(number, handle, octets, end)
            }
            (ExchangeEvent::Resets, Some(handle)) => self.exchange_resets(number, handle),
            (ExchangeEvent::Taken, Some(handle)) => self.exchange_taken(number, handle),
            (ExchangeEvent::IsAnswered, Some(_)) => {
                let in_time = exchange.answered || self.generations.len() > 1;
                self.checks.that(Invariant::S2, in_time, || {
                    format!("exchange {number} waits for the rest of its body for ever")
                })
            }
        }
    }

    fn exchange_opens(&mut self, number: u64, head: Box<request::Parts>) -> Result<(), Broken> {
        let exchange = self.exchanges.get_mut(&number).expect("the caller has it");
        exchange.opened_at = self.now;
        let (owner, due) = (exchange.link, exchange.due);
        let link = self.links.get_mut(&owner).expect("exchanges go with their link");
        let Some(conn) = link.conn.filter(|_| link.is_established()) else {
            self.exchanges.remove(&number);
            return Ok(());
        };
        link.active_at = self.now;
        let (engine, free) = (link.life.engine, link.exchanges.len() < EXCHANGES_PER_CLIENT_CONN);
        if free {
            link.exchanges.insert(number);
        }
        if free && head.method == http::Method::GET {
            self.request_is_whole(number);
        }
        let asks_for_a_body = head.method == http::Method::POST;
        self.opening = Some(number);
        self.feed(engine, Input::Opens(conn, head))?;
        self.opening = None;
        let exchange = self.exchanges.get_mut(&number).filter(|one| one.handle.is_some());
        let taken = exchange.is_some();
        self.checks.that(Invariant::S10, taken == free, || {
            format!("exchange {number} was taken: {taken}; there is room: {free}")
        })?;
        if !taken {
            self.exchanges.remove(&number);
            return Ok(());
        }
        if due == Due::Status(408) {
            let at = self.now + self.longest_stream_timeout() + CLOSED_WITHIN;
            self.queue.push(at, Event::Exchange(number, ExchangeEvent::IsAnswered));
            self.faults.count(Fault::BodyStops);
        }
        if asks_for_a_body { Ok(()) } else { self.check_refused(number) }
    }

    fn exchange_body(
        &mut self,
        number: u64,
        handle: ExchangeHandle,
        octets: Bytes,
        end: bool,
    ) -> Result<(), Broken> {
        let exchange = &self.exchanges[&number];
        let engine = self.links[&exchange.link].life.engine;
        if end && !exchange.whole && !exchange.answered {
            self.request_is_whole(number);
        }
        self.feed(engine, Input::Body(handle, octets, end))?;
        if end { self.check_refused(number) } else { Ok(()) }
    }

    /// All of a request has come: what is a query has to be answered.
    fn request_is_whole(&mut self, number: u64) {
        let exchange = self.exchanges.get_mut(&number).expect("the caller has it");
        exchange.whole = true;
        if exchange.due != Due::Answer {
            return;
        }
        let question = exchange.question.clone();
        let link = &self.links[&exchange.link];
        let (engine, listener) = (link.life.engine, (link.listener, None));
        let owed = (!link.excused).then_some(true);
        self.expect_answer(engine, Channel::Exchange(number), listener, &question, owed);
    }

    /// What is no query is told so when all of it has come.
    fn check_refused(&mut self, number: u64) -> Result<(), Broken> {
        let Some(exchange) = self.exchanges.get(&number) else { return Ok(()) };
        let refused = exchange.answered || matches!(exchange.due, Due::Answer | Due::Status(408));
        self.checks.that(Invariant::S1, refused, || {
            format!("exchange {number} gets nothing, where {:?} belongs", exchange.due)
        })
    }

    /// What became of an exchange that was offered.
    pub(super) fn exchange_opened(&mut self, engine: usize, output: &Output) {
        let number = self.opening.expect("an exchange was offered");
        let Output::Opened(handle) = output else { return };
        let exchange = self.exchanges.get_mut(&number).expect("it is kept meanwhile");
        exchange.handle = Some(*handle);
        let conn = self.links[&exchange.link].conn.expect("it has one");
        let known = Exchange { conn, of_client: Some(number) };
        self.workers[engine].exchanges.insert(*handle, known);
    }

    /// An engine responds to a client.
    pub(super) fn exchange_answered(
        &mut self,
        engine: usize,
        handle: ExchangeHandle,
        response: &Http,
    ) -> Result<(), Broken> {
        let known = self.workers[engine].exchanges.get(&handle);
        let number = known.and_then(|exchange| exchange.of_client);
        self.checks.that(Invariant::S1, number.is_some(), || {
            format!("a response to {handle:?}, which is no client's")
        })?;
        let number = number.expect("just checked");
        let exchange = self.exchanges.get_mut(&number).expect("known to both");
        let twice = std::mem::replace(&mut exchange.answered, true);
        self.checks.that(Invariant::S1, !twice, || format!("two responses to {handle:?}"))?;
        let owner = exchange.link;
        match exchange.due {
            Due::Answer => self.check_answer(engine, number, response)?,
            Due::Status(status) => self.check_refusal(number, status, response)?,
        }
        let then_resets = self.exchanges[&number].then_resets;
        let event = |what| Event::Exchange(number, what);
        if self.links[&owner].reads_not {
            self.is_not_read(owner);
        } else if then_resets {
            self.queue.push(self.now, event(ExchangeEvent::Resets));
        } else {
            let mut at = self.now;
            if self.faults.strike(Fault::WritesStall) {
                let late = self.faults.draw(Fault::WritesStall).between(0, 100_000);
                at = at + Duration::from_micros(late);
            }
            self.queue.push(at, event(ExchangeEvent::Taken));
        }
        Ok(())
    }

    fn check_answer(&mut self, engine: usize, number: u64, response: &Http) -> Result<(), Broken> {
        let Http { status, body, .. } = response;
        let is_message = *status == 200 && response.header("content-type") == Some(DNS_MESSAGE);
        self.checks.that(Invariant::S4, is_message, || {
            format!("exchange {number} got no DNS message, but {response:?}")
        })?;
        let owner = self.exchanges[&number].link;
        let from = (self.links[&owner].listener, None);
        self.client_gets(engine, Channel::Exchange(number), from, body)?;
        let max_age = response.header("cache-control").and_then(|it| it.strip_prefix("max-age="));
        let max_age = max_age.and_then(|seconds| seconds.parse::<u32>().ok());
        let fresh = freshness(body);
        // What is fresh for longer than the data outlives them in HTTP caches (RFC 8484 section 5.1).
        self.checks.that(Invariant::S5, max_age.is_some_and(|age| age <= fresh), || {
            format!("an answer that lasts {fresh} s may be kept for {max_age:?} s")
        })
    }

    /// A refusal is one that was to come; but a body that takes too long is refused for that.
    fn check_refusal(&mut self, number: u64, status: u16, response: &Http) -> Result<(), Broken> {
        let exchange = &self.exchanges[&number];
        let shortest = self.generations.iter().map(|generation| generation.stream_timeout_ms).min();
        let waited = self.now.since(exchange.opened_at);
        let timely = status != 408 || waited.as_millis() >= shortest.unwrap_or(0).into();
        let right = response.status == status
            && timely
            && response.header("content-type") == Some("text/plain")
            && (status != 405 || response.header("allow") == Some("GET, POST"));
        self.checks.that(Invariant::S4, right, || {
            format!("after {waited:?}, where status {status} belongs: {response:?}")
        })
    }

    /// A client wants no response any more. Who does nothing else is cut off.
    fn exchange_resets(&mut self, number: u64, handle: ExchangeHandle) -> Result<(), Broken> {
        self.faults.count(Fault::ExchangeReset);
        let owner = self.exchanges[&number].link;
        self.model.forget_channel(Channel::Exchange(number));
        let (engine, link) = self.end_exchange(number, handle);
        let link = self.links.get_mut(&link).expect("exchanges go with their link");
        link.resets += 1;
        link.forgiven |= link.reads_not;
        let cut_off = link.resets > link.completed + RESETS_PER_CONN;
        if cut_off {
            self.excuse_link(owner);
        }
        self.feed(engine, Input::Reset(handle))?;
        let gone = !self.links.contains_key(&owner);
        self.checks.that(Invariant::S10, gone == cut_off, || {
            format!("a connection with many resets is closed: {gone}, and should be: {cut_off}")
        })
    }

    /// All of a response has left.
    fn exchange_taken(&mut self, number: u64, handle: ExchangeHandle) -> Result<(), Broken> {
        let (engine, link) = self.end_exchange(number, handle);
        self.links.get_mut(&link).expect("exchanges go with their link").completed += 1;
        self.feed(engine, Input::Sent(handle))
    }

    /// Takes an exchange out of the world; gives its engine and its connection.
    fn end_exchange(&mut self, number: u64, handle: ExchangeHandle) -> (usize, u64) {
        let exchange = self.exchanges.remove(&number).expect("the caller has it");
        let link = self.links.get_mut(&exchange.link).expect("exchanges go with their link");
        link.exchanges.remove(&number);
        link.active_at = self.now;
        let engine = link.life.engine;
        self.workers[engine].bury(End::Exchange(handle));
        (engine, exchange.link)
    }
}
