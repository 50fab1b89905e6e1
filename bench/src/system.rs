// SPDX-License-Identifier: Apache-2.0
//! What is compared.

use clap::ValueEnum;
use serde::Serialize;

/// A way to run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// A process of the host: what nothing can be faster than.
    Plain,
    /// runc: a process in namespaces.
    Runc,
    /// gVisor: a kernel in a process, over the systrap platform.
    Runsc,
    /// Ours.
    Trine,
}

impl System {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Runc, Self::Runsc, Self::Trine];

    /// Name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Runc => "runc",
            Self::Runsc => "runsc",
            Self::Trine => "trine",
        }
    }
}

impl std::fmt::Display for System {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
