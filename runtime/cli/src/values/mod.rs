// SPDX-License-Identifier: Apache-2.0
//! Values of flags and files: text in, checked value out.

mod environment;
mod id;
mod signal;
mod size;
mod time;
mod user;

pub(crate) use self::{
    environment::{Variables, merge, parse_assignment, read_file},
    id::{check_id, random_id},
    signal::parse_signal,
    size::{format_bytes, parse_bytes},
    time::{format_duration, format_rfc3339, monotonic_ns},
    user::{User, parse_numeric, resolve},
};
