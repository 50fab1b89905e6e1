// SPDX-License-Identifier: Apache-2.0
//! Every rule of both system call filters against the kernel: what it allows is not killed, with any
//! other argument it is, and so is every number without a rule.
//!
//! It goes through the tables themselves, so that a rule that is added is tried too.  Each try is a
//! process.  Arguments are such that a call that is allowed fails at once.
#![expect(unsafe_code, reason = "tries system calls, in processes of their own")]

use trine_jail::seccomp::{Filter, Rule};

/// Nothing that any system call accepts as a descriptor, an address or a size.
const NONSENSE: i64 = -1;
/// Numbers above all that there are.
const NUMBERS: u32 = 520;
/// uretprobe and uprobe: filters do not see them (Linux 6.14), and the kernel ends who calls them
/// from anywhere but its own trampolines.
const UNFILTERED: [u32; 2] = [335, 336];
/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// SIGSYS.
    Killed,
    /// The call failed with this errno.
    Failed(i32),
    /// It returned something else, or ended the process in its own way.
    Passed,
}

/// Makes a call in a process under the filter.
fn attempt(filter: &Filter, number: u32, arguments: [i64; 6]) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: this process has one thread, so that the child may go on as it likes.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "cannot fork");
    if child == 0 {
        let installed = rustix::thread::set_no_new_privs(true).is_ok() && filter.install().is_ok();
        if !installed {
            // SAFETY: ends the child.
            unsafe { libc::_exit(200) };
        }
        // SAFETY: the call cannot harm anything but this child.
        let result = unsafe { libc::syscall(number.into(), a, b, c, d, e, f) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let code = if result == -1 { errno } else { 0 };
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the status is written to a local variable.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
        return Outcome::Killed;
    }
    match libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)) {
        Some(200) => panic!("the filter was not installed"),
        Some(errno @ 1..=133) => Outcome::Failed(errno),
        _ => Outcome::Passed,
    }
}

fn with(argument: u8, value: u32) -> [i64; 6] {
    let mut arguments = [NONSENSE; 6];
    arguments[usize::from(argument)] = value.into();
    arguments
}

/// Values that a rule does not have, near those that it has.
fn others(mask: u32, values: &[u32]) -> Vec<u32> {
    let bits = (0..32).map(|bit| 1_u32 << bit).filter(|bit| mask & bit != 0);
    let near = bits.flat_map(|bit| values.iter().map(move |value| value ^ bit));
    let mut others: Vec<u32> = near
        .chain([0, u32::MAX, u32::MAX - 1])
        .filter(|other| values.iter().all(|value| other & mask != *value))
        .collect();
    others.sort_unstable();
    others.dedup();
    others
}

/// Tries one rule; returns how many tries that took.
fn exercise(name: &str, filter: &Filter, number: u32, rule: &Rule) -> usize {
    match rule {
        Rule::Allow => {
            let outcome = attempt(filter, number, [NONSENSE; 6]);
            assert_ne!(outcome, Outcome::Killed, "{name}: system call {number} is allowed");
            1
        }
        Rule::Fail(errno) => {
            let outcome = attempt(filter, number, [NONSENSE; 6]);
            assert_eq!(outcome, Outcome::Failed((*errno).into()), "{name}: system call {number}");
            1
        }
        Rule::Match { argument, mask, values } => {
            assert!(!values.is_empty(), "{name}: a rule of {number} that allows nothing");
            for value in values {
                // Descriptors and addresses that mean something would let it work.
                let outcome = attempt(filter, number, with(*argument, *value));
                assert_ne!(outcome, Outcome::Killed, "{name}: {number} with {value:#x}");
                // Bits outside of the mask do not count.
                let outcome = attempt(filter, number, with(*argument, *value | !*mask));
                assert_ne!(outcome, Outcome::Killed, "{name}: {number} with {value:#x} and more");
            }
            let others = others(*mask, values);
            for other in &others {
                let outcome = attempt(filter, number, with(*argument, *other));
                assert_eq!(outcome, Outcome::Killed, "{name}: {number} with {other:#x}");
            }
            2 * values.len() + others.len()
        }
    }
}

fn main() {
    for (name, filter_fn) in [
        ("trine-vmm", trine_jail::vmm::filter as fn() -> Filter),
        ("trine-io", trine_jail::io::filter),
    ] {
        // The filter names this process, whose children are others: tgkill is tried by itself below.
        let filter = filter_fn();
        let (mut rules, mut tries) = (0, 0);
        for (number, rule) in filter.rules() {
            tries += exercise(name, &filter, number, rule);
            rules += 1;
        }
        for number in
            (0..NUMBERS).filter(|number| filter.rules().all(|(known, _)| known != *number))
        {
            if UNFILTERED.contains(&number) {
                continue;
            }
            let outcome = attempt(&filter, number, [NONSENSE; 6]);
            assert_eq!(outcome, Outcome::Killed, "{name}: system call {number} has no rule");
            tries += 1;
        }
        let outcome = attempt(&filter, X32 | libc::SYS_getpid as u32, [NONSENSE; 6]);
        assert_eq!(outcome, Outcome::Killed, "{name}: a call of the x32 kind");
        println!("test {name}: {rules} rules, {tries} tries ... ok");
    }
    println!("test result: ok. 2 passed; 0 failed; 0 ignored");
}
