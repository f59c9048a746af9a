//! Whom questions go to: everybody in general, a pool, or one upstream.

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
