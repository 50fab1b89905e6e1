// SPDX-License-Identifier: Apache-2.0
//! A guest that breaks the rules loses its window, and nobody else notices.

use std::{
    io::Read,
    os::fd::AsFd,
    process::{Command, Stdio},
    time::Duration,
};

use crate::common::{Kernel, Random, Sandbox, close, input, output, read, write};
use trine_abi::window::{
    CQ_HEAD, DATA_BYTES, ENTRIES, Operation, SQ_HEAD, SQ_TAIL, SUBMISSION_BYTES, Submission,
};
use trine_io::protocol::{Notice, Request};
use trine_link::Link;

/// Runs `attack` as VM 1 beside VM 2, wants the violation, and VM 2 alive.
fn violates(expected: &str, attack: impl FnOnce(&mut Kernel)) {
    let sandbox = Sandbox::start();
    let (mut peer, stdout) = std::io::pipe().expect("pipe");
    let mut bystander = Kernel::new();
    sandbox.attach(2, &bystander, &[output(stdout.as_fd())]);
    let mut kernel = Kernel::new();
    let (stdin, _writer) = std::io::pipe().expect("pipe");
    sandbox.attach(1, &kernel, &[input(stdin.as_fd())]);

    attack(&mut kernel);
    kernel.ring();

    match sandbox.notice() {
        Notice::Violation { vm: 1, reason } => {
            assert!(reason.contains(expected), "{reason:?} instead of {expected:?}");
        }
        other => panic!("{other:?} instead of a violation"),
    }
    assert_eq!(bystander.write(1, b"alive").errno, 0);
    let mut alive = [0; 5];
    peer.read_exact(&mut alive).expect("read");
    assert_eq!(sandbox.detach(1, 1000), 0, "a detach is still answered");
    assert_eq!(sandbox.detach(2, 1000), 0);
}

#[test]
fn index_too_far_ahead() {
    violates("ring index", |kernel| kernel.publish(ENTRIES + 1));
}

#[test]
fn index_moved_back() {
    violates("ring index", |kernel| {
        kernel.submit(close(0, 99));
        kernel.completion();
        kernel.publish(0);
    });
}

#[test]
fn completion_index_ahead_of_completions() {
    violates("ring index", |kernel| {
        kernel.submit(close(0, 99));
        kernel.completion();
        kernel.memory.store_release(CQ_HEAD, 2).expect("in the window");
        kernel.submit(close(0, 99));
    });
}

#[test]
fn unknown_operation() {
    violates("unknown operation", |kernel| {
        let mut entry = read(0, 1, 1).encode();
        entry[1] = 1;
        kernel.put(&entry);
        kernel.publish(1);
    });
}

#[test]
fn id_out_of_range() {
    violates("id that is out of range", |kernel| kernel.submit(read(ENTRIES, 1, 1)));
}

#[test]
fn id_in_flight() {
    violates("in flight", |kernel| {
        kernel.submit(read(5, 1, 1));
        kernel.submit(read(5, 1, 1));
    });
}

#[test]
fn id_whose_completion_was_not_taken() {
    violates("in flight", |kernel| {
        kernel.submit(close(5, 99));
        kernel.submit(close(5, 99));
    });
}

#[test]
fn buffer_outside_and_buffer_that_wraps() {
    violates("buffer", |kernel| {
        kernel.submit(Submission { data: DATA_BYTES, ..read(0, 1, 1) });
    });
    violates("buffer", |kernel| {
        kernel.submit(Submission { data: u32::MAX, ..write(0, 1, 2) });
    });
}

#[test]
fn reserved_field() {
    violates("reserved", |kernel| {
        let mut entry = read(0, 1, 1).encode();
        entry[63] = 1;
        kernel.put(&entry);
        kernel.publish(1);
    });
}

#[test]
fn unsealed_window_is_refused_and_the_process_goes_on() {
    let sandbox = Sandbox::start();
    let kernel = Kernel::new();
    let plain = tempfile::tempfile().expect("file");
    let [_, doorbell, notify] = kernel.files()[..] else { panic!("three files") };
    sandbox.send(
        &Request::Attach {
            vm: 7,
            container: "c".into(),
            streams: vec![],
            volumes: vec![],
            narrowing: None,
        },
        &[plain.as_fd(), doorbell, notify],
    );
    match sandbox.notice() {
        Notice::Failed { vm: Some(7), reason } => assert!(reason.contains("not sealed")),
        other => panic!("{other:?}"),
    }
    sandbox.send(
        &Request::Attach {
            vm: 8,
            container: "c".into(),
            streams: vec![],
            volumes: vec![],
            narrowing: None,
        },
        &kernel.files()[..2],
    );
    assert!(matches!(sandbox.notice(), Notice::Failed { vm: Some(8), .. }));
    sandbox.attach(9, &kernel, &[]);
}

/// 100 000 random entries, biased towards ones that are nearly right, in front of the real
/// process; each window is used until it breaks.
#[test]
fn process_survives_garbage_and_serves_its_neighbour() {
    let (link, theirs) = Link::pair().expect("socket pair");
    let mut process = Command::new(env!("CARGO_BIN_EXE_trine-io"))
        .stdin(Stdio::from(theirs))
        .spawn()
        .expect("trine-io");
    let sandbox = Sandbox::over(link);
    let (mut peer, stdout) = std::io::pipe().expect("pipe");
    let mut bystander = Kernel::new();
    sandbox.attach(0, &bystander, &[output(stdout.as_fd())]);
    let null = std::fs::File::options().write(true).open("/dev/null").expect("/dev/null");
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");

    let mut random = Random(0x7269_6e65);
    let (mut read, mut vm, mut violations) = (0, 0, 0);
    while read < 100_000 {
        vm += 1;
        let mut kernel = Kernel::new();
        sandbox.attach(vm, &kernel, &[input(zero.as_fd()), output(null.as_fd())]);
        for _ in 0..8 {
            for _ in 0..random.next() % 65 {
                let entry = garbage(&mut random, kernel.sq_tail);
                kernel.put(&entry);
            }
            if random.one_in(64) {
                let word = if random.one_in(2) { SQ_TAIL } else { CQ_HEAD };
                let value = random.next() as u32;
                kernel.memory.store_release(word, value).expect("in the window");
            }
            let tail = kernel.sq_tail;
            kernel.publish(tail);
            while kernel.completion_within(Duration::from_millis(1)).is_some() {}
        }
        read += kernel.memory.load_acquire(SQ_HEAD).expect("in the window");
        sandbox.send(&Request::Detach { vm, milliseconds: 100 }, &[]);
        loop {
            match sandbox.notice() {
                Notice::Violation { vm: number, .. } if number == vm => violations += 1,
                Notice::Detached { vm: number, .. } if number == vm => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bystander.write(1, b"x").errno, 0);
        peer.read_exact(&mut [0]).expect("read");
    }
    assert!(violations > 0, "the garbage was too good");
    assert_eq!(process.try_wait().expect("status"), None, "it lives");
    drop(sandbox);
    assert!(process.wait().expect("status").success(), "and ends with its link");
}

fn garbage(random: &mut Random, index: u32) -> [u8; SUBMISSION_BYTES] {
    let operations = [Operation::Read, Operation::Write, Operation::Close, Operation::Cancel];
    let random_id = random.one_in(500);
    // Closes are rare, or nothing would be left to read and write.
    let choice = if random.one_in(100) { 2 } else { [0, 1, 3][random.next() as usize % 3] };
    let request = Submission {
        operation: operations[choice],
        id: if random_id { (random.next() % 66) as u32 } else { index % ENTRIES },
        handle: (random.next() % 4) as u32,
        bytes: (random.next() % 8192) as u32,
        data: (random.next() % (1 << 20)) as u32,
        input: (random.next() % 4) as u32,
        argument: random.next() % 70,
    };
    let mut entry = request.encode();
    if random.one_in(500) {
        entry[random.next() as usize % SUBMISSION_BYTES] ^= 1 << (random.next() % 8);
    }
    if random.one_in(1000) {
        for chunk in entry.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes());
        }
    }
    entry
}
