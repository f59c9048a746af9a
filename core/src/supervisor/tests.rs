//! Virtual time: crash loops, stable runs, giving up, stopping.

use proptest::prelude::*;

use super::*;

const METRICS: UnitId = UnitId(2);

fn settings(max_consecutive_failure: u32) -> ControlSettings {
    ControlSettings {
        restart_backoff: Duration::from_millis(200),
        restart_max_backoff: Duration::from_millis(5_000),
        max_consecutive_failure,
        min_stable_run: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(5),
    }
}

/// Two workers that carry both DNS components, and the metrics server.
fn supervisor(max_consecutive_failure: u32) -> Supervisor {
    let workers = vec![UnitId(0), UnitId(1)];
    let component = |name, required, units| ComponentSpec { name, required, units };
    let components = vec![
        component("metrics-http", false, vec![METRICS]),
        component("dns-udp", true, workers.clone()),
        component("dns-tcp", true, workers),
    ];
    Supervisor::new(settings(max_consecutive_failure), components, Instant::ZERO)
}

fn started(max_consecutive_failure: u32) -> Supervisor {
    let mut supervisor = supervisor(max_consecutive_failure);
    for id in [UnitId(0), UnitId(1), METRICS] {
        assert_eq!(supervisor.poll_decision(Instant::ZERO), Some(Decision::Start(id)));
        supervisor.handle_started(Instant::ZERO, id);
    }
    assert_eq!(supervisor.poll_decision(Instant::ZERO), None);
    supervisor
}

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn crash(supervisor: &mut Supervisor, now: Instant, id: UnitId) -> AfterExit {
    supervisor.handle_exited(now, id, Some("boom".to_owned()))
}

#[test]
fn ready_means_that_everything_required_runs() {
    let mut supervisor = supervisor(0);
    while supervisor.poll_decision(Instant::ZERO).is_some() {}
    assert!(!supervisor.is_ready());
    supervisor.handle_started(Instant::ZERO, UnitId(0));
    assert!(!supervisor.is_ready());
    supervisor.handle_started(Instant::ZERO, UnitId(1));
    assert!(supervisor.is_ready(), "the metrics server is not required");
}

#[test]
fn waits_double_up_to_the_maximum() {
    let mut supervisor = started(0);
    let mut now = Instant::ZERO;
    for wait in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        let due = now + Duration::from_millis(wait);
        assert_eq!(crash(&mut supervisor, now, UnitId(0)), AfterExit::RestartsAt(due));
        assert_eq!(supervisor.next_timeout(), Some(due));
        assert_eq!(supervisor.poll_decision(at(0)), None);
        assert_eq!(supervisor.poll_decision(due), Some(Decision::Start(UnitId(0))));
        supervisor.handle_started(due, UnitId(0));
        now = due;
    }
    assert_eq!(supervisor.status()[0].restarts, 7);
}

#[test]
fn a_stable_run_forgets_failures_before_the_limit_is_looked_at() {
    let mut supervisor = started(1);
    let mut now = at(0);
    for _ in 0..5 {
        now = now + Duration::from_secs(10);
        let due = now + Duration::from_millis(200);
        assert_eq!(crash(&mut supervisor, now, UnitId(1)), AfterExit::RestartsAt(due));
        assert_eq!(supervisor.poll_decision(due), Some(Decision::Start(UnitId(1))));
        supervisor.handle_started(due, UnitId(1));
        now = due;
    }
    let almost = now + Duration::from_millis(9_999);
    assert_eq!(crash(&mut supervisor, almost, UnitId(1)), AfterExit::GivenUp);
}

#[test]
fn giving_up_something_required_stops_the_rest_in_good_order_and_fails() {
    let mut supervisor = started(1);
    crash(&mut supervisor, at(0), UnitId(0));
    assert_eq!(supervisor.poll_decision(at(200)), Some(Decision::Start(UnitId(0))));
    assert_eq!(crash(&mut supervisor, at(201), UnitId(0)), AfterExit::GivenUp);
    assert_eq!(supervisor.poll_decision(at(201)), Some(Decision::Stop(UnitId(1))));
    assert_eq!(supervisor.poll_decision(at(201)), None);
    assert_eq!(supervisor.handle_exited(at(300), UnitId(1), None), AfterExit::Ended);
    assert_eq!(supervisor.poll_decision(at(300)), Some(Decision::End(Outcome::Failed)));
    assert_eq!(supervisor.poll_decision(at(300)), None);
}

#[test]
fn the_metrics_server_may_fail_for_ever() {
    let mut supervisor = started(1);
    crash(&mut supervisor, at(0), METRICS);
    assert_eq!(supervisor.poll_decision(at(200)), Some(Decision::Start(METRICS)));
    assert_eq!(crash(&mut supervisor, at(200), METRICS), AfterExit::GivenUp);
    assert_eq!(supervisor.poll_decision(at(100_000)), None);
    assert!(supervisor.is_ready());
    let metrics = &supervisor.status()[2];
    assert_eq!((metrics.name, metrics.is_healthy()), ("metrics-http", false));
    assert_eq!(metrics.last_error.as_deref(), Some("boom"));
}

#[test]
fn a_stop_drains_and_is_no_failure_meanwhile() {
    let mut supervisor = started(0);
    supervisor.handle_stop(at(10));
    assert!(!supervisor.is_ready());
    assert_eq!(supervisor.poll_decision(at(10)), Some(Decision::Stop(UnitId(0))));
    assert_eq!(supervisor.poll_decision(at(10)), Some(Decision::Stop(UnitId(1))));
    assert_eq!(supervisor.poll_decision(at(10)), None);
    assert_eq!(supervisor.handle_exited(at(20), UnitId(0), None), AfterExit::Ended);
    let status = supervisor.status();
    assert!(!status[0].running && status[0].is_healthy());
    assert_eq!(supervisor.poll_decision(at(20)), None);
    supervisor.handle_exited(at(30), UnitId(1), None);
    assert_eq!(supervisor.poll_decision(at(30)), Some(Decision::End(Outcome::Stopped)));
    assert_eq!(Outcome::Stopped.exit_code(), 0);
}

#[test]
fn a_stop_forgets_restarts_and_does_not_wait_for_what_hangs() {
    let mut supervisor = started(0);
    crash(&mut supervisor, at(0), UnitId(0));
    supervisor.handle_stop(at(10));
    assert_eq!(supervisor.poll_decision(at(10)), Some(Decision::Stop(UnitId(1))));
    assert_eq!(supervisor.poll_decision(at(6_999)), None);
    let deadline = supervisor.next_timeout().expect("a deadline");
    assert_eq!(deadline, at(7_010));
    let end = Some(Decision::End(Outcome::Failed));
    assert_eq!(supervisor.poll_decision(deadline), end);
}

#[test]
fn the_second_request_ends_at_once() {
    let mut supervisor = started(0);
    supervisor.handle_stop(at(10));
    supervisor.handle_stop(at(11));
    let end = Some(Decision::End(Outcome::Interrupted));
    assert_eq!(supervisor.poll_decision(at(11)), end);
    assert_eq!(Outcome::Interrupted.exit_code(), 1);
}

#[test]
fn an_end_that_nobody_asked_for_is_a_failure() {
    let mut supervisor = started(0);
    let after = supervisor.handle_exited(at(1), UnitId(0), None);
    assert_eq!(after, AfterExit::RestartsAt(at(201)));
    let error = supervisor.status()[0].last_error.clone();
    assert_eq!(error.as_deref(), Some("ended without being asked"));
}

#[test]
fn reports_of_nobody_change_nothing() {
    let mut supervisor = started(0);
    supervisor.handle_started(at(1), UnitId(7));
    assert_eq!(crash(&mut supervisor, at(1), UnitId(7)), AfterExit::Ended);
    supervisor.handle_started(at(1), UnitId(0));
    assert_eq!(supervisor.status()[1].last_start_at, Some(Instant::ZERO), "it ran already");
    assert_eq!((supervisor.poll_decision(at(1)), supervisor.is_ready()), (None, true));
}

#[test]
fn a_failure_on_the_way_out_spoils_the_end_but_not_its_deadline() {
    let mut supervisor = started(0);
    supervisor.handle_stop(at(10));
    let deadline = supervisor.next_timeout();
    while supervisor.poll_decision(at(10)).is_some() {}
    assert_eq!(crash(&mut supervisor, at(20), UnitId(0)), AfterExit::GivenUp);
    assert_eq!(supervisor.next_timeout(), deadline);
    assert_eq!(supervisor.handle_exited(at(30), UnitId(1), None), AfterExit::Ended);
    assert_eq!(supervisor.poll_decision(at(30)), Some(Decision::End(Outcome::Failed)));

    let mut supervisor = started(0);
    supervisor.handle_stop(at(10));
    supervisor.handle_stop(at(11));
    supervisor.handle_stop(at(12));
    assert_eq!(supervisor.next_timeout(), None, "nothing is waited for");
    assert_eq!(crash(&mut supervisor, at(12), UnitId(0)), AfterExit::GivenUp);
    assert_eq!(supervisor.poll_decision(at(12)), Some(Decision::End(Outcome::Interrupted)));
    supervisor.handle_stop(at(13));
    assert_eq!((supervisor.poll_decision(at(13)), supervisor.next_timeout()), (None, None));
}

proptest! {
    /// Whatever happens, a start is decided only for what is down, waits stay in their bounds,
    /// and the announced timeout is the moment of the next start.
    #[test]
    fn starts_are_for_what_is_down_and_on_time(
        steps in prop::collection::vec((0_u64..20_000, 0_usize..3, any::<bool>()), 1..200),
    ) {
        let mut supervisor = supervisor(0);
        let mut down = [true; 3];
        let mut now = Instant::ZERO;
        for (millis, unit, starts_well) in steps {
            while let Some(decision) = supervisor.poll_decision(now) {
                let Decision::Start(id) = decision else {
                    panic!("nobody asked for {decision:?}");
                };
                prop_assert!(down[id.0]);
                if starts_well {
                    supervisor.handle_started(now, id);
                    down[id.0] = false;
                } else {
                    crash(&mut supervisor, now, id);
                }
            }
            prop_assert!(supervisor.next_timeout().is_none_or(|due| due > now));
            if !down[unit] {
                let after = crash(&mut supervisor, now, UnitId(unit));
                let AfterExit::RestartsAt(due) = after else {
                    panic!("without a limit nothing is given up: {after:?}");
                };
                let wait = due.since(now).as_millis();
                prop_assert!((200..=5_000).contains(&wait));
                down[unit] = true;
            }
            let running = down.iter().filter(|down| !**down).count();
            let seen = supervisor.status();
            prop_assert_eq!(seen[2].running, !down[2]);
            prop_assert_eq!(seen[0].running, !down[0] && !down[1]);
            prop_assert!(supervisor.is_ready() || running < 3);
            now = now + Duration::from_millis(millis);
        }
    }
    /// Against what the manual says: waits double from failure to failure up to the maximum, a run
    /// of ten seconds forgets all failures before, more failures in a row than allowed end the unit,
    /// and there is never a second instance of one that lives.
    #[test]
    fn delays_limits_and_stable_runs_are_those_of_the_manual(
        limit in 0_u32..6,
        steps in prop::collection::vec(
            (prop_oneof![0_u64..2_000, 9_990_u64..10_010], 0_usize..3),
            1..120,
        ),
    ) {
        let mut supervisor = supervisor(limit);
        let mut alive: [Option<u64>; 3] = [None; 3]; // since when
        let mut waits: [Option<u64>; 3] = [Some(0); 3]; // until when
        let mut failures = [0_u32; 3];
        let mut now = 0;
        for (millis, unit) in steps {
            now += millis;
            while let Some(decision) = supervisor.poll_decision(at(now)) {
                let Decision::Start(UnitId(id)) = decision else {
                    panic!("nobody asked for {decision:?}");
                };
                prop_assert_eq!(alive[id], None, "a second instance");
                prop_assert!(waits[id].take().is_some_and(|until| until <= now), "too early");
                supervisor.handle_started(at(now), UnitId(id));
                alive[id] = Some(now);
            }
            prop_assert!(waits.iter().flatten().all(|until| *until > now), "not in time");
            let Some(since) = alive[unit].take() else {
                // What does not run cannot fail.
                let after = crash(&mut supervisor, at(now), UnitId(unit));
                prop_assert_eq!(after, AfterExit::Ended);
                continue;
            };
            failures[unit] = if now - since >= 10_000 { 1 } else { failures[unit] + 1 };
            let after = crash(&mut supervisor, at(now), UnitId(unit));
            if limit > 0 && failures[unit] > limit {
                prop_assert_eq!(after, AfterExit::GivenUp);
                if unit != METRICS.0 {
                    // The other worker is asked to end, then the process fails.
                    let other = 1 - unit;
                    if alive[other].is_some() {
                        let stop = Decision::Stop(UnitId(other));
                        prop_assert_eq!(supervisor.poll_decision(at(now)), Some(stop));
                        supervisor.handle_exited(at(now), UnitId(other), None);
                    }
                    let end = Decision::End(Outcome::Failed);
                    prop_assert_eq!(supervisor.poll_decision(at(now)), Some(end));
                    prop_assert_eq!(supervisor.poll_decision(at(now)), None);
                    return Ok(());
                }
            } else {
                let wait = (200_u64 << (failures[unit] - 1).min(30)).min(5_000);
                prop_assert_eq!(after, AfterExit::RestartsAt(at(now + wait)));
                waits[unit] = Some(now + wait);
            }
        }
    }
}
