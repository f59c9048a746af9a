//! Bounds of how long answers are kept, and of what clients are told about it.

/// Bounds put on TTLs when an answer comes in; clients see the bounded values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlBounds {
    /// Floor in seconds; 0 means none.
    pub min_seconds: u32,
    /// Ceiling in seconds.
    pub max_seconds: u32,
    /// Ceiling of negative answers in seconds (RFC 2308 section 5).
    pub negative_max_seconds: u32,
    /// How long SERVFAIL is kept in seconds (RFC 9520 section 3.2); 0 means not at all.
    pub servfail_seconds: u32,
}
