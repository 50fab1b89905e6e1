// SPDX-License-Identifier: Apache-2.0
//! OCI `linux.resources`, and the control files that they mean.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, VMM_OVERHEAD_BYTES};

/// Tasks that a VMM may have beyond what the container is allowed: its own threads.  The
/// container's processes are the guest's, and no tasks of the host.
const VMM_TASKS: i64 = 64;

/// The parts of `linux.resources` that have a meaning for a VM.  Device rules are the guest's, and
/// huge page limits hold because a guest cannot use the host's.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Resources {
    memory: Option<Memory>,
    cpu: Option<Cpu>,
    pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    block_io: Option<serde_json::Map<String, serde_json::Value>>,
    network: Option<serde_json::Map<String, serde_json::Value>>,
    rdma: Option<serde_json::Map<String, serde_json::Value>>,
    unified: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct Memory {
    limit: Option<i64>,
    reservation: Option<i64>,
    swap: Option<i64>,
    swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    disable_oom_killer: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    burst: Option<u64>,
    period: Option<u64>,
    realtime_runtime: Option<i64>,
    realtime_period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
    idle: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Pids {
    limit: i64,
}

/// One control file and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
    /// A kernel built without the feature has no such file, and nothing is lost.
    pub(super) is_optional: bool,
}

impl Setting {
    /// The controller that the file belongs to.
    pub(super) fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

impl Resources {
    /// Parses the JSON of an OCI spec.
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        serde_json::from_str(json).map_err(|error| Error::Invalid {
            what: "linux.resources".into(),
            reason: error.to_string(),
        })
    }

    /// The files to write, in order.
    pub(super) fn settings(&self, is_unified: bool) -> Result<Vec<Setting>, Error> {
        self.refuse_unsupported(is_unified)?;
        let mut settings = Settings(Vec::new());
        if let Some(memory) = &self.memory {
            if is_unified { memory.unified(&mut settings)? } else { memory.legacy(&mut settings) }
        }
        if let Some(cpu) = &self.cpu {
            if is_unified {
                cpu.unified(&mut settings);
            } else {
                cpu.legacy(&mut settings);
            }
            settings.set("cpuset.cpus", cpu.cpus.as_deref().filter(|list| !list.is_empty()));
            settings.set("cpuset.mems", cpu.mems.as_deref().filter(|list| !list.is_empty()));
        }
        match self.pids {
            Some(Pids { limit }) if limit > 0 => {
                settings.set("pids.max", Some(limit.saturating_add(VMM_TASKS)));
            }
            Some(Pids { limit: -1 }) => settings.set("pids.max", Some("max")),
            _ => {}
        }
        for (file, value) in &self.unified {
            settings.set(file, Some(value));
        }
        Ok(settings.0)
    }

    fn refuse_unsupported(&self, is_unified: bool) -> Result<(), Error> {
        let refuse = |what: &str, hint: &str| {
            Err(Error::Unsupported { what: what.into(), hint: hint.into() })
        };
        let is_set = |map: &Option<serde_json::Map<String, serde_json::Value>>| {
            map.iter().flat_map(|map| map.values()).any(|value| match value {
                serde_json::Value::Null => false,
                serde_json::Value::Array(list) => !list.is_empty(),
                serde_json::Value::Object(map) => !map.is_empty(),
                serde_json::Value::Number(number) => number.as_i64() != Some(0),
                _ => true,
            })
        };
        if is_set(&self.block_io) {
            return refuse("linux.resources.blockIO", "limit the disk of the volume instead");
        }
        if is_set(&self.network) {
            return refuse("linux.resources.network", "shape the pod's network interface instead");
        }
        if self.rdma.as_ref().is_some_and(|map| !map.is_empty()) {
            return refuse("linux.resources.rdma", "guests have no RDMA devices; leave it out");
        }
        if !is_unified && !self.unified.is_empty() {
            return refuse("linux.resources.unified", "this host has cgroup v1");
        }
        let is_name = |file: &String| {
            let (controller, rest) = file.split_once('.').unwrap_or_default();
            let plain = |part: &str| {
                part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            };
            !controller.is_empty() && controller != "cgroup" && plain(controller) && plain(rest)
        };
        if let Some(file) = self.unified.keys().find(|file| !is_name(file)) {
            return Err(Error::Invalid {
                what: format!("linux.resources.unified key {file:?}"),
                reason: "not the name of a control file".into(),
            });
        }
        let cpu = self.cpu.as_ref();
        let realtime = cpu.and_then(|cpu| cpu.realtime_runtime).is_some_and(|value| value != 0)
            || cpu.and_then(|cpu| cpu.realtime_period).is_some_and(|value| value != 0);
        if realtime {
            return refuse("a realtime CPU limit", "use quota and period");
        }
        Ok(())
    }
}

/// A limit with the VMM's own memory on top; negative is none.
fn with_overhead(limit: i64) -> Option<u64> {
    Some(u64::try_from(limit).ok()?.saturating_add(VMM_OVERHEAD_BYTES))
}

impl Memory {
    fn legacy(&self, to: &mut Settings) {
        let bytes = |limit| with_overhead(limit).map_or("-1".to_owned(), |bytes| bytes.to_string());
        let limit = self.limit.filter(|&limit| limit != 0);
        let swap = self.swap.filter(|&swap| swap != 0);
        // The sum of memory and swap may never be below the memory limit, so that an order that
        // is right for raising both is wrong for lowering them: lift the outer limit first.
        if limit.is_some() {
            to.optional("memory.memsw.limit_in_bytes", Some("-1"));
        }
        to.set("memory.limit_in_bytes", limit.map(bytes));
        to.optional("memory.memsw.limit_in_bytes", swap.map(bytes));
        to.set("memory.soft_limit_in_bytes", self.reservation.filter(|&bytes| bytes > 0));
        to.set("memory.swappiness", self.swappiness);
        let off = self.disable_oom_killer.filter(|&off| off);
        to.set("memory.oom_control", off.map(|_| 1));
    }

    fn unified(&self, to: &mut Settings) -> Result<(), Error> {
        let bytes =
            |limit| with_overhead(limit).map_or("max".to_owned(), |bytes| bytes.to_string());
        let limit = self.limit.filter(|&limit| limit != 0);
        let swap = match (self.swap.filter(|&swap| swap != 0), limit) {
            (None, _) => None,
            (Some(sum), _) if sum < 0 => Some("max".to_owned()),
            (Some(sum), Some(limit)) if limit > 0 && sum >= limit => {
                Some((sum - limit).to_string())
            }
            (Some(sum), limit) => {
                return Err(Error::Invalid {
                    what: format!("linux.resources.memory.swap {sum}"),
                    reason: format!("memory and swap together cannot be below the limit {limit:?}"),
                });
            }
        };
        to.set("memory.max", limit.map(bytes));
        to.optional("memory.swap.max", swap);
        to.set("memory.low", self.reservation.filter(|&bytes| bytes > 0));
        Ok(())
    }
}

impl Cpu {
    fn legacy(&self, to: &mut Settings) {
        to.set("cpu.shares", self.shares.filter(|&shares| shares != 0));
        to.optional("cpu.idle", self.idle);
        to.set("cpu.cfs_period_us", self.period.filter(|&period| period != 0));
        to.set("cpu.cfs_quota_us", self.quota.filter(|&quota| quota != 0));
        to.optional("cpu.cfs_burst_us", self.burst);
    }

    fn unified(&self, to: &mut Settings) {
        // The range 2..=262144 onto 1..=10000, as every runtime does.
        let weight = |shares: u64| 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        to.set("cpu.weight", self.shares.filter(|&shares| shares != 0).map(weight));
        to.optional("cpu.idle", self.idle);
        let quota = self.quota.filter(|&quota| quota != 0);
        let period = self.period.filter(|&period| period != 0);
        if quota.is_some() || period.is_some() {
            let quota = quota
                .and_then(|quota| u64::try_from(quota).ok())
                .map_or("max".to_owned(), |quota| quota.to_string());
            to.set("cpu.max", Some(format!("{quota} {}", period.unwrap_or(100_000))));
        }
        to.optional("cpu.max.burst", self.burst);
    }
}

struct Settings(Vec<Setting>);

impl Settings {
    fn set(&mut self, file: &str, value: Option<impl ToString>) {
        self.push(file, value, false);
    }

    fn optional(&mut self, file: &str, value: Option<impl ToString>) {
        self.push(file, value, true);
    }

    fn push(&mut self, file: &str, value: Option<impl ToString>, is_optional: bool) {
        if let Some(value) = value {
            self.0.push(Setting { file: file.into(), value: value.to_string(), is_optional });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str, is_unified: bool) -> Vec<(String, String)> {
        let resources = Resources::parse(json).expect(json);
        let settings = resources.settings(is_unified).expect(json);
        settings.into_iter().map(|setting| (setting.file, setting.value)).collect()
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.into(), value.into())
    }

    const FULL: &str = r#"{
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 134217728, "swap": 268435456},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": ""},
        "pids": {"limit": 100}, "blockIO": {}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]
    }"#;

    #[test]
    fn settings_of_a_full_spec_on_v1() {
        assert_eq!(
            settings(FULL, false),
            [
                pair("memory.memsw.limit_in_bytes", "-1"),
                pair("memory.limit_in_bytes", "167772160"),
                pair("memory.memsw.limit_in_bytes", "301989888"),
                pair("cpu.shares", "1024"),
                pair("cpu.cfs_period_us", "100000"),
                pair("cpu.cfs_quota_us", "50000"),
                pair("cpuset.cpus", "0-1"),
                pair("pids.max", "164"),
            ]
        );
    }

    #[test]
    fn settings_of_a_full_spec_on_v2() {
        assert_eq!(
            settings(FULL, true),
            [
                pair("memory.max", "167772160"),
                pair("memory.swap.max", "134217728"),
                pair("cpu.weight", "39"),
                pair("cpu.max", "50000 100000"),
                pair("cpuset.cpus", "0-1"),
                pair("pids.max", "164"),
            ]
        );
    }

    #[test]
    fn settings_of_nothing_are_none_and_of_unlimited_say_so() {
        assert_eq!(settings("{}", false), []);
        assert_eq!(settings(r#"{"memory": {"limit": -1}}"#, true), [pair("memory.max", "max")]);
        assert_eq!(settings(r#"{"cpu": {"quota": -1}}"#, true), [pair("cpu.max", "max 100000")]);
        assert_eq!(settings(r#"{"pids": {"limit": -1}}"#, false), [pair("pids.max", "max")]);
    }

    #[test]
    fn parse_and_settings_refuse_what_they_cannot_honour() {
        assert!(matches!(Resources::parse("{"), Err(Error::Invalid { .. })));
        assert!(matches!(
            Resources::parse(r#"{"memory": {"limit": "1G"}}"#),
            Err(Error::Invalid { .. })
        ));
        let refused = |json| Resources::parse(json).expect("parsed").settings(false).is_err();
        assert!(refused(r#"{"blockIO": {"weight": 10}}"#));
        assert!(refused(r#"{"network": {"classID": 7}}"#));
        assert!(refused(r#"{"cpu": {"realtimeRuntime": 5}}"#));
        assert!(refused(r#"{"unified": {"memory.max": "1"}}"#), "on v1");
        let unified = Resources::parse(r#"{"unified": {"../../x": "1"}}"#).expect("parsed");
        assert!(unified.settings(true).is_err());
    }
}
