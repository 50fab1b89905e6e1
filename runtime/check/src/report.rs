// SPDX-License-Identifier: Apache-2.0
//! What a check found.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

/// A system call that is not there, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Call {
    /// Its number.
    pub number: u32,
    /// Its name; `unknown` if Linux has none of that number.
    pub name: &'static str,
    /// What is missing, or what happens instead.
    pub missing: String,
    /// The programs that need it, by path.
    #[serde(serialize_with = "texts")]
    pub needed_by: BTreeSet<PathBuf>,
}

/// A program that does not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its path.
    #[serde(serialize_with = "text")]
    pub path: PathBuf,
    /// Why it does not start.
    pub reason: String,
}

/// Code whose system calls could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Undetermined {
    /// The program or library that has the code.
    #[serde(serialize_with = "text")]
    pub path: PathBuf,
    /// How many of its instructions put a number there that could not be found.
    pub sites: usize,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Programs, and libraries that no program names, that were looked at.
    pub programs: usize,
    /// Programs that do not start.
    pub refused: Vec<Refusal>,
    /// System calls that are not there, by number.
    pub lacking: Vec<Call>,
    /// System calls of which something is missing, by number.
    pub partial: Vec<Call>,
    /// Names of the system calls that are needed and there in full, by number.
    pub full: Vec<&'static str>,
    /// Code that could not be told, by path.
    pub undetermined: Vec<Undetermined>,
    /// What else one should know, a sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is lacking: every program starts, and every system call that was found is
    /// there, at least in part.
    pub fn is_good(&self) -> bool {
        self.refused.is_empty() && self.lacking.is_empty()
    }
}

/// Writes a path, whose bytes need not be text.
fn text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn texts<S: Serializer>(paths: &BTreeSet<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}
