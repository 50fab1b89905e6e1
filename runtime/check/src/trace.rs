// SPDX-License-Identifier: Apache-2.0
//! What a register holds at an instruction, by following the code back to where it was set.
//!
//! The search goes over all ways that lead there, also from a function to all of its callers: so
//! the number that a program gives to syscall(2), or a Go program to `Syscall6`, is found.  A way
//! that cannot be followed makes the result [`Origins::is_unknown`].

use std::collections::{BTreeSet, HashSet};

use iced_x86::{
    Code as Opcode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use crate::code::{Code, Kind};

/// Steps of one search.
const STEPS_MAX: usize = 50_000;

/// What a register may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origins {
    /// Constants.
    pub(crate) values: BTreeSet<u32>,
    /// What callers in other objects put into a register: function, register.
    pub(crate) arguments: BTreeSet<(u64, Register)>,
    /// Something else.
    pub(crate) is_unknown: bool,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Register(Register),
    /// In memory, so many bytes from where a register points.
    Memory(Register, i64),
}

/// What an instruction makes of a place.
enum Source {
    /// Nothing: it is where it was.
    Same,
    /// It was there before.
    Other(Place),
    Constant(u32),
    Unknown,
}

impl Code {
    /// Finds what `register` may hold before the instruction at `at`.
    pub(crate) fn origins(&self, at: u64, register: Register) -> Origins {
        let mut search = Search {
            code: self,
            factory: InstructionInfoFactory::new(),
            seen: HashSet::new(),
            todo: Vec::new(),
            origins: Origins::default(),
        };
        search.visit(at, Place::Register(register.full_register()));
        search.run();
        search.origins
    }
}

struct Search<'a> {
    code: &'a Code,
    factory: InstructionInfoFactory,
    seen: HashSet<(u64, Place)>,
    /// Places whose value just before an instruction is wanted.
    todo: Vec<(u64, Place)>,
    origins: Origins,
}

impl Search<'_> {
    fn visit(&mut self, at: u64, place: Place) {
        if self.seen.insert((at, place)) {
            self.todo.push((at, place));
        }
    }

    fn run(&mut self) {
        while let Some((at, place)) = self.todo.pop() {
            if self.seen.len() > STEPS_MAX {
                self.origins.is_unknown = true;
                return;
            }
            self.step(at, place);
        }
    }

    /// Goes to everything that may come before an instruction.
    fn step(&mut self, at: u64, place: Place) {
        let code = self.code;
        let begins = code.is_function(at);
        let mut has_any = false;
        for edge in code.edges_to(at) {
            match edge.kind {
                Kind::Jump => {
                    has_any = true;
                    self.back(edge.from, place);
                }
                Kind::Call => {
                    has_any = true;
                    // The return address is on the stack since.
                    match place {
                        Place::Memory(Register::RSP, offset) if offset >= 8 => {
                            self.visit(edge.from, Place::Memory(Register::RSP, offset - 8));
                        }
                        Place::Register(_) => self.visit(edge.from, place),
                        Place::Memory(..) => self.origins.is_unknown = true,
                    }
                }
                Kind::Takes => {}
            }
        }
        if begins {
            match place {
                Place::Register(register) if code.is_exported(at) => {
                    has_any = true;
                    self.origins.arguments.insert((at, register));
                }
                _ => {}
            }
            self.origins.is_unknown |= code.is_pinned(at);
        } else if let Some(previous) = code.before(at)
            && flows_on(&previous)
        {
            has_any = true;
            self.back(previous.ip(), place);
        }
        self.origins.is_unknown |= !has_any;
    }

    /// Goes over one instruction that comes before.
    fn back(&mut self, at: u64, place: Place) {
        let source = match self.code.instruction(at) {
            Some(instruction) => self.source(&instruction, place),
            None => Source::Unknown,
        };
        match source {
            Source::Same => self.visit(at, place),
            Source::Other(place) => self.visit(at, place),
            Source::Constant(value) => {
                self.origins.values.insert(value);
            }
            Source::Unknown => self.origins.is_unknown = true,
        }
    }

    fn source(&mut self, instruction: &Instruction, place: Place) -> Source {
        match place {
            Place::Register(register) => self.register_source(instruction, register),
            Place::Memory(base, offset) => self.memory_source(instruction, base, offset),
        }
    }

    fn register_source(&mut self, instruction: &Instruction, register: Register) -> Source {
        if is_call(instruction) {
            let is_kept = matches!(
                register,
                Register::RBX
                    | Register::RBP
                    | Register::RSP
                    | Register::R12
                    | Register::R13
                    | Register::R14
                    | Register::R15
            );
            return if is_kept { Source::Same } else { Source::Unknown };
        }
        if instruction.mnemonic() == Mnemonic::Syscall && register == Register::RAX {
            return Source::Unknown;
        }
        if !self.writes(instruction, register) {
            return Source::Same;
        }
        let is_target = instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == register
            && instruction.op0_register().size() >= 4;
        if !is_target {
            return Source::Unknown;
        }
        match instruction.mnemonic() {
            Mnemonic::Mov => operand_source(instruction, 1),
            Mnemonic::Xor | Mnemonic::Sub
                if instruction.op1_kind() == OpKind::Register
                    && instruction.op1_register() == instruction.op0_register() =>
            {
                Source::Constant(0)
            }
            Mnemonic::Pop => Source::Other(Place::Memory(Register::RSP, 0)),
            _ => Source::Unknown,
        }
    }

    fn memory_source(&mut self, instruction: &Instruction, base: Register, offset: i64) -> Source {
        if is_call(instruction) {
            return Source::Same;
        }
        let is_store = instruction.op0_kind() == OpKind::Memory
            && memory_place(instruction) == Some(Place::Memory(base, offset));
        if is_store {
            return match instruction.mnemonic() {
                Mnemonic::Mov => operand_source(instruction, 1),
                Mnemonic::Cmp | Mnemonic::Test => Source::Same,
                _ => Source::Unknown,
            };
        }
        if base != Register::RSP {
            return if self.writes(instruction, base) { Source::Unknown } else { Source::Same };
        }
        // Where the stack pointer pointed before.
        let moved = match (instruction.mnemonic(), constant(instruction, 1)) {
            (Mnemonic::Push, _) if offset < 8 => return operand_source(instruction, 0),
            (Mnemonic::Push | Mnemonic::Pop, _) => instruction.stack_pointer_increment().into(),
            (Mnemonic::Sub, Some(bytes)) if instruction.op0_register() == Register::RSP => -bytes,
            (Mnemonic::Add, Some(bytes)) if instruction.op0_register() == Register::RSP => bytes,
            _ if self.writes(instruction, Register::RSP) => return Source::Unknown,
            _ => return Source::Same,
        };
        match offset.checked_add(moved) {
            Some(offset) => Source::Other(Place::Memory(Register::RSP, offset)),
            None => Source::Unknown,
        }
    }

    fn writes(&mut self, instruction: &Instruction, register: Register) -> bool {
        let info = self.factory.info(instruction);
        info.used_registers().iter().any(|used| {
            used.register().full_register() == register
                && !matches!(
                    used.access(),
                    OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
                )
        })
    }
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        && instruction.code() != Opcode::Syscall
}

/// Whether the next instruction follows.
fn flows_on(instruction: &Instruction) -> bool {
    !matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Exception
    )
}

/// Where an operand comes from.
fn operand_source(instruction: &Instruction, operand: u32) -> Source {
    match instruction.op_kind(operand) {
        OpKind::Register => {
            let register = instruction.op_register(operand);
            match register.size() {
                4 | 8 if register.is_gpr() => {
                    Source::Other(Place::Register(register.full_register()))
                }
                _ => Source::Unknown,
            }
        }
        OpKind::Memory => memory_place(instruction).map_or(Source::Unknown, Source::Other),
        _ => match constant(instruction, operand) {
            // Only the lower half counts: the number of a call has 32 bits.
            Some(value) => Source::Constant(value as u32),
            None => Source::Unknown,
        },
    }
}

fn constant(instruction: &Instruction, operand: u32) -> Option<i64> {
    if operand >= instruction.op_count() {
        return None;
    }
    instruction.try_immediate(operand).ok().map(u64::cast_signed)
}

/// The place of a memory operand on the stack.
fn memory_place(instruction: &Instruction) -> Option<Place> {
    let base = instruction.memory_base();
    let is_plain = matches!(base, Register::RSP | Register::RBP)
        && instruction.memory_index() == Register::None
        && instruction.segment_prefix() == Register::None;
    let offset = instruction.memory_displacement64().cast_signed();
    is_plain.then_some(Place::Memory(base, offset))
}
