//! Generations and the end: taking over a new snapshot, stopping, leaving nothing behind.

use std::sync::Arc;

use super::{Action, Conn, Due, Engine, FetchHandle, ListenerId, Out};
use crate::config::Snapshot;
use crate::handle::{ConnHandle, SocketHandle};
use crate::policy::Reason;
use crate::time::Instant;
use crate::timers::TimerId;
use crate::upstream::UpstreamState;
use crate::wire::Rcode;

/// The engine is stopping.
#[derive(Debug)]
pub(super) struct Drain {
    timer: TimerId,
    /// [`Action::Stopped`] was given out.
    stopped: bool,
}

impl Engine {
    /// Takes over a new configuration: questions in flight finish with the upstreams they have,
    /// upstreams whose settings did not change keep their sockets and connections, those that are
    /// gone get no new query.
    pub fn handle_reload(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        let now = self.advance(now);
        self.adopt(snapshot);
        self.settle(now);
    }

    pub(super) fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.generation += 1;
        self.by_key.clear(); // a new question must not join a fetch of the old configuration
        for state in &mut self.upstreams {
            state.removed = !snapshot.upstreams.contains(&state.settings);
        }
        self.current.clear();
        for settings in &snapshot.upstreams {
            let same = |state: &UpstreamState| !state.removed && state.settings == *settings;
            let place = self.upstreams.iter().position(same).unwrap_or_else(|| {
                let latency = self.metrics.latency(&settings.name);
                self.place_upstream(UpstreamState::new(settings.clone(), latency))
            });
            self.current.push(place);
        }
        self.snapshot = snapshot;
        self.close_removed();
    }

    fn place_upstream(&mut self, state: UpstreamState) -> usize {
        let mut places = 0..self.upstreams.len();
        let free = places.find(|place| self.upstreams[*place].is_gone() && !self.is_named(*place));
        if let Some(place) = free {
            self.upstreams[place] = state;
            return place;
        }
        self.upstreams.push(state);
        self.upstreams.len() - 1
    }

    /// Upstreams that state is kept for, of this and of earlier configurations.
    #[cfg(test)]
    pub(super) fn upstream_places(&self) -> usize {
        self.upstreams.len()
    }

    /// Whether a question being asked has this upstream among its candidates.
    fn is_named(&self, place: usize) -> bool {
        self.fetches.iter().any(|(_, fetch)| fetch.candidates.contains(&place))
    }

    /// Lets go of what removed upstreams keep open and do not need for queries in flight.
    fn close_removed(&mut self) {
        for place in 0..self.upstreams.len() {
            if !self.upstreams[place].removed {
                continue;
            }
            let sockets: Vec<SocketHandle> =
                self.upstreams[place].sockets.iter().flatten().copied().collect();
            for socket in sockets {
                self.retire_socket(socket);
            }
            for conn in self.upstreams[place].conns.clone() {
                let idle = match self.conns.get(conn) {
                    Some(Conn::Upstream(upstream)) => upstream.ids.live() == 0,
                    Some(Conn::Client(_)) | None => false,
                };
                if idle {
                    self.close_upstream_conn(conn);
                }
            }
        }
    }

    /// The process stops: no new connections, queries in flight may finish within the configured
    /// time, then [`Action::Stopped`]. A second call does nothing.
    pub fn handle_shutdown(&mut self, now: Instant) {
        let now = self.advance(now);
        if self.drain.is_some() {
            return;
        }
        let timer = self.timers.allocate(Due::Drain);
        self.timers.set(timer, now + self.snapshot.control.drain_timeout);
        self.drain = Some(Drain { timer, stopped: false });
        for index in 0..self.snapshot.listen.sockets.len() {
            let index = u16::try_from(index).expect("listeners are counted in u16");
            self.actions.push_back(Action::CloseListener { listener: ListenerId(index) });
        }
        for conn in self.client_conns() {
            self.update_client(now, conn); // closes those that have nothing in flight
        }
        self.settle(now);
    }

    /// Time is up: whoever still waits is told so.
    pub(super) fn drain_is_over(&mut self, now: Instant) {
        let waiting: Vec<FetchHandle> = self.fetches.iter().map(|(handle, _)| handle).collect();
        for fetch in waiting {
            let (rcode, reason) = (Rcode::SERVFAIL, Reason::Stopping);
            self.finish_with_failure(now, fetch, rcode, reason, &mut Out(None));
        }
        for conn in self.client_conns() {
            self.flush_and_close(now, conn);
        }
    }

    /// The last action of all, once nothing is left.
    pub(super) fn stopped_if_drained(&mut self) -> Option<Action> {
        let drain = self.drain.as_ref()?;
        let timer = drain.timer;
        let busy = !self.fetches.is_empty()
            || !self.outbox.is_empty()
            || self.conns.iter().any(|(_, conn)| matches!(conn, Conn::Client(_)));
        if busy || drain.stopped {
            return None;
        }
        let mut open = self.sockets.len() + self.conns.len();
        if open > 0 {
            self.close_everything();
            open = self.sockets.len() + self.conns.len();
            assert_eq!(open, 0, "without queries in flight every socket can be closed");
            return self.actions.pop_front();
        }
        self.timers.release(timer);
        if let Some(drain) = &mut self.drain {
            drain.stopped = true;
        }
        Some(Action::Stopped)
    }

    fn close_everything(&mut self) {
        let sockets: Vec<SocketHandle> = self.sockets.iter().map(|(handle, _)| handle).collect();
        for socket in sockets {
            self.retire_socket(socket);
        }
        let conns: Vec<ConnHandle> = self.conns.iter().map(|(handle, _)| handle).collect();
        for conn in conns {
            self.close_upstream_conn(conn);
        }
    }

    fn client_conns(&self) -> Vec<ConnHandle> {
        let clients = self.conns.iter().filter(|(_, conn)| matches!(conn, Conn::Client(_)));
        clients.map(|(handle, _)| handle).collect()
    }
}

impl Drop for Engine {
    /// A worker that ends in a panic must not keep its clients' connections counted.
    fn drop(&mut self) {
        for (_, conn) in self.conns.iter() {
            if let Conn::Client(conn) = conn {
                self.shared.release_connection(conn.counted);
            }
        }
    }
}
