//! Carries a scenario out, step by step, and looks at what has to hold in the end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use balancedns_core::config::{self, Clock, Host, Snapshot, Source};
use balancedns_core::engine::{Closed, IoFailure, Origin, Transport};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;

use super::check;
use super::clients::{Arrived, Sent, framed};
use super::expect::ExpectedReply;
use super::lines::{Fault, Words};
use super::message::{Query, Reply};
use super::parse::Script;
use super::processes::PluginStep;
use super::rules::Act;
use super::steps::{ClientStep, MetricCheck, Request, UpstreamStep, What};
use super::upstreams::Carrier;
use super::wire;
use super::world::{Later, Target, World};
use crate::machine::{Datagram, Input};

/// What a configuration sees of the world: the files and name servers of the scenario.
struct Files<'s>(&'s Script);

impl Host for Files<'_> {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let found = self.0.files.iter().find(|(name, _)| name == path);
        found.map(|(_, text)| text.clone()).ok_or_else(|| format!("there is no file {path}"))
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        self.0.resolvers.clone()
    }

    fn clock(&self) -> Option<Clock> {
        None
    }
}

fn load(script: &Script, name: &str, number: usize) -> Result<Arc<Snapshot>, Fault> {
    let config = &script.configs[number];
    let source = Source { name: name.to_owned(), folder: String::new(), text: config.text.clone() };
    match config::load(&source, &Files(script)) {
        Ok(loaded) => Ok(Arc::new(loaded.snapshot)),
        Err(errors) => Err(Fault { line: config.line, what: errors.to_string() }),
    }
}

/// Runs a scenario to its end.
///
/// # Errors
/// The first thing that is not as the scenario says, or as it always has to be.
pub(super) fn run(script: &Script, name: &str) -> Result<(), Fault> {
    let snapshot = load(script, name, 0)?;
    let mut world = World::new(snapshot, &script.cast);
    let mut ids = 0;
    world.pump().map_err(Fault::at(script.configs[0].line))?;
    for step in &script.steps {
        let here = Fault::at(step.line);
        match &step.what {
            What::Reload(config, refused) => {
                let loaded = load(script, name, *config);
                world.reload(loaded, refused.as_deref()).map_err(here)?;
            }
            What::Upstream(upstream, UpstreamStep::Becomes(rules)) => {
                let became = world.upstreams[*upstream].becomes(rules.clone());
                became.map_err(never_needed)?;
            }
            What::Plugin(plugin, PluginStep::Becomes(rules)) => {
                let became = world.plugins[*plugin].becomes(rules.clone());
                became.map_err(never_needed)?;
            }
            What::Plugin(plugin, what) => world.plugin(*plugin, what).map_err(here)?,
            What::Client(client, what) => world.client(*client, what, &mut ids).map_err(here)?,
            What::Upstream(upstream, what) => world.upstream(*upstream, what).map_err(here)?,
            What::Wait(time) => world.pass(*time).map_err(here)?,
            What::Shutdown => world.shut_down().map_err(here)?,
            What::Stopped(stopped) if world.stopped == *stopped => {}
            What::Stopped(true) => return Err(here("the engine has not stopped".to_owned())),
            What::Stopped(false) => return Err(here("the engine has stopped".to_owned())),
            What::Metric(metric) => world.metric(metric).map_err(here)?,
            What::Log(text) => world.reported(text).map_err(here)?,
        }
    }
    let last = script.steps.last().map_or(script.end, |step| step.line);
    for upstream in &world.upstreams {
        upstream.check_used().map_err(never_needed)?;
    }
    for plugin in &world.plugins {
        plugin.check_used().map_err(never_needed)?;
    }
    world.finish(script).map_err(Fault::at(last))
}

fn never_needed(line: usize) -> Fault {
    Fault { line, what: "this rule was never needed".to_owned() }
}

impl World {
    fn reload(
        &mut self,
        loaded: Result<Arc<Snapshot>, Fault>,
        refused: Option<&str>,
    ) -> Result<(), String> {
        match (loaded, refused) {
            (Ok(snapshot), None) => {
                self.snapshot = Arc::clone(&snapshot);
                self.inputs.push_back(Input::Reload(snapshot));
                self.pump()
            }
            (Err(fault), Some(text)) if fault.what.contains(text) => Ok(()),
            (Err(fault), _) => Err(format!("the configuration is refused: {}", fault.what)),
            (Ok(_), Some(text)) => Err(format!("it is accepted, and not refused with \"{text}\"")),
        }
    }

    fn shut_down(&mut self) -> Result<(), String> {
        self.shut_down = true;
        self.inputs.push_back(Input::Shutdown);
        self.pump()
    }

    fn metric(&self, check: &MetricCheck) -> Result<(), String> {
        let counters = &self.machine.metrics().counters;
        let value: u64 = check.counters.iter().map(|counter| counters.value(*counter)).sum();
        if (check.least..=check.most).contains(&value) {
            Ok(())
        } else {
            Err(format!("{} is {value}", check.name))
        }
    }

    fn reported(&self, text: &str) -> Result<(), String> {
        if self.log.iter().any(|line| line.contains(text)) {
            return Ok(());
        }
        let said: String = self.log.iter().map(|line| format!("\n  {line}")).collect();
        Err(format!("nothing like \"{text}\" was reported, but:{said}"))
    }

    fn client(&mut self, client: usize, step: &ClientStep, ids: &mut u16) -> Result<(), String> {
        match step {
            ClientStep::Asks(queries) => self.asks(client, queries, ids),
            ClientStep::Sends(octets) => self.sends(client, octets),
            ClientStep::Connects | ClientStep::ConnectsStalled => {
                let shakes_hands = *step == ClientStep::Connects;
                match self.connect(client, shakes_hands)? {
                    true => Ok(()),
                    false => Err("the connection was not taken".to_owned()),
                }
            }
            ClientStep::Refused => match self.connect(client, true)? {
                true => Err("the connection was taken".to_owned()),
                false => {
                    self.clients[client].closed = false; // when a proxy had said for whom it is
                    Ok(())
                }
            },
            ClientStep::Requests(request) => self.request(client, (0, None), request),
            ClientStep::GivesUp => {
                let exchange = self.clients[client].gives_up();
                let exchange = exchange.ok_or("no request is without a response")?;
                self.inputs.push_back(Input::Reset(exchange));
                self.pump()
            }
            ClientStep::GetsStatus(status, headers) => self.gets_status(client, *status, headers),
            ClientStep::Finishes => self.stream(client, Sent::End),
            ClientStep::Closes => self.client_closes(client, Closed::Cleanly),
            ClientStep::Resets => self.client_closes(client, Closed::Failed(IoFailure::Reset)),
            ClientStep::StopsReading => {
                self.clients[client].stalled = true;
                Ok(())
            }
            ClientStep::ReadsAgain => {
                let state = &mut self.clients[client];
                self.inputs.extend(std::mem::take(&mut state.untaken).into_iter().map(Input::Sent));
                let read = state.reads_again(self.snapshot.listen.udp_size)?;
                self.written(client, read)
            }
            ClientStep::Gets(expected) => self.gets(client, expected),
            ClientStep::GetsNothing => match self.clients[client].arrived.front() {
                None => Ok(()),
                Some(reply) => Err(format!("expected nothing; it came:\n{}", reply.show())),
            },
            ClientStep::WaitsInVain => match self.clients[client].forget_questions() {
                0 => Err("none of its questions waits".to_owned()),
                _ => Ok(()),
            },
            ClientStep::IsClosed(closed) => {
                let state = &mut self.clients[client];
                let is_closed = std::mem::take(&mut state.closed) && state.conn.is_none();
                match (closed, is_closed, state.conn) {
                    (true, true, _) | (false, false, Some(_)) => Ok(()),
                    (true, ..) => Err("the engine has not closed the connection".to_owned()),
                    (false, ..) => Err("the connection is not open".to_owned()),
                }
            }
        }
    }

    fn gets(&mut self, client: usize, expected: &ExpectedReply) -> Result<(), String> {
        let arrived = self.clients[client].arrived.pop_front();
        let arrived = arrived.ok_or("expected a reply; nothing came")?;
        let wrong = match &arrived {
            Arrived::Response(_) => Err("a DNS message".to_owned()),
            Arrived::Reply(_, max_age)
                if expected.max_age.is_some_and(|it| Some(it) != *max_age) =>
            {
                Err(format!("max-age {:?}", expected.max_age))
            }
            Arrived::Reply(reply, _) => check::reply(expected, reply),
        };
        wrong.map_err(|wrong| {
            format!("expected, and not so:\n    {wrong}\n  it came:\n{}", arrived.show())
        })
    }

    fn gets_status(
        &mut self,
        client: usize,
        status: u16,
        headers: &[(String, String)],
    ) -> Result<(), String> {
        let arrived = self.clients[client].arrived.pop_front();
        let arrived = arrived.ok_or("expected a response; nothing came")?;
        let is_it = match &arrived {
            Arrived::Reply(..) => false,
            Arrived::Response(response) => {
                let mut headers = headers.iter();
                response.status == status
                    && headers.all(|(name, value)| response.header(name) == Some(value))
            }
        };
        if is_it { Ok(()) } else { Err(format!("not so; it came:\n{}", arrived.show())) }
    }

    /// Each question is a request of its own.
    fn asks_over_http(
        &mut self,
        client: usize,
        queries: &[Query],
        ids: &mut u16,
    ) -> Result<(), String> {
        let path = self.snapshot.listen.doh_path.clone();
        for query in queries {
            *ids = ids.wrapping_add(1);
            let id = query.id.unwrap_or(*ids);
            let message = query.encode(id);
            let request = if query.by_get {
                Request {
                    method: "GET".to_owned(),
                    target: format!("{path}?dns={}", BASE64URL_NOPAD.encode(&message)),
                    headers: Vec::new(),
                    body: Vec::new(),
                    unfinished: false,
                }
            } else {
                let media_type = "application/dns-message".to_owned();
                Request {
                    method: "POST".to_owned(),
                    target: path.clone(),
                    headers: vec![("content-type".to_owned(), media_type)],
                    body: message,
                    unfinished: false,
                }
            };
            self.request(client, (id, Some(query.clone())), &request)?;
        }
        Ok(())
    }

    fn asks(&mut self, client: usize, queries: &[Query], ids: &mut u16) -> Result<(), String> {
        if self.clients[client].transport == Transport::Doh {
            return self.asks_over_http(client, queries, ids);
        }
        let mut messages = Vec::new();
        if self.clients[client].is_stream() && self.clients[client].conn.is_none() {
            self.client(client, &ClientStep::Connects, ids)?;
        }
        for query in queries {
            *ids = ids.wrapping_add(1);
            let id = query.id.unwrap_or(*ids);
            self.clients[client].asked(id, Some(query.clone()));
            messages.push(query.encode(id));
        }
        if !self.clients[client].is_stream() {
            let header = self.proxy_header(client);
            let with_header = |message: Vec<u8>| [header.as_slice(), &message].concat();
            return self.datagrams(client, messages.into_iter().map(with_header).collect());
        }
        let octets: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let whole = octets.len();
        let pieces = queries.iter().find_map(|query| query.pieces).unwrap_or(whole);
        for piece in octets.chunks(pieces) {
            self.stream(client, Sent::Octets(Bytes::copy_from_slice(piece)))?;
        }
        Ok(())
    }

    fn sends(&mut self, client: usize, octets: &[u8]) -> Result<(), String> {
        let state = &mut self.clients[client];
        let message = if state.is_stream() { octets.get(2..) } else { Some(octets) };
        if let Some(id) = message.and_then(|message| message.first_chunk()) {
            state.asked(u16::from_be_bytes(*id), None);
        }
        if !state.is_stream() {
            return self.datagrams(client, vec![octets.to_vec()]);
        }
        if state.conn.is_none() && !self.connect(client, true)? {
            return Err("the connection was not taken".to_owned());
        }
        self.stream(client, Sent::Octets(Bytes::copy_from_slice(octets)))
    }

    fn upstream(&mut self, upstream: usize, step: &UpstreamStep) -> Result<(), String> {
        match step {
            UpstreamStep::Gets(expected) => {
                let text = &expected.pattern.text;
                let got = self.upstreams[upstream].gets(expected);
                got.map_err(|what| format!("expected {text}; {what}"))
            }
            UpstreamStep::GetsQueries(count) => {
                let got = self.upstreams[upstream].gets_queries(*count);
                got.map_err(|what| format!("expected {count} queries; {what}"))
            }
            UpstreamStep::Answers(pattern, acts) => {
                let held = self.upstreams[upstream].take_held(pattern.as_ref());
                let held = held.ok_or("no such query is on hold")?;
                self.perform(upstream, Target::Query(held), acts.clone().into())?;
                self.pump()
            }
            UpstreamStep::Becomes(_) => Ok(()), // by the caller, who knows the lines of rules
            UpstreamStep::Closes => self.ends_connections(upstream, Input::EndOfStream),
            UpstreamStep::Resets => self.ends_connections(upstream, |conn| {
                Input::Closed(conn, Closed::Failed(IoFailure::Reset))
            }),
            UpstreamStep::HasConnections(count) => {
                let open = self.upstreams[upstream].conns.len();
                if open == *count { Ok(()) } else { Err(format!("it has {open} connections")) }
            }
        }
    }

    fn ends_connections(
        &mut self,
        upstream: usize,
        by: impl Fn(balancedns_core::handle::ConnHandle) -> Input,
    ) -> Result<(), String> {
        let conns = self.upstreams[upstream].conns.clone();
        if conns.is_empty() {
            return Err("it has no connections".to_owned());
        }
        for conn in conns {
            let input = self.ending(by(conn));
            self.inputs.push_back(input);
        }
        self.pump()
    }

    /// An adapter knows nothing between an HTTP connection and its end.
    fn ending(&self, input: Input) -> Input {
        if let Input::EndOfStream(conn) = input
            && self.is_http(conn)
        {
            return Input::Closed(conn, Closed::Cleanly);
        }
        input
    }

    /// An upstream does what its rule or a step says.
    pub(super) fn perform(
        &mut self,
        upstream: usize,
        target: Target,
        mut acts: VecDeque<Act>,
    ) -> Result<(), String> {
        while let Some(act) = acts.pop_front() {
            match act {
                Act::After(wait) => {
                    self.schedule(wait, Later::Upstream { upstream, target, acts });
                    return Ok(());
                }
                Act::Repeat(times, inner) => {
                    for act in (0..times).flat_map(|_| inner.iter().rev()) {
                        acts.push_front(act.clone());
                    }
                }
                Act::Silence => {}
                Act::Accept => self.opened(target),
                Act::Hold => {
                    if let Target::Query(number) = target {
                        self.upstreams[upstream].held.push(number);
                    }
                }
                Act::Fail(failure) => self.fails(upstream, target, failure),
                Act::Reply(reply) => self.replies(upstream, target, &reply)?,
                Act::Raw(text) => {
                    let Target::Query(number) = target else { continue };
                    let query = &self.upstreams[upstream].received[number].query;
                    let asked = Some((query.id(), query.question()));
                    let octets = wire::octets(Words::of(&text), asked)?;
                    self.sends_back(upstream, number, octets, None)?;
                }
                Act::Status(status, media_type) => {
                    self.responds(upstream, target, status, &media_type)?;
                }
                Act::Stream(octets) => {
                    if let Some(conn) = self.conn_of(upstream, target)? {
                        if self.is_http(conn) {
                            return Err("\"stream\" is not for HTTP".to_owned());
                        }
                        self.inputs.push_back(Input::Octets(conn, Bytes::from(octets)));
                    }
                }
                Act::Close => {
                    if let Some(conn) = self.conn_of(upstream, target)? {
                        let input = self.ending(Input::EndOfStream(conn));
                        self.inputs.push_back(input);
                    }
                }
            }
        }
        Ok(())
    }

    fn conn_of(
        &self,
        upstream: usize,
        target: Target,
    ) -> Result<Option<balancedns_core::handle::ConnHandle>, String> {
        match target {
            Target::Conn(conn) => Ok(Some(conn)),
            Target::Socket(_) => Ok(None),
            Target::Query(number) => match self.upstreams[upstream].received[number].carrier {
                Carrier::Conn(conn) | Carrier::Exchange(conn, _) => Ok(Some(conn)),
                Carrier::Socket(_) => Err("\"stream\" and \"close\" are for queries by tcp".into()),
            },
        }
    }

    /// Over HTTP: a response that is no DNS message.
    fn responds(
        &mut self,
        upstream: usize,
        target: Target,
        status: u16,
        media_type: &str,
    ) -> Result<(), String> {
        let Target::Query(number) = target else { return Ok(()) };
        let Carrier::Exchange(_, exchange) = self.upstreams[upstream].received[number].carrier
        else {
            return Err("\"status\" is for queries by doh".to_owned());
        };
        let response = http_response(status, media_type, Bytes::from_static(b"no message\n"))?;
        self.inputs.push_back(Input::Answered(exchange, response));
        Ok(())
    }

    fn replies(&mut self, upstream: usize, target: Target, reply: &Reply) -> Result<(), String> {
        let Target::Query(number) = target else { return Ok(()) };
        let received = &mut self.upstreams[upstream].received[number];
        let mut id = received.query.id();
        if reply.wrong_id {
            // Never the right one: the number of steps around the circle is below its length.
            received.wrong_ids = (received.wrong_ids % (u16::MAX - 1)) + 1;
            id = id.wrapping_add(received.wrong_ids);
        }
        let octets = reply.encode(id, &received.asked());
        if octets.len() > usize::from(u16::MAX) {
            return Err(format!("a reply of {} octets cannot be sent", octets.len()));
        }
        self.sends_back(upstream, number, octets, reply.pieces)
    }

    fn sends_back(
        &mut self,
        upstream: usize,
        number: usize,
        message: Vec<u8>,
        pieces: Option<usize>,
    ) -> Result<(), String> {
        match self.upstreams[upstream].received[number].carrier {
            Carrier::Exchange(_, exchange) => {
                let response = http_response(200, "application/dns-message", message.into())?;
                self.inputs.push_back(Input::Answered(exchange, response));
            }
            Carrier::Socket(socket) => {
                let (peer, message) = (self.address(upstream), Bytes::from(message));
                let datagram = Datagram { peer, local: None, message };
                self.inputs.push_back(Input::Datagrams(Origin::Socket(socket), vec![datagram]));
            }
            Carrier::Conn(conn) => {
                let octets = framed(&message);
                for piece in octets.chunks(pieces.unwrap_or(octets.len())) {
                    self.inputs.push_back(Input::Octets(conn, Bytes::copy_from_slice(piece)));
                }
            }
        }
        Ok(())
    }

    fn fails(&mut self, upstream: usize, target: Target, failure: IoFailure) {
        let carrier = match target {
            Target::Query(number) => self.upstreams[upstream].received[number].carrier,
            Target::Conn(conn) => Carrier::Conn(conn),
            Target::Socket(socket) => Carrier::Socket(socket),
        };
        match carrier {
            Carrier::Socket(socket) => {
                self.inputs.push_back(Input::SocketFailed(socket, failure));
            }
            Carrier::Conn(conn) => {
                self.inputs.push_back(Input::Closed(conn, Closed::Failed(failure)));
            }
            Carrier::Exchange(_, exchange) => {
                self.inputs.push_back(Input::Failed(exchange, failure));
            }
        }
    }

    /// What has to hold when all steps are done, and that the engine ends with nothing left.
    fn finish(&mut self, script: &Script) -> Result<(), String> {
        for (state, client) in self.clients.iter().zip(&script.cast.clients) {
            let name = &client.name;
            if let Some(reply) = state.arrived.front() {
                return Err(format!("{name} got a reply that no step looks at:\n{}", reply.show()));
            }
            if let Some(id) = state.unanswered().first() {
                return Err(format!("{name} has no reply to its query with id {id}"));
            }
            if state.closed {
                return Err(format!("the connection of {name} was closed, and no step says so"));
            }
        }
        if !self.shut_down {
            self.shut_down()?;
        }
        self.pass(self.snapshot.control.drain_timeout + Duration::from_secs(1))?;
        self.check_nothing_is_left()
    }
}

fn http_response(
    status: u16,
    media_type: &str,
    body: Bytes,
) -> Result<Box<http::Response<Bytes>>, String> {
    let response = http::Response::builder().status(status).header("content-type", media_type);
    response.body(body).map(Box::new).map_err(|error| error.to_string())
}
