// SPDX-License-Identifier: Apache-2.0
use std::{sync::Arc, vec::Vec};

use trine_abi::window::{Completion, ENTRIES, Operation, Submission};
use trine_machine::{
    arena,
    window::{self, BUFFER_BYTES, TestServer},
};

use super::{Answer, Call, Journal, journal::Slot};
use crate::{
    Errno,
    services::{Services, ServicesRef},
};

fn setup() -> (ServicesRef, TestServer) {
    let (window, server) = window::for_tests();
    // The clock of a test moves by a millisecond at each look: nobody looks for an answer for long.
    let clock = || {
        use core::sync::atomic::{AtomicU64, Ordering};
        static NOW_NS: AtomicU64 = AtomicU64::new(0);
        NOW_NS.fetch_add(1_000_000, Ordering::Relaxed)
    };
    let arena = arena::for_tests(4 << 20, &[]);
    (Services::new(arena, clock, 0, Some(window), [7; 32]), server)
}

fn taken(server: &mut TestServer) -> Vec<Submission> {
    core::iter::from_fn(|| server.take()).collect()
}

/// Answers a request and has the answer handled.
fn answer(services: &ServicesRef, server: &mut TestServer, id: u32) {
    server.answer(&Completion { id, errno: 0, result: 0 });
    let (request, completion) = services.next_completion().expect("an answer");
    services.complete(request, completion);
}

#[test]
fn what_is_posted_goes_in_order_and_before_any_call() {
    let (services, mut server) = setup();
    let count = ENTRIES * 3;
    for handle in 0..count {
        services.post(Operation::FileForget, handle, 1, &handle.to_le_bytes());
    }
    let mut seen = taken(&mut server);
    assert_eq!(seen.len() as u32, ENTRIES);
    assert_eq!(services.requests.posted.lock().len() as u32, count - ENTRIES);

    // Nothing more is begun while they wait, although a request is free for a moment.
    let call = Call::new(Operation::FileAttr, 1, 0, &[]);
    assert!(services.begin_call(&call).is_none());
    let mut next = 0;
    while next < seen.len() {
        answer(&services, &mut server, seen[next].id);
        seen.extend(taken(&mut server));
        next += 1;
    }

    let handles: Vec<u32> = seen.iter().map(|request| request.handle).collect();
    assert_eq!(handles, (0..count).collect::<Vec<_>>());
    assert!(services.requests.posted.lock().is_empty());
    assert!(services.begin_call(&call).is_some());
}

#[test]
fn what_is_posted_goes_when_an_answer_is_given_back_late() {
    let (services, mut server) = setup();
    let mut held: Vec<_> = core::iter::from_fn(|| services.begin()).collect();
    assert_eq!(held.len() as u32, ENTRIES);
    services.post(Operation::FileForget, 5, 1, &[]);
    assert!(server.take().is_none());
    // No completion tells of this one.
    drop(held.pop());
    assert_eq!(server.take().map(|request| request.handle), Some(5));
}

#[test]
fn a_call_with_large_arguments_waits_for_a_large_buffer_and_takes_no_small_one() {
    let (services, _server) = setup();
    let large = std::vec![0; BUFFER_BYTES + 1];
    let call = Call::new(Operation::FileWalk, 1, 0, &large);
    let held: Vec<_> = core::iter::from_fn(|| services.begin_call(&call)).collect();
    assert!(!held.is_empty() && held.iter().all(|buffer| buffer.capacity() >= large.len()));
    let in_flight = services.window.lock().as_ref().map(window::Window::in_flight);
    assert_eq!(in_flight, Some(held.len() as u32));
    assert!(services.begin().is_some());
}

#[test]
fn a_journal_tells_calls_apart_by_everything_that_makes_them() {
    let mut journal = Journal::default();
    let slot = |id| Arc::new(Slot::<u32>::new(id, |_: &Answer| Ok(0)));
    let call = Call::new(Operation::FileRead, 1, 4096, b"a");
    journal.add(&call, slot(7));
    assert_eq!(journal.find::<u32>(&call).map(|slot| slot.id), Some(7));
    for other in [
        Call { operation: Operation::FileWrite, ..call },
        Call { handle: 2, ..call },
        Call { argument: 0, ..call },
        Call { input: b"", ..call },
    ] {
        assert!(journal.find::<u32>(&other).is_none(), "{other:?}");
    }
    // An answer of another type is not mistaken for this one.
    assert!(journal.find::<u64>(&call).is_none());
    assert!(journal.clear().is_some_and(|old| old.find::<u32>(&call).is_some()));
    assert!(journal.clear().is_none());
}

#[test]
fn a_journal_finds_one_of_many_steps() {
    let mut journal = Journal::default();
    let count = 50_000_u32;
    for name in 0..count {
        journal.add_step(name % 3, &name.to_le_bytes(), Err(Errno::NOENT));
        // What was found first stays.
        journal.add_step(name % 3, &name.to_le_bytes(), Err(Errno::ACCES));
    }
    for name in 0..count {
        let found = journal.step(name % 3, &name.to_le_bytes());
        assert!(matches!(found, Some(Err(Errno::NOENT))));
        assert!(journal.step(name % 3 + 1, &name.to_le_bytes()).is_none());
    }
}
