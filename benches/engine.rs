//! What the engine costs without any IO, per batch of 64 queries.

use std::hint::black_box;

use balancedns_benches::{World, query};
use balancedns_core::limits::BATCH_DATAGRAMS;
use balancedns_core::wire::{QueryView, Rejected};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH_DATAGRAMS as u64));

    let names: Vec<Vec<u8>> = (0..BATCH_DATAGRAMS).map(|n| query(&format!("hit{n}"))).collect();
    let mut world = World::default();
    assert_eq!(world.resolve(&names), BATCH_DATAGRAMS);
    group.bench_function("hit", |bencher| bencher.iter(|| world.ask(black_box(&names))));

    let blocked: Vec<Vec<u8>> =
        (0..BATCH_DATAGRAMS).map(|n| query(&format!("b{n}.blocked"))).collect();
    group.bench_function("block", |bencher| bencher.iter(|| world.ask(black_box(&blocked))));

    let broken = vec![b"\x12\x34\x01\0\0\x02\0\0\0\0\0\0".to_vec(); BATCH_DATAGRAMS];
    group.bench_function("formerr", |bencher| bencher.iter(|| world.ask(black_box(&broken))));

    let mut world = World::default();
    group.bench_function("miss", |bencher| {
        let world = std::cell::RefCell::new(&mut world);
        bencher.iter_batched(
            || world.borrow_mut().new_names(BATCH_DATAGRAMS),
            |names| assert_eq!(world.borrow_mut().resolve(&names), BATCH_DATAGRAMS),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn wire(criterion: &mut Criterion) {
    let message = query("www");
    criterion.bench_function("wire/parse query", |bencher| {
        bencher.iter(|| match QueryView::parse(black_box(&message)) {
            Ok(view) => view.question().len(),
            Err(Rejected::Drop | Rejected::Reply { .. }) => panic!("the query is well formed"),
        });
    });
}

criterion_group!(benches, engine, wire);
criterion_main!(benches);
