// SPDX-License-Identifier: Apache-2.0
//! The measurements.

pub(crate) mod compute;
pub(crate) mod ctr;
pub(crate) mod forward;
pub(crate) mod hello;
pub(crate) mod idle;
pub(crate) mod memory;
pub(crate) mod micro;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod size;
pub(crate) mod stages;
pub(crate) mod start;
pub(crate) mod volumes;
