//! Whom questions go to: everybody in general, a pool, or one upstream.

/// What an answer depends on besides its question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Way {
    /// Whom it comes from.
    pub route: Route,
    /// A plugin has put the question in place of another one, and was not asked about it: the answer
    /// must not serve those who ask for it themselves.
    pub past_policy: bool,
}

impl From<Route> for Way {
    fn from(route: Route) -> Self {
        Self { route, past_policy: false }
    }
}

/// Which upstreams may be asked, among those that serve the name's zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Route {
    /// Those that are in no pool.
    #[default]
    General,
    /// Those of this pool: its place in the snapshot's list.
    Pool(u16),
    /// This one: its place in the snapshot's list.
    Upstream(u16),
}
