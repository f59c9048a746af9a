//! The same run in another way: datagram by datagram instead of in batches, or with a timeout at every
//! millisecond. What the engines do has to be the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use balancedns_core::config::Snapshot;
use balancedns_core::engine::Shared;
use balancedns_core::time::{Duration, Instant};
use bytes::BytesMut;

use crate::fault::Fault;
use crate::invariant::{Broken, Invariant};
use crate::machine::{Input, Machine, Output};
use crate::options::Options;
use crate::world::{World, shared_seed};

/// Between two timeouts of the impatient twin.
const TICK: Duration = Duration::from_millis(1);

/// What engines were told and did.
#[derive(Debug, Default)]
pub struct Log {
    told: Vec<(Instant, usize, Told)>,
    done: Done,
}

/// What a worker was told.
#[derive(Debug)]
enum Told {
    /// It was started with this seed, under this configuration.
    Start([u8; 32], Arc<Snapshot>),
    /// It was told something.
    Input(Input),
}

/// What workers did: by worker and by where it went, with times.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done(BTreeMap<(usize, Way), Vec<(Instant, Deed)>>);

/// One thing that a worker did.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Output(Output),
    /// Octets written to one connection at one time, in however many writes.
    Octets(BytesMut),
}

/// Where outputs go. In each of them order counts; between them it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Clients,
    Upstreams,
    Host,
    Conn(usize),
    Exchanges,
    Processes,
    /// What operators are told, by its name: of plugins they are told when a batch is over.
    Reports(&'static str),
}

impl Done {
    fn add(&mut self, now: Instant, engine: usize, output: Output) {
        let way = match &output {
            Output::Reply { .. } => Way::Clients,
            Output::Query { .. } => Way::Upstreams,
            Output::Write { conn, .. } => Way::Conn(conn.index()),
            Output::Opened(_)
            | Output::NotOpened(_)
            | Output::Respond { .. }
            | Output::Request { .. }
            | Output::Cancel(_) => Way::Exchanges,
            Output::Start { .. } | Output::Feed { .. } | Output::Kill(_) => Way::Processes,
            Output::OpenSocket { .. }
            | Output::CloseSocket(_)
            | Output::Accepted(_)
            | Output::NotAccepted(_)
            | Output::Connect { .. }
            | Output::PauseReading(_)
            | Output::ResumeReading(_)
            | Output::CloseConn(..)
            | Output::CloseListener(_)
            | Output::Stopped => Way::Host,
            Output::Report(event) => Way::Reports(event.name()),
        };
        let done = self.0.entry((engine, way)).or_default();
        match (output, done.last_mut()) {
            (Output::Write { octets, .. }, Some((at, Deed::Octets(written)))) if *at == now => {
                written.extend_from_slice(&octets);
            }
            (Output::Write { octets, .. }, _) => done.push((now, Deed::Octets(octets.into()))),
            (output, _) => done.push((now, Deed::Output(output))),
        }
    }

    /// The first thing that is not the same in both.
    fn difference(&self, other: &Self) -> Option<String> {
        let ways = self.0.keys().chain(other.0.keys());
        for way in ways {
            let nothing = Vec::new();
            let one = self.0.get(way).unwrap_or(&nothing);
            let two = other.0.get(way).unwrap_or(&nothing);
            if one != two {
                let at = one.iter().zip(two).take_while(|(one, two)| one == two).count();
                return Some(format!("{way:?}: {:?}, the twin: {:?}", one.get(at), two.get(at)));
            }
        }
        None
    }
}

impl Log {
    /// A worker is started.
    pub fn start(&mut self, now: Instant, engine: usize, seed: [u8; 32], snapshot: &Arc<Snapshot>) {
        self.told.push((now, engine, Told::Start(seed, Arc::clone(snapshot))));
    }

    /// A worker is told something.
    pub fn input(&mut self, now: Instant, engine: usize, input: &Input) {
        self.told.push((now, engine, Told::Input(input.clone())));
    }

    /// A worker does something.
    pub fn output(&mut self, now: Instant, engine: usize, output: &Output) {
        self.done.add(now, engine, output.clone());
    }
}

/// In which way a twin differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    /// It gets datagrams one by one.
    OneByOne,
    /// It is told of a timeout at every millisecond.
    Impatient,
}

/// Repeats a run as both twins. Gives how many inputs each of them had.
///
/// # Errors
/// S19 or S20 if a twin did something else; or whatever the run itself broke.
pub fn compare(options: &Options) -> Result<u64, Broken> {
    let mut options = options.clone();
    // What a worker does after its end is no part of a log; and these are checked on the spot.
    for fault in [Fault::Crash, Fault::DeadHandle, Fault::EarlyTimer] {
        options.rates.set(fault, 0);
    }
    let world = World::new(options.clone(), None, Some(Log::default()))?;
    let snapshot = world.first_snapshot();
    let (_, log) = world.run()?;
    let log = log.expect("the run was given one");
    for (twin, invariant) in [(Twin::OneByOne, Invariant::S19), (Twin::Impatient, Invariant::S20)] {
        let done = repeat(&options, &snapshot, &log, twin);
        if let Some(difference) = log.done.difference(&done) {
            return Err(Broken::new(invariant, difference));
        }
    }
    Ok(log.told.len() as u64)
}

fn repeat(options: &Options, snapshot: &Snapshot, log: &Log, twin: Twin) -> Done {
    let shared = Arc::new(Shared::new(snapshot, shared_seed(options)));
    let mut machines: Vec<Option<Machine>> = (0..options.engines).map(|_| None).collect();
    let mut done = Done::default();
    let mut outputs = Vec::new();
    let mut clock = log.told.first().map_or(Instant::ZERO, |(at, ..)| *at);
    for (at, engine, told) in &log.told {
        while twin == Twin::Impatient && clock + TICK < *at {
            clock = clock + TICK;
            for (engine, machine) in machines.iter_mut().enumerate() {
                let Some(machine) = machine else { continue };
                // A worker that is late for its deadline is late in the log too.
                if machine.engine().next_timeout().is_some_and(|(due, _)| due <= clock) {
                    continue;
                }
                machine.feed(clock, Input::Timeout, &mut outputs);
                outputs.drain(..).for_each(|output| done.add(clock, engine, output));
            }
        }
        clock = clock.max(*at);
        match told {
            Told::Start(seed, snapshot) => {
                let mut machine = Machine::new(&shared, Arc::clone(snapshot), *engine, *seed, *at);
                machine.drain(*at, &mut outputs);
                machines[*engine] = Some(machine);
            }
            Told::Input(input) => {
                let machine = machines[*engine].as_mut().expect("told after its start");
                match input {
                    Input::Datagrams(origin, datagrams) if twin == Twin::OneByOne => {
                        for datagram in datagrams {
                            let one = Input::Datagrams(*origin, vec![datagram.clone()]);
                            machine.feed(*at, one, &mut outputs);
                        }
                    }
                    Input::Datagrams(..)
                    | Input::SocketOpened(_)
                    | Input::SocketFailed(..)
                    | Input::SendFailed(..)
                    | Input::Connects(..)
                    | Input::Established(..)
                    | Input::Octets(..)
                    | Input::EndOfStream(_)
                    | Input::Written(..)
                    | Input::Closed(..)
                    | Input::Opens(..)
                    | Input::Body(..)
                    | Input::Reset(_)
                    | Input::Sent(_)
                    | Input::Answered(..)
                    | Input::Failed(..)
                    | Input::Wrote(..)
                    | Input::Exited(..)
                    | Input::Timeout
                    | Input::Reload(_)
                    | Input::Shutdown => machine.feed(*at, input.clone(), &mut outputs),
                }
            }
        }
        outputs.drain(..).for_each(|output| done.add(*at, *engine, output));
    }
    done
}
