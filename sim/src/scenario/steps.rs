//! Steps of a scenario: what happens, and what is looked at, one after the other.

use std::time::Duration;

use balancedns_core::engine::Transport;
use balancedns_core::metrics::Counter;

use super::expect::{ExpectedQuery, ExpectedReply};
use super::lines::{Fault, Line, Words};
use super::message::Query;
use super::parse::Cast;
use super::processes::PluginStep;
use super::rules::{Act, Pattern, Rule};
use super::wire;

/// Steps of a scenario, repeated ones as often as they are done.
const STEPS: usize = 100_000;

/// A step and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) what: What,
}

/// What a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Wait(Duration),
    /// Of the client of this number.
    Client(usize, ClientStep),
    /// Of the upstream of this number.
    Upstream(usize, UpstreamStep),
    /// Of the plugin of this number.
    Plugin(usize, PluginStep),
    /// To the configuration of this number; with a text, it is refused for that reason.
    Reload(usize, Option<String>),
    Shutdown,
    /// The engine has stopped, or not yet.
    Stopped(bool),
    Metric(MetricCheck),
    /// Something was reported that holds this text.
    Log(String),
}

/// What a client does, or what is looked at there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientStep {
    /// Several in one segment, or in datagrams that arrive together.
    Asks(Vec<Query>),
    /// A datagram, or octets of a stream.
    Sends(Vec<u8>),
    Connects,
    /// Wants to connect, and is not let in.
    Refused,
    /// Connects, and does not come to the end of its handshakes.
    ConnectsStalled,
    /// An HTTP request, whatever is in it.
    Requests(Request),
    /// Resets the oldest of its HTTP exchanges that is open.
    GivesUp,
    /// A response that is no DNS message: its status and, if they are looked at, headers.
    GetsStatus(u16, Vec<(String, String)>),
    /// Sends nothing more on its connection.
    Finishes,
    /// Ends its connection, or breaks it.
    Closes,
    Resets,
    StopsReading,
    ReadsAgain,
    Gets(Box<ExpectedReply>),
    GetsNothing,
    /// None of its questions will be answered: it asks no more for them.
    WaitsInVain,
    /// Its connection was closed, or is open.
    IsClosed(bool),
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The end of the body does not come.
    pub(super) unfinished: bool,
}

/// What an upstream does, or what is looked at there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UpstreamStep {
    Gets(Box<ExpectedQuery>),
    /// Exactly so many that no step has looked at yet.
    GetsQueries(usize),
    /// The oldest query on hold that looks like this is answered.
    Answers(Option<Pattern>, Vec<Act>),
    /// Has other rules from now on.
    Becomes(Vec<Rule>),
    /// Ends all its connections, by an end of stream or a reset.
    Closes,
    Resets,
    HasConnections(usize),
}

/// What is looked at in a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetricCheck {
    pub(super) name: String,
    /// Those that it is the sum of.
    pub(super) counters: Vec<Counter>,
    pub(super) least: u64,
    pub(super) most: u64,
}

/// All steps below a line; repeated ones as often as they are done.
pub(super) fn parse_all(line: &Line, cast: &Cast) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::new();
    for child in &line.children {
        add(child, cast, &mut steps)?;
    }
    Ok(steps)
}

fn add(line: &Line, cast: &Cast, steps: &mut Vec<Step>) -> Result<(), Fault> {
    let here = Fault::at(line.number);
    let mut words = line.words();
    if words.accept("repeat") {
        let times = words.repetitions().map_err(here)?;
        for number in 1..=times {
            for child in &line.children {
                add(&child.numbered(number), cast, steps)?;
                if steps.len() > STEPS {
                    return Err(line.fault("too many steps"));
                }
            }
        }
        return Ok(());
    }
    let word = words.next().unwrap_or_default();
    let what = if let Some(client) = cast.client(word) {
        What::Client(client, client_step(line, words, cast.transport(client))?)
    } else if let Some(upstream) = cast.upstream(word) {
        What::Upstream(upstream, upstream_step(line, words)?)
    } else if let Some(plugin) = cast.plugin(word) {
        What::Plugin(plugin, PluginStep::parse(line, words)?)
    } else {
        line.expect_no_children()?;
        plain_step(word, &mut words, cast).map_err(here)?
    };
    steps.push(Step { line: line.number, what });
    Ok(())
}

fn plain_step(word: &str, words: &mut Words<'_>, cast: &Cast) -> Result<What, String> {
    let what = match word {
        "wait" => What::Wait(words.duration()?),
        "shutdown" => What::Shutdown,
        "stopped" => What::Stopped(true),
        "running" => What::Stopped(false),
        "log" => What::Log(words.expect("a text in quotes")?.to_owned()),
        "metric" => What::Metric(metric(words)?),
        "reload" => {
            let name = words.expect("the name of a config block")?;
            let config = cast.config(name);
            let config = config.ok_or_else(|| format!("there is no config block \"{name}\""))?;
            let refused = words.accept("refused").then(|| words.expect("a text in quotes"));
            What::Reload(config, refused.transpose()?.map(str::to_owned))
        }
        other => {
            return Err(format!(
                "\"{other}\" is no client, no upstream, no plugin and nothing that happens"
            ));
        }
    };
    words.end()?;
    Ok(what)
}

/// `metric balancedns_dropped_total{reason="garbage"} = 1`, or `<=`, `>=`. Without a label, all of
/// the metric's counters are summed up.
fn metric(words: &mut Words<'_>) -> Result<MetricCheck, String> {
    let name = words.expect("a metric")?.to_owned();
    let is_meant = |counter: &Counter| {
        let label = counter.label();
        let full = label.map(|(key, value)| format!("{}{{{key}=\"{value}\"}}", counter.metric()));
        counter.metric() == name || full.is_some_and(|full| full == name)
    };
    let counters: Vec<Counter> =
        Counter::ALL.iter().copied().filter(|counter| is_meant(counter)).collect();
    if counters.is_empty() {
        return Err(format!("there is no metric {name}"));
    }
    let comparison = words.expect("=, <= or >=")?;
    let number: u64 = words.number("number")?;
    let (least, most) = match comparison {
        "=" => (number, number),
        "<=" => (0, number),
        ">=" => (number, u64::MAX),
        other => return Err(format!("\"{other}\" is not =, <= or >=")),
    };
    Ok(MetricCheck { name, counters, least, most })
}

fn client_step(
    line: &Line,
    mut words: Words<'_>,
    transport: Transport,
) -> Result<ClientStep, Fault> {
    let here = Fault::at(line.number);
    let word = words.expect("what the client does").map_err(&here)?;
    if word == "asks" && words.accept("together") {
        words.end().map_err(here)?;
        return asks_together(line);
    }
    let is_http = transport == Transport::Doh;
    if is_http && word == "gets" && words.accept("status") {
        return gets_status(line, words).map_err(here);
    }
    if is_http && word == "requests" {
        return Ok(ClientStep::Requests(request(line, words)?));
    }
    if word == "gets" && words.peek() != Some("nothing") {
        return Ok(ClientStep::Gets(Box::new(ExpectedReply::parse(line, words)?)));
    }
    if word == "sends" {
        let text = line.with_lines_below(words)?;
        return Ok(ClientStep::Sends(wire::octets(Words::of(&text), None).map_err(here)?));
    }
    line.expect_no_children()?;
    let step = match word {
        "asks" => {
            return Ok(ClientStep::Asks(vec![Query::parse(words).map_err(here)?]));
        }
        "gets" => {
            words.next();
            ClientStep::GetsNothing
        }
        "waits" if words.accept("in") && words.accept("vain") => ClientStep::WaitsInVain,
        _ if transport == Transport::Udp => {
            return Err(
                line.fault(format!("\"{word}\" is nothing that a client of datagrams does"))
            );
        }
        "connects" if words.accept("refused") => ClientStep::Refused,
        "connects" if words.accept("stalled") => ClientStep::ConnectsStalled,
        "gives" if is_http && words.accept("up") => ClientStep::GivesUp,
        "connects" => ClientStep::Connects,
        "finishes" => ClientStep::Finishes,
        "closes" => ClientStep::Closes,
        "resets" => ClientStep::Resets,
        "stops" if words.accept("reading") => ClientStep::StopsReading,
        "reads" if words.accept("again") => ClientStep::ReadsAgain,
        "is" if words.accept("closed") => ClientStep::IsClosed(true),
        "is" if words.accept("open") => ClientStep::IsClosed(false),
        _ => return Err(line.fault(format!("\"{word}\" is nothing that a client does"))),
    };
    words.end().map_err(here)?;
    Ok(step)
}

/// `gets status N [HEADER VALUE]...`
fn gets_status(line: &Line, mut words: Words<'_>) -> Result<ClientStep, String> {
    line.expect_no_children().map_err(|fault| fault.what)?;
    let status = words.number("status")?;
    Ok(ClientStep::GetsStatus(status, headers(&mut words)?))
}

/// `requests METHOD TARGET [HEADER VALUE]...`, and below it `body OCTETS` or `body unfinished OCTETS`.
fn request(line: &Line, mut words: Words<'_>) -> Result<Request, Fault> {
    let here = Fault::at(line.number);
    let mut request = Request {
        method: words.expect("a method").map_err(&here)?.to_owned(),
        target: words.expect("a target").map_err(&here)?.to_owned(),
        headers: headers(&mut words).map_err(&here)?,
        body: Vec::new(),
        unfinished: false,
    };
    for child in &line.children {
        let mut words = child.words();
        if !words.accept("body") {
            return Err(child.fault("a body is all that a request may have below it"));
        }
        request.unfinished = words.accept("unfinished");
        let text = child.with_lines_below(words)?;
        request.body = wire::octets(Words::of(&text), None).map_err(Fault::at(child.number))?;
    }
    http::Request::builder()
        .method(&*request.method)
        .uri(&*request.target)
        .body(())
        .map_err(|error| line.fault(error.to_string()))?;
    Ok(request)
}

fn headers(words: &mut Words<'_>) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    while let Some(name) = words.next() {
        headers.push((name.to_ascii_lowercase(), words.expect("the header's value")?.to_owned()));
    }
    Ok(headers)
}

fn asks_together(line: &Line) -> Result<ClientStep, Fault> {
    let mut queries = Vec::new();
    for child in &line.children {
        let mut words = child.words();
        let mut times = 1;
        let mut lines = vec![child.clone()];
        if words.accept("repeat") {
            times = words.repetitions().map_err(Fault::at(child.number))?;
            lines.clone_from(&child.children);
        }
        for number in 1..=times {
            for line in &lines {
                let line = line.numbered(number);
                line.expect_no_children()?;
                queries.push(Query::parse(line.words()).map_err(Fault::at(line.number))?);
            }
        }
    }
    if queries.is_empty() {
        return Err(line.fault("the questions stand below, one a line"));
    }
    Ok(ClientStep::Asks(queries))
}

fn upstream_step(line: &Line, mut words: Words<'_>) -> Result<UpstreamStep, Fault> {
    let here = Fault::at(line.number);
    let word = words.expect("what the upstream does").map_err(&here)?;
    match word {
        "answers" => {
            let pattern = words.peek().map(|_| Pattern::parse(words)).transpose();
            let pattern = match pattern.map_err(&here)? {
                Some((_, Some(_))) => return Err(line.fault("one query is answered at a time")),
                Some((pattern, None)) => Some(pattern),
                None => None,
            };
            return Ok(UpstreamStep::Answers(pattern, Act::parse_all(line)?));
        }
        "becomes" => {
            words.end().map_err(here)?;
            let rules: Result<_, Fault> = line.children.iter().map(Rule::parse).collect();
            return Ok(UpstreamStep::Becomes(rules?));
        }
        _ => line.expect_no_children()?,
    }
    let step = match word {
        "gets" => return gets(words).map_err(here),
        "closes" => UpstreamStep::Closes,
        "resets" => UpstreamStep::Resets,
        "has" => {
            let connections = words.number("number of connections").map_err(&here)?;
            if !words.accept("connections") && !words.accept("connection") {
                return Err(line.fault("connections are what an upstream has"));
            }
            UpstreamStep::HasConnections(connections)
        }
        other => return Err(line.fault(format!("\"{other}\" is nothing that an upstream does"))),
    };
    words.end().map_err(here)?;
    Ok(step)
}

/// `gets nothing`, `gets 3 queries`, or `gets` and a query.
fn gets(mut words: Words<'_>) -> Result<UpstreamStep, String> {
    if words.accept("nothing") {
        words.end()?;
        return Ok(UpstreamStep::GetsQueries(0));
    }
    let mut ahead = words;
    if let Some(count) = ahead.next().and_then(|word| word.parse().ok())
        && matches!(ahead.next(), Some("queries" | "query"))
    {
        ahead.end()?;
        return Ok(UpstreamStep::GetsQueries(count));
    }
    Ok(UpstreamStep::Gets(Box::new(ExpectedQuery::parse(words)?)))
}
