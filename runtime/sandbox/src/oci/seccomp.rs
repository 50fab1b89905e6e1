// SPDX-License-Identifier: Apache-2.0
//! `linux.seccomp`: the profile as a program of classic BPF, which the guest runs before each call of
//! the container's processes.
//!
//! Of the rules for a call the first that matches counts, and the default action if none does.  Calls
//! that are newer than all that the profile knows do not exist (ENOSYS), as under runc: a C library
//! then falls back, where it would give up after EPERM.

use std::collections::BTreeMap;

use crate::Error;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use trine_abi::names;

use super::{invalid, unsupported};

const ARCH_X86_64: u32 = 0xc000_003e;
/// Numbers from here on belong to the x32 ABI, which the guest does not have.
const X32_BIT: u32 = 0x4000_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Most instructions of a filter.
const INSTRUCTIONS_MAX: usize = 4096;
/// Calls that share one return: jumps reach 255 instructions.
const GROUP_MAX: usize = 250;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where a conditional jump goes while a rule is put together.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// So many instructions on.
    Skip(u8),
    /// To the next rule.
    Fail,
}

const NEXT: Target = Target::Skip(0);

/// An instruction before its jumps are known.
#[derive(Clone, Copy, Debug)]
struct Draft {
    code: u16,
    k: u32,
    yes: Target,
    no: Target,
}

fn plain(code: u16, k: u32) -> Draft {
    Draft { code, k, yes: NEXT, no: NEXT }
}

fn jump(code: u16, k: u32, yes: Target, no: Target) -> Draft {
    Draft { code, k, yes, no }
}

/// A struct sock_filter as a little-endian number.
fn encode(code: u16, yes: u8, no: u8, k: u32) -> u64 {
    u64::from(code) | u64::from(yes) << 16 | u64::from(no) << 24 | u64::from(k) << 32
}

/// What is to be done with a call if all conditions hold.
#[derive(Clone, Debug)]
struct Rule {
    conditions: Vec<LinuxSeccompArg>,
    verdict: u32,
}

/// Translates a profile.
///
/// # Errors
/// [`Error::Unsupported`] for what needs a listener, [`Error::Invalid`] for a rule that makes no sense
/// or a profile that is too long.
pub(super) fn translate(profile: &LinuxSeccomp) -> Result<Vec<u64>, Error> {
    let default = verdict(profile.default_action(), profile.default_errno_ret())?;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    let mut newest = 0;
    for rule in profile.syscalls().as_deref().unwrap_or_default() {
        add(rule, default, &mut calls, &mut newest)?;
    }
    let mut program = vec![
        encode(LOAD, 0, 0, 4),
        encode(JUMP_EQ, 1, 0, ARCH_X86_64),
        encode(RETURN, 0, 0, KILL_PROCESS),
        encode(LOAD, 0, 0, 0),
        encode(JUMP_GE, 0, 1, X32_BIT),
        encode(RETURN, 0, 0, ERRNO | ENOSYS),
    ];
    if default & 0xffff_0000 == ERRNO && newest > 0 {
        program.push(encode(JUMP_GT, 0, 1, newest));
        program.push(encode(RETURN, 0, 0, ERRNO | ENOSYS));
    }
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (number, rules) in &calls {
        match rules.first() {
            Some(rule) if rule.conditions.is_empty() => {
                groups.entry(rule.verdict).or_default().push(*number);
            }
            _ => add_conditional(*number, rules, default, &mut program)?,
        }
    }
    for (verdict, numbers) in &groups {
        for group in numbers.chunks(GROUP_MAX) {
            for (index, number) in group.iter().enumerate() {
                let left = group.len() - 1 - index;
                let past = u8::from(left == 0);
                program.push(encode(JUMP_EQ, small(left)?, past, *number));
            }
            program.push(encode(RETURN, 0, 0, *verdict));
        }
    }
    program.push(encode(RETURN, 0, 0, default));
    if program.len() > INSTRUCTIONS_MAX {
        let reason = format!("needs {} instructions, at most 4096 are possible", program.len());
        return Err(invalid("linux.seccomp", reason));
    }
    Ok(program)
}

fn small(offset: usize) -> Result<u8, Error> {
    u8::try_from(offset).map_err(|_| invalid("linux.seccomp", "has a rule that is too long"))
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    let errno = errno.unwrap_or(EPERM);
    if errno > 0xffff {
        return Err(invalid("linux.seccomp", format!("errnoRet {errno} is not an error number")));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => ERRNO | errno,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(unsupported(
                "linux.seccomp action SCMP_ACT_NOTIFY",
                "use SCMP_ACT_ERRNO, no agent of the host sees the guest's calls",
            ));
        }
    })
}

fn add(
    rule: &LinuxSyscall,
    default: u32,
    calls: &mut BTreeMap<u32, Vec<Rule>>,
    newest: &mut u32,
) -> Result<(), Error> {
    let verdict = verdict(rule.action(), rule.errno_ret())?;
    let args = rule.args().clone().unwrap_or_default();
    if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
        let reason = format!("names argument {}, calls have 0 to 5", arg.index());
        return Err(invalid("linux.seccomp", reason));
    }
    // Several conditions on one argument cannot all hold: each is a rule of its own (as in runc).
    let repeats = args
        .iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|a| a.index() == arg.index()));
    let alternatives: Vec<Vec<LinuxSeccompArg>> =
        if repeats { args.iter().map(|arg| vec![*arg]).collect() } else { vec![args] };
    for name in rule.names() {
        // Profiles name calls of other architectures and of newer kernels, too.
        let Some(number) = names::number(name).and_then(|number| u32::try_from(number).ok()) else {
            continue;
        };
        *newest = (*newest).max(number);
        if verdict == default {
            continue;
        }
        let rules = calls.entry(number).or_default();
        rules.extend(
            alternatives.iter().map(|conditions| Rule { conditions: conditions.clone(), verdict }),
        );
    }
    Ok(())
}

/// The instructions that go on if a condition holds, and to [`Target::Fail`] if it does not.
fn condition(arg: &LinuxSeccompArg) -> Vec<Draft> {
    let offset = 16 + 8 * arg.index() as u32;
    let (low_at, high_at) = (plain(LOAD, offset), plain(LOAD, offset + 4));
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let (low, high) = halves(arg.value());
    let fail = Target::Fail;
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => {
            vec![high_at, jump(JUMP_EQ, high, NEXT, fail), low_at, jump(JUMP_EQ, low, NEXT, fail)]
        }
        LinuxSeccompOperator::ScmpCmpNe => vec![
            high_at,
            jump(JUMP_EQ, high, NEXT, Target::Skip(2)),
            low_at,
            jump(JUMP_EQ, low, fail, NEXT),
        ],
        op @ (LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe) => {
            let code = if op == LinuxSeccompOperator::ScmpCmpGt { JUMP_GT } else { JUMP_GE };
            vec![
                high_at,
                jump(JUMP_GT, high, Target::Skip(3), NEXT),
                jump(JUMP_EQ, high, NEXT, fail),
                low_at,
                jump(code, low, NEXT, fail),
            ]
        }
        op @ (LinuxSeccompOperator::ScmpCmpLt | LinuxSeccompOperator::ScmpCmpLe) => {
            let code = if op == LinuxSeccompOperator::ScmpCmpLt { JUMP_GE } else { JUMP_GT };
            vec![
                high_at,
                jump(JUMP_GT, high, fail, NEXT),
                jump(JUMP_EQ, high, NEXT, Target::Skip(2)),
                low_at,
                jump(code, low, fail, NEXT),
            ]
        }
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let (wanted_low, wanted_high) = halves(arg.value_two().unwrap_or(0));
            vec![
                high_at,
                plain(AND, high),
                jump(JUMP_EQ, wanted_high, NEXT, fail),
                low_at,
                plain(AND, low),
                jump(JUMP_EQ, wanted_low, NEXT, fail),
            ]
        }
    }
}

fn add_conditional(
    number: u32,
    rules: &[Rule],
    default: u32,
    program: &mut Vec<u64>,
) -> Result<(), Error> {
    let mut body = Vec::new();
    for rule in rules {
        let mut drafts: Vec<Draft> = rule.conditions.iter().flat_map(condition).collect();
        drafts.push(plain(RETURN, rule.verdict));
        let count = drafts.len();
        for (index, draft) in drafts.iter().enumerate() {
            let resolve = |target: Target| match target {
                Target::Skip(count) => Ok(count),
                Target::Fail => small(count - 1 - index),
            };
            body.push(encode(draft.code, resolve(draft.yes)?, resolve(draft.no)?, draft.k));
        }
    }
    body.push(encode(RETURN, 0, 0, default));
    program.push(encode(JUMP_EQ, 1, 0, number));
    let length = u32::try_from(body.len())
        .map_err(|_| invalid("linux.seccomp", "has a rule that is too long"))?;
    program.push(encode(JUMP, 0, 0, length));
    program.extend(body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;

    fn compile(json: &str) -> Result<Vec<u64>, Error> {
        translate(&serde_json::from_str(json).expect("a profile"))
    }

    /// What the program says to a call: an interpreter of the instructions that are used.
    fn run(program: &[u64], number: u32, args: &[u64]) -> u32 {
        let word = |offset: u32| match offset {
            0 => number,
            4 => ARCH_X86_64,
            offset => {
                let value = args.get((offset as usize - 16) / 8).copied().unwrap_or(0);
                if offset % 8 == 4 { (value >> 32) as u32 } else { value as u32 }
            }
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let raw = program[at];
            let (code, k) = (raw as u16, (raw >> 32) as u32);
            at += 1;
            let holds = match code {
                LOAD => {
                    a = word(k);
                    continue;
                }
                AND => {
                    a &= k;
                    continue;
                }
                JUMP => {
                    at += k as usize;
                    continue;
                }
                RETURN => return k,
                JUMP_EQ => a == k,
                JUMP_GT => a > k,
                JUMP_GE => a >= k,
                _ => panic!("instruction {code:#x}"),
            };
            at += usize::from(if holds { (raw >> 16) as u8 } else { (raw >> 24) as u8 });
        }
    }

    #[test]
    fn profile_of_allowed_calls_denies_others() {
        let program = compile(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [
                {"names": ["read", "write", "arm_fadvise64_64", "openat2"],
                 "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        )
        .unwrap();
        for number in [0, 1, 437] {
            assert_eq!(run(&program, number, &[]), ALLOW, "{number}");
        }
        assert_eq!(run(&program, 39, &[]), ERRNO | EPERM, "getpid is not listed");
        assert_eq!(run(&program, 435, &[]), ERRNO | ENOSYS);
        assert_eq!(run(&program, 101, &[]), KILL_PROCESS);
        assert_eq!(run(&program, 449, &[]), ERRNO | ENOSYS, "newer than the profile");
        assert_eq!(run(&program, X32_BIT, &[]), ERRNO | ENOSYS);
    }

    #[test]
    fn conditions_compare_64_bits() {
        let big = 0x1_0000_0005_u64;
        let cases: [(&str, &[(u64, bool)]); 6] = [
            ("SCMP_CMP_EQ", &[(big, true), (5, false), (big + 1, false)]),
            ("SCMP_CMP_NE", &[(big, false), (5, true), (big + 1, true)]),
            ("SCMP_CMP_GT", &[(big, false), (big + 1, true), (0x2_0000_0000, true), (9, false)]),
            ("SCMP_CMP_GE", &[(big, true), (big - 1, false), (0x2_0000_0000, true), (9, false)]),
            ("SCMP_CMP_LT", &[(big, false), (big - 1, true), (0x2_0000_0000, false), (9, true)]),
            ("SCMP_CMP_LE", &[(big, true), (big + 1, false), (0x2_0000_0000, false), (9, true)]),
        ];
        for (op, values) in cases {
            let program = compile(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["personality"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{{"index": 1, "value": {big}, "op": "{op}"}}]}}]}}"#
            ))
            .unwrap();
            for (value, allowed) in values {
                let verdict = run(&program, 135, &[0, *value]);
                assert_eq!(verdict == ALLOW, *allowed, "{op} {value:#x}");
            }
        }
    }

    #[test]
    fn rules_are_alternatives_and_masks_count() {
        let program = compile(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                    {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        assert_eq!(run(&program, 56, &[17]), ALLOW);
        assert_eq!(run(&program, 56, &[0x1000_0000 | 17]), ERRNO | EPERM, "CLONE_NEWUSER");
        assert_eq!(run(&program, 135, &[0]), ALLOW);
        assert_eq!(run(&program, 135, &[8]), ALLOW);
        assert_eq!(run(&program, 135, &[9]), ERRNO | EPERM);
        assert_eq!(run(&program, 41, &[1, 2]), ALLOW);
        assert_eq!(run(&program, 41, &[1, 3]), ERRNO | EPERM, "both must hold");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let notify = compile(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(notify.unwrap_err().to_string().contains("SCMP_ACT_NOTIFY"));
        let index = compile(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mknod"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        );
        assert!(index.unwrap_err().to_string().contains("argument 6"));
    }
}
