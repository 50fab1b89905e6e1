// SPDX-License-Identifier: Apache-2.0
//! How results are shown.

mod axis;
pub(crate) mod chart;
mod svg;
pub(crate) mod table;
