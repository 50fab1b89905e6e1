// SPDX-License-Identifier: Apache-2.0
//! System call filters.
//!
//! A filter is a set of rules by system call number; everything else kills the process.  It is
//! compiled to a binary decision tree over ranges of numbers, not to the usual list: installing a
//! filter costs time for each instruction, and again for each instruction that the kernel runs
//! when it precomputes, for every system call there is, whether it is allowed anyway.
//!
//! ```text
//!   load arch; not x86-64: kill
//!   load nr; tree of  nr >= k ?  ... ──> ALLOW | KILL | rule block
//!   rule block: load argument; and mask; == value? ... ──> ALLOW | KILL
//! ```

use seccompiler::sock_filter;

use crate::posture::JailError;

/// What is done about one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is allowed.
    Allow,
    /// It fails with this errno.
    Fail(u16),
    /// It is allowed if the low 32 bits of an argument, masked, equal one of the values.
    Match {
        /// Which argument, 0 to 5.
        argument: u8,
        /// What counts of it.
        mask: u32,
        /// What it must be.
        values: Vec<u32>,
    },
}

/// A filter: system call numbers, each at most once, and their rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    rules: Vec<(u32, Rule)>,
}

// linux/filter.h and linux/seccomp.h
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;
const ARCH_X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const FAIL: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// What a range of system call numbers leads to; an index stands for a rule's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Kill,
    Allow,
    Block(usize),
}

impl Filter {
    /// A filter that allows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows system calls.
    #[must_use]
    pub fn allow(mut self, numbers: &[i64]) -> Self {
        for &number in numbers {
            self = self.rule(number, Rule::Allow);
        }
        self
    }

    /// Sets the rule of one system call; it replaces an earlier one.
    #[must_use]
    pub fn rule(mut self, number: i64, rule: Rule) -> Self {
        // Numbers are constants of libc, far below 2^32; others match nothing.
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.rules.retain(|(known, _)| *known != number);
        self.rules.push((number, rule));
        self
    }

    /// Its rules, by system call number.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &Rule)> {
        self.rules.iter().map(|(number, rule)| (*number, rule))
    }

    /// Installs the filter on every thread of the process, for good.
    ///
    /// # Errors
    /// [`JailError::Seccomp`] if the kernel refuses; a thread that cannot be filtered is named.
    pub fn install(&self) -> Result<(), JailError> {
        let program = self.compile()?;
        seccompiler::apply_filter_all_threads(&program).map_err(JailError::Seccomp)
    }

    /// Compiles the filter.
    ///
    /// # Errors
    /// [`JailError::FilterTooLong`] if it has so many rules that jumps do not reach.
    pub fn compile(&self) -> Result<Vec<sock_filter>, JailError> {
        let mut code = Assembler::default();
        code.load(OFFSET_ARCH);
        code.jump(EQUAL, ARCH_X86_64, Target::Next, Target::Outcome(Outcome::Kill));
        code.load(OFFSET_NR);
        let ranges = self.ranges();
        code.tree(&ranges);
        for (index, (_, rule)) in self.rules.iter().enumerate() {
            code.block(index, rule);
        }
        code.finish()
    }

    /// Ranges of numbers by their first, each with another outcome than the one before it.
    fn ranges(&self) -> Vec<(u32, Outcome)> {
        let mut rules: Vec<_> = self.rules.iter().enumerate().collect();
        rules.sort_by_key(|(_, (number, _))| *number);
        let mut ranges = vec![(0, Outcome::Kill)];
        let mut push = |start: u32, outcome| {
            if ranges.last().is_some_and(|(last, _)| *last == start) {
                ranges.pop();
            }
            if ranges.last().is_none_or(|(_, last)| *last != outcome) {
                ranges.push((start, outcome));
            }
        };
        for (index, (number, rule)) in rules {
            let outcome = match rule {
                Rule::Allow => Outcome::Allow,
                Rule::Fail(_) | Rule::Match { .. } => Outcome::Block(index),
            };
            push(*number, outcome);
            push(number.saturating_add(1), Outcome::Kill);
        }
        ranges
    }
}

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Next,
    Instruction(usize),
    Outcome(Outcome),
}

/// Instructions whose jumps are resolved at the end.
#[derive(Default)]
struct Assembler {
    code: Vec<(sock_filter, Target, Target)>,
    /// Where the blocks of rules begin.
    blocks: Vec<(usize, usize)>,
}

impl Assembler {
    fn push(&mut self, code: u16, k: u32, yes: Target, no: Target) -> usize {
        self.code.push((sock_filter { code, jt: 0, jf: 0, k }, yes, no));
        self.code.len() - 1
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, offset, Target::Next, Target::Next);
    }

    fn jump(&mut self, code: u16, k: u32, yes: Target, no: Target) -> usize {
        self.push(code, k, yes, no)
    }

    /// Emits the decision between ranges, of which there is at least one.
    fn tree(&mut self, ranges: &[(u32, Outcome)]) {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let Some(&(start, _)) = high.first().filter(|_| !low.is_empty()) else {
            // A filter without rules: one range, no decision.
            let outcome = ranges.first().map_or(Outcome::Kill, |(_, outcome)| *outcome);
            self.jump(AT_LEAST, 0, Target::Outcome(outcome), Target::Outcome(outcome));
            return;
        };
        let at = self.jump(AT_LEAST, start, Target::Next, Target::Next);
        let no = self.subtree(low);
        let yes = self.subtree(high);
        if let Some(jump) = self.code.get_mut(at) {
            (jump.1, jump.2) = (yes, no);
        }
    }

    fn subtree(&mut self, ranges: &[(u32, Outcome)]) -> Target {
        match ranges {
            [(_, outcome)] => Target::Outcome(*outcome),
            ranges => {
                let at = self.code.len();
                self.tree(ranges);
                Target::Instruction(at)
            }
        }
    }

    fn block(&mut self, index: usize, rule: &Rule) {
        match rule {
            Rule::Allow => return,
            Rule::Fail(_) | Rule::Match { .. } => self.blocks.push((index, self.code.len())),
        }
        match rule {
            Rule::Allow => {}
            Rule::Fail(errno) => {
                self.push(RETURN, FAIL | u32::from(*errno), Target::Next, Target::Next);
            }
            Rule::Match { argument, mask, values } => {
                self.load(OFFSET_ARGUMENTS + 8 * u32::from(*argument));
                if *mask != u32::MAX {
                    self.push(AND, *mask, Target::Next, Target::Next);
                }
                for (left, value) in values.iter().enumerate().map(|(at, v)| (values.len() - at, v))
                {
                    let no = match left {
                        1 => Target::Outcome(Outcome::Kill),
                        _ => Target::Next,
                    };
                    self.jump(EQUAL, *value, Target::Outcome(Outcome::Allow), no);
                }
                if values.is_empty() {
                    self.push(RETURN, KILL_PROCESS, Target::Next, Target::Next);
                }
            }
        }
    }

    fn finish(mut self) -> Result<Vec<sock_filter>, JailError> {
        let kill = self.push(RETURN, KILL_PROCESS, Target::Next, Target::Next);
        let allow = self.push(RETURN, ALLOW, Target::Next, Target::Next);
        let blocks = self.blocks;
        let resolve = |at: usize, target| {
            let to = match target {
                Target::Next => at + 1,
                Target::Instruction(to) => to,
                Target::Outcome(Outcome::Kill) => kill,
                Target::Outcome(Outcome::Allow) => allow,
                Target::Outcome(Outcome::Block(index)) => {
                    let block = blocks.iter().find(|(rule, _)| *rule == index);
                    block.map_or(kill, |(_, to)| *to)
                }
            };
            u8::try_from(to - at - 1).map_err(|_| JailError::FilterTooLong)
        };
        let instructions = self.code.into_iter().enumerate();
        instructions
            .map(|(at, (mut instruction, yes, no))| {
                if matches!(instruction.code, EQUAL | AT_LEAST) {
                    instruction.jt = resolve(at, yes)?;
                    instruction.jf = resolve(at, no)?;
                }
                Ok(instruction)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[sock_filter], arch: u32, nr: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend_from_slice(&nr.to_le_bytes());
        data.extend_from_slice(&arch.to_le_bytes());
        data.extend_from_slice(&[0; 8]);
        arguments.iter().for_each(|argument| data.extend_from_slice(&argument.to_le_bytes()));
        let (mut at, mut a) = (0, 0);
        loop {
            let instruction = &program[at];
            let k = instruction.k;
            at += 1;
            let holds = match instruction.code {
                LOAD => {
                    let bytes = &data[k as usize..k as usize + 4];
                    a = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
                    continue;
                }
                AND => {
                    a &= k;
                    continue;
                }
                RETURN => return k,
                EQUAL => a == k,
                AT_LEAST => a >= k,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { instruction.jt } else { instruction.jf });
        }
    }

    fn sample() -> Filter {
        Filter::new()
            .allow(&[0, 1, 2, 3, 7, 60, 231, 334, 449])
            .rule(16, Rule::Match { argument: 1, mask: 0xff00, values: vec![0xae00] })
            .rule(17, Rule::Fail(38))
            .rule(72, Rule::Match { argument: 1, mask: u32::MAX, values: vec![1, 2, 1030] })
            .rule(100, Rule::Match { argument: 0, mask: u32::MAX, values: vec![] })
    }

    #[test]
    fn compile_every_number_has_the_outcome_of_its_rule() {
        let filter = sample();
        let program = filter.compile().expect("compiled");
        for nr in (0..1000).chain([u32::MAX, 1 << 30, (1 << 30) + 1]) {
            let rule = filter.rules.iter().find(|(number, _)| *number == nr);
            let wanted = match rule {
                Some((_, Rule::Allow)) => ALLOW,
                Some((_, Rule::Fail(errno))) => FAIL | u32::from(*errno),
                // With arguments that are all zero, no value matches.
                Some((_, Rule::Match { .. })) | None => KILL_PROCESS,
            };
            assert_eq!(run(&program, ARCH_X86_64, nr, [0; 6]), wanted, "number {nr}");
        }
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), KILL_PROCESS, "32-bit calls");
    }

    #[test]
    fn compile_match_looks_at_the_masked_argument() {
        let program = sample().compile().expect("compiled");
        let call = |nr, argument| run(&program, ARCH_X86_64, nr, [9, argument, 9, 9, 9, 9]);
        assert_eq!(call(16, 0xae80), ALLOW);
        assert_eq!(call(16, 0x4018_ae05), ALLOW);
        assert_eq!(call(16, 0x541b), KILL_PROCESS);
        for (argument, wanted) in [(1, ALLOW), (1030, ALLOW), (3, KILL_PROCESS), (8, KILL_PROCESS)]
        {
            assert_eq!(call(72, argument), wanted, "argument {argument}");
        }
        assert_eq!(call(17, 0), FAIL | 38);
    }

    #[test]
    fn compile_empty_filter_kills_and_a_later_rule_replaces() {
        let program = Filter::new().compile().expect("compiled");
        assert_eq!(run(&program, ARCH_X86_64, 0, [0; 6]), KILL_PROCESS);
        let filter = Filter::new().allow(&[5]).rule(5, Rule::Fail(1));
        let program = filter.compile().expect("compiled");
        assert_eq!(run(&program, ARCH_X86_64, 5, [0; 6]), FAIL | 1);
    }

    #[test]
    fn filters_of_the_processes_are_short() {
        for filter in [crate::vmm::filter(), crate::io::filter()] {
            let length = filter.compile().expect("compiled").len();
            assert!(length <= 160, "{length} instructions");
        }
    }
}
