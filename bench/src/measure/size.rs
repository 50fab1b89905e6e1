// SPDX-License-Identifier: Apache-2.0
//! How large the guest kernel is.

use std::fs;

use crate::{
    elf,
    interleave::Outcome,
    results::{Measure, Row, Shape, Unit},
    session::Session,
    system::System,
};

/// Id of the measurement.
pub(crate) const ID: &str = "kernel-size";

const MIB: f64 = (1 << 20) as f64;

/// Looks.
pub(crate) fn measure(session: &Session) -> Vec<Measure> {
    if !session.has(System::Trine) {
        return vec![];
    }
    let (loaded, file) = match &session.tools.kernel {
        Ok(path) => match fs::read(path) {
            Ok(bytes) => {
                let loaded = match elf::loaded_bytes(&bytes) {
                    Some(loaded) => Outcome::Measured(vec![loaded as f64 / MIB]),
                    None => Outcome::Failed(format!("{} is no ELF file", path.display())),
                };
                (loaded, Outcome::Measured(vec![bytes.len() as f64 / MIB]))
            }
            Err(error) => {
                let failed = Outcome::Failed(format!("{}: {error}", path.display()));
                (failed.clone(), failed)
            }
        },
        Err(reason) => (Outcome::Absent(reason.clone()), Outcome::Absent(reason.clone())),
    };
    vec![Measure {
        id: ID,
        title: "Guest kernel image".to_owned(),
        method: "The file trine-kernel, and what of it is loaded: the rest is symbols, and debug \
                 information unless it was stripped."
            .to_owned(),
        unit: Unit::Mebibytes,
        shape: Shape::Compared,
        rows: vec![
            Row::new(System::Trine, "the file", file),
            Row::new(System::Trine, "what is loaded of it", loaded),
        ],
    }]
}
