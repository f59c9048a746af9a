//! Proof that the simulator can fail: each planted bug is found within its number of seeds, and by an
//! invariant that it breaks.
//!
//! Run with `cargo test -p balancedns-sim --features planted --test planted`.

use balancedns_core::planted::{Bug, plant};
use balancedns_sim::invariant::Broken;
use balancedns_sim::options::Options;
use balancedns_sim::run::run;
use balancedns_sim::twin::compare;

/// Queries of each run: few, so that many seeds can be tried.
const QUERIES: u64 = 600;
/// One in so many seeds is run as its twins too.
const TWINS_EVERY: u64 = 5;

/// A test for each bug, and the list of all that have one.
macro_rules! found {
    ($($name:ident: $bug:ident within $seeds:literal,)*) => {
        const FOUND: &[Bug] = &[$(Bug::$bug,)*];
        $(#[test]
        fn $name() {
            is_found(Bug::$bug, $seeds);
        })*
    };
}

found! {
    id_reused_in_flight: IdReusedInFlight within 10,
    given_up_id_reused: GivenUpIdReused within 40,
    retransmission_unarmed: RetransmissionUnarmed within 40,
    letter_case_lost: LetterCaseLost within 10,
    conn_leaked_on_reset: ConnLeakedOnReset within 40,
    ttl_aged_too_little: TtlAgedTooLittle within 10,
    reply_twice: ReplyTwice within 10,
    opt_kept: OptKept within 10,
    waiter_forgotten: WaiterForgotten within 10,
    coalescing_missed: CoalescingMissed within 40,
    dnssec_ok_not_in_key: DnssecOkNotInKey within 10,
    wrong_question_accepted: WrongQuestionAccepted within 40,
    zone_by_suffix: ZoneBySuffix within 40,
    expired_served: ExpiredServed within 10,
    cache_octets_on_replace: CacheOctetsOnReplace within 10,
    attempts_max_over_stream: AttemptsMaxOverStream within 150,
    generation_ignored: GenerationIgnored within 40,
    early_timeout_acts: EarlyTimeoutActs within 40,
    last_of_batch_lost: LastOfBatchLost within 10,
    old_blocklist: OldBlocklist within 150,
    removed_upstream_asked: RemovedUpstreamAsked within 300,
    no_backoff: NoBackoff within 150,
    soa_minimum_ignored: SoaMinimumIgnored within 10,
    stream_reply_uncounted: StreamReplyUncounted within 10,
    truncated_taken_as_whole: TruncatedTakenAsWhole within 10,
    servfail_kept_too_long: ServfailKeptTooLong within 150,
    drain_waits_for_idle: DrainWaitsForIdle within 10,
    size_limit_ignored: SizeLimitIgnored within 10,
    source_address_lost: SourceAddressLost within 10,
    upstream_down_for_ever: UpstreamDownForEver within 40,
    in_flight_unbounded: InFlightUnbounded within 40,
    unsent_miscounted: UnsentMiscounted within 150,
    idle_client_unarmed: IdleClientUnarmed within 10,
    exchange_kept_on_reset: ExchangeKeptOnReset within 40,
    exchanges_kept_on_close: ExchangesKeptOnClose within 10,
    response_to_another: ResponseToAnother within 10,
    handshake_unbounded: HandshakeUnbounded within 40,
    body_unbounded: BodyUnbounded within 40,
    resets_unbounded: ResetsUnbounded within 40,
    carried_address_ignored: CarriedAddressIgnored within 40,
    fresh_for_too_long: FreshForTooLong within 10,
    exchange_with_id: ExchangeWithId within 10,
    exchange_not_cancelled: ExchangeNotCancelled within 40,
    tls_left_out: TlsLeftOut within 10,
    marks_never_renewed: MarksNeverRenewed within 600,
    leads_unchecked: LeadsUnchecked within 40,
    choice_ignored: ChoiceIgnored within 40,
    plugin_never_disabled: PluginNeverDisabled within 150,
    policy_fails_open: PolicyFailsOpen within 40,
    plugin_deadline_ignored: PluginDeadlineIgnored within 40,
    process_leaked: ProcessLeaked within 40,
    alias_lost: AliasLost within 40,
    call_waiter_forgotten: CallWaiterForgotten within 150,
    not_begun_again: NotBegunAgain within 300,
    process_outlives_stop: ProcessOutlivesStop within 40,
    group_of_everybody: GroupOfEverybody within 40,
    block_mode_ignored: BlockModeIgnored within 40,
    vm_outlives_error: VmOutlivesError within 40,
    nonsense_forwards: NonsenseForwards within 150,
}

#[test]
fn every_planted_bug_has_a_test() {
    let missing: Vec<&Bug> = Bug::ALL.iter().filter(|bug| !FOUND.contains(bug)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn without_a_planted_bug_nothing_is_found() {
    assert_eq!(find(None, 40), None);
}

fn is_found(bug: Bug, seeds: u64) {
    let Some((seed, broken)) = find(Some(bug), seeds) else {
        panic!("{} is not found within {seeds} seeds", bug.name());
    };
    let expected: Vec<&str> = bug.invariants().split(", ").collect();
    assert!(expected.contains(&broken.invariant.name()), "seed {seed} broke {broken}");
}

/// The first seed that shows a bug, and what it breaks.
fn find(bug: Option<Bug>, seeds: u64) -> Option<(u64, Broken)> {
    plant(bug);
    let found = (1..=seeds).find_map(|seed| {
        let options = Options::draw(seed, QUERIES);
        let broken = match run(&options, None) {
            Err(failure) => failure.broken,
            Ok(_) if seed % TWINS_EVERY == 0 => compare(&options).err()?,
            Ok(_) => return None,
        };
        Some((seed, broken))
    });
    plant(None);
    found
}
