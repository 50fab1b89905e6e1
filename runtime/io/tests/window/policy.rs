// SPDX-License-Identifier: Apache-2.0
//! What the policy does to requests, in front of the real and confined process.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::io::Errno;
use trine_abi::{
    file::{SetAttr, Walk, Walked, Wire},
    window::{DATA, Operation, SMALL_BYTES, Submission, WINDOW_BYTES},
};
use trine_io::protocol::{Narrowing, Notice, Request};
use trine_jail::shared::SharedMemory;
use trine_policy::case::{Question, Verdict};

use crate::{
    common::spec,
    volume::{
        Bed, ROOT,
        libc_flags::{RDONLY, RDWR},
    },
};

const EDQUOT: Errno = Errno::DQUOT;
const WRONLY: i32 = 1;

fn bed(rules: &str) -> Bed {
    Bed::new(false, Some(&format!("version = 1\n{rules}")))
}

impl Bed {
    fn write(&self, name: &str, text: &str) {
        fs::write(self.volume().join(name), text).expect("written");
    }

    fn sandbox(&self) -> &crate::common::Sandbox {
        self.sandbox.as_ref().expect("a sandbox")
    }

    /// Submits an open without waiting for it.
    fn begin_open(&mut self, id: u32, node: u32) {
        let request = Submission {
            operation: Operation::FileOpen,
            id,
            handle: node,
            bytes: SMALL_BYTES,
            data: SMALL_BYTES,
            input: 0,
            argument: RDONLY as u64,
        };
        self.kernel.submit(request);
    }

    /// The next question, and its number.
    fn question(&self) -> (u64, Question) {
        match self.sandbox().notice() {
            Notice::Ask { vm: 1, question, what, .. } => (question, what),
            other => panic!("{other:?} instead of a question"),
        }
    }

    fn answer(&self, question: u64, verdict: Verdict) {
        self.sandbox().send(&Request::Verdict { vm: 1, question, verdict }, &[]);
    }

    fn reload(&self, generation: u64, rules: &str) -> Option<String> {
        let policy = spec(&format!("version = 1\n{rules}"));
        self.sandbox().send(&Request::Policy { generation, policy }, &[]);
        match self.sandbox().notice() {
            Notice::Policy { generation: number, refused } if number == generation => refused,
            other => panic!("{other:?} instead of an answer"),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.tree.path().join("audit")).expect("the log")
    }
}

/// The guest writes another name into the window while the request is looked at.
#[test]
fn what_is_decided_about_is_what_is_done_whatever_the_guest_writes_meanwhile() {
    let mut bed = bed(r#"
        [[rule]]
        id = "kept"
        calls = ["unlinkat"]
        paths = ["/data/kept"]
        action = "block"
        "#);
    bed.write("kept", "");
    let window = SharedMemory::map(bed.kernel.files()[0], WINDOW_BYTES as usize).expect("mapped");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in [b"kept", b"free"] {
                    window.write(DATA, name).expect("in the window");
                }
            }
        });
        for _ in 0..20_000 {
            let _ = bed.call(Operation::FileUnlink, ROOT, 0, b"free");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(bed.volume().join("kept").exists(), "removed by a name that was not decided about");
}

#[test]
fn budgets_count_calls_and_bytes_and_are_exact() {
    let mut bed = bed(r#"
        [[rule]]
        id = "reads"
        calls = ["openat-read"]
        action = "accept"
        limit = { bytes = 10, calls = 4 }
        [[rule]]
        id = "writes"
        calls = ["openat-write"]
        action = "accept"
        limit = { bytes = 10, errno = "ENOSPC" }
        "#);
    bed.write("six", "sixsix");
    bed.write("four", "four");
    let (six, four) = (bed.find(&[b"six"]).node, bed.find(&[b"four"]).node);
    assert_eq!(bed.contents(six).expect("read"), b"sixsix");
    let file = bed.open(six, RDONLY).expect("opened");
    assert_eq!(bed.call(Operation::FileRead, file, 0, &[]), Err(EDQUOT), "four are left");
    assert_eq!(bed.contents(four).expect("read"), b"four");
    assert_eq!(bed.open(four, RDONLY), Err(EDQUOT), "none is left");
    let file = bed.open(four, RDWR).expect("opened");
    assert_eq!(bed.put(file, 0, b"12345678"), Ok(8));
    assert_eq!(bed.put(file, 0, b"123"), Err(Errno::NOSPC));
    assert_eq!(bed.put(file, 8, b"90"), Ok(2));
    assert_eq!(fs::read(bed.volume().join("four")).expect("read"), b"1234567890");
    assert!(bed.log().contains("\"reason\":\"over the limit\""), "{}", bed.log());
}

#[test]
fn budgets_fill_again_in_their_time() {
    let mut bed = bed(r#"
        [[rule]]
        calls = ["openat"]
        action = "accept"
        limit = { calls = 1, seconds = 1 }
        "#);
    bed.write("f", "f");
    let node = bed.find(&[b"f"]).node;
    assert!(bed.open(node, RDONLY).is_ok());
    assert_eq!(bed.open(node, RDONLY), Err(EDQUOT));
    std::thread::sleep(Duration::from_millis(1050));
    assert!(bed.open(node, RDONLY).is_ok());
}

#[test]
fn delays_hold_up_their_own_calls_only() {
    let mut bed = bed(r#"
        [[rule]]
        calls = ["openat"]
        paths = ["/data/slow"]
        action = "accept"
        delay-ms = 300
        "#);
    bed.write("slow", "s");
    bed.write("fast", "f");
    let (slow, fast) = (bed.find(&[b"slow"]).node, bed.find(&[b"fast"]).node);
    let start = Instant::now();
    bed.begin_open(1, slow);
    bed.begin_open(2, slow);
    assert_eq!(bed.contents(fast).expect("read"), b"f");
    assert!(start.elapsed() < Duration::from_millis(290), "{:?}", start.elapsed());
    // One of the two is given up.
    bed.kernel.submit(crate::common::cancel(3, 2));
    let given_up: Vec<_> = [(); 2].map(|()| bed.kernel.completion()).to_vec();
    assert!(given_up.iter().any(|done| (done.id, done.errno) == (2, 125)), "{given_up:?}");
    let done = bed.kernel.completion();
    assert_eq!((done.id, done.errno), (1, 0));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn interceptions_add_flags_pin_results_and_names() {
    let mut bed = bed(r#"
        [[rule]]
        calls = ["openat-write"]
        paths = ["/data/log"]
        action = "intercept"
        add-flags = ["O_APPEND"]
        [[rule]]
        calls = ["unlinkat", "truncate", "fchmodat"]
        action = "intercept"
        result = 0
        [[rule]]
        calls = ["readlinkat"]
        action = "intercept"
        result = "elsewhere"
        "#);
    bed.write("log", "first ");
    let log = bed.find(&[b"log"]).node;
    let file = bed.open(log, WRONLY).expect("opened");
    assert_eq!(bed.put(file, 0, b"second"), Ok(6));
    assert_eq!(fs::read(bed.volume().join("log")).expect("read"), b"first second");
    let change = SetAttr { size: Some(0), mode: Some(0o777), ..SetAttr::default() }.encode();
    let cut = bed.call(Operation::FileSetAttr, file, 0, &change);
    assert_eq!(cut, Err(Errno::PERM), "what is there stays there");
    assert!(bed.call(Operation::FileSetAttr, log, 0, &change).is_ok(), "is said to be done");
    assert!(bed.call(Operation::FileUnlink, ROOT, 0, b"log").is_ok(), "is said to be done");
    assert_eq!(fs::read(bed.volume().join("log")).expect("read"), b"first second");
    std::os::unix::fs::symlink("log", bed.volume().join("link")).expect("link");
    let link = bed.find(&[b"link"]).node;
    let target = bed.call(Operation::FileReadLink, link, 0, &[]).expect("a target");
    assert_eq!(target, b"elsewhere");
}

const ASK: &str = r#"
    [[rule]]
    id = "ask"
    calls = ["openat"]
    paths = ["/data/asked*"]
    action = "intercept"
    ask = { socket = "/run/decider", deadline-ms = 400, errno = "EACCES" }
    "#;

#[test]
fn answers_decide_and_without_one_the_rule_says_what_happens() {
    let mut bed = bed(ASK);
    bed.write("asked", "a");
    bed.write("asked2", "b");
    bed.write("other", "o");
    let (asked, other) = (bed.find(&[b"asked"]).node, bed.find(&[b"other"]).node);
    for (verdict, expected) in [
        (Verdict::Accept, 0),
        (Verdict::Block(2), 2),
        (Verdict::RewritePath(b"/data/other".to_vec()), 0),
        (Verdict::RewritePath(b"/etc/passwd".to_vec()), 2),
        (Verdict::Next, 0),
        (Verdict::None("no idea".into()), 13),
    ] {
        bed.begin_open(1, asked);
        let (number, question) = bed.question();
        assert_eq!(question.path.as_deref(), Some(&b"/data/asked"[..]));
        // What is not asked about goes on.
        assert_eq!(bed.contents(other).expect("read"), b"o");
        bed.answer(number, verdict.clone());
        let done = bed.kernel.completion();
        assert_eq!((done.id, done.errno), (1, expected), "{verdict:?}");
    }
    let start = Instant::now();
    bed.begin_open(1, asked);
    let (late, _) = bed.question();
    assert_eq!(bed.kernel.completion().errno, 13);
    assert!(start.elapsed() >= Duration::from_millis(400));
    bed.answer(late, Verdict::Accept);
    // The late answer was to another question than this one.
    bed.begin_open(1, asked);
    let (number, _) = bed.question();
    // Meanwhile the file has another name, which the answer is not about.
    fs::rename(bed.volume().join("asked"), bed.volume().join("asked3")).expect("renamed");
    bed.answer(number, Verdict::Accept);
    let (number, question) = bed.question();
    assert_eq!(question.path.as_deref(), Some(&b"/data/asked3"[..]));
    bed.answer(number, Verdict::Block(2));
    assert_eq!(bed.kernel.completion().errno, 2);
    let log = bed.log();
    assert!(log.contains("no answer within 400 ms") && log.contains("no idea"), "{log}");
}

#[test]
fn a_walk_that_waits_is_walked_anew_and_gives_no_reference_away() {
    let mut bed = bed(r#"
        [[rule]]
        calls = ["stat"]
        paths = ["/data/d/f"]
        action = "accept"
        delay-ms = 30
        "#);
    fs::create_dir(bed.volume().join("d")).expect("mkdir");
    bed.write("d/f", "f");
    let names = vec![b"d".to_vec(), b"f".to_vec()];
    let walk = Walk { names, open: None }.encode();
    let answer = bed.call(Operation::FileWalk, ROOT, 0, &walk).expect("walked");
    let walked = Walked::decode(&answer).expect("an answer");
    assert_eq!((walked.errno, walked.found.len()), (0, 2));
    let directory = walked.found[0].node;
    bed.call(Operation::FileForget, directory, 1, &[]).expect("forgotten");
    let gone = bed.call(Operation::FileAttr, directory, 0, &[]);
    assert_eq!(gone, Err(Errno::BADF), "its only reference was the guest's");
}

#[test]
fn reload_takes_all_of_a_policy_or_nothing_and_leaves_what_is_open() {
    let mut bed = bed("default = \"accept\"");
    bed.write("f", "text");
    let node = bed.find(&[b"f"]).node;
    let open = bed.open(node, RDONLY).expect("opened");
    let block = "[[rule]]\nid = \"no\"\ncalls = [\"openat\"]\naction = \"block\"\n";
    let refused = bed.reload(1, &format!("{block}[[rule]]\ncalls = [\"what\"]")).expect("refused");
    assert!(refused.starts_with("policy:"), "{refused}");
    assert!(bed.open(node, RDONLY).is_ok(), "the old one stays");
    assert_eq!(bed.reload(2, block), None);
    assert_eq!(bed.open(node, RDONLY), Err(Errno::PERM));
    assert_eq!(bed.call(Operation::FileRead, open, 0, &[]).expect("read"), b"text");
    assert_eq!(bed.reload(3, ""), None);
    assert!(bed.open(node, RDONLY).is_ok());
    let log = bed.log();
    let events = ["policy-refused", "policy-reloaded", "\"rule\":\"no\"", "policy-reloaded"];
    let mut rest = &log[..];
    for event in events {
        let at = rest.find(event).unwrap_or_else(|| panic!("no {event} in {log}"));
        rest = &rest[at + 1..];
    }
}

#[test]
fn reload_ends_the_wait_for_answers_that_were_asked_for_by_the_old_policy() {
    let mut bed = bed(ASK);
    bed.write("asked", "a");
    let asked = bed.find(&[b"asked"]).node;
    bed.begin_open(1, asked);
    let (number, _) = bed.question();
    let block = "[[rule]]\ncalls = [\"openat\"]\naction = \"block\"\nerrno = \"EIO\"";
    assert_eq!(bed.reload(1, block), None);
    bed.answer(number, Verdict::Accept);
    assert_eq!(bed.kernel.completion().errno, 5, "an answer is for the policy that asked");
}

#[test]
fn what_narrows_a_policy_never_widens_it() {
    let base = "version = 1\ndefault = \"block\"\n[[rule]]\ncalls = [\"file-stat\", \"openat\"]\n\
                paths = [\"/data/**\"]\naction = \"accept\"";
    let wide = "version = 1\n[[rule]]\ncalls = [\"file\", \"net\"]\naction = \"accept\"";
    let mut bed = Bed::narrowed(
        false,
        Some(base),
        Some(Narrowing { text: wide.into(), presets: vec!["fs-read-only".into()] }),
    );
    bed.write("f", "text");
    let node = bed.find(&[b"f"]).node;
    assert_eq!(bed.contents(node).expect("read"), b"text");
    assert_eq!(bed.open(node, RDWR).map(|_| ()), Ok(()), "the first rule of both accepts it");
    let unlink = bed.call(Operation::FileUnlink, ROOT, 0, b"f");
    assert_eq!(unlink, Err(Errno::PERM), "accepted by the annotation only");
    let narrow = "version = 1\n[[rule]]\nid = \"f\"\ncalls = [\"openat\"]\npaths = [\"/data/f\"]\n\
                  action = \"block\"\nerrno = \"ENOENT\"";
    let narrowing = Narrowing { text: narrow.into(), presets: vec![] };
    let mut bed = Bed::narrowed(false, Some(base), Some(narrowing));
    bed.write("f", "text");
    let node = bed.find(&[b"f"]).node;
    assert_eq!(bed.open(node, RDONLY), Err(Errno::NOENT));
    assert!(bed.log().contains("\"rule\":\"container:f\""), "{}", bed.log());
}
