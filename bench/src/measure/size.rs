// SPDX-License-Identifier: Apache-2.0
//! How large the guest kernel is.

use std::fs;

use anyhow::Result;

use crate::{
    interleave::Outcome,
    results::{Measure, Row, Shape, Unit},
    session::Session,
    system::System,
};

/// Id of the measurement.
pub(crate) const ID: &str = "kernel-size";

/// Looks.
///
/// # Errors
/// None.
pub(crate) fn measure(session: &Session) -> Result<Vec<Measure>> {
    if !session.has(System::Trine) {
        return Ok(vec![]);
    }
    let outcome = match &session.tools.kernel {
        Ok(path) => match fs::metadata(path) {
            Ok(data) => Outcome::Measured(vec![data.len() as f64 / f64::from(1 << 20)]),
            Err(error) => Outcome::Failed(format!("{}: {error}", path.display())),
        },
        Err(reason) => Outcome::Absent(reason.clone()),
    };
    Ok(vec![Measure {
        id: ID,
        title: "Guest kernel image".to_owned(),
        method: "Size of the file trine-kernel.".to_owned(),
        unit: Unit::Mebibytes,
        shape: Shape::Compared,
        rows: vec![Row::new(System::Trine, "trine", outcome)],
    }])
}
