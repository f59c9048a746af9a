//! The chain: its stages decide in their configured order, whichever of them there are.

use std::sync::Arc;

use proptest::prelude::*;

use super::harness::{World, blocking, query, rcode, reply, snapshot, upstream};
use crate::config::{Snapshot, Stage, UpstreamProtocol};
use crate::policy::{Blocklist, Hosts};

/// What a name is known for, one bit each.
const BLOCKED: u8 = 1;
const IN_HOSTS: u8 = 2;
const CACHED: u8 = 4;
const FACTS: u8 = 8;

fn name(facts: u8) -> String {
    format!("n{facts}.example")
}

fn with(fact: u8) -> impl Iterator<Item = String> {
    (0..FACTS).filter(move |facts| facts & fact != 0).map(name)
}

/// A configuration that blocks and lists what it should, with this chain.
fn configuration(chain: Vec<Stage>) -> Snapshot {
    let mut blocklist = Blocklist::builder();
    with(BLOCKED).for_each(|name| blocklist.insert(&name).expect("a name"));
    let lines: Vec<String> = with(IN_HOSTS).map(|name| format!("192.0.2.99 {name}\n")).collect();
    let mut snapshot = snapshot(vec![upstream("one", UpstreamProtocol::Udp)]);
    snapshot.blocking = blocking(blocklist.build());
    snapshot.hosts = Some(Arc::new(Hosts::parse(&lines.concat(), 60).0));
    snapshot.chain = chain;
    snapshot
}

/// A world whose cache has what it should.
fn world() -> World {
    let mut world = World::new(configuration(vec![Stage::Cache, Stage::Upstream]));
    for name in with(CACHED) {
        world.ask(&query(1, &name));
        let (socket, _, sent) = world.next_query();
        world.upstream_says(socket, &reply(&sent, 3_600));
        world.replies.pop_front().expect("an answer");
    }
    world
}

/// What a client sees of a verdict.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Rcode(u8),
    /// The last octet of the address.
    Address(u8),
    Forwarded,
}

fn see(world: &mut World, name: &str, wants_recursion: bool) -> Seen {
    let mut message = query(7, name);
    message[2] = u8::from(wants_recursion);
    world.ask(&message);
    if let Some((socket, sent)) = world.queries.pop_front() {
        world.upstream_says(socket, &reply(&sent, 0));
        world.replies.pop_front().expect("an answer");
        return Seen::Forwarded;
    }
    let reply = world.replies.pop_front().expect("an answer");
    match rcode(&reply) {
        0 => Seen::Address(*reply.last().expect("octets")),
        rcode => Seen::Rcode(rcode),
    }
}

fn expected(chain: &[Stage], facts: u8, wants_recursion: bool) -> Seen {
    let verdict = |stage: &Stage| match stage {
        Stage::Blacklist => (facts & BLOCKED != 0).then_some(Seen::Rcode(5)),
        Stage::Hosts => (facts & IN_HOSTS != 0).then_some(Seen::Address(99)),
        Stage::Cache => (facts & CACHED != 0).then_some(Seen::Address(7)),
        Stage::Policy => None,
        Stage::Upstream if wants_recursion => Some(Seen::Forwarded),
        Stage::Upstream => Some(Seen::Rcode(5)),
    };
    chain.iter().find_map(verdict).unwrap_or(Seen::Rcode(2))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any stages in any order: the first one with a verdict has it.
    #[test]
    fn the_first_stage_with_a_verdict_decides(
        stages in Just(vec![
            Stage::Blacklist,
            Stage::Hosts,
            Stage::Cache,
            Stage::Policy,
            Stage::Upstream,
        ])
        .prop_shuffle(),
        length in 0_usize..=5,
    ) {
        let chain = &stages[..length];
        let mut world = world();
        let mut next = configuration(chain.to_vec());
        // What is forwarded here must not be found in the cache the next time.
        next.cache.ttl.min_seconds = 0;
        world.engine.handle_reload(world.now, Arc::new(next));
        for facts in 0..FACTS {
            for wants_recursion in [true, false] {
                let seen = see(&mut world, &name(facts), wants_recursion);
                prop_assert_eq!(seen, expected(chain, facts, wants_recursion), "{}", name(facts));
            }
        }
    }
}
