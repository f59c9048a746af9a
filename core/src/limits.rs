//! Every bound of what runs, each with its unit and its reason.
//!
//! What happens at a bound is always the same: the newest is shed, it is counted, and it gets an
//! answer where an answer is cheap. Bounds that an operator sets are in the configuration; their
//! defaults refer to this table. What a configuration itself may hold is bounded where it is read.

use crate::time::Duration;

/// Datagrams per batch, in and out: where the cost of a system call is shared enough that more
/// slots no longer show.
pub const BATCH_DATAGRAMS: usize = 64;

/// Octets of a message's header (RFC 1035 section 4.1.1).
pub const HEADER_OCTETS: usize = 12;
/// Octets of a name in wire form, root included (RFC 1035 section 2.3.4).
pub const NAME_OCTETS: usize = 255;
/// Octets of a question: a name, a type and a class.
pub const QUESTION_OCTETS: usize = NAME_OCTETS + 4;
/// Additional records of a client's query: OPT and a signature are two; each costs a walk.
pub const QUERY_ADDITIONALS: usize = 16;
/// Octets of a query that we send. The longest name with a keepalive option is padded to three blocks
/// of 128 (RFC 8467 section 4.1); with the longest cookie instead of padding it is 330 octets.
pub const QUERY_OCTETS: usize = 384;
/// Octets of a message on a stream: what two octets of length can say (RFC 1035 section 4.2.2).
pub const MESSAGE_OCTETS: usize = 65_535;
/// Octets of a UDP answer to a client that sent no EDNS (RFC 1035 section 4.2.1).
pub const UDP_PLAIN_OCTETS: usize = 512;
/// Octets received from a client's datagram: queries are small, options included.
pub const CLIENT_DATAGRAM_OCTETS: usize = 4_096;
/// Octets of a PROXY protocol header: its specification advises to stay below 536, but a proxy may
/// add what it knows of its client's certificate.
pub const PROXY_HEADER_OCTETS: usize = 4_096;
/// Octets received from an upstream's datagram: some send more than was advertised.
pub const UPSTREAM_DATAGRAM_OCTETS: usize = 4_096;
/// Records of an answer that is cached: keeps the table of TTL offsets short.
pub const CACHED_RECORDS: usize = 1_024;

/// Questions being asked upstream, per worker. With a few upstreams they take less than 2 KiB each, so
/// 32 MiB; with all [`CANDIDATES`] 40 MiB.
pub const FETCHES: usize = 16_384;
/// Addresses of upstreams that one question may be put to, the first ones of those configured. Far
/// more than are sent to, since some may be busy.
pub const CANDIDATES: usize = 64;
/// Clients' queries waiting for one fetch. More identical ones are a flood, not a stampede.
pub const WAITERS_PER_FETCH: usize = 1_024;
/// Clients' queries waiting for fetches, per worker.
pub const WAITERS: usize = 65_536;
/// Upstream queries and late answers that wait to be sent as datagrams, per worker.
pub const OUTBOX_DATAGRAMS: usize = 65_536;
/// Events that wait to be taken by the adapter.
pub const EVENTS: usize = 1_024;
/// Events of one kind per worker and [`EVENTS_WINDOW`]; more are counted and reported as a number.
pub const EVENTS_PER_KIND: u32 = 5;
/// The time in which events of one kind are counted.
pub const EVENTS_WINDOW: Duration = Duration::from_secs(60);
/// Time between two reports of failures of one upstream by one worker.
pub const UPSTREAM_REPORTS_EVERY: Duration = Duration::from_secs(60);

/// UDP sockets kept towards one upstream, per worker: the choice among them multiplies what an
/// off-path spoofer has to guess (RFC 5452 section 9.2).
pub const SOCKETS_PER_UPSTREAM: usize = 32;
/// Queries sent from one UDP socket before its port is given up.
pub const QUERIES_PER_SOCKET: u32 = 1_000;
/// Age at which a UDP socket takes no new queries.
pub const SOCKET_AGE: Duration = Duration::from_secs(10);
/// UDP sockets towards upstreams, per worker, retired ones that still wait for replies included.
pub const SOCKETS: usize = 4_096;
/// Wait before the first retransmission of a UDP query, at least; doubled for each further one.
pub const RETRANSMIT_AFTER: Duration = Duration::from_millis(400);
/// The longest such wait that an endpoint's round-trip times can lead to.
pub const RETRANSMIT_AFTER_MAX: Duration = Duration::from_millis(1_500);
/// Queries in a row that met with silence until an endpoint counts as down: A, AAAA and HTTPS of one
/// name that is hard to resolve are not yet a reason.
pub const SILENT_QUERIES: u32 = 4;
/// Wait until an endpoint that is down is probed; doubled for each further probe.
pub const PROBE_AFTER: Duration = Duration::from_secs(1);
/// The longest wait between two probes.
pub const PROBE_AFTER_MAX: Duration = Duration::from_secs(30);
/// Replies in another letter case, in a row and confirmed, after which an endpoint is asked in lower
/// case.
pub const CASE_LOST_AFTER: u32 = 3;
/// For how long.
pub const CASE_LOST_FOR: Duration = Duration::from_secs(3_600);
/// Replies that match no query before a UDP socket is given up: a spoofer has found its port.
pub const MISMATCHES_PER_SOCKET: u32 = 1_000;
/// Replies that match no query before the queries in flight on a UDP socket are asked over TCP
/// instead: about one in seven of all ids was tried by then.
pub const MISMATCHES_BEFORE_STREAM: u32 = 10_000;

/// Age at which a cookie of ours towards an upstream is replaced (RFC 7873 section 7.1).
pub const COOKIE_AGE: Duration = Duration::from_secs(86_400);

/// Stream connections to one upstream, per worker.
pub const CONNS_PER_UPSTREAM: usize = 4;
/// Queries in flight on one stream connection to an upstream before another one is opened; all
/// connections together carry the default of `max_in_flight`.
pub const PIPELINE_PER_CONN: usize = 256;
/// Idle time after which a stream connection to an upstream is closed by us (RFC 7766 section 6.2.3).
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(10);
/// Wait after a failed connect before the next one; doubled up to the maximum.
pub const RECONNECT_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait between connects.
pub const RECONNECT_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Ids on one connection to an upstream whose queries were given up, at which it takes no new
/// queries and is closed after its last: late replies may still come for each of them.
pub const GIVEN_UP_IDS_PER_CONN: usize = 1_024;
/// Ids in use on one socket or connection: half of all, so that a random draw soon finds a free one.
pub const IDS: usize = 1 << 15;
/// Octets not yet sent on one connection to an upstream.
pub const UPSTREAM_UNSENT_OCTETS: usize = 262_144;

/// Upstreams that a configuration may have: each has sockets, counters and metric labels of its own.
pub const UPSTREAMS: usize = 1_000;
/// Addresses of one kind, IPv6 or IPv4, that are used of an upstream's host name.
pub const ADDRESSES_PER_FAMILY: usize = 8;
/// The shortest time between two look-ups of a host name that has addresses: the TTL counts above it.
pub const LOOKUP_EVERY_MIN: Duration = Duration::from_secs(5);
/// The longest time between two look-ups, whatever the TTL.
pub const LOOKUP_EVERY_MAX: Duration = Duration::from_secs(3_600);
/// The longest that a look-up may take, whatever clients' questions may.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// Queries sent for one look-up.
pub const LOOKUP_SENDS: u32 = 8;
/// Wait after a look-up that failed; doubled for each further one.
pub const LOOKUP_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between look-ups that fail.
pub const LOOKUP_RETRY_MAX: Duration = Duration::from_secs(30);

/// Stream connections of all workers of a process together have a configured bound; this is the
/// size of one worker's table for them, both directions.
pub const CONNS: usize = 65_536;
/// One in so many of the configured connections may be held by clients outside the ACL, all
/// together: they are told REFUSED, and keep nobody out.
pub const STRANGERS_SHARE: usize = 16;
/// Queries in flight on one client's connection before we stop reading from it.
pub const CLIENT_PIPELINE: usize = 256;
/// Octets of unsent answers on one client's connection before we stop reading from it.
pub const CLIENT_UNSENT_OCTETS: usize = 131_072;
/// Octets of unsent answers of all clients' connections, per worker. Queries that were taken before
/// reading stopped may all get large answers; beyond this a connection above its own bound is closed.
pub const UNSENT_OCTETS: usize = 67_108_864;

/// Time from accepting a client's connection to the end of its handshakes: what a proxy announces, and
/// TLS.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Requests in flight on one client's HTTP/2 connection: RFC 9113 section 6.5.2 wants a hundred at
/// least.
pub const EXCHANGES_PER_CLIENT_CONN: usize = 100;
/// HTTP exchanges of one worker, both directions.
pub const EXCHANGES: usize = 65_536;
/// Exchanges that a client may reset on one connection beyond those that it lets come to their end:
/// resetting costs it little and us much (CVE-2023-44487).
pub const RESETS_PER_CONN: u32 = 100;
/// Queries in flight on one HTTP/2 connection to an upstream before another one is opened: servers
/// allow a hundred as a rule.
pub const EXCHANGES_PER_UPSTREAM_CONN: usize = 100;
/// HTTP/2 connections to one upstream, per worker: together they carry the default of `max_in_flight`.
pub const HTTP_CONNS_PER_UPSTREAM: usize = 10;

/// Questions that wait for a plugin's process, per worker.
pub const PLUGIN_CALLS: usize = 4_096;
/// Processes of plugins at once, per worker, those included that are being killed.
pub const PROCESSES: usize = 64;
/// Octets of what a plugin's process writes: all of it, or one line if it is kept running.
pub const PROCESS_OUTPUT_OCTETS: usize = 65_536;
/// Questions that one process that is kept running has at once.
pub const CALLS_PER_PROCESS: usize = 256;

/// Time for which a plugin that has failed too often is not asked.
pub const PLUGIN_DISABLED: Duration = Duration::from_secs(30);
/// Events of plugins that wait to be reported.
pub const PLUGIN_NEWS: usize = 64;

/// Groups of clients.
pub const GROUPS: usize = 62;

/// Octets of one list of names, decompressed: a few million names. What is larger is no list.
pub const LIST_OCTETS: u64 = 67_108_864;

/// Connections to metrics and health at once; more wait in the backlog.
pub const ADMIN_CONNS: usize = 128;
/// Log lines that wait to be written; more are lost.
pub const LOG_LINES: usize = 16_384;

/// Entries at which the cache is split into shards, and how many shards there are then.
pub const SHARDED_FROM_ENTRIES: usize = 1_024;
/// Shards of a large cache.
pub const CACHE_SHARDS: usize = 64;
/// The longest SERVFAIL is kept: RFC 9520 section 3.2 allows up to five minutes, at least one second.
pub const SERVFAIL_TTL_SECONDS_MAX: u32 = 300;
