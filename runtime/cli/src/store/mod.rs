// SPDX-License-Identifier: Apache-2.0
//! What is on disk about containers: `<root>/<id>/`, mode 0700, with
//!
//! - `state.json`: the [`Record`], replaced whole,
//! - `control.sock`: the socket of the process that holds the container.
//!
//! The directory is made first, and its making claims the id; the record comes before any resource
//! that it lists, so that what a killed process leaves behind can be found and removed.

mod directory;
mod owner;
mod record;
mod root;

pub(crate) use self::{
    directory::{Claim, Directory},
    owner::{Owner, parse_start_ticks},
    record::Record,
    root::Root,
};
