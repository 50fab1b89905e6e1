// SPDX-License-Identifier: Apache-2.0
//! The instructions of one ELF file: where functions begin, and who jumps and calls where.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

/// Bits of an address in 64-bit code.
const BITNESS: u32 = 64;

/// A piece of executable memory.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) address: u64,
    pub(crate) bytes: Box<[u8]>,
}

/// How one instruction refers to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Jump,
    Call,
    /// It takes its address.
    Takes,
}

/// A reference from one instruction to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) kind: Kind,
}

/// A reference from an instruction to a function of another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Use {
    pub(crate) from: u64,
    /// Index of the name.
    name: u32,
    pub(crate) how: How,
}

/// How a function of another object is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// It is called, or jumped to at the end.
    Called,
    /// Its address is taken.
    Taken,
    /// For the callers of this instruction, which are users of their own.
    Stub,
}

/// The code of an object.
#[derive(Debug, Default)]
pub(crate) struct Code {
    regions: Vec<Region>,
    /// Where each instruction begins, in order.
    instructions: Vec<u64>,
    /// Where functions begin, in order.
    functions: Vec<u64>,
    /// By place.
    edges_out: Vec<Edge>,
    /// By target.
    edges_in: Vec<Edge>,
    /// By place.
    uses: Vec<Use>,
    names: Vec<String>,
    /// The `syscall` instructions, in order.
    sites: Vec<u64>,
    /// Functions that others can call by name.
    exported: BTreeSet<u64>,
    /// Functions that may be called by somebody who cannot be found.
    pinned: BTreeSet<u64>,
}

impl Code {
    /// Decodes regions, which are in order.
    ///
    /// `starts` are known beginnings of functions, `imports` places that hold the address of a
    /// function of another object; the rest as in the fields.
    pub(crate) fn decode(
        regions: Vec<Region>,
        starts: Vec<u64>,
        imports: BTreeMap<u64, String>,
        exported: BTreeSet<u64>,
        pinned: BTreeSet<u64>,
    ) -> Self {
        let mut sweep = Sweep::new(imports);
        let mut starts: Vec<u64> = starts;
        starts.sort_unstable();
        starts.dedup();
        for region in &regions {
            sweep.region(region, &starts);
        }
        let mut code = Self {
            instructions: sweep.instructions,
            uses: sweep.uses,
            names: sweep.names,
            sites: sweep.sites,
            functions: starts,
            exported,
            pinned,
            regions,
            ..Self::default()
        };
        code.connect(sweep.edges, &sweep.stubs);
        code
    }

    /// Sorts out references, and finds more functions by them.
    fn connect(&mut self, edges: Vec<Edge>, stubs: &BTreeMap<u64, u32>) {
        for edge in edges {
            if let Some(&name) = stubs.get(&edge.to) {
                let how = if edge.kind == Kind::Takes { How::Taken } else { How::Called };
                self.uses.push(Use { from: edge.from, name, how });
            } else if self.instructions.binary_search(&edge.to).is_ok() {
                if edge.kind != Kind::Jump {
                    self.functions.push(edge.to);
                }
                if edge.kind == Kind::Takes {
                    self.pinned.insert(edge.to);
                }
                self.edges_out.push(edge);
            }
        }
        let instructions = &self.instructions;
        self.functions.retain(|start| instructions.binary_search(start).is_ok());
        self.functions.sort_unstable();
        self.functions.dedup();
        self.edges_out.sort_unstable();
        self.edges_in = self.edges_out.clone();
        self.edges_in.sort_unstable_by_key(|edge| (edge.to, edge.from));
        self.uses.sort_unstable();
        self.uses.dedup();
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// All `syscall` instructions.
    pub(crate) fn sites(&self) -> &[u64] {
        &self.sites
    }

    /// The beginning of the function that has an instruction, and of the one behind it.
    pub(crate) fn function_of(&self, at: u64) -> (u64, u64) {
        let next = self.functions.partition_point(|&start| start <= at);
        let start = next.checked_sub(1).map_or(0, |index| self.functions[index]);
        (start, self.functions.get(next).copied().unwrap_or(u64::MAX))
    }

    /// Whether a function begins there.
    pub(crate) fn is_function(&self, at: u64) -> bool {
        self.functions.binary_search(&at).is_ok()
    }

    pub(crate) fn is_exported(&self, at: u64) -> bool {
        self.exported.contains(&at)
    }

    pub(crate) fn is_pinned(&self, at: u64) -> bool {
        self.pinned.contains(&at)
    }

    /// The `syscall` instructions in a range.
    pub(crate) fn sites_in(&self, (start, end): (u64, u64)) -> &[u64] {
        between(&self.sites, |&site| site, start, end)
    }

    /// What the instructions in a range refer to.
    pub(crate) fn edges_from(&self, (start, end): (u64, u64)) -> &[Edge] {
        between(&self.edges_out, |edge| edge.from, start, end)
    }

    /// What refers to an instruction.
    pub(crate) fn edges_to(&self, at: u64) -> &[Edge] {
        between(&self.edges_in, |edge| edge.to, at, at + 1)
    }

    /// The functions of other objects that the instructions in a range use, and from where.
    pub(crate) fn uses_in(&self, (start, end): (u64, u64)) -> impl Iterator<Item = (&str, Use)> {
        let uses = between(&self.uses, |used| used.from, start, end);
        uses.iter().map(|used| (self.names[used.name as usize].as_str(), *used))
    }

    /// All uses of a function of another object but by stubs.
    pub(crate) fn uses_of(&self, name: &str) -> impl Iterator<Item = Use> {
        let index = self.names.iter().position(|known| known == name);
        let uses = self.uses.iter().copied();
        uses.filter(move |used| used.how != How::Stub && Some(used.name as usize) == index)
    }

    /// The instruction before another one, if nothing lies between them.
    pub(crate) fn before(&self, at: u64) -> Option<Instruction> {
        let index = self.instructions.partition_point(|&start| start < at);
        let previous = self.instruction(self.instructions[index.checked_sub(1)?])?;
        (previous.next_ip() == at).then_some(previous)
    }

    /// The instruction at an address.
    pub(crate) fn instruction(&self, at: u64) -> Option<Instruction> {
        let next = self.regions.partition_point(|region| region.address <= at);
        let region = &self.regions[next.checked_sub(1)?];
        let bytes = region.bytes.get(usize::try_from(at - region.address).ok()?..)?;
        let mut decoder = Decoder::with_ip(BITNESS, bytes, at, DecoderOptions::NONE);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    }
}

/// The part of a sorted list whose keys are in a range.
fn between<T>(list: &[T], key_fn: impl Fn(&T) -> u64, start: u64, end: u64) -> &[T] {
    let from = list.partition_point(|item| key_fn(item) < start);
    let to = list.partition_point(|item| key_fn(item) < end);
    &list[from..to.max(from)]
}

/// Decoding, from the first byte to the last.
struct Sweep {
    imports: BTreeMap<u64, u32>,
    names: Vec<String>,
    instructions: Vec<u64>,
    edges: Vec<Edge>,
    uses: Vec<Use>,
    sites: Vec<u64>,
    /// Jumps to functions of other objects that are functions themselves.
    stubs: BTreeMap<u64, u32>,
}

impl Sweep {
    fn new(imports: BTreeMap<u64, String>) -> Self {
        let mut names: Vec<String> = imports.values().cloned().collect();
        names.sort_unstable();
        names.dedup();
        let index = |name: &String| names.binary_search(name).unwrap_or(0) as u32;
        let imports = imports.iter().map(|(place, name)| (*place, index(name))).collect();
        Self {
            imports,
            names,
            instructions: Vec::new(),
            edges: Vec::new(),
            uses: Vec::new(),
            sites: Vec::new(),
            stubs: BTreeMap::new(),
        }
    }

    fn region(&mut self, region: &Region, starts: &[u64]) {
        let mut decoder =
            Decoder::with_ip(BITNESS, &region.bytes, region.address, DecoderOptions::NONE);
        let mut next_start = starts.partition_point(|&start| start <= region.address);
        // What a stub may begin with: nothing flows into it.
        let mut is_fresh = true;
        let mut marker = None;
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let (at, end) = (instruction.ip(), instruction.next_ip());
            while starts.get(next_start).is_some_and(|&start| start <= at) {
                next_start += 1;
            }
            // Data between functions may look like the beginning of a longer instruction.  (Only
            // what unwinders are told of signal handlers' returns begins within padding.)
            if let Some(&start) = starts.get(next_start)
                && start < end
                && instruction.mnemonic() != Mnemonic::Nop
                && decoder.set_position((start - region.address) as usize).is_ok()
            {
                decoder.set_ip(start);
                is_fresh = true;
                continue;
            }
            if instruction.is_invalid() {
                is_fresh = true;
                continue;
            }
            self.instructions.push(at);
            let begins = is_fresh || starts.binary_search(&at).is_ok();
            self.instruction(&instruction, if begins { Some(at) } else { marker });
            marker = (begins && instruction.code() == Opcode::Endbr64).then_some(at);
            is_fresh = matches!(
                instruction.flow_control(),
                FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Return
                    | FlowControl::Exception
            ) || is_fresh && instruction.mnemonic() == Mnemonic::Nop;
        }
    }

    /// Takes one instruction; `stub` is where it would begin a stub.
    fn instruction(&mut self, instruction: &Instruction, stub: Option<u64>) {
        let from = instruction.ip();
        if instruction.mnemonic() == Mnemonic::Syscall {
            self.sites.push(from);
        }
        let kind = match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => Kind::Call,
            FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::IndirectBranch => Kind::Jump,
            _ => Kind::Takes,
        };
        let is_near = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == OpKind::NearBranch64);
        if is_near {
            self.edges.push(Edge { from, to: instruction.near_branch64(), kind });
        } else if instruction.is_ip_rel_memory_operand() {
            let to = instruction.ip_rel_memory_address();
            let import = self.imports.get(&to).copied();
            match (import, kind) {
                (Some(name), Kind::Jump) if stub.is_some() => {
                    self.stubs.extend([(from, name), (stub.unwrap_or(from), name)]);
                    self.uses.push(Use { from, name, how: How::Stub });
                }
                (Some(name), kind) => {
                    let how = if kind == Kind::Takes { How::Taken } else { How::Called };
                    self.uses.push(Use { from, name, how });
                }
                (None, Kind::Takes) if instruction.mnemonic() == Mnemonic::Lea => {
                    self.edges.push(Edge { from, to, kind });
                }
                (None, _) => {}
            }
        } else if let Some(to) = address_immediate(instruction) {
            // Programs that are not relocated take addresses so.
            self.edges.push(Edge { from, to, kind: Kind::Takes });
        }
    }
}

/// What `mov $address, %reg` may take the address of.
fn address_immediate(instruction: &Instruction) -> Option<u64> {
    let is_move = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().full_register() != Register::RAX;
    let immediate = match instruction.op1_kind() {
        OpKind::Immediate32 => instruction.immediate32().into(),
        OpKind::Immediate32to64 => instruction.immediate32to64().cast_unsigned(),
        OpKind::Immediate64 => instruction.immediate64(),
        _ => return None,
    };
    // Small numbers are numbers.
    (is_move && immediate >= 0x1000).then_some(immediate)
}
