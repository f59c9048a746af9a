//! What comes with the time: weather over the servers, crashes and the supervisor, reloads, and the
//! end.

use std::sync::Arc;

use balancedns_core::config;
use balancedns_core::supervisor::{AfterExit, Decision, Outcome, UnitId};
use balancedns_core::time::{Duration, Instant};

use super::World;
use super::queue::Event;
use super::servers::LASTING;
use crate::draw::{Draw, Purpose};
use crate::fault::Fault;
use crate::generation::{Files, Generation, source};
use crate::invariant::{Broken, Invariant};
use crate::machine::{Input, Machine};
use crate::policy::Runtime;

/// The longest that anything waits for plugins.
const SUSPENDED: Duration = Duration::from_secs(2);
/// Seconds between two changes of the weather.
const WEATHER_EVERY: u64 = 5;
impl World {
    /// Once a second.
    pub(super) fn tick(&mut self) -> Result<(), Broken> {
        if self.stopping || self.faults.healed() {
            return Ok(());
        }
        if self.ticks.is_multiple_of(WEATHER_EVERY) {
            self.weather();
        }
        self.ticks += 1;
        self.queue.push(self.now + Duration::from_secs(1), Event::Tick);
        for engine in 0..self.workers.len() {
            if self.faults.strike(Fault::Crash) {
                self.crash(engine)?;
            }
        }
        if self.faults.strike(Fault::Reload) {
            // Where processes are asked there is something to begin again with.
            let policies = self.generations.last().and_then(|one| one.policies.as_ref());
            self.reload_waits = policies.is_some_and(|it| it.plugins.contains(&Runtime::Exec));
            if !self.reload_waits {
                self.reload()?;
            }
        }
        if self.faults.strike(Fault::BadReload) {
            self.bad_reload()?;
        }
        Ok(())
    }

    /// What befalls servers for a while.
    pub(super) fn weather(&mut self) {
        for place in 0..self.servers.len() {
            for (number, (fault, shortest, longest)) in LASTING.into_iter().enumerate() {
                if self.faults.strike(fault) {
                    let seconds = self.faults.draw(fault).between(shortest, longest);
                    let until = self.now + Duration::from_secs(seconds);
                    self.servers[place].lasting[number] = until;
                }
            }
            if self.faults.strike(Fault::HostMoves) {
                self.servers[place].moved ^= true;
            }
        }
    }

    /// A worker panics.
    fn crash(&mut self, engine: usize) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        let Some(machine) = worker.machine.take() else { return Ok(()) };
        let sizes = machine.engine().sizes();
        worker.lost += (sizes.waiters + sizes.suspended) as u64;
        drop(machine);
        worker.sockets.clear();
        worker.conns.clear();
        worker.exchanges.clear();
        worker.processes.clear();
        worker.calls.forget();
        worker.connect_failed.clear();
        worker.graves.clear();
        worker.habits.forget();
        self.model.forget_engine(engine);
        let lost: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.life.engine == engine)
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            self.drop_link(number);
        }
        let after =
            self.supervisor.handle_exited(self.now, UnitId(engine), Some("panic".to_owned()));
        let AfterExit::RestartsAt(at) = after else {
            return Err(Broken::new(Invariant::S27, format!("after a panic: {after:?}")));
        };
        let settings = &self.snapshot.control;
        let worker = &mut self.workers[engine];
        let stable = self.now.since(worker.started_at) >= settings.min_stable_run;
        worker.failures = if stable { 1 } else { worker.failures + 1 };
        let failures = worker.failures;
        let waits = at.since(self.now);
        let doubled = settings.restart_backoff * (1 << (failures - 1).min(16));
        self.checks.that(
            Invariant::S27,
            waits == doubled.min(settings.restart_max_backoff),
            || format!("restarted after {waits:?}, with {failures} failures in a row"),
        )?;
        self.workers[engine].late_until = at;
        self.queue.push(at, Event::Supervise);
        Ok(())
    }

    /// Carries out what the supervisor decides.
    pub(super) fn supervise(&mut self) -> Result<(), Broken> {
        while let Some(decision) = self.supervisor.poll_decision(self.now) {
            match decision {
                Decision::Start(UnitId(engine)) => {
                    let worker = &self.workers[engine];
                    let once = worker.machine.is_none() && self.now >= worker.late_until;
                    self.checks.that(Invariant::S27, once, || {
                        format!("worker {engine} is started while it runs, or too early")
                    })?;
                    self.start_worker(engine)?;
                    self.supervisor.handle_started(self.now, UnitId(engine));
                }
                Decision::Stop(UnitId(engine)) => self.feed(engine, Input::Shutdown)?,
                Decision::End(outcome) => {
                    self.checks.that(Invariant::S27, outcome == Outcome::Stopped, || {
                        format!("the process ended with {outcome:?}")
                    })?;
                    self.ended = true;
                }
            }
        }
        if let Some(at) = self.supervisor.next_timeout().filter(|_| self.stopping && !self.ended) {
            self.queue.push(at.max(self.now), Event::Supervise);
        }
        Ok(())
    }

    fn start_worker(&mut self, engine: usize) -> Result<(), Broken> {
        self.starts += 1;
        let seed = Draw::new(self.options.seed, Purpose::Worker(self.starts)).seed();
        let snapshot = Arc::clone(&self.snapshot);
        if let Some(log) = &mut self.log {
            log.start(self.now, engine, seed, &snapshot);
        }
        let mut machine = Machine::new(&self.shared, snapshot, engine, seed, self.now);
        let mut outputs = Vec::new();
        machine.drain(self.now, &mut outputs);
        let worker = &mut self.workers[engine];
        worker.machine = Some(machine);
        worker.start += 1;
        worker.started_at = self.now;
        worker.listens = true;
        worker.late_until = Instant::ZERO;
        worker.generation = self.generations.len() - 1;
        self.carry_out(engine, outputs)
    }

    /// A worker has come to its end.
    pub(super) fn worker_stopped(&mut self, engine: usize) -> Result<(), Broken> {
        let worker = &mut self.workers[engine];
        worker.stopped = true;
        let (sockets, conns) = (worker.sockets.len(), worker.conns.len());
        // Who was killed may be reported later, to nobody.
        let processes = worker.processes.values().filter(|process| !process.killed).count();
        worker.processes.clear();
        let asked = self.stopping;
        self.checks.that(Invariant::S17, asked && sockets + conns + processes == 0, || {
            format!(
                "stopped with {sockets} sockets and {conns} connections open and {processes} \
                 processes, asked to: {asked}"
            )
        })?;
        self.supervisor.handle_exited(self.now, UnitId(engine), None);
        self.queue.push(self.now, Event::Supervise);
        Ok(())
    }

    /// The operator changes the configuration.
    pub(super) fn reload(&mut self) -> Result<(), Broken> {
        let number = self.generations.len() as u64;
        let generation = Generation::draw(&self.options, number);
        let loaded = generation.load();
        self.checks.that(Invariant::S24, loaded.is_ok(), || {
            format!(
                "a good configuration is refused: {:?}\n{}",
                loaded.as_ref().err(),
                generation.lua()
            )
        })?;
        let Ok(mut snapshot) = loaded else { return Ok(()) };
        snapshot.generation = number;
        self.trace.note(self.now, || generation.lua());
        self.snapshot = Arc::new(snapshot);
        self.old_snapshots.push(Arc::downgrade(&self.snapshot));
        self.model.reloaded(&generation);
        self.generations.push(generation);
        for engine in 0..self.workers.len() {
            let worker = &mut self.workers[engine];
            worker.connect_failed.clear(); // other settings make another endpoint
            worker.generation = self.generations.len() - 1;
            self.begin_again(engine);
            let snapshot = Arc::clone(&self.snapshot);
            self.feed(engine, Input::Reload(snapshot))?;
        }
        Ok(())
    }

    /// Who waits for a plugin begins again, under the new configuration.
    fn begin_again(&mut self, engine: usize) {
        self.workers[engine].calls.forgive();
        let number = self.workers[engine].generation;
        if self.generations[number].policies.is_none() {
            return;
        }
        let patience = Duration::from_millis(self.generations[number].deadline_ms);
        let mut suspended = std::mem::take(&mut self.suspended);
        suspended.retain(|one| self.now.since(one.at) <= SUSPENDED);
        for own in suspended.iter_mut().filter(|one| one.engine == engine) {
            self.asks_again(own);
        }
        self.suspended = suspended;
        for (key, inquiry) in self.model.waiting_at(engine) {
            let mut prospects = self.prospects(engine, &inquiry);
            prospects.others.extend(self.blocked_as_answered(engine, &inquiry));
            self.model.begins_again(key, &prospects, patience);
        }
    }

    /// The operator makes a mistake.
    fn bad_reload(&mut self) -> Result<(), Broken> {
        let generation = self.generations.last().expect("there is one");
        let text = generation.damaged(self.faults.draw(Fault::BadReload));
        let loaded = config::load(&source(text.clone()), &Files);
        self.checks.that(Invariant::S24, loaded.is_err(), || format!("taken though wrong:\n{text}"))
    }

    /// All workers are to stop.
    pub(super) fn stop(&mut self) -> Result<(), Broken> {
        for engine in 0..self.workers.len() {
            self.inspect_now(engine)?;
            self.check_habits(engine)?;
            self.check_probes(engine)?;
        }
        if self.options.rates.get(Fault::StopUnderLoad) > 0 {
            self.faults.count(Fault::StopUnderLoad);
            self.recovering.clear();
            self.strict = false;
            self.model.excuses.may_fail = true;
            for _ in 0..20 {
                let question = self.make_question(0);
                let engine = self.engine_of(question.peer);
                self.queries_arrive(engine, question)?;
            }
            self.ask_by_stream(0, 5);
        }
        self.stopping = true;
        self.model.excuses.stopping = true;
        self.model.excuses.may_fail = true;
        self.supervisor.handle_stop(self.now);
        self.supervise()?;
        let drain = Duration::from_millis(self.generations.last().expect("there is one").drain_ms);
        self.queue.push(self.now + drain + Duration::from_millis(1), Event::End);
        Ok(())
    }

    /// All workers have had their time.
    pub(super) fn end(&mut self) -> Result<(), Broken> {
        self.supervise()?;
        self.checks.that(Invariant::S17, self.ended, || {
            "not stopped in the time for draining".to_owned()
        })?;
        self.model.check_done(&mut self.checks)?;
        for engine in 0..self.workers.len() {
            self.check_nothing_left(engine)?;
        }
        for worker in &mut self.workers {
            worker.machine = None;
        }
        let open = self.shared.open_connections();
        self.checks
            .that(Invariant::S17, open == 0, || format!("{open} connections are still counted"))?;
        if self.log.is_some() {
            return Ok(()); // which holds them all
        }
        let current = Arc::as_ptr(&self.snapshot);
        let kept = self
            .old_snapshots
            .iter()
            .filter(|old| old.strong_count() > 0 && old.as_ptr() != current);
        let kept = kept.count();
        self.checks
            .that(Invariant::S17, kept == 0, || format!("{kept} old snapshots are still held"))
    }

    fn check_nothing_left(&mut self, engine: usize) -> Result<(), Broken> {
        self.inspect_now(engine)?;
        let worker = &self.workers[engine];
        let Some(machine) = worker.machine.as_ref() else { return Ok(()) };
        let (sizes, next) = (machine.engine().sizes(), machine.engine().next_timeout());
        let nothing = sizes == balancedns_core::engine::Sizes::default() && next.is_none();
        let nothing = nothing
            && worker.sockets.is_empty()
            && worker.conns.is_empty()
            && worker.processes.is_empty();
        self.checks.that(Invariant::S17, nothing, || {
            format!(
                "left: {sizes:?}, a timer {next:?}, {} sockets, {} connections",
                worker.sockets.len(),
                worker.conns.len()
            )
        })
    }
}
