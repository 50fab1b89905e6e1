// SPDX-License-Identifier: Apache-2.0
//! Functions of the library's user decide about what a guest forwards.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use trine_abi::{
    socket::pack_open,
    window::{
        self, COMPLETION_BYTES, COMPLETIONS, CQ_TAIL, Completion, Operation, SQ_TAIL,
        SUBMISSION_BYTES, SUBMISSIONS, Submission,
    },
};

use super::rig::{Guest, PATIENCE, Rig};
use crate::{
    Error, PodOptions,
    policy::{Interceptor, PodPolicy, Source, Verdict},
};

impl Guest {
    /// Opens a TCP socket, as the call of this number of this guest; returns the errno.
    fn open_socket(&self, number: u32) -> u32 {
        let request = Submission {
            operation: Operation::SocketOpen,
            id: 0,
            handle: 0,
            bytes: 0,
            data: 0,
            input: 0,
            argument: pack_open(2, 1, 0),
        };
        let at = window::entry_offset(SUBMISSIONS, number, SUBMISSION_BYTES);
        self.window.write(at, &request.encode()).expect("in the window");
        self.window.store_release(SQ_TAIL, number + 1).expect("in the window");
        rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes()).expect("doorbell");
        let until = Instant::now() + PATIENCE;
        while self.window.load_acquire(CQ_TAIL).expect("in the window") == number {
            assert!(Instant::now() < until, "no answer");
            thread::sleep(Duration::from_millis(1));
        }
        let mut entry = [0; COMPLETION_BYTES];
        let at = window::entry_offset(COMPLETIONS, number, COMPLETION_BYTES);
        self.window.read(at, &mut entry).expect("in the window");
        Completion::decode(&entry).errno
    }
}

#[test]
fn interceptors_decide_before_the_rules_and_the_rules_after_them() {
    let (asked, verdict) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Verdict::Accept)));
    let (count, say) = (Arc::clone(&asked), Arc::clone(&verdict));
    let interceptor = Interceptor::new("sockets", &["socket"], move |question| {
        assert_eq!((&*question.call, &*question.container), ("socket", "c"));
        *count.lock().expect("lock") += 1;
        say.lock().expect("lock").clone()
    });
    let options = PodOptions {
        policy: Some(Source::Text(
            "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"block\"\nerrno = \"ENETDOWN\""
                .into(),
        )),
        interceptors: vec![interceptor],
        ..PodOptions::default()
    };
    let policy = PodPolicy::new(&options, None);
    let rig = Rig::with_interceptors(policy.interceptors());
    assert_eq!(rig.guest.open_socket(0), 0, "there is no policy yet");
    rig.io.set_policy(1, policy.check(None).expect("a policy")).expect("loaded");
    let verdicts = [(Verdict::Accept, 0), (Verdict::Block(13), 13), (Verdict::Next, 100)];
    for (number, (said, errno)) in (1..).zip(verdicts) {
        *verdict.lock().expect("lock") = said.clone();
        assert_eq!(rig.guest.open_socket(number), errno, "{said:?}");
    }
    assert_eq!(*asked.lock().expect("lock"), 3);
    // A policy with a fault changes nothing.
    let fault = policy.check(Some(&Source::Text("version = 1\ndefault = 3".into())));
    assert!(matches!(fault, Err(Error::Invalid { reason, .. }) if reason.contains("policy:2: ")));
    assert_eq!(rig.guest.open_socket(4), 100);
}

#[test]
fn a_policy_that_asks_an_interceptor_that_is_not_there_is_refused() {
    let text = "version = 1\n[[rule]]\ncalls = [\"net\"]\naction = \"intercept\"\n\
                ask = { interceptor = \"nobody\" }";
    let policy = PodPolicy::new(&PodOptions::default(), None);
    let error = policy.check(Some(&Source::Text(text.into()))).expect_err("refused");
    assert!(error.to_string().contains("interceptor \"nobody\""), "{error}");
}
