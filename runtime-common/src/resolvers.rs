//! The system's list of name servers, watched: what a configuration has made of it is made anew
//! when it changes, as it does when a machine moves to another network.
//!
//! Decides when the list counts as changed. Everything else that the configuration is made from
//! stays as it was read at start, so that no half-finished edit takes effect on the way. Who runs on
//! it is told by the [control thread](crate::control).

use std::net::SocketAddr;

use balancedns_core::config::{Snapshot, Source};
use balancedns_core::time::{Duration, Instant};

use crate::configuration::{evaluate, log_warning};
use crate::host::Remembering;

/// Time between two looks at the list.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the list for one configuration.
#[derive(Debug)]
pub struct ResolverWatch {
    source: Source,
    host: Remembering,
    /// What the configuration was made from.
    known: Vec<SocketAddr>,
    /// Another list, seen once. A file that is being written may look like anything.
    seen: Option<Vec<SocketAddr>>,
    look_at: Instant,
}

impl ResolverWatch {
    /// Watches from now on. `source` has just been evaluated on this host.
    #[must_use]
    pub fn new(source: Source, host: Remembering, now: Instant) -> Self {
        let known = host.given_resolvers();
        host.empty_lists();
        Self { source, host, known, seen: None, look_at: now + LOOK_EVERY }
    }

    /// When to [look](Self::look) again.
    #[must_use]
    pub fn next_look(&self) -> Instant {
        self.look_at
    }

    /// Looks, if it is time to. Gives the configuration for a list that has changed, with the
    /// listeners of `current`: they are bound, and stay. Lists of names in it are [to be filled
    /// in](crate::lists::Lists).
    pub fn look(&mut self, now: Instant, current: &Snapshot) -> Option<Snapshot> {
        if now < self.look_at {
            return None;
        }
        self.look_at = now + LOOK_EVERY;
        let found = self.host.current_resolvers();
        if !self.has_changed(found) {
            return None;
        }
        let renewed = self.renewed(current);
        self.known = self.host.given_resolvers(); // it may have changed again on the way
        renewed
    }

    /// Whether a list is another one than the known one for the second time in a row. None at all is
    /// what a machine has between two networks: what was known is better than what a configuration
    /// makes of nothing.
    fn has_changed(&mut self, found: Vec<SocketAddr>) -> bool {
        if found == self.known || found.is_empty() {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&found) {
            self.seen = Some(found);
            return false;
        }
        self.seen = None;
        self.known = found;
        true
    }

    fn renewed(&self, current: &Snapshot) -> Option<Snapshot> {
        let shown: Vec<String> = self.known.iter().map(ToString::to_string).collect();
        tracing::info!(
            event = "resolvers_changed",
            "the name servers of the system are now: {}",
            shown.join(", ")
        );
        match evaluate(&self.source, &self.host) {
            Ok(loaded) => {
                loaded.warnings.iter().for_each(log_warning);
                self.host.empty_lists();
                let mut snapshot = loaded.snapshot;
                snapshot.generation = current.generation + 1;
                snapshot.listen = current.listen.clone();
                Some(snapshot)
            }
            Err(errors) => {
                for error in errors {
                    tracing::warn!(event = "config", "{error}");
                }
                tracing::warn!(event = "resolvers_kept", "everything stays as it was");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::host::Machine;

    fn list(addrs: &[&str]) -> Vec<SocketAddr> {
        addrs.iter().map(|addr| addr.parse().expect("an address")).collect()
    }

    fn source(text: &str) -> Source {
        Source { name: "test.lua".to_owned(), folder: String::new(), text: text.to_owned() }
    }

    fn watching(text: &str) -> ResolverWatch {
        let host = Remembering::new(Machine::new(Clock::start()));
        let mut watch = ResolverWatch::new(source(text), host, Instant::ZERO);
        watch.known = list(&["192.0.2.1:53"]);
        watch
    }

    #[test]
    fn a_change_counts_when_it_has_settled() {
        let mut watch = watching("return {}");
        assert!(!watch.has_changed(list(&["192.0.2.1:53"])));
        assert!(!watch.has_changed(list(&[])), "being written, or between two networks");
        assert!(!watch.has_changed(list(&[])));
        assert!(!watch.has_changed(list(&["192.0.2.2:53"])));
        assert!(watch.has_changed(list(&["192.0.2.2:53"])));
        assert!(!watch.has_changed(list(&["192.0.2.2:53"])), "told once");
        assert!(!watch.has_changed(list(&["192.0.2.3:53"])));
        assert!(!watch.has_changed(list(&["192.0.2.2:53"])), "back again");
        assert!(!watch.has_changed(list(&["192.0.2.3:53"])), "counted anew");
    }

    #[test]
    fn it_looks_when_it_is_time_to() {
        let text = "return { listen = { dns = '127.0.0.1:5300' },
            upstreams = { { name = 'u', addr = '192.0.2.1:53' } } }";
        let mut watch = watching(text);
        let machine = Machine::new(Clock::start());
        let current = evaluate(&source(text), &machine).expect("valid").snapshot;
        let due = watch.next_look();
        // What this machine has is another list than the one that is known here.
        assert!(watch.look(Instant::ZERO, &current).is_none());
        assert!(watch.look(due, &current).is_none(), "seen once");
        let renewed = watch.look(watch.next_look(), &current).expect("seen twice");
        assert_eq!(renewed.generation, current.generation + 1);
        assert_eq!(renewed.listen, current.listen);
        assert!(watch.look(watch.next_look(), &current).is_none());
    }

    #[test]
    fn what_cannot_be_used_any_more_changes_nothing() {
        let mut watch = watching("error('not any more')");
        let text = "return { upstreams = { { name = 'u', addr = '192.0.2.1:53' } } }";
        let machine = Machine::new(Clock::start());
        let current = evaluate(&source(text), &machine).expect("valid").snapshot;
        assert!(watch.look(watch.next_look(), &current).is_none());
        assert!(watch.look(watch.next_look(), &current).is_none());
    }
}
