//! Processes of plugins: what they are told, what they answer, and all the ways in which they do not.
//!
//! A process knows from a name what to do with it. It may start late or never, take its time, hang,
//! die, write too much, half of an answer or nonsense, and be reported long after it was killed.

use balancedns_core::engine::{IoFailure, ProcessExit};
use balancedns_core::handle::ProcessHandle;
use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::limits::{PLUGIN_DISABLED, PROCESS_OUTPUT_OCTETS, PROCESSES};
use balancedns_core::policy::{ExecMode, ExecSettings};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use super::World;
use super::queue::{Event, Life};
use super::worker::End;
use crate::fault::Fault;
use crate::generation::{OnError, Policies};
use crate::invariant::{Broken, Invariant};
use crate::machine::Input;
use crate::model::{Outcome, Verdict};
use crate::plugin::Told;
use crate::policy::{Runtime, is_odd, verdict};

/// Faults of processes.
pub(super) const PROCESS_FAULTS: [Fault; 13] = [
    Fault::ProcessNotStarted,
    Fault::ProcessStartsLate,
    Fault::ProcessLate,
    Fault::ProcessHangs,
    Fault::ProcessCrashes,
    Fault::ProcessExitsAtOnce,
    Fault::ProcessFloods,
    Fault::ProcessHalf,
    Fault::ProcessGarbage,
    Fault::ProcessWrongId,
    Fault::ProcessTwice,
    Fault::ProcessLingers,
    Fault::ProcessDiesLate,
];
/// After a question to a process the operator may be this quick with another configuration.
const RELOADED_AFTER: Duration = Duration::from_micros(50);
/// An id that is none.
const WRONG_ID: u64 = 1 << 40;
/// How long a process takes for an answer, in microseconds, when nothing goes wrong: to start, to think,
/// and to end.
const TAKES_US: u64 = 4_000;

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    worker_mode: bool,
    variant: u64,
    timeout: Duration,
    reads: bool,
    pub(super) killed: bool,
    /// What it has not read.
    input: Vec<u8>,
    /// What it was told and has not answered.
    calls: Vec<Call>,
}

/// A question that a process was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    id: Option<u64>,
    domain: String,
    qtype: u16,
    told_at: Instant,
}

/// What happens with a process.
#[derive(Debug, Clone)]
pub(super) enum ProcessEvent {
    /// It begins to read.
    Reads,
    /// It writes something; with it the answer to a call is whole.
    Writes(Bytes, Option<Call>),
    /// It ends; with that the answer to a call is whole.
    Exits(ProcessExit, Option<Call>),
    /// By now the call has come to its end.
    IsDue(Call),
}

/// What came of the calls for one question.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// When a right answer last came in time.
    good: Option<Instant>,
    /// When a call last came to nothing.
    bad: Option<Instant>,
}

/// What has come of the calls of one worker.
#[derive(Debug)]
pub(super) struct Calls {
    records: Map<(String, u16), Record>,
    /// Since it has failed as often as it may, nothing is asked before.
    disabled_until: Instant,
}

impl Calls {
    pub(super) fn new() -> Self {
        let records = Map::with_hasher(KeyedState::new((15, 15)));
        Self { records, disabled_until: Instant::ZERO }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// Under another configuration everybody is asked again.
    pub(super) fn forgive(&mut self) {
        self.disabled_until = Instant::ZERO;
    }

    fn record(&mut self, call: &Call) -> &mut Record {
        self.records.entry((call.domain.clone(), call.qtype)).or_default()
    }
}

impl World {
    /// A process is to be started.
    pub(super) fn start_process(
        &mut self,
        engine: usize,
        process: ProcessHandle,
        command: &ExecSettings,
        input: &Bytes,
    ) -> Result<(), Broken> {
        let variant = command.args.first().and_then(|text| text.parse().ok());
        let is_ours = command.name == Runtime::Exec.plugin() && variant.is_some();
        self.checks.that(Invariant::S26, is_ours, || format!("a process of {command:?}"))?;
        let worker = &self.workers[engine];
        let policies = self.generations[worker.generation].policies.as_ref();
        let timeout = policies.map_or(0, |policies| policies.exec_timeout_ms);
        let life = worker.life(engine);
        let new = Process {
            worker_mode: command.mode == ExecMode::Worker,
            variant: variant.unwrap_or_default(),
            timeout: Duration::from_millis(timeout),
            reads: false,
            killed: false,
            input: Vec::new(),
            calls: Vec::new(),
        };
        let processes = &mut self.workers[engine].processes;
        let known = processes.insert(process, new).is_some();
        let count = processes.len();
        self.checks.that(Invariant::S10, !known && count <= PROCESSES, || {
            format!("{count} processes, {process:?} known before: {known}")
        })?;
        let event = |what| Event::Process { life, process, what };
        let mut at = self.now + Duration::from_micros(self.processes.between(100, 600));
        if self.faults.strike(Fault::ProcessStartsLate) {
            let late = self.faults.draw(Fault::ProcessStartsLate).between(1_000, 300_000);
            at = at + Duration::from_micros(late);
        }
        if self.faults.strike(Fault::ProcessNotStarted) {
            let why = IoFailure::NoResources;
            let exits = ProcessEvent::Exits(ProcessExit::NotStarted(why), None);
            self.queue.push(self.now, event(exits));
        } else if self.faults.strike(Fault::ProcessExitsAtOnce) {
            let code = self.faults.draw(Fault::ProcessExitsAtOnce).pick(&[0, 0, 1]);
            self.queue.push(at, event(ProcessEvent::Exits(ProcessExit::Code(code), None)));
        } else {
            self.queue.push(at, event(ProcessEvent::Reads));
        }
        self.process_told(engine, process, input)
    }

    /// More is written to a process.
    pub(super) fn feed_process(
        &mut self,
        engine: usize,
        process: ProcessHandle,
        input: &Bytes,
    ) -> Result<(), Broken> {
        let known = self.workers[engine].processes.get(&process);
        let may_read = known.is_some_and(|known| known.worker_mode && !known.killed);
        self.checks.that(Invariant::S17, may_read, || {
            format!("something is written to {process:?}, which does not read")
        })?;
        self.process_told(engine, process, input)?;
        self.process_reads(engine, process)
    }

    /// A process is to be killed.
    pub(super) fn kill_process(
        &mut self,
        engine: usize,
        process: ProcessHandle,
    ) -> Result<(), Broken> {
        let life = self.workers[engine].life(engine);
        let known = self.workers[engine].processes.get_mut(&process).filter(|one| !one.killed);
        self.checks.that(Invariant::S17, known.is_some(), || {
            format!("{process:?} is killed, which does not run")
        })?;
        let known = known.expect("just checked");
        known.killed = true;
        let calls = std::mem::take(&mut known.calls);
        for call in &calls {
            self.workers[engine].calls.record(call).bad = Some(self.now);
        }
        let mut at = self.now;
        if self.faults.strike(Fault::ProcessDiesLate) {
            let late = self.faults.draw(Fault::ProcessDiesLate).between(1, 3_000);
            at = at + Duration::from_millis(late);
        }
        let what = ProcessEvent::Exits(ProcessExit::Signal(9), None);
        self.queue.push(at, Event::Process { life, process, what });
        Ok(())
    }

    /// What is written to a process: whole lines, as an executable may expect them.
    fn process_told(
        &mut self,
        engine: usize,
        process: ProcessHandle,
        input: &Bytes,
    ) -> Result<(), Broken> {
        let disabled_until = self.workers[engine].calls.disabled_until;
        self.checks.that(Invariant::S25, self.now >= disabled_until, || {
            "a plugin is asked that has failed as often as it may".to_owned()
        })?;
        if std::mem::take(&mut self.reload_waits) {
            self.queue.push(self.now + RELOADED_AFTER, Event::Reload);
        }
        let life = self.workers[engine].life(engine);
        let known = self.workers[engine].processes.get_mut(&process).expect("the caller has it");
        known.input.extend_from_slice(input);
        let (timeout, has_id) = (known.timeout, known.worker_mode);
        let whole = input.ends_with(b"\n") || input.is_empty();
        let text = std::str::from_utf8(input).map_err(|odd| odd.to_string());
        let told: Result<Vec<Told>, String> =
            text.and_then(|text| text.lines().map(Told::read).collect());
        let is_right = whole
            && told.as_ref().is_ok_and(|told| told.iter().all(|one| one.id.is_some() == has_id));
        self.checks.that(Invariant::S26, is_right, || {
            format!("a process is told {told:?}, with ids: {has_id}")
        })?;
        for told in told.unwrap_or_default() {
            self.check_told(engine, &told)?;
            let Told { id, domain, qtype, .. } = told;
            let call = Call { id, domain, qtype, told_at: self.now };
            if let Some(known) = self.workers[engine].processes.get_mut(&process) {
                known.calls.push(call.clone());
            }
            let at = self.now + timeout + self.model.excuses.lateness + Duration::from_micros(1);
            let what = ProcessEvent::IsDue(call);
            self.queue.push(at, Event::Process { life, process, what });
        }
        Ok(())
    }

    /// Clients are told of only where no cached answer may go to others.
    fn check_told(&mut self, engine: usize, told: &Told) -> Result<(), Broken> {
        let generation = &self.generations[self.workers[engine].generation];
        let policies = generation.policies.as_ref();
        let may_tell = policies.is_some_and(|it| it.before_cache || !generation.cache);
        let tells = told.client.is_some() && told.transport.is_some();
        let nothing = told.client.is_none() && told.transport.is_none();
        // A question of before a reload may still be on its way.
        let right = if may_tell { tells } else { nothing } || self.generations.len() > 1;
        self.checks.that(Invariant::S8, right && (tells || nothing), || {
            format!("a plugin is told {told:?}; of clients: {may_tell}")
        })
    }

    /// Something happens with a process.
    pub(super) fn process_event(
        &mut self,
        life: Life,
        process: ProcessHandle,
        what: ProcessEvent,
    ) -> Result<(), Broken> {
        let engine = life.engine;
        if !self.workers[engine].is_alive(life) {
            return Ok(());
        }
        if let ProcessEvent::IsDue(call) = &what {
            return self.call_is_due(engine, process, call);
        }
        let Some(known) = self.workers[engine].processes.get_mut(&process) else { return Ok(()) };
        match what {
            ProcessEvent::IsDue(_) => Ok(()),
            ProcessEvent::Reads => {
                known.reads = true;
                self.process_reads(engine, process)
            }
            ProcessEvent::Writes(octets, call) => {
                let (timeout, killed) = (known.timeout, known.killed);
                known.calls.retain(|open| Some(open) != call.as_ref());
                // After nonsense nothing else counts either; who runs once is heard in the end, but
                // for too much.
                let is_too_much = octets.len() > PROCESS_OUTPUT_OCTETS;
                let is_nonsense = call.is_none() && (known.worker_mode || is_too_much);
                let failed = if is_nonsense { known.calls.clone() } else { Vec::new() };
                self.note_answer(engine, timeout, killed, call.as_ref());
                self.calls_fail(engine, &failed);
                self.feed(engine, Input::Wrote(process, octets))
            }
            ProcessEvent::Exits(how, call) => {
                let (timeout, killed) = (known.timeout, known.killed);
                known.calls.retain(|open| Some(open) != call.as_ref());
                let failed = std::mem::take(&mut known.calls);
                self.note_answer(engine, timeout, killed, call.as_ref());
                self.calls_fail(engine, &failed);
                self.workers[engine].bury(End::Process(process));
                self.feed(engine, Input::Exited(process, how))
            }
        }
    }

    /// Calls come to nothing.
    fn calls_fail(&mut self, engine: usize, calls: &[Call]) {
        for call in calls {
            self.workers[engine].calls.record(call).bad = Some(self.now);
        }
        let policies = self.generations[self.workers[engine].generation].policies.as_ref();
        let is_last = policies.is_some_and(|it| it.disable_after == 1 && !it.worker_mode);
        if is_last && !calls.is_empty() {
            self.workers[engine].calls.disabled_until = self.now + PLUGIN_DISABLED;
        }
    }

    /// A right answer comes: in time, too late, or in between if engines may be late.
    fn note_answer(&mut self, engine: usize, timeout: Duration, killed: bool, call: Option<&Call>) {
        let Some(call) = call else { return };
        let now = self.now;
        let took = now.since(call.told_at);
        let lateness = self.model.excuses.lateness;
        let calls = &mut self.workers[engine].calls;
        if killed || took >= timeout {
            calls.record(call).bad = Some(now);
        }
        if !killed && took <= timeout + lateness {
            calls.record(call).good = Some(now);
            calls.forgive();
        }
    }

    /// The time of a call is over.
    fn call_is_due(
        &mut self,
        engine: usize,
        process: ProcessHandle,
        call: &Call,
    ) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        let now = self.now;
        let record = worker.calls.record(call);
        if record.good.is_none_or(|good| good < call.told_at) {
            record.bad = Some(now);
        }
        let known = worker.processes.get(&process);
        let is_over = known.is_none_or(|known| known.killed || known.worker_mode);
        self.checks.that(Invariant::S26, is_over, || {
            format!("{process:?} runs on, {:?} after it was told {call:?}", now.since(call.told_at))
        })
    }

    /// A process reads the lines that are whole, and does something about each.
    fn process_reads(&mut self, engine: usize, process: ProcessHandle) -> Result<(), Broken> {
        while let Some(known) = self.workers[engine].processes.get_mut(&process)
            && known.reads
            && let Some(end) = known.input.iter().position(|octet| *octet == b'\n')
        {
            let line: Vec<u8> = known.input.drain(..=end).collect();
            let line = String::from_utf8(line).expect("checked when it was written");
            let told =
                Told::read(line.trim_end_matches('\n')).expect("checked when it was written");
            self.process_answers(engine, process, &told);
        }
        Ok(())
    }

    fn process_answers(&mut self, engine: usize, process: ProcessHandle, told: &Told) {
        let life = self.workers[engine].life(engine);
        let known = &self.workers[engine].processes[&process];
        let (worker_mode, variant) = (known.worker_mode, known.variant);
        // There is none any more if the process has been killed meanwhile.
        let call = known.calls.iter().find(|call| call.id == told.id).cloned();
        let mut at = self.now + Duration::from_micros(self.processes.between(100, 2_000));
        if self.faults.strike(Fault::ProcessLate) {
            let late = self.faults.draw(Fault::ProcessLate).between(1_000, 400_000);
            at = at + Duration::from_micros(late);
        }
        let answer = verdict(&told.domain, variant);
        if self.faults.strike(Fault::ProcessHangs)
            || (answer.is_none() && told.domain.contains(".loop."))
        {
            return;
        }
        let mut push = |at, what| self.queue.push(at, Event::Process { life, process, what });
        if answer.is_none() && !worker_mode {
            return push(at, ProcessEvent::Exits(ProcessExit::Code(3), None));
        }
        if self.faults.strike(Fault::ProcessCrashes) {
            let how = if self.faults.draw(Fault::ProcessCrashes).chance(500) {
                ProcessExit::Signal(11)
            } else {
                ProcessExit::Code(1)
            };
            return push(at, ProcessEvent::Exits(how, None));
        }
        let right = told.answer(answer.as_deref().unwrap_or("{\"error\":\"as its name says\"}"));
        let (written, is_right) = self.spoil(worker_mode, told, right);
        let is_right = is_right && answer.is_some() && !is_odd(&told.domain);
        let lingers = !worker_mode && self.faults.strike(Fault::ProcessLingers);
        let call = call.filter(|_| is_right);
        let mut push = |at, what| self.queue.push(at, Event::Process { life, process, what });
        if worker_mode {
            let is_half = written.len() < PROCESS_OUTPUT_OCTETS && !written.ends_with(b"\n");
            push(at, ProcessEvent::Writes(written, call));
            if is_half {
                // It has died in the middle.
                push(at, ProcessEvent::Exits(ProcessExit::Signal(6), None));
            }
            return;
        }
        push(at, ProcessEvent::Writes(written, None));
        if !lingers {
            let at = at + Duration::from_micros(self.processes.between(0, 300));
            push(at, ProcessEvent::Exits(ProcessExit::Code(0), call));
        }
    }

    /// What is written in the end, and whether it is right still.
    fn spoil(&mut self, worker_mode: bool, told: &Told, right: String) -> (Bytes, bool) {
        if self.faults.strike(Fault::ProcessFloods) {
            return (vec![b'y'; PROCESS_OUTPUT_OCTETS + 1].into(), false);
        }
        if self.faults.strike(Fault::ProcessHalf) {
            return (Bytes::copy_from_slice(&right.as_bytes()[..right.len() / 2]), false);
        }
        if self.faults.strike(Fault::ProcessGarbage) {
            let draw = self.faults.draw(Fault::ProcessGarbage);
            let length = 1 + draw.below(100);
            let mut garbage: Vec<u8> = (0..length).map(|_| draw.bits() as u8).collect();
            garbage.push(b'\n');
            return (garbage.into(), false);
        }
        if self.faults.strike(Fault::ProcessTwice) {
            // One that runs once has said more than an answer then.
            return ((right.clone() + &right).into(), worker_mode);
        }
        if worker_mode && self.faults.strike(Fault::ProcessWrongId) {
            let other = Told { id: told.id.map(|id| id + WRONG_ID), ..told.clone() };
            return (other.answer("{\"action\":\"FORWARD\"}").into(), false);
        }
        (right.into(), true)
    }

    /// Whether a plugin may fail whatever the name says.
    pub(super) fn may_fail(&self, policies: &Policies, plugin: Runtime) -> bool {
        if self.strict {
            return false;
        }
        match plugin {
            Runtime::Lua => policies.disable_after > 0,
            // A name that makes a process hang that is kept running costs others their answers.
            Runtime::Exec => {
                policies.disable_after > 0 || policies.worker_mode || self.processes_may_fail()
            }
        }
    }

    fn processes_may_fail(&self) -> bool {
        let is_on = |fault: &Fault| self.options.rates.get(*fault) > 0;
        let at_once = self.options.clients as u64 * self.options.burst as u64;
        let running = at_once * TAKES_US / self.options.pause_us;
        let is_crowded = at_once + running > PROCESSES as u64 / 2;
        is_crowded
            || PROCESS_FAULTS.iter().any(is_on)
            || [Fault::LateTimer, Fault::Reload, Fault::ResetFlood, Fault::Retries]
                .iter()
                .any(is_on)
    }

    /// What a reply says of the executable has to be what came of its call.
    pub(super) fn check_call(&mut self, engine: usize, outcome: &Outcome) -> Result<(), Broken> {
        let Some(name) = outcome.judged else { return Ok(()) };
        let key = (self.truth.names()[name].text.clone(), outcome.qtype);
        let record = self.workers[engine].calls.records.get(&key).copied().unwrap_or_default();
        let since = |at: Option<Instant>| at.is_some_and(|at| at >= outcome.asked_at);
        let policies = self.generations[self.workers[engine].generation].policies.as_ref();
        let blocks = policies.is_some_and(|policies| policies.on_error == OnError::Block);
        let is_as_failed = !outcome.is_telling
            || outcome.expected == Verdict::Failed
            || (blocks && matches!(outcome.expected, Verdict::Blocked(_)));
        if outcome.verdict == outcome.expected && is_as_failed {
            return Ok(()); // it cannot be told which it was
        }
        if outcome.verdict == outcome.expected {
            return self.checks.that(Invariant::S26, since(record.good), || {
                format!("{} has a verdict of no call in time: {record:?}, {outcome:?}", key.0)
            });
        }
        let is_clear = policies.is_some_and(|policies| {
            policies.disable_after == 0
                && !policies.worker_mode
                && policies.on_error != OnError::Forward
        });
        let failed =
            outcome.is_telling && matches!(outcome.verdict, Verdict::Failed | Verdict::Blocked(_));
        if !is_clear || !failed || self.generations.len() > 1 || self.is_busy() || self.stopping {
            return Ok(());
        }
        // Whoever is killed in time is so after this reply has left.
        let deadline = self.generations[self.workers[engine].generation].deadline_ms;
        let timeout = policies.map_or(0, |policies| policies.exec_timeout_ms.min(deadline));
        let is_due = |call: &Call| {
            let is_its = call.domain == key.0 && call.qtype == key.1;
            is_its && self.now >= call.told_at + Duration::from_millis(timeout)
        };
        let mut open = self.workers[engine].processes.values().flat_map(|one| &one.calls);
        let did_fail = since(record.bad) || open.any(is_due);
        self.checks.that(Invariant::S25, did_fail, || {
            format!("{} has failed, and no call did: {record:?}, {outcome:?}", key.0)
        })
    }

    /// Whether there may be more calls than places for them.
    fn is_busy(&self) -> bool {
        let at_once = self.options.clients * self.options.burst;
        at_once > PROCESSES / 4
            || self.workers.iter().any(|one| one.processes.len() > PROCESSES / 2)
    }
}
