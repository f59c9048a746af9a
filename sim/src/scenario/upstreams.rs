//! Scripted upstreams while a scenario runs: what they have received, and which rule is next.

use balancedns_core::engine::Transport;
use balancedns_core::handle::{ConnHandle, ExchangeHandle, SocketHandle};

use super::check::{self, Decoded};
use super::expect::ExpectedQuery;
use super::message::Asked;
use super::rules::{Pattern, Rule, Seen, When};

/// What carried a query, and carries its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Socket(SocketHandle),
    Conn(ConnHandle),
    Exchange(ConnHandle, ExchangeHandle),
}

impl Carrier {
    /// What "the same port" means: the socket, or the connection.
    pub(super) fn port(self) -> Self {
        match self {
            Self::Socket(_) | Self::Conn(_) => self,
            Self::Exchange(conn, _) => Self::Conn(conn),
        }
    }
}

/// A query that an upstream has received.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) carrier: Carrier,
    pub(super) transport: Transport,
    /// Over HTTP: what was requested.
    pub(super) url: Option<String>,
    pub(super) query: Decoded,
    /// How many replies under a wrong id were sent to it.
    pub(super) wrong_ids: u16,
}

impl Received {
    fn seen(&self) -> Seen<'_> {
        Seen {
            question: self.query.question(),
            flags: self.query.flags(),
            transport: self.transport,
            edns: self.query.has_edns(),
            dnssec_ok: self.query.dnssec_ok(),
        }
    }

    /// What a reply needs to know of it.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            flags: self.query.flags(),
            question: self.query.question(),
            has_edns: self.query.has_edns(),
            dnssec_ok: self.query.dnssec_ok(),
        }
    }

    pub(super) fn show(&self) -> String {
        format!("{} {}", self.query.show(), self.transport.name())
    }
}

/// An upstream while a scenario runs.
#[derive(Debug)]
pub(super) struct UpstreamState {
    pub(super) rules: Vec<Rule>,
    /// How often each was used.
    used: Vec<usize>,
    pub(super) received: Vec<Received>,
    /// How many of them were looked at.
    looked_at: usize,
    /// Those that a step is to answer.
    pub(super) held: Vec<usize>,
    pub(super) conns: Vec<ConnHandle>,
}

impl UpstreamState {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        Self {
            used: vec![0; rules.len()],
            rules,
            received: Vec::new(),
            looked_at: 0,
            held: Vec::new(),
            conns: Vec::new(),
        }
    }

    /// Other rules from now on; the old ones must have been of use.
    ///
    /// # Errors
    /// The line of one that was not.
    pub(super) fn becomes(&mut self, rules: Vec<Rule>) -> Result<(), usize> {
        self.check_used()?;
        self.used = vec![0; rules.len()];
        self.rules = rules;
        Ok(())
    }

    /// # Errors
    /// The line of a rule that was never needed: it shows nothing.
    pub(super) fn check_used(&self) -> Result<(), usize> {
        let mut rules = self.rules.iter().zip(&self.used);
        rules.find(|(_, used)| **used == 0).map_or(Ok(()), |(rule, _)| Err(rule.line))
    }

    /// The first rule for an event that applies still.
    pub(super) fn rule(&mut self, applies: impl Fn(&When) -> bool) -> Option<&Rule> {
        let found = self.rules.iter().zip(&self.used).position(|(rule, used)| {
            rule.times.is_none_or(|times| *used < times) && applies(&rule.when)
        })?;
        self.used[found] += 1;
        Some(&self.rules[found])
    }

    /// The rule for a query that was received.
    pub(super) fn rule_for(&mut self, number: usize) -> Option<&Rule> {
        let received = self.received[number].clone();
        self.rule(|when| match when {
            When::Query(pattern) => pattern.matches(&received.seen()),
            When::Connect | When::Open => false,
        })
    }

    /// Takes the oldest query on hold that looks like this.
    pub(super) fn take_held(&mut self, pattern: Option<&Pattern>) -> Option<usize> {
        let place = self.held.iter().position(|number| {
            pattern.is_none_or(|pattern| pattern.matches(&self.received[*number].seen()))
        })?;
        Some(self.held.remove(place))
    }

    /// Looks at the next query that no step has looked at.
    ///
    /// # Errors
    /// What differs.
    pub(super) fn gets(&mut self, expected: &ExpectedQuery) -> Result<(), String> {
        let Some(received) = self.received.get(self.looked_at) else {
            return Err("nothing came that was not looked at before".to_owned());
        };
        let before = self.looked_at.checked_sub(1).map(|before| &self.received[before]);
        let wrong = differences(expected, received, before);
        self.looked_at += 1;
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("not so: {}; it came:\n{}", wrong.join(", "), received.show()))
    }

    /// Looks at all queries that no step has looked at: so many.
    ///
    /// # Errors
    /// If there are more or less.
    pub(super) fn gets_queries(&mut self, count: usize) -> Result<(), String> {
        let news = &self.received[self.looked_at..];
        self.looked_at = self.received.len();
        if news.len() == count {
            return Ok(());
        }
        let shown: String = news.iter().take(20).map(|one| format!("\n{}", one.show())).collect();
        Err(format!("{} came:{shown}", news.len()))
    }
}

fn differences(
    expected: &ExpectedQuery,
    received: &Received,
    before: Option<&Received>,
) -> Vec<&'static str> {
    let query = &received.query;
    let question = query.question();
    let (name, rest) = question.split_at(question.len().saturating_sub(4));
    let (has_upper, has_lower) =
        (name.iter().any(u8::is_ascii_uppercase), name.iter().any(u8::is_ascii_lowercase));
    let flags = expected.flags;
    let cased = |lower: bool| if lower { !has_upper } else { has_upper && has_lower };
    let same_port = before.is_some_and(|before| before.carrier.port() == received.carrier.port());
    let same_id = before.is_some_and(|before| before.query.id() == query.id());
    let as_wanted = |wanted: Option<bool>, found: bool| wanted.is_none_or(|wanted| wanted == found);
    let checks = [
        ("the question, the transport or EDNS", expected.pattern.matches(&received.seen())),
        ("the size in OPT", expected.size.is_none_or(|size| query.edns_size() == Some(size))),
        ("flags", query.flags() & flags.set() == flags.set() && query.flags() & flags.clear() == 0),
        ("the class", expected.class.is_none_or(|class| rest.ends_with(&class.to_be_bytes()))),
        ("the letter case", expected.lower_case.is_none_or(cased)),
        ("the port", as_wanted(expected.same_port, same_port)),
        ("the url", expected.url.is_none() || expected.url == received.url),
        ("the id", as_wanted(expected.same_id, same_id)),
        (
            "a query before it",
            before.is_some() || expected.same_port.or(expected.same_id).is_none(),
        ),
    ];
    checks.into_iter().filter(|(_, holds)| !holds).map(|(what, _)| what).collect()
}

/// Takes a query in, which has to be as each of them is.
///
/// # Errors
/// What is wrong with it.
pub(super) fn received(
    carrier: Carrier,
    transport: Transport,
    url: Option<String>,
    octets: &[u8],
) -> Result<Received, String> {
    let query = Decoded::new(octets)?;
    let received = Received { carrier, transport, url, query, wrong_ids: 0 };
    check::always_of_query(&received.query, transport)
        .map_err(|what| format!("of every query is true: {what}; it came:\n{}", received.show()))?;
    Ok(received)
}
