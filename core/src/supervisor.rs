//! Which parts of the daemon run, when a failed one is started again, and when the process ends.
//!
//! Owns decisions only: the control thread reports what happened and carries out what
//! [`Supervisor::poll_decision`] says. A *unit* is what is started and fails as a whole (a worker
//! thread, the metrics server); a *component* is what operators see (`dns-udp`), carried by one or
//! more units, several of which may be on one unit.

use crate::config::ControlSettings;
use crate::time::{Duration, Instant};

/// How much longer than the drain time a worker may take to end before it counts as hanging.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A unit, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnitId(pub usize);

/// A component as it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSpec {
    /// The name that operators see.
    pub name: &'static str,
    /// Whether the daemon is of no use without it.
    pub required: bool,
    /// The units that carry it: it runs when all of them run.
    pub units: Vec<UnitId>,
}

/// A component as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentStatus {
    /// The name that operators see.
    pub name: &'static str,
    /// Whether the daemon is of no use without it.
    pub required: bool,
    /// All of its units run.
    pub running: bool,
    /// Some of its units have ended because they were asked to; the others run. Not a failure.
    pub finishing: bool,
    /// Starts after the first one, of all units.
    pub restarts: u64,
    /// Failures in a row, of the unit that has most.
    pub consecutive_failures: u32,
    /// The latest failure.
    pub last_error: Option<String>,
    /// The latest start of a unit.
    pub last_start_at: Option<Instant>,
    /// The latest end of a unit.
    pub last_stop_at: Option<Instant>,
}

impl ComponentStatus {
    /// Whether nothing is wrong with it: it runs, or is ending in good order.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.running || self.finishing
    }
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked, everything in flight done.
    Stopped,
    /// Something required could not be kept running, or did not end in time.
    Failed,
    /// Asked a second time: at once.
    Interrupted,
}

impl Outcome {
    /// The exit code of the process.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Failed | Self::Interrupted => 1,
        }
    }
}

/// What the control thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start a unit; then report that it started or that it exited.
    Start(UnitId),
    /// Ask a unit to finish what is in flight and end. It reports its exit.
    Stop(UnitId),
    /// End the process. Nothing comes after it.
    End(Outcome),
}

/// What follows from a unit's exit; for the log, since the decisions come from
/// [`Supervisor::poll_decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExit {
    /// It had been asked to end.
    Ended,
    /// It will be started again then.
    RestartsAt(Instant),
    /// It has failed too often in a row.
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be started then.
    Waiting {
        at: Instant,
    },
    /// The decision to start it is out.
    Starting,
    Running {
        since: Instant,
    },
    /// It ended as asked, or will never be started again.
    Ended {
        as_asked: bool,
    },
}

#[derive(Debug)]
struct Unit {
    state: State,
    /// Part of a component that is.
    required: bool,
    /// The decision to stop it is out.
    asked_to_stop: bool,
    starts: u64,
    consecutive_failures: u32,
    last_error: Option<(Instant, String)>,
    last_start_at: Option<Instant>,
    last_stop_at: Option<Instant>,
}

impl Unit {
    fn is_alive(&self) -> bool {
        matches!(self.state, State::Starting | State::Running { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Required units are asked to end, at most until the deadline.
    Stopping {
        deadline: Instant,
        outcome: Outcome,
    },
    Interrupted,
    Over,
}

/// The state machine. Time is a parameter; nothing in it waits.
#[derive(Debug)]
pub struct Supervisor {
    settings: ControlSettings,
    units: Vec<Unit>,
    components: Vec<ComponentSpec>,
    phase: Phase,
}

impl Supervisor {
    /// All units of the components are to be started at once. Components are kept sorted by name.
    #[must_use]
    pub fn new(
        settings: ControlSettings,
        mut components: Vec<ComponentSpec>,
        now: Instant,
    ) -> Self {
        components.sort_by_key(|component| component.name);
        let count = components.iter().flat_map(|c| &c.units).map(|unit| unit.0 + 1).max();
        let is_required =
            |index| components.iter().any(|c| c.required && c.units.contains(&UnitId(index)));
        let units = (0..count.unwrap_or(0)).map(|index| Unit {
            state: State::Waiting { at: now },
            required: is_required(index),
            asked_to_stop: false,
            starts: 0,
            consecutive_failures: 0,
            last_error: None,
            last_start_at: None,
            last_stop_at: None,
        });
        let units = units.collect();
        Self { settings, units, components, phase: Phase::Serving }
    }

    /// A unit that was to be started runs.
    pub fn handle_started(&mut self, now: Instant, id: UnitId) {
        let Some(unit) = self.units.get_mut(id.0) else {
            return;
        };
        if unit.state == State::Starting {
            unit.state = State::Running { since: now };
            unit.last_start_at = Some(now);
        }
    }

    /// A unit ended, or could not be started. No error means that it ended in good order, which is
    /// a failure too unless it was asked to.
    pub fn handle_exited(&mut self, now: Instant, id: UnitId, error: Option<String>) -> AfterExit {
        let stopping = self.phase != Phase::Serving;
        let Some(unit) = self.units.get_mut(id.0) else {
            return AfterExit::Ended;
        };
        let run = match unit.state {
            State::Running { since } => now.since(since),
            State::Starting => Duration::ZERO,
            State::Waiting { .. } | State::Ended { .. } => return AfterExit::Ended,
        };
        unit.last_stop_at = Some(now);
        if unit.asked_to_stop && error.is_none() {
            unit.state = State::Ended { as_asked: true };
            return AfterExit::Ended;
        }
        unit.last_error = Some((now, error.unwrap_or_else(|| "ended without being asked".into())));
        // A stable run forgets earlier failures before the limit is looked at: a crash once a day
        // is not a crash loop.
        if run >= self.settings.min_stable_run {
            unit.consecutive_failures = 0;
        }
        unit.consecutive_failures = unit.consecutive_failures.saturating_add(1);
        let limit = self.settings.max_consecutive_failure;
        if stopping || (limit > 0 && unit.consecutive_failures > limit) {
            unit.state = State::Ended { as_asked: false };
            if unit.required {
                self.begin_stopping(now, Outcome::Failed);
            }
            return AfterExit::GivenUp;
        }
        let at = now + backoff(&self.settings, unit.consecutive_failures);
        unit.state = State::Waiting { at };
        AfterExit::RestartsAt(at)
    }

    /// The operator asks for the end: first in good order, the second time at once.
    pub fn handle_stop(&mut self, now: Instant) {
        match self.phase {
            Phase::Serving => self.begin_stopping(now, Outcome::Stopped),
            Phase::Stopping { .. } => self.phase = Phase::Interrupted,
            Phase::Interrupted | Phase::Over => {}
        }
    }

    /// What to do now, one thing at a time, until there is nothing more.
    pub fn poll_decision(&mut self, now: Instant) -> Option<Decision> {
        match self.phase {
            Phase::Serving => self.start_one(now),
            Phase::Stopping { deadline, outcome } => {
                if let Some(decision) = self.stop_one() {
                    return Some(decision);
                }
                let pending = self.units.iter().any(|unit| unit.required && unit.is_alive());
                match (pending, now >= deadline) {
                    (false, _) => Some(self.end(outcome)),
                    (true, true) => Some(self.end(Outcome::Failed)),
                    (true, false) => None,
                }
            }
            Phase::Interrupted => Some(self.end(Outcome::Interrupted)),
            Phase::Over => None,
        }
    }

    /// When to ask [`poll_decision`](Self::poll_decision) again although nothing was reported.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Serving => {
                let due = self.units.iter().filter_map(|unit| match unit.state {
                    State::Waiting { at } => Some(at),
                    State::Starting | State::Running { .. } | State::Ended { .. } => None,
                });
                due.min()
            }
            Phase::Stopping { deadline, .. } => Some(deadline),
            Phase::Interrupted | Phase::Over => None,
        }
    }

    /// Whether clients may be sent here: everything required runs, and nobody asked for the end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let required = self.components.iter().filter(|component| component.required);
        self.phase == Phase::Serving
            && required.flat_map(|c| &c.units).all(|unit| self.is_running(*unit))
    }

    /// All components, by name.
    #[must_use]
    pub fn status(&self) -> Vec<ComponentStatus> {
        self.components.iter().map(|component| self.status_of(component)).collect()
    }

    fn status_of(&self, component: &ComponentSpec) -> ComponentStatus {
        let units = || component.units.iter().map(|id| &self.units[id.0]);
        let in_order = |unit: &Unit| {
            matches!(unit.state, State::Running { .. } | State::Ended { as_asked: true })
        };
        let running = component.units.iter().all(|unit| self.is_running(*unit));
        let last_error = units().filter_map(|u| u.last_error.as_ref()).max_by_key(|(at, _)| *at);
        ComponentStatus {
            name: component.name,
            required: component.required,
            running,
            finishing: !running && units().all(in_order),
            restarts: units().map(|unit| unit.starts.saturating_sub(1)).sum(),
            consecutive_failures: units().map(|u| u.consecutive_failures).max().unwrap_or(0),
            last_error: last_error.map(|(_, text)| text.clone()),
            last_start_at: units().filter_map(|unit| unit.last_start_at).max(),
            last_stop_at: units().filter_map(|unit| unit.last_stop_at).max(),
        }
    }

    fn is_running(&self, id: UnitId) -> bool {
        matches!(self.units[id.0].state, State::Running { .. })
    }

    fn begin_stopping(&mut self, now: Instant, outcome: Outcome) {
        self.phase = match self.phase {
            Phase::Serving => {
                let deadline = now + self.settings.drain_timeout + STOP_GRACE;
                Phase::Stopping { deadline, outcome }
            }
            // A failure on the way out spoils a good end; the deadline stays.
            Phase::Stopping { deadline, .. } => Phase::Stopping { deadline, outcome },
            Phase::Interrupted | Phase::Over => self.phase,
        };
    }

    fn start_one(&mut self, now: Instant) -> Option<Decision> {
        let due = |unit: &Unit| matches!(unit.state, State::Waiting { at } if at <= now);
        let index = self.units.iter().position(due)?;
        let unit = &mut self.units[index];
        unit.state = State::Starting;
        unit.starts += 1;
        Some(Decision::Start(UnitId(index)))
    }

    /// Units of no required component run on until the process ends: health can be asked meanwhile.
    fn stop_one(&mut self) -> Option<Decision> {
        let to_ask = |unit: &Unit| unit.required && unit.is_alive() && !unit.asked_to_stop;
        let index = self.units.iter().position(to_ask)?;
        self.units[index].asked_to_stop = true;
        Some(Decision::Stop(UnitId(index)))
    }

    fn end(&mut self, outcome: Outcome) -> Decision {
        self.phase = Phase::Over;
        Decision::End(outcome)
    }
}

/// Doubles with each failure in a row, up to the maximum.
fn backoff(settings: &ControlSettings, consecutive_failures: u32) -> Duration {
    let doublings = consecutive_failures.saturating_sub(1).min(31);
    settings.restart_backoff.saturating_mul(1 << doublings).min(settings.restart_max_backoff)
}

#[cfg(test)]
mod tests;
