// SPDX-License-Identifier: Apache-2.0
//! A container's life without a VM: the test is the VMM, with the guest behind it, on the other end
//! of the link.  The I/O server is the real one, on a thread.

mod ends;
mod life;
mod policy;
mod rig;
