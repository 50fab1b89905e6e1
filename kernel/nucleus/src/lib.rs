// SPDX-License-Identifier: Apache-2.0
//! Ring 0, and the hand-over between the application and the kernel in ring 3.
//!
//! The nucleus is three position-independent pages (`trine_abi::nucleus`), copied for each vCPU:
//!
//! ```text
//! page 0  entry    header; ring 0 stubs; ring 3 code that saves the application's registers
//! page 1  exit     ring 3 code that restores them; a kick that lands here undoes the exit
//! page 2  data     save words, ready-made IRET frames, the CPU's exception stacks
//! ```
//!
//! A ring 0 stub loads the address of a ready-made frame and executes IRETQ: every trap lands in
//! ring 3 within two to four instructions, because on a PVM host each instruction in ring 0 is
//! emulated (about 1 us).  The SYSCALL stub runs in ring 0 on standard KVM and in ring 3 on PVM;
//! IRETQ works from both.  Baseline x86-64 only: the emulator knows no VEX and no BMI.
//!
//! Kicks: the stub looks at the interrupted RIP.  Application: ring 3 takes over.  Kernel or entry
//! code: it only notes in the data page that a kick was delivered, which the kernel sees before it
//! next resumes an application, in the exit page.  Exit code: that may have been looked at already,
//! so the stub moves RIP to `exit_abort`, which leaves as if the kick had been seen; the exit code
//! only reads the saved registers, so nothing is lost.  The VMM injects no second kick before the
//! kernel has seen the first one *delivered*: a second frame on the kick's stack would overwrite a
//! first one that ring 3 has not read yet.
#![no_std]
#![expect(unsafe_code, reason = "ring 0 entry code is assembly")]

core::arch::global_asm!(include_str!("nucleus.S"), options(att_syntax));

/// Naming this constant links the nucleus into a kernel image.
pub const LINKED: () = ();
