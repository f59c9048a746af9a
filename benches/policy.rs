//! What a policy costs on each question, without the engine around it.

use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use balancedns_core::policy::{
    LuaLimits, LuaVm, PolicyAction, PolicyQuestion, Program, decode_json, question_json,
};
use balancedns_core::time::{Duration, Instant};
use balancedns_core::wire::{Name, RecordType};
use balancedns_runtime::clock::Clock;
use criterion::{Criterion, criterion_group, criterion_main};

const MEMORY: usize = 16 << 20;

/// Four patterns for each question, of which none fits.
const FOUR_BRANCHES: &str = r#"
local rules = {
  { "^denied%.policy%.example%.net%.$", { action = "BLOCK" } },
  { "^moved%.policy%.example%.net%.$", { action = "REWRITE", rewrite_domain = "n00001.example.net." } },
  { "^fixed%.policy%.example%.net%.$",
    { action = "LOCAL_DATA", local_data = { ttl = 60, ips = { "192.0.2.10" } } } },
  { "^away%.policy%.example%.net%.$", { action = "BLOCK" } },
}

function handle(question)
  local name = string.lower(question.domain)
  for _, rule in ipairs(rules) do
    if string.match(name, rule[1]) then
      return rule[2]
    end
  end
  return "FORWARD"
end
"#;

/// Scripts and what they say of `n00001.hit.example.net.`.
const SCRIPTS: [(&str, &str, PolicyAction); 5] = [
    ("nil", "function handle() return nil end", PolicyAction::Forward),
    ("four branches", FOUR_BRANCHES, PolicyAction::Forward),
    ("block", "function handle() return { action = 'BLOCK' } end", PolicyAction::Block),
    (
        "below",
        "function handle(q) return dns.below(q.domain, 'example.net') and 'BLOCK' or nil end",
        PolicyAction::Block,
    ),
    ("example", include_str!("../scripts/policy.lua"), PolicyAction::Forward),
];

fn question(name: &Name) -> PolicyQuestion<'_> {
    PolicyQuestion {
        name: name.as_wire(),
        record_type: RecordType::A,
        client: None,
        transport: None,
    }
}

fn vm(text: &str, clock: Option<fn() -> Instant>) -> LuaVm {
    let program = Program::compile("bench", text, MEMORY).expect("the script compiles");
    let timeout = Duration::from_secs(1);
    LuaVm::new(Arc::new(program), LuaLimits { memory: MEMORY, timeout, clock })
}

/// What daemons hand in as `policy_clock`.
fn clock() -> Instant {
    static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::start);
    CLOCK.now()
}

fn scripts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    let name = Name::parse("n00001.hit.example.net").expect("it is a name");
    for (label, text, action) in SCRIPTS {
        let mut vm = vm(text, None);
        let verdict = vm.decide(&question(&name)).expect("the script has a verdict");
        assert_eq!(verdict.action, action);
        group.bench_function(label, |bencher| {
            bencher.iter(|| vm.decide(black_box(&question(&name))));
        });
    }
    let mut timed = vm(FOUR_BRANCHES, Some(clock));
    group.bench_function("four branches with a clock", |bencher| {
        bencher.iter(|| timed.decide(black_box(&question(&name))));
    });
    group.bench_function("first question of a VM", |bencher| {
        bencher.iter_with_setup(|| vm(FOUR_BRANCHES, None), |mut vm| vm.decide(&question(&name)));
    });
    group.finish();
}

fn json(criterion: &mut Criterion) {
    let name = Name::parse("n00001.hit.example.net").expect("it is a name");
    criterion.bench_function("policy/question to JSON", |bencher| {
        bencher.iter(|| question_json(black_box(&question(&name)), Some(7)));
    });
    let result = br#"{"action":"LOCAL_DATA","local_data":{"ttl":60,"ips":["192.0.2.10"]}}"#;
    criterion.bench_function("policy/result from JSON", |bencher| {
        bencher.iter(|| decode_json(black_box(result)).expect("it is a result"));
    });
}

criterion_group!(benches, scripts, json);
criterion_main!(benches);
