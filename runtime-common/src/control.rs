//! The control thread: what the supervisor decides is carried out, what units tell is taken in.
//!
//! Owns the bound sockets, so that they outlive any worker. Decides nothing: what is started when,
//! and when the process ends, is up to the [`Supervisor`]. The daemons wait, for [`notice`] and for
//! the time that [`wait`] says, and call [`proceed`] after either.
//!
//! [`notice`]: Control::notice
//! [`wait`]: Control::wait
//! [`proceed`]: Control::proceed

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use balancedns_core::config::{Host, Snapshot};
use balancedns_core::engine::{Shared, Transport};
use balancedns_core::supervisor::{AfterExit, Decision, Outcome, Supervisor, UnitId};
use balancedns_core::time::{Duration, Instant};

use crate::admin::MakeView;
use crate::clock::Clock;
use crate::host::Machine;
use crate::listeners::{Listeners, explained};
use crate::lists::{Change, Lists, Report};
use crate::logging::Logging;
use crate::mailbox::{Receiver, Sender, mailbox};
use crate::resolvers::ResolverWatch;
use crate::signals::{self, Wish};
use crate::startup::{self, Prepared};
use crate::threads::{self, WorkerEnd};
use crate::tls::{CertificateWatch, TlsContext};
use crate::worker::{Command, Inbox, Setup};
use crate::{seed, socket};

/// Time between two lines about the same failure of the same unit.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Runs a worker on the thread that it is called on, until its end. The closure is called once it
/// serves.
pub type RunWorker = fn(Setup, Inbox, &dyn Fn()) -> WorkerEnd;

/// Starts serving metrics and health on the control thread.
///
/// Its error: the socket cannot be watched.
pub type ServeAdmin = fn(TcpListener, MakeView) -> io::Result<()>;

/// What the control thread hears of. Each unit tells two things between its start and its end, and
/// is not started again before; of signals there are as many as an operator sends; of lists there is
/// one for each at a time.
#[derive(Debug)]
enum Notice {
    Started(UnitId),
    Exited(UnitId, WorkerEnd),
    Wish(Wish),
    Lists(Report),
}

impl From<Report> for Notice {
    fn from(report: Report) -> Self {
        Self::Lists(report)
    }
}

impl From<Wish> for Notice {
    fn from(wish: Wish) -> Self {
        Self::Wish(wish)
    }
}

/// The control thread's state.
#[derive(Debug)]
pub struct Control {
    run_worker: RunWorker,
    serve_admin: ServeAdmin,
    clock: Clock,
    snapshot: Arc<Snapshot>,
    shared: Arc<Shared>,
    tls: Arc<TlsContext>,
    supervisor: Rc<RefCell<Supervisor>>,
    /// Gone once the daemon stops: workers that are asked to end hold their own descriptors.
    listeners: Option<Listeners>,
    workers: Vec<Option<Worker>>,
    metrics_unit: UnitId,
    notices: Receiver<Notice>,
    reporter: Sender<Notice>,
    announced: bool,
    /// What was said last of each unit that failed, and when: a port that stays taken is no news.
    told: BTreeMap<usize, (String, Instant)>,
    resolvers: Option<ResolverWatch>,
    certificate: Option<CertificateWatch>,
    /// Shared with the metrics.
    lists: Rc<RefCell<Lists>>,
    /// Writes what is logged until the very end.
    _logging: Logging,
}

#[derive(Debug)]
struct Worker {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
}

impl Control {
    /// Listens to signals from now on. Everything else begins with [`proceed`](Self::proceed).
    ///
    /// # Errors
    /// The process is out of threads or memory.
    pub fn new(
        prepared: Prepared,
        run_worker: RunWorker,
        serve_admin: ServeAdmin,
    ) -> io::Result<Self> {
        let supervisor = Rc::new(RefCell::new(prepared.supervisor()));
        let metrics_unit = prepared.metrics_unit();
        let (reporter, notices) = mailbox();
        signals::listen(reporter.clone());
        let now = prepared.clock.now();
        let identity = prepared.tls.identity().map(Arc::clone);
        Ok(Self {
            run_worker,
            serve_admin,
            clock: prepared.clock,
            snapshot: prepared.snapshot,
            shared: prepared.shared,
            tls: prepared.tls,
            supervisor,
            listeners: Some(prepared.listeners),
            workers: (0..prepared.workers).map(|_| None).collect(),
            metrics_unit,
            notices,
            reporter,
            announced: false,
            told: BTreeMap::new(),
            resolvers: prepared.resolvers,
            certificate: identity.map(|identity| CertificateWatch::new(identity, now)),
            lists: Rc::new(RefCell::new(prepared.lists)),
            _logging: prepared.logging,
        })
    }

    /// Carries out everything that is decided by now. Says how the process ends, once it does.
    pub fn proceed(&mut self) -> Option<Outcome> {
        self.look_at_resolvers();
        if let Some(watch) = &mut self.certificate {
            watch.look(self.clock.now());
        }
        self.look_at_lists();
        loop {
            let decision = self.supervisor.borrow_mut().poll_decision(self.clock.now());
            match decision {
                Some(Decision::Start(unit)) if unit == self.metrics_unit => {
                    self.start_metrics(unit);
                }
                Some(Decision::Start(unit)) => self.start_worker(unit),
                Some(Decision::Stop(unit)) => self.stop_worker(unit),
                Some(Decision::End(outcome)) => {
                    self.join(outcome);
                    return Some(outcome);
                }
                None => {
                    self.announce();
                    return None;
                }
            }
        }
    }

    /// How long until there is something to decide although nobody tells anything.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        let looks = [
            self.resolvers.as_ref().map(ResolverWatch::next_look),
            self.certificate.as_ref().map(CertificateWatch::next_look),
            self.lists.borrow().next_look(self.announced),
        ];
        let looks = looks.into_iter().flatten();
        let next = self.supervisor.borrow().next_timeout().into_iter().chain(looks).min()?;
        Some(next.since(self.clock.now()))
    }

    /// Waits until somebody tells something, and takes it in.
    pub async fn notice(&mut self) {
        let notice = self.notices.receive().await.expect("this thread holds a sender too");
        let now = self.clock.now();
        match notice {
            Notice::Started(unit) => self.supervisor.borrow_mut().handle_started(now, unit),
            Notice::Exited(unit, end) => self.exited(now, unit, end),
            Notice::Wish(Wish::Stop(name)) => {
                tracing::info!(event = "stopping", "{name}");
                self.supervisor.borrow_mut().handle_stop(now);
            }
            Notice::Lists(report) => self.list_told(now, report),
            Notice::Wish(Wish::Reload) => tracing::warn!(
                event = "reload_refused",
                "SIGHUP: reload is not available in this build; nothing was changed"
            ),
        }
    }

    /// Where the system's name servers have changed, what was made of them does too.
    fn look_at_resolvers(&mut self) {
        let Some(watch) = &mut self.resolvers else { return };
        let now = self.clock.now();
        let Some(mut snapshot) = watch.look(now, &self.snapshot) else { return };
        match self.tls.renewed(&snapshot) {
            Ok(tls) => self.tls = Arc::new(tls),
            Err(errors) => {
                for error in errors {
                    tracing::warn!(event = "config", "{error}");
                }
                tracing::warn!(event = "resolvers_kept", "everything stays as it was");
                return;
            }
        }
        self.lists.borrow_mut().carry_over(&self.snapshot, &mut snapshot, now);
        self.take_over(snapshot);
    }

    /// Lists are read and fetched by threads in the background, and looked up at our own listener as
    /// soon as there is one.
    fn look_at_lists(&mut self) {
        let Self { clock, snapshot, listeners, announced, reporter, lists, .. } = self;
        let servers = || {
            let bound = listeners.as_ref().map_or(&[][..], Listeners::bound);
            name_servers(snapshot, bound, &Machine::new(*clock))
        };
        lists.borrow_mut().look(clock.now(), *announced, servers, reporter);
    }

    fn list_told(&mut self, now: Instant, report: Report) {
        let Some(change) = self.lists.borrow_mut().handle(now, report) else { return };
        let mut snapshot = (*self.snapshot).clone();
        snapshot.generation += 1;
        match change {
            Change::List(source, list) => {
                snapshot.blocking = snapshot.blocking.with_list(&source, &list).into();
            }
            Change::Hosts(hosts) => snapshot.hosts = Some(hosts),
        }
        self.take_over(snapshot);
    }

    /// All workers go on under another configuration.
    fn take_over(&mut self, snapshot: Snapshot) {
        self.snapshot = Arc::new(snapshot);
        for worker in self.workers.iter().flatten() {
            let (snapshot, tls) = (Arc::clone(&self.snapshot), Arc::clone(&self.tls));
            worker.commands.send(Command::Reload(snapshot, tls));
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
                let told = self.told.get(&unit.0);
                if told.is_some_and(|(error, at)| *error == shown && now.since(*at) < TELL_EVERY) {
                    return;
                }
                let wait = at.since(now);
                tracing::warn!(event = "unit_failed", "{name}: {shown}; again in {wait:?}");
                self.told.insert(unit.0, (shown, now));
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
            tls: Arc::clone(&self.tls),
            seed: seed::seed().map_err(|error| error.to_string())?,
            listeners,
        };
        let (commands, received) = mailbox();
        let (started, exited) = (self.reporter.clone(), self.reporter.clone());
        let run = self.run_worker;
        let thread = threads::spawn(
            unit.0,
            move || run(setup, Inbox::new(received), &|| started.send(Notice::Started(unit))),
            move |end| exited.send(Notice::Exited(unit, end)),
        );
        let thread = thread.map_err(|error| error.to_string())?;
        self.workers[unit.0] = Some(Worker { commands, thread });
        Ok(())
    }

    fn stop_worker(&mut self, unit: UnitId) {
        // The sockets close for good once the workers have closed theirs.
        self.listeners = None;
        if let Some(Some(worker)) = self.workers.get(unit.0) {
            // One that has just ended on its own does not read it, and is about to report its end.
            worker.commands.send(Command::Stop);
        }
    }

    /// Not required, so that a port in use by somebody else does not stop the resolver.
    fn start_metrics(&mut self, unit: UnitId) {
        let Some(addr) = self.snapshot.listen.metrics else {
            return;
        };
        let now = self.clock.now();
        match self.try_start_metrics(addr) {
            Ok(()) => self.supervisor.borrow_mut().handle_started(now, unit),
            Err(error) => {
                let error = format!("listen.metrics {addr}: {}", explained(&error));
                self.exited(now, unit, Err(error));
            }
        }
    }

    fn try_start_metrics(&self, addr: SocketAddr) -> io::Result<()> {
        let listener = socket::admin_listener(addr)?;
        let bound = listener.local_addr().unwrap_or(addr);
        let (clock, shared) = (self.clock, Arc::clone(&self.shared));
        let supervisor = Rc::clone(&self.supervisor);
        let identity = self.tls.identity().map(Arc::clone); // the same one after any reload
        let lists = Rc::clone(&self.lists);
        let view = move || {
            let lists = lists.borrow().readings();
            startup::view(clock, &shared, identity.as_deref(), lists, &supervisor.borrow())
        };
        (self.serve_admin)(listener, MakeView::new(view))?;
        tracing::info!(event = "metrics", "metrics and health on http://{bound}");
        Ok(())
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
            tracing::info!(event = "try", "try: {command}");
        }
    }

    /// After a good end all threads have ended or are about to. Else nobody waits for them.
    fn join(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Stopped => {
                for worker in self.workers.drain(..).flatten() {
                    worker.thread.join().expect("panics of workers are caught and reported");
                }
            }
            Outcome::Failed | Outcome::Interrupted => {}
        }
        tracing::info!(event = "stopped", "exit code {}", outcome.exit_code());
    }
}

/// Whom to ask for the hosts of lists: ourselves, so that what holds for clients' names holds for
/// these, then those that know names before we do.
fn name_servers(
    snapshot: &Snapshot,
    bound: &[(Transport, SocketAddr)],
    host: &dyn Host,
) -> Vec<SocketAddr> {
    let own = bound.iter().filter(|(transport, _)| *transport == Transport::Udp);
    let own = own.map(|(_, addr)| startup::reachable(*addr));
    // Where a proxy is expected to speak for us, and is not there, nobody answers.
    let own = own.filter(|addr| !snapshot.listen.proxy_protocol_from.allows(addr.ip()));
    let mut servers: Vec<SocketAddr> = own.take(1).collect();
    let others = if snapshot.lists.bootstrap.is_empty() {
        host.system_resolvers()
    } else {
        snapshot.lists.bootstrap.clone()
    };
    servers.extend(others);
    servers
}

#[cfg(test)]
mod tests {
    use balancedns_core::config::Source;

    use super::*;
    use crate::configuration::evaluate;

    struct Resolvers;

    impl Host for Resolvers {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn read(&self, _: &str) -> Result<String, String> {
            Err("no such file".to_owned())
        }

        fn system_resolvers(&self) -> Vec<SocketAddr> {
            vec!["192.0.2.53:53".parse().expect("an address")]
        }

        fn clock(&self) -> Option<balancedns_core::config::Clock> {
            None
        }
    }

    fn servers(keys: &str, bound: &[(Transport, &str)]) -> Vec<String> {
        let text = format!(
            "return {{ listen = {{ dns = '127.0.0.1:5300', {keys} }},
               routing = {{ bootstrap = {{ '192.0.2.1' }} }},
               upstreams = {{ {{ name = 'one', addr = '192.0.2.9:53' }} }} }}"
        );
        let source = Source { name: "test".into(), folder: String::new(), text };
        let mut snapshot = evaluate(&source, &Resolvers).expect("valid").snapshot;
        if bound.is_empty() {
            snapshot.lists.bootstrap.clear();
        }
        let addr = |addr: &str| addr.parse().expect("an address");
        let bound: Vec<_> = bound.iter().map(|(transport, at)| (*transport, addr(at))).collect();
        let servers = name_servers(&snapshot, &bound, &Resolvers);
        servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn our_own_listener_is_asked_first_and_then_those_that_are_configured_or_the_systems() {
        let bound = [(Transport::Tcp, "127.0.0.1:5301"), (Transport::Udp, "0.0.0.0:5300")];
        assert_eq!(servers("", &bound), ["127.0.0.1:5300", "192.0.2.1:53"]);
        let all = [(Transport::Udp, "[::]:53"), (Transport::Udp, "192.0.2.7:53")];
        assert_eq!(servers("", &all), ["[::1]:53", "192.0.2.1:53"]);
        assert_eq!(servers("", &[]), ["192.0.2.53:53"]);
        let behind = "proxy_protocol_from = { '127.0.0.0/8' }";
        assert_eq!(servers(behind, &bound), ["192.0.2.1:53"]);
    }
}
