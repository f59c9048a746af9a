//! The control thread: signals, the supervisor's decisions, worker threads, the metrics server.
//!
//! Owns the bound sockets, so that they outlive any worker. Decides nothing: what is started when,
//! and when the process ends, is up to the [`Supervisor`].

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use balancedns_core::config::Snapshot;
use balancedns_core::engine::Shared;
use balancedns_core::supervisor::{AfterExit, Decision, Outcome, Supervisor, UnitId};
use balancedns_core::time::Instant;
use balancedns_runtime::clock::Clock;
use balancedns_runtime::listeners::{Listeners, explained};
use balancedns_runtime::logging::{self, Logging};
use balancedns_runtime::startup::{self, Prepared};
use balancedns_runtime::workers::{self, WorkerEnd};
use balancedns_runtime::{seed, socket};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use crate::admin;
use crate::worker::{self, Command, Setup};

/// What a unit tells the control thread.
#[derive(Debug)]
enum Report {
    Started(UnitId),
    Exited(UnitId, WorkerEnd),
}

/// Runs the daemon until its end.
///
/// # Errors
/// The control thread itself cannot work; a line each.
pub(crate) fn run(prepared: Prepared) -> Result<Outcome, Vec<String>> {
    let failed = |error: io::Error| vec![format!("cannot start: {error}")];
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    LocalSet::new().block_on(&runtime, async {
        let signals = Signals::new().map_err(failed)?;
        Ok(Control::new(prepared).run(signals).await)
    })
}

/// The signals that the daemon listens to.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug)]
enum Wish {
    /// To stop, by this signal's name.
    Stop(&'static str),
    /// To take over a changed configuration.
    Reload,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate, hangup: signal(SignalKind::hangup())? })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.terminate.recv() => Wish::Stop("SIGTERM"),
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}

#[derive(Debug)]
struct Control {
    clock: Clock,
    snapshot: Arc<Snapshot>,
    shared: Arc<Shared>,
    supervisor: Rc<RefCell<Supervisor>>,
    /// Gone once the daemon stops: workers that are asked to end hold their own descriptors.
    listeners: Option<Listeners>,
    workers: Vec<Option<Worker>>,
    metrics_unit: UnitId,
    /// Writes what is logged until the very end.
    _logging: Logging,
    reports: UnboundedReceiver<Report>,
    reporter: UnboundedSender<Report>,
    announced: bool,
}

#[derive(Debug)]
struct Worker {
    commands: UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

impl Control {
    fn new(prepared: Prepared) -> Self {
        let supervisor = Rc::new(RefCell::new(prepared.supervisor()));
        let metrics_unit = prepared.metrics_unit();
        let (reporter, reports) = unbounded_channel();
        Self {
            clock: prepared.clock,
            snapshot: prepared.snapshot,
            shared: prepared.shared,
            supervisor,
            listeners: Some(prepared.listeners),
            workers: (0..prepared.workers).map(|_| None).collect(),
            metrics_unit,
            _logging: prepared.logging,
            reports,
            reporter,
            announced: false,
        }
    }

    async fn run(mut self, mut signals: Signals) -> Outcome {
        loop {
            if let Some(outcome) = self.carry_out_decisions() {
                self.join(outcome);
                return outcome;
            }
            self.announce();
            let timeout = self.supervisor.borrow().next_timeout();
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop(name) => {
                        tracing::info!(event = "stopping", "{name}");
                        self.supervisor.borrow_mut().handle_stop(self.clock.now());
                    }
                    Wish::Reload => tracing::warn!(
                        event = "reload_refused",
                        "SIGHUP: reload is not available in this build; nothing was changed"
                    ),
                },
                report = self.reports.recv() => {
                    self.note(report.expect("this thread holds a sender too"));
                }
                () = wait_until(self.clock, timeout) => {}
            }
        }
    }

    fn carry_out_decisions(&mut self) -> Option<Outcome> {
        loop {
            let decision = self.supervisor.borrow_mut().poll_decision(self.clock.now())?;
            match decision {
                Decision::Start(unit) if unit == self.metrics_unit => self.start_metrics(unit),
                Decision::Start(unit) => self.start_worker(unit),
                Decision::Stop(unit) => self.stop_worker(unit),
                Decision::End(outcome) => return Some(outcome),
            }
        }
    }

    fn note(&mut self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Started(unit) => self.supervisor.borrow_mut().handle_started(now, unit),
            Report::Exited(unit, end) => self.exited(now, unit, end),
        }
    }

    fn exited(&mut self, now: Instant, unit: UnitId, end: WorkerEnd) {
        let name = self.name_of(unit);
        let error = end.err();
        let shown = error.clone().unwrap_or_else(|| "ended".to_owned());
        let after = self.supervisor.borrow_mut().handle_exited(now, unit, error);
        match after {
            AfterExit::Ended => tracing::info!(event = "unit_ended", "{name}: {shown}"),
            AfterExit::RestartsAt(at) => {
                let wait = at.since(now);
                tracing::warn!(event = "unit_failed", "{name}: {shown}; again in {wait:?}");
            }
            AfterExit::GivenUp => {
                tracing::error!(event = "unit_given_up", "{name}: {shown}; given up");
            }
        }
    }

    fn name_of(&self, unit: UnitId) -> String {
        if unit == self.metrics_unit {
            return "metrics-http".to_owned();
        }
        format!("worker-{}", unit.0)
    }

    fn start_worker(&mut self, unit: UnitId) {
        if let Err(error) = self.try_start_worker(unit) {
            self.exited(self.clock.now(), unit, Err(error));
        }
    }

    fn try_start_worker(&mut self, unit: UnitId) -> Result<(), String> {
        let Some(listeners) = &self.listeners else {
            return Err("stopping".to_owned());
        };
        let listeners = listeners.for_worker(unit.0).map_err(|error| error.to_string())?;
        let setup = Setup {
            index: unit.0,
            clock: self.clock,
            snapshot: Arc::clone(&self.snapshot),
            shared: Arc::clone(&self.shared),
            seed: seed::seed().map_err(|error| error.to_string())?,
            listeners,
        };
        let (commands, received) = unbounded_channel();
        let (started, exited) = (self.reporter.clone(), self.reporter.clone());
        // Nobody listens any more when the process ends in a hurry.
        let report = |sender: UnboundedSender<Report>, report| drop(sender.send(report));
        let thread = workers::spawn(
            unit.0,
            move || worker::run(setup, received, || report(started, Report::Started(unit))),
            move |end| report(exited, Report::Exited(unit, end)),
        );
        let thread = thread.map_err(|error| error.to_string())?;
        self.workers[unit.0] = Some(Worker { commands, thread });
        Ok(())
    }

    fn stop_worker(&mut self, unit: UnitId) {
        // The sockets close for good once the workers have closed theirs.
        self.listeners = None;
        if let Some(Some(worker)) = self.workers.get(unit.0) {
            // A worker that has just ended on its own is about to report it.
            let _gone = worker.commands.send(Command::Stop);
        }
    }

    /// Not required, so that a port in use by somebody else does not stop the resolver.
    fn start_metrics(&mut self, unit: UnitId) {
        let Some(addr) = self.snapshot.listen.metrics else {
            return;
        };
        let listener = socket::admin_listener(addr).and_then(tokio::net::TcpListener::from_std);
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                let error = format!("listen.metrics {addr}: {}", explained(&error));
                return self.exited(self.clock.now(), unit, Err(error));
            }
        };
        let bound = listener.local_addr().unwrap_or(addr);
        tracing::info!(event = "metrics", "metrics and health on http://{bound}");
        let (clock, shared) = (self.clock, Arc::clone(&self.shared));
        let supervisor = Rc::clone(&self.supervisor);
        let view = move || startup::view(clock, &shared, &supervisor.borrow());
        spawn_local(admin::serve(listener, Rc::new(view)));
        self.supervisor.borrow_mut().handle_started(self.clock.now(), unit);
    }

    /// Tells the operator once that everything required runs, and what to try.
    fn announce(&mut self) {
        if self.announced || !self.supervisor.borrow().is_ready() {
            return;
        }
        self.announced = true;
        let Some(listeners) = &self.listeners else {
            return;
        };
        let bound = listeners.bound();
        let summary = startup::summary(&self.snapshot, bound, self.workers.len());
        tracing::info!(event = "ready", "{summary}");
        if let Some(command) = startup::command_to_try(bound) {
            logging::plain(&format!("try: {command}"));
        }
    }

    /// After a good end all threads have ended or are about to. Else nobody waits for them.
    fn join(self, outcome: Outcome) {
        match outcome {
            Outcome::Stopped => {
                for worker in self.workers.into_iter().flatten() {
                    worker.thread.join().expect("panics of workers are caught and reported");
                }
            }
            Outcome::Failed | Outcome::Interrupted => {}
        }
        tracing::info!(event = "stopped", "exit code {}", outcome.exit_code());
    }
}

async fn wait_until(clock: Clock, at: Option<Instant>) {
    match at {
        Some(at) => sleep(at.since(clock.now())).await,
        None => pending().await,
    }
}
