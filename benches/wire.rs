//! Times of the message framing, and of a ring in a page of shared memory: `cargo bench --bench wire`.

use std::hint::black_box;
use std::os::fd::AsFd;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use xenstored::host::RingPage;
use xenstored::host::page::PAGE_BYTES;
use xenstored::host::{REQ_PROD, RSP_CONS, RSP_PROD};
use xenstored::protocol::{Frame, HEADER_BYTES, ReplySlot, frame};
use xenstored::transport::Ring;

/// Returns a READ of a typical path.
fn request() -> Vec<u8> {
    let payload = b"/local/domain/500/device/vif/0/state\0";
    let mut bytes = Vec::new();
    for word in [2, 7, 0, u32::try_from(payload.len()).expect("short")] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}

fn framer(criterion: &mut Criterion) {
    let stream = request().repeat(100);
    let mut group = criterion.benchmark_group("framer");
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 requests", |bench| {
        bench.iter(|| {
            let mut rest = black_box(&stream[..]);
            while let Frame::Message { header, rest: after, .. } = frame(rest) {
                black_box(header);
                rest = after;
            }
            assert!(rest.is_empty());
        });
    });
    group.bench_function("100 replies", |bench| {
        let Frame::Message { header, .. } = frame(&stream) else { return };
        let mut out = Vec::new();
        bench.iter(|| {
            out.clear();
            for _ in 0..100 {
                let slot = ReplySlot::begin(&mut out, header);
                out.extend_from_slice(black_box(b"4"));
                slot.finish(&mut out, Ok(()));
            }
            black_box(out.len())
        });
    });
    group.finish();
}

fn ring(criterion: &mut Criterion) {
    let file = memfd_create("ring", MemfdFlags::CLOEXEC).expect("a memory file");
    ftruncate(&file, PAGE_BYTES as u64).expect("room for a page");
    let page = RingPage::map(file.as_fd(), 0).expect("a page");
    let mut ring = Ring::new(page.clone(), 1, 1, None);
    let request = request();
    let reply = [0; HEADER_BYTES + 1];
    let len = u32::try_from(request.len()).expect("short");
    let mut input = Vec::new();
    criterion.bench_function("ring/request and reply", |bench| {
        bench.iter(|| {
            // The guest's side, without copies: its data is whatever the page holds.
            page.store(REQ_PROD, page.load(REQ_PROD).wrapping_add(len));
            page.store(RSP_CONS, page.load(RSP_PROD));
            input.clear();
            ring.peek(&mut input).expect("sound indices");
            assert_eq!(ring.write(&reply), Ok(reply.len()));
            ring.consume(black_box(&input).len());
            assert!(ring.publish());
        });
    });
}

criterion_group!(benches, framer, ring);
criterion_main!(benches);
