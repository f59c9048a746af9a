//! A worker's plugins: the VM of each script, and who failed how often.

use std::sync::Arc;

use super::Event;
use crate::limits::{PLUGIN_DISABLED, PLUGIN_NEWS};
use crate::metrics::{Counter, Counters};
use crate::planted::{Bug, is_planted};
use crate::policy::{
    LuaLimits, LuaVm, PluginKind, PluginSettings, PolicyError, PolicyQuestion, PolicyVerdict,
};
use crate::time::Instant;

/// The plugins of one worker.
#[derive(Debug)]
pub(super) struct Plugins {
    pub(super) settings: Arc<PluginSettings>,
    /// One for each plugin.
    standing: Vec<Standing>,
    clock: Option<fn() -> Instant>,
    /// What the operator is to be told.
    pub(super) news: Vec<Event>,
}

/// How a plugin stands.
#[derive(Debug)]
struct Standing {
    /// A script in its VM; `None` for an executable.
    vm: Option<LuaVm>,
    /// Failures in a row.
    failures: u32,
    /// It is not asked before.
    disabled_until: Option<Instant>,
}

/// What asking a plugin led to.
#[derive(Debug)]
pub(super) enum Asked {
    /// It has decided, or failed.
    Decided(Result<PolicyVerdict, PolicyError>),
    /// A process has to be asked.
    Process,
}

impl Plugins {
    pub(super) fn new(settings: &Arc<PluginSettings>, clock: Option<fn() -> Instant>) -> Self {
        let standing = settings.plugins.iter().map(|plugin| Standing {
            vm: match &plugin.kind {
                PluginKind::Lua(program) => {
                    let (memory, timeout) = (settings.memory_limit, plugin.timeout);
                    let limits = LuaLimits { memory, timeout, clock };
                    Some(LuaVm::new(Arc::clone(program), limits))
                }
                PluginKind::Exec(_) => None,
            },
            failures: 0,
            disabled_until: None,
        });
        Self {
            standing: standing.collect(),
            settings: Arc::clone(settings),
            clock,
            news: Vec::new(),
        }
    }

    /// Takes over a new configuration: scripts begin afresh unless nothing was changed about plugins.
    /// Whether they did.
    pub(super) fn adopt(&mut self, settings: &Arc<PluginSettings>) -> bool {
        if Arc::ptr_eq(&self.settings, settings) {
            return false;
        }
        let news = std::mem::take(&mut self.news);
        *self = Self { news, ..Self::new(settings, self.clock) };
        true
    }

    /// Asks a plugin, by its place.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        place: usize,
        question: &PolicyQuestion<'_>,
    ) -> Asked {
        let Some(standing) = self.standing.get_mut(place) else {
            return Asked::Decided(Err(PolicyError::Disabled)); // groups name plugins that exist
        };
        if standing.disabled_until.is_some_and(|until| now < until) {
            return Asked::Decided(Err(PolicyError::Disabled));
        }
        match &mut standing.vm {
            Some(vm) => Asked::Decided(vm.decide(question)),
            None => Asked::Process,
        }
    }

    /// A plugin has decided.
    pub(super) fn succeeded(&mut self, place: usize) {
        let Some(standing) = self.standing.get_mut(place) else { return };
        standing.failures = 0;
        if standing.disabled_until.take().is_some() {
            let plugin = self.name(place);
            self.tell(Event::PluginEnabled { plugin });
        }
    }

    /// A plugin has failed; after so many times in a row it is not asked for a while.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        place: usize,
        error: &PolicyError,
        counters: &Counters,
    ) {
        counters.count(Counter::PluginErrors);
        counters.count(match error {
            PolicyError::Timeout => Counter::PluginTimeout,
            PolicyError::Memory => Counter::PluginMemory,
            PolicyError::Script(_) => Counter::PluginScript,
            PolicyError::Result(_) => Counter::PluginResult,
            PolicyError::Process(_) => Counter::PluginProcess,
            PolicyError::Output => Counter::PluginOutput,
            PolicyError::Busy => Counter::PluginBusy,
            PolicyError::Disabled => Counter::PluginDisabled,
        });
        if *error == PolicyError::Disabled {
            return; // said once
        }
        let plugin = self.name(place);
        self.tell(Event::PluginFailed { plugin: plugin.clone(), error: error.to_string() });
        // That we have too much to do says nothing about the plugin.
        let Some(standing) = self.standing.get_mut(place).filter(|_| *error != PolicyError::Busy)
        else {
            return;
        };
        standing.failures = standing.failures.saturating_add(1);
        let limit = self.settings.disable_after;
        if limit > 0 && standing.failures >= limit && !is_planted(Bug::PluginNeverDisabled) {
            standing.disabled_until = Some(now + PLUGIN_DISABLED);
            let failures = standing.failures;
            self.tell(Event::PluginDisabled { plugin, failures });
        }
    }

    fn name(&self, place: usize) -> String {
        self.settings.plugins.get(place).map(|plugin| plugin.name.clone()).unwrap_or_default()
    }

    fn tell(&mut self, event: Event) {
        if self.news.len() < PLUGIN_NEWS {
            self.news.push(event);
        }
    }
}
