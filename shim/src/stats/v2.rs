// SPDX-License-Identifier: Apache-2.0
//! cgroup v2: CPU time in microseconds.

use std::{fs, path::Path};

use containerd_shim_protos::{
    cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat},
    protobuf::MessageField,
};

use super::{number, table};

pub(super) fn metrics(dir: &Path) -> Metrics {
    Metrics {
        pids: MessageField::some(PidsStat {
            current: number(dir, "pids.current").unwrap_or(0),
            // containerd has 0 for "no limit".
            limit: number(dir, "pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0),
            ..PidsStat::default()
        }),
        cpu: MessageField::some(cpu(dir)),
        memory: MessageField::some(memory(dir)),
        memory_events: MessageField::some(memory_events(dir)),
        io: MessageField::some(IOStat { usage: io(dir), ..IOStat::default() }),
        ..Metrics::default()
    }
}

fn cpu(dir: &Path) -> CPUStat {
    let stat = table(dir, "cpu.stat");
    CPUStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        nr_bursts: stat.get("nr_bursts"),
        burst_usec: stat.get("burst_usec"),
        ..CPUStat::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = table(dir, "memory.stat");
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        usage: number(dir, "memory.current").unwrap_or(0),
        // "No limit" is a huge number: 0 would make what is available wrap around.
        usage_limit: number(dir, "memory.max").unwrap_or(u64::MAX),
        swap_usage: number(dir, "memory.swap.current").unwrap_or(0),
        swap_limit: number(dir, "memory.swap.max").unwrap_or(u64::MAX),
        max_usage: number(dir, "memory.peak").unwrap_or(0),
        swap_max_usage: number(dir, "memory.swap.peak").unwrap_or(0),
        ..MemoryStat::default()
    }
}

fn memory_events(dir: &Path) -> MemoryEvents {
    let events = table(dir, "memory.events");
    MemoryEvents {
        low: events.get("low"),
        high: events.get("high"),
        max: events.get("max"),
        oom: events.get("oom"),
        oom_kill: events.get("oom_kill"),
        oom_group_kill: events.get("oom_group_kill"),
        ..MemoryEvents::default()
    }
}

/// Parses lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io(dir: &Path) -> Vec<IOEntry> {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    let entries = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let mut entry = IOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..IOEntry::default()
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let value = value.parse().ok()?;
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_figures_have_containerds_units() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 5000001\nuser_usec 4\nsystem_usec 3\nnr_throttled 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "5000\n"),
            ("memory.stat", "anon 11\ninactive_file 12\npgfault 13\npgmajfault 14\n"),
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("pids.current", "6\n"),
            ("pids.max", "100\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let metrics = metrics(dir.path());

        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.nr_throttled), (5_000_001, 2));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (4096, u64::MAX));
        assert_eq!((metrics.memory.anon, metrics.memory.inactive_file), (11, 12));
        assert_eq!((metrics.memory.pgfault, metrics.memory.pgmajfault), (13, 14));
        assert_eq!(metrics.memory.max_usage, 5000);
        assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (1, 2));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (6, 100));
        let io = &metrics.io.usage[0];
        assert_eq!((io.major, io.minor, io.rbytes, io.wios), (8, 16, 1, 4));
    }
}
