// SPDX-License-Identifier: Apache-2.0
//! cgroup v1: CPU time in nanoseconds.

use std::{collections::HashMap, fs, path::Path};

use containerd_shim_protos::{
    cgroups::metrics::{
        BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, MemoryEntry, MemoryOomControl, MemoryStat,
        Metrics, PidsStat, Throttle,
    },
    protobuf::MessageField,
};

use super::{Table, number, table};

/// Nanoseconds of a tick of `cpuacct.stat`, whose rate is 100 Hz for all that user space sees.
const TICK_NS: u64 = 10_000_000;

pub(super) fn metrics(paths: &HashMap<&str, &Path>) -> Metrics {
    let mut metrics = Metrics::default();
    let cpuacct = paths.get("cpuacct").or_else(|| paths.get("cpu"));
    if let Some(dir) = cpuacct {
        metrics.cpu = MessageField::some(cpu(dir, paths.get("cpu").unwrap_or(dir)));
    }
    if let Some(dir) = paths.get("memory") {
        metrics.memory = MessageField::some(memory(dir));
        let control = table(dir, "memory.oom_control");
        metrics.memory_oom_control = MessageField::some(MemoryOomControl {
            oom_kill_disable: control.get("oom_kill_disable"),
            under_oom: control.get("under_oom"),
            oom_kill: control.get("oom_kill"),
            ..MemoryOomControl::default()
        });
    }
    if let Some(dir) = paths.get("pids") {
        metrics.pids = MessageField::some(PidsStat {
            current: number(dir, "pids.current").unwrap_or(0),
            // containerd has 0 for "no limit".
            limit: number(dir, "pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0),
            ..PidsStat::default()
        });
    }
    if let Some(dir) = paths.get("blkio") {
        metrics.blkio = MessageField::some(BlkIOStat {
            io_service_bytes_recursive: block_io(dir, "blkio.throttle.io_service_bytes_recursive"),
            io_serviced_recursive: block_io(dir, "blkio.throttle.io_serviced_recursive"),
            ..BlkIOStat::default()
        });
    }
    metrics
}

fn cpu(cpuacct: &Path, cpu: &Path) -> CPUStat {
    let ticks = table(cpuacct, "cpuacct.stat");
    let throttled = table(cpu, "cpu.stat");
    let per_cpu = fs::read_to_string(cpuacct.join("cpuacct.usage_percpu")).unwrap_or_default();
    CPUStat {
        usage: MessageField::some(CPUUsage {
            total: number(cpuacct, "cpuacct.usage").unwrap_or(0),
            kernel: ticks.get("system").saturating_mul(TICK_NS),
            user: ticks.get("user").saturating_mul(TICK_NS),
            per_cpu: per_cpu.split_whitespace().filter_map(|text| text.parse().ok()).collect(),
            ..CPUUsage::default()
        }),
        throttling: MessageField::some(Throttle {
            periods: throttled.get("nr_periods"),
            throttled_periods: throttled.get("nr_throttled"),
            throttled_time: throttled.get("throttled_time"),
            ..Throttle::default()
        }),
        ..CPUStat::default()
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = table(dir, "memory.stat");
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        usage: memory_entry(dir, "memory"),
        swap: memory_entry(dir, "memory.memsw"),
        kernel: memory_entry(dir, "memory.kmem"),
        kernel_tcp: memory_entry(dir, "memory.kmem.tcp"),
        ..totals(&stat)
    }
}

/// The same, with the cgroups below; kubelet reads these.
fn totals(stat: &Table) -> MemoryStat {
    MemoryStat {
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        ..MemoryStat::default()
    }
}

/// Returns nothing where the kernel does not account (swap and kernel memory are options).
fn memory_entry(dir: &Path, prefix: &str) -> MessageField<MemoryEntry> {
    let read = |file: &str| number(dir, &format!("{prefix}.{file}"));
    let Some(usage) = read("usage_in_bytes") else { return MessageField::none() };
    MessageField::some(MemoryEntry {
        usage,
        // "No limit" is a huge number: 0 would make what is available wrap around.
        limit: read("limit_in_bytes").unwrap_or(u64::MAX),
        max: read("max_usage_in_bytes").unwrap_or(0),
        failcnt: read("failcnt").unwrap_or(0),
        ..MemoryEntry::default()
    })
}

/// Parses lines such as `8:0 Read 4096`; the total at the end has no device.
fn block_io(dir: &Path, file: &str) -> Vec<BlkIOEntry> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let entries = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        Some(BlkIOEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: fields.next()?.to_owned(),
            value: fields.next()?.parse().ok()?,
            ..BlkIOEntry::default()
        })
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_figures_have_containerds_units() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpuacct.usage", "5000000001\n"),
            ("cpuacct.usage_percpu", "5000000000 1 \n"),
            ("cpuacct.stat", "user 400\nsystem 100\n"),
            ("cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 77\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "8192\n"),
            ("memory.max_usage_in_bytes", "5000\n"),
            ("memory.failcnt", "2\n"),
            ("memory.stat", "rss 1\ntotal_rss 11\ntotal_inactive_file 12\ntotal_pgmajfault 13\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 4\n"),
            ("pids.current", "6\n"),
            ("pids.max", "max\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:16 Read 512\nTotal 512\n"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let paths =
            ["cpu", "cpuacct", "memory", "pids", "blkio"].map(|name| (name, dir.path())).into();
        let metrics = metrics(&paths);

        let usage = &metrics.cpu.usage;
        assert_eq!(
            (usage.total, usage.user, usage.kernel),
            (5_000_000_001, 4_000_000_000, 1_000_000_000)
        );
        assert_eq!(usage.per_cpu, [5_000_000_000, 1]);
        let throttling = &metrics.cpu.throttling;
        assert_eq!(
            (throttling.periods, throttling.throttled_periods, throttling.throttled_time),
            (9, 3, 77)
        );
        let usage = &metrics.memory.usage;
        assert_eq!((usage.usage, usage.limit, usage.max, usage.failcnt), (4096, 8192, 5000, 2));
        assert!(metrics.memory.swap.is_none());
        assert_eq!(metrics.memory.rss, 1);
        assert_eq!((metrics.memory.total_rss, metrics.memory.total_inactive_file), (11, 12));
        assert_eq!(metrics.memory.total_pg_maj_fault, 13);
        assert_eq!(metrics.memory_oom_control.oom_kill, 4);
        assert_eq!((metrics.pids.current, metrics.pids.limit), (6, 0));
        let block = &metrics.blkio.io_service_bytes_recursive;
        assert_eq!(
            (block.len(), block[0].minor, block[0].value, &*block[0].op),
            (1, 16, 512, "Read")
        );
    }
}
