//! Datagrams to servers as somebody on the path sees them: ids, ports, letter case, how often and how
//! soon a question is asked again.
//!
//! What a spoofer has to guess has to be hard to guess. One datagram cannot show that; many can.

use std::net::SocketAddr;

use balancedns_core::handle::SocketHandle;
use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::limits;
use balancedns_core::metrics::Counter;
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use super::World;
use crate::fault::Fault;
use crate::generation::place_of;
use crate::invariant::{Broken, Invariant};
use crate::message::Asked;

/// Questions in a row by one of so many ports that no chance explains.
const SAME_PORT_MAX: u32 = 20;
/// Datagrams that show habits.
const MANY: u64 = 200;
/// Letters of a name that are not all alike by chance.
const LETTERS: usize = 8;
/// How long a question may wait until its socket is open.
const OPENING: Duration = Duration::from_secs(1);

/// A socket towards a server.
#[derive(Debug)]
pub(super) struct SocketState {
    pub(super) remote: SocketAddr,
    asked_for_at: Instant,
    pub(super) opened_at: Option<Instant>,
    used: Vec<Used>,
}

/// An id that was sent by a socket.
#[derive(Debug)]
struct Used {
    id: u16,
    /// The hash of the question.
    question: u64,
    answered: bool,
    sent_at: Instant,
    /// Between the last two times that it was sent.
    gap: Duration,
}

impl SocketState {
    pub(super) const fn new(remote: SocketAddr, now: Instant) -> Self {
        Self { remote, asked_for_at: now, opened_at: None, used: Vec::new() }
    }

    /// A reply to one of its queries has come, with the question or without one.
    pub(super) fn answered(&mut self, id: u16, question: Option<u64>) {
        let used = self.used.iter_mut().find(|used| used.id == id);
        if let Some(used) = used.filter(|used| question.is_none_or(|asked| used.question == asked))
        {
            used.answered = true;
        }
    }
}

/// What one worker's datagrams have shown so far.
#[derive(Debug)]
pub(super) struct Habits {
    /// The last socket towards a server, and how many questions in a row left by it.
    ports: Map<SocketAddr, (SocketHandle, u32)>,
    /// Questions, and those whose id follows the one before.
    questions: u64,
    in_sequence: u64,
    /// Names with enough letters for servers that are asked in random case; those in lower case, and
    /// those in upper case.
    spelled: u64,
    lower: u64,
    upper: u64,
    /// How often a name was asked for, and asked of servers.
    ledger: Map<(usize, u16), Account>,
}

/// How often a question was asked by clients and of servers, since it was last quiet.
#[derive(Debug)]
struct Account {
    queries: u32,
    sends: u32,
    /// Probes of the worker before that.
    probes: u64,
    latest: Instant,
    /// It cannot be told when the engine reads a query.
    unclear: bool,
}

impl Habits {
    pub(super) fn new() -> Self {
        Self {
            ports: Map::with_hasher(KeyedState::new((11, 11))),
            questions: 0,
            in_sequence: 0,
            spelled: 0,
            lower: 0,
            upper: 0,
            ledger: Map::with_hasher(KeyedState::new((12, 12))),
        }
    }

    /// The worker has ended in a panic.
    pub(super) fn forget(&mut self) {
        self.ports.clear();
        self.ledger.clear();
    }
}

impl World {
    /// A query leaves by a socket: ids are unique among those that wait, and hard to guess.
    pub(super) fn query_leaves(
        &mut self,
        engine: usize,
        socket: SocketHandle,
        message: Bytes,
    ) -> Result<(), Broken> {
        let id = u16::from_be_bytes([message[0], message[1]]);
        let question = super::worker::question_hash(&self.hash, &message);
        let now = self.now;
        let worker = &mut self.workers[engine];
        let life = worker.life(engine);
        let state = worker.sockets.get_mut(&socket).filter(|state| state.opened_at.is_some());
        self.checks.that(Invariant::S9, state.is_some(), || {
            format!("a query on {socket:?}, which is not open")
        })?;
        let state = state.expect("just checked");
        let remote = state.remote;
        let previous = state.used.last().map(|used| used.id);
        match state.used.iter_mut().find(|used| used.id == id) {
            // Even if a reply has come: the engine may have had no use for it.
            Some(used) if used.question == question => {
                let gap = now.since(used.sent_at);
                let patient = used.answered || gap >= used.gap * 2;
                let before = std::mem::replace(&mut used.gap, gap);
                (used.sent_at, used.answered) = (now, false);
                self.checks.that(Invariant::S12, patient, || {
                    format!("asked again after {gap:?}, and after {before:?} the time before")
                })?;
            }
            earlier => {
                let free = earlier.as_ref().is_none_or(|used| used.answered);
                let new = Used { id, question, answered: false, sent_at: now, gap: Duration::ZERO };
                match earlier {
                    Some(used) => *used = new,
                    None => state.used.push(new),
                }
                self.checks.that(Invariant::S9, free, || {
                    format!("id {id:#06x} was used for two questions on {socket:?}")
                })?;
                let (ids, age) = (state.used.len(), now.since(state.asked_for_at));
                let fresh = ids <= limits::QUERIES_PER_SOCKET as usize
                    && age <= limits::SOCKET_AGE + OPENING;
                self.checks.that(Invariant::S9, fresh, || {
                    format!("{socket:?} is {age:?} old and has asked {ids} questions")
                })?;
                self.check_port(engine, socket, remote)?;
                self.note_spelling(engine, remote, &message);
                let habits = &mut self.workers[engine].habits;
                habits.questions += 1;
                habits.in_sequence +=
                    u64::from(previous.is_some_and(|last| id == last.wrapping_add(1)));
            }
        }
        self.check_sent(engine, remote, &message)?;
        self.send_datagram(life, socket, remote, message);
        Ok(())
    }

    /// Questions to one server leave by many ports (RFC 5452 section 9.2).
    fn check_port(
        &mut self,
        engine: usize,
        socket: SocketHandle,
        remote: SocketAddr,
    ) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        let (last, times) = worker.habits.ports.entry(remote).or_insert((socket, 0));
        *times = if *last == socket { *times + 1 } else { 1 };
        *last = socket;
        // What waits for a socket leaves together, and until then only others are seen to be used.
        let others_wait = worker
            .sockets
            .values()
            .any(|state| state.remote == remote && state.opened_at.is_none_or(|at| at == self.now));
        if others_wait {
            *times = 0;
        }
        let times = *times;
        self.checks.that(Invariant::S9, times <= SAME_PORT_MAX, || {
            format!("{times} questions in a row to {remote} left by {socket:?}")
        })
    }

    fn note_spelling(&mut self, engine: usize, remote: SocketAddr, message: &[u8]) {
        let worker = &mut self.workers[engine];
        let generation = &self.generations[worker.generation];
        let server = place_of(remote).and_then(|place| generation.server(place));
        if !server.is_some_and(|server| server.randomize_case) {
            return;
        }
        let Ok(asked) = Asked::read(message) else { return };
        let name = asked.name(message);
        let upper = name.iter().filter(|octet| octet.is_ascii_uppercase()).count();
        let letters = name.iter().filter(|octet| octet.is_ascii_alphabetic()).count();
        if letters >= LETTERS {
            worker.habits.spelled += 1;
            worker.habits.lower += u64::from(upper == 0);
            worker.habits.upper += u64::from(upper == letters);
        }
    }

    /// Checks what many datagrams show together.
    pub(super) fn check_habits(&mut self, engine: usize) -> Result<(), Broken> {
        let Habits { questions, in_sequence, spelled, lower, upper, .. } =
            self.workers[engine].habits;
        if questions >= MANY {
            self.checks.that(Invariant::S9, in_sequence * 50 < questions, || {
                format!("{in_sequence} of {questions} ids follow the one before")
            })?;
        }
        // Servers that lose the letter case are asked in lower case, and so is with the last sends.
        let rates = &self.options.rates;
        let lost = rates.get(Fault::IgnoresCase) + rates.get(Fault::SpoofedCase) > 0;
        let excused = lost || self.generations.iter().any(|one| one.attempts_max < 8);
        if spelled >= MANY {
            let random = (excused || lower * 2 < spelled) && upper * 20 < spelled;
            self.checks.that(Invariant::S9, random, || {
                format!("of {spelled} names {lower} were in lower case, {upper} in upper case")
            })?;
        }
        Ok(())
    }

    /// A client's question has arrived that may have to be forwarded.
    pub(super) fn note_question(&mut self, engine: usize, name: usize, qtype: u16, clear: bool) {
        let quiet = self.longest_question();
        let now = self.now;
        let worker = &mut self.workers[engine];
        let Some(machine) = worker.machine.as_ref() else { return };
        let probes = machine.metrics().counters.value(Counter::UpstreamProbes);
        let new = || Account { queries: 0, sends: 0, probes, latest: now, unclear: false };
        let account = worker.habits.ledger.entry((name, qtype)).or_insert_with(new);
        if now > account.latest + quiet && !account.unclear {
            *account = new();
        }
        account.queries += 1;
        account.latest = now;
        account.unclear |= !clear;
    }

    /// A question goes to a server, not more often than it may.
    pub(super) fn check_sends(
        &mut self,
        engine: usize,
        name: usize,
        qtype: u16,
    ) -> Result<(), Broken> {
        let now = self.now;
        let worker = &mut self.workers[engine];
        let (Some(machine), Some(account)) =
            (worker.machine.as_ref(), worker.habits.ledger.get_mut(&(name, qtype)))
        else {
            return Ok(());
        };
        account.sends += 1;
        account.latest = now;
        let (sends, queries, unclear) = (account.sends, account.queries, account.unclear);
        let probes = machine.metrics().counters.value(Counter::UpstreamProbes) - account.probes;
        let most = self.generations.iter().map(|one| one.attempts_max).max().unwrap_or(0);
        let allowed = (u64::from(queries) + probes) * u64::from(most);
        self.checks.that(Invariant::S11, unclear || u64::from(sends) <= allowed, || {
            format!(
                "{sends} sends for {} {qtype}, with {queries} queries, {probes} probes and {most} sends for each",
                self.truth.names()[name].text
            )
        })
    }

    /// The longest time that anything is asked for.
    pub(super) fn longest_question(&self) -> Duration {
        let longest = self.generations.iter().map(|generation| {
            let attempts = generation.servers.iter().map(|server| server.timeout_ms);
            attempts.max().unwrap_or(0).max(generation.deadline_ms)
        });
        Duration::from_millis(longest.max().unwrap_or(0)) + Duration::from_secs(1)
    }

    /// Sockets are not kept for long (RFC 5452 section 9.2).
    pub(super) fn check_sockets(&mut self, engine: usize) -> Result<(), Broken> {
        let longest = limits::SOCKET_AGE + self.longest_question() + OPENING;
        let sockets = self.workers[engine].sockets.iter();
        let mut ages = sockets.map(|(socket, state)| (self.now.since(state.asked_for_at), socket));
        let old = ages.find(|(age, _)| *age > longest);
        self.checks.that(Invariant::S9, old.is_none(), || format!("an old socket: {old:?}"))
    }
}
