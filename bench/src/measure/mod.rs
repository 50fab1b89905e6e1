// SPDX-License-Identifier: Apache-2.0
//! The measurements.

pub(crate) mod ctr;
pub(crate) mod hello;
pub(crate) mod memory;
pub(crate) mod micro;
pub(crate) mod size;
pub(crate) mod stages;
