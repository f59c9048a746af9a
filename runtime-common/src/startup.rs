//! From the command line to everything that is there before the first worker: configuration,
//! shared state, bound sockets, the plan of what is supervised, and a word to the operator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;

use balancedns_core::admin::View;
use balancedns_core::config::{Loaded, Snapshot};
use balancedns_core::engine::{Shared, Transport};
use balancedns_core::exposition::{ListReading, Readings};
use balancedns_core::policy::PluginKind;
use balancedns_core::supervisor::{ComponentSpec, Outcome, Supervisor, UnitId};

use crate::cli::Options;
use crate::clock::{Clock, unix_now};
use crate::configuration::{evaluate, log_warning, source};
use crate::host::{Machine, Remembering};
use crate::listeners::Listeners;
use crate::lists::Lists;
use crate::logging::{self, Logging};
use crate::process::{self, launcher};
use crate::resolvers::ResolverWatch;
use crate::tls::{Identity, TlsContext};
use crate::{machine, seed, signals, threads};

/// The `main` of a daemon: from the command line to the exit code.
pub fn daemon(
    name: &'static str,
    run: impl FnOnce(Prepared) -> Result<Outcome, Vec<String>>,
) -> ExitCode {
    // First of all: this process may be about to become a plugin, which has to be quick.
    if let Some(failure) = launcher::run_if_asked(std::env::args_os()) {
        return failure;
    }
    let options = Options::parse(name, std::env::args_os()).unwrap_or_else(|error| error.exit());
    threads::install_panic_log();
    if let Err(error) = signals::take() {
        logging::plain(&format!("{name}: cannot take signals: {error}"));
        return ExitCode::FAILURE;
    }
    let outcome = Prepared::new(&options).and_then(run);
    process::kill_all();
    match outcome {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(errors) => {
            for error in errors {
                logging::plain(&format!("{name}: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// What the daemon is about to run with.
#[derive(Debug)]
pub struct Prepared {
    /// The clock of the process.
    pub clock: Clock,
    /// Writes what is logged, as long as it lives.
    pub logging: Logging,
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// How connections are protected.
    pub tls: Arc<TlsContext>,
    /// The bound sockets.
    pub listeners: Listeners,
    /// How many workers there are to be: units 0 to this.
    pub workers: usize,
    /// Watches the system's name servers, if the configuration has made use of them.
    pub resolvers: Option<ResolverWatch>,
    /// Looks after lists that come from files and URLs.
    pub lists: Lists,
}

impl Prepared {
    /// Reads the configuration and the files that it names, starts logging and binds all sockets for
    /// queries.
    ///
    /// # Errors
    /// Everything that stands against it, a line each.
    pub fn new(options: &Options) -> Result<Self, Vec<String>> {
        let clock = Clock::start();
        let host = Remembering::new(Machine::new(clock));
        let source = source(options.config.as_deref()).map_err(|error| vec![error])?;
        let Loaded { mut snapshot, warnings, uses_system_resolvers, .. } =
            evaluate(&source, &host)?;
        let logging = logging::start(snapshot.logging.level);
        warnings.iter().for_each(log_warning);
        if snapshot.plugins.plugins.iter().any(|p| matches!(p.kind, PluginKind::Exec(_))) {
            process::warn_of_gaps();
        }
        let seed = || seed::seed().map_err(|error| vec![format!("no entropy: {error}")]);
        let seeds = (seed()?, seed()?);
        let available = || available_parallelism().map_or(1, usize::from);
        let workers = snapshot.listen.workers.unwrap_or_else(available).max(1);
        machine::fit(&mut snapshot, workers, &host);
        let tls = Arc::new(TlsContext::build(&snapshot)?);
        let lists = Lists::new(&mut snapshot, &host, seeds.0, clock.now());
        let listeners = Listeners::bind(&snapshot.listen, workers)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<String>>())?;
        let shared = Arc::new(Shared::new(&snapshot, seeds.1));
        let resolvers =
            uses_system_resolvers.then(|| ResolverWatch::new(source, host, clock.now()));
        let snapshot = Arc::new(snapshot);
        Ok(Self { clock, logging, snapshot, shared, tls, listeners, workers, resolvers, lists })
    }

    /// The supervisor of this daemon. Worker `n` is unit `n`; after them comes the
    /// [metrics server](Self::metrics_unit).
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        let transports = self.snapshot.listen.sockets.iter().map(|socket| socket.transport);
        let transports: Vec<Transport> = transports.collect();
        let workers: Vec<UnitId> = (0..self.workers).map(UnitId).collect();
        let known = [
            ("dns-udp", Transport::Udp),
            ("dns-tcp", Transport::Tcp),
            ("dns-dot", Transport::Dot),
            ("dns-doh", Transport::Doh),
        ];
        let used = known.into_iter().filter(|(_, transport)| transports.contains(transport));
        let mut components: Vec<ComponentSpec> = used
            .map(|(name, _)| ComponentSpec { name, required: true, units: workers.clone() })
            .collect();
        if self.snapshot.listen.metrics.is_some() {
            let units = vec![self.metrics_unit()];
            components.push(ComponentSpec { name: "metrics-http", required: false, units });
        }
        Supervisor::new(self.snapshot.control, components, self.clock.now())
    }

    /// The unit of the metrics server.
    #[must_use]
    pub fn metrics_unit(&self) -> UnitId {
        UnitId(self.workers)
    }
}

/// What the metrics server shows, now.
#[must_use]
pub fn view(
    clock: Clock,
    shared: &Shared,
    identity: Option<&Identity>,
    lists: Vec<ListReading>,
    supervisor: &Supervisor,
) -> View {
    let readings = Readings {
        workers: shared.all_metrics(),
        cache_entries: shared.cache.len(),
        cache_bytes: shared.cache.bytes(),
        cache_evictions: shared.cache.evictions(),
        open_connections: shared.open_connections(),
        certificate_expiry: identity.map(Identity::expiry),
        lists,
    };
    View {
        components: supervisor.status(),
        ready: supervisor.is_ready(),
        readings,
        now: clock.now(),
        unix_now: unix_now(),
    }
}

/// Where it is listened and what is asked, as one line for the log.
#[must_use]
pub fn summary(snapshot: &Snapshot, bound: &[(Transport, SocketAddr)], workers: usize) -> String {
    let listeners: Vec<String> =
        bound.iter().map(|(transport, addr)| format!("{addr}/{}", transport.name())).collect();
    let upstreams: Vec<&str> = snapshot.upstreams.iter().map(|u| u.name.as_str()).collect();
    format!(
        "listening on {}; forwarding to {}; {workers} worker{}",
        listeners.join(", "),
        upstreams.join(", "),
        if workers == 1 { "" } else { "s" },
    )
}

/// Where this machine itself reaches one of its listeners.
pub(crate) fn reachable(mut bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => bound.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => bound.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    bound
}

/// A command that asks the first listener something, for the operator to try.
#[must_use]
pub fn command_to_try(bound: &[(Transport, SocketAddr)]) -> Option<String> {
    let plain = |(transport, _): &&(Transport, SocketAddr)| {
        matches!(transport, Transport::Udp | Transport::Tcp)
    };
    let (transport, addr) = bound.iter().find(plain)?;
    let ip = reachable(*addr).ip();
    let port = if addr.port() == 53 { String::new() } else { format!(" -p {}", addr.port()) };
    let tcp = if *transport == Transport::Tcp { " +tcp" } else { "" };
    Some(format!("dig @{ip}{port}{tcp} example.org"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_try_fits_the_first_listener() {
        let command =
            |transport, addr: &str| command_to_try(&[(transport, addr.parse().expect("valid"))]);
        let cases = [
            (Transport::Udp, "127.0.0.1:5300", "dig @127.0.0.1 -p 5300 example.org"),
            (Transport::Udp, "0.0.0.0:53", "dig @127.0.0.1 example.org"),
            (Transport::Tcp, "[::]:5300", "dig @::1 -p 5300 +tcp example.org"),
        ];
        for (transport, addr, expected) in cases {
            assert_eq!(command(transport, addr).as_deref(), Some(expected));
        }
        assert_eq!(command(Transport::Doh, "127.0.0.1:443"), None);
    }
}
