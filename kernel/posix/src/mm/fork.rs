// SPDX-License-Identifier: Apache-2.0
//! The copy of a memory that fork makes.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trine_machine::space::Sharing;

use super::{AreaKind, Mm};
use crate::Errno;

/// Writable pages that a fork copies at once: a copy costs a fraction of the two faults, one in the
/// parent and one in the child, that it saves.
const COPY_BUDGET: u64 = 96;

impl Mm {
    /// Makes the child's memory.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn fork(&self) -> Result<Self, Errno> {
        let mut child = Self::new(&self.services)?;
        child.layout.lock().clone_from(&self.layout.lock());
        child.exe.lock().clone_from(&self.exe.lock());
        child.stack_limit = AtomicU64::new(self.stack_limit.load(Ordering::Relaxed));
        child.limits =
            [0, 1].map(|index| AtomicU64::new(self.limits[index].load(Ordering::Relaxed)));
        child.rewritten_text = AtomicBool::new(self.uses_rewritten_text());
        let mut budget = COPY_BUDGET;
        let areas = self.areas.lock();
        let (mut space, mut child_space) = (self.space.lock(), child.space.lock());
        let mut child_areas = child.areas.lock();
        // From the top: the stack is written first on both sides.
        for area in areas.iter().rev() {
            if area.no_fork {
                continue;
            }
            child_areas.insert(area.clone())?;
            if area.wipe_on_fork {
                continue;
            }
            if matches!(area.kind, AreaKind::File { shared: true, .. }) {
                // The child finds these again by faults, and mostly never asks.
                continue;
            }
            let fixed = matches!(area.kind, AreaKind::Fixed);
            let sharing =
                if area.is_shared() || fixed { Sharing::Shared } else { Sharing::Private };
            space
                .fork_into(&mut child_space, area.start, area.end, sharing, &mut budget)
                .map_err(|_| Errno::NOMEM)?;
        }
        drop((child_space, child_areas));
        Ok(child)
    }
}
