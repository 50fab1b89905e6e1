// SPDX-License-Identifier: Apache-2.0
//! Budgets: how much of its limit a container has left under each rule.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::rule::{Limit, Rule};

/// Tokens that come back over time.
#[derive(Debug)]
struct Bucket {
    left: u64,
    most: u64,
    filled: Instant,
}

impl Bucket {
    fn new(most: Option<u64>, now: Instant) -> Self {
        let most = most.unwrap_or(u64::MAX);
        Self { left: most, most, filled: now }
    }

    fn fill(&mut self, seconds: Option<u64>, now: Instant) {
        let (Some(seconds), true) = (seconds, self.left < self.most) else {
            self.filled = now;
            return;
        };
        let whole = u128::from(seconds) * 1_000_000_000;
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let earned = passed.saturating_mul(self.most.into()) / whole;
        if earned == 0 {
            return;
        }
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(earned).min(self.most);
        // What was not enough for a token counts for the next one.
        let spent = u128::from(earned) * whole / u128::from(self.most);
        self.filled = match u64::try_from(spent) {
            Ok(spent) if self.left < self.most => self.filled + Duration::from_nanos(spent),
            _ => now,
        };
    }
}

#[derive(Debug)]
struct Left {
    calls: Bucket,
    bytes: Bucket,
}

/// What one container has left of the limit of one rule.
#[derive(Debug)]
pub struct Meter {
    limit: Limit,
    left: Mutex<Left>,
}

impl Meter {
    fn new(limit: Limit) -> Self {
        let now = Instant::now();
        let left =
            Left { calls: Bucket::new(limit.calls, now), bytes: Bucket::new(limit.bytes, now) };
        Self { limit, left: Mutex::new(left) }
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        left.calls.fill(self.limit.seconds, now);
        left.bytes.fill(self.limit.seconds, now);
        left
    }

    /// Takes a call; false if there is none left, or no byte is.
    fn take_call(&self) -> bool {
        let mut left = self.lock();
        if left.calls.left == 0 || left.bytes.left == 0 {
            return false;
        }
        left.calls.left -= 1;
        true
    }

    fn take(&self, bytes: u64) {
        let mut left = self.lock();
        left.bytes.left = left.bytes.left.saturating_sub(bytes);
    }

    fn give_back(&self, bytes: u64) {
        let mut left = self.lock();
        left.bytes.left = left.bytes.left.saturating_add(bytes).min(left.bytes.most);
    }
}

/// The meters of one container, by rule.  A policy that takes the place of another goes on with the
/// meters of those of its rules that have the same id and the same limit.
#[derive(Debug, Default)]
pub struct Meters {
    by_rule: HashMap<String, Arc<Meter>>,
}

impl Meters {
    /// The meter of a rule that has a limit.
    pub(crate) fn of(&mut self, id: &str, limit: Limit) -> Arc<Meter> {
        if let Some(meter) = self.by_rule.get(id).filter(|meter| meter.limit == limit) {
            return Arc::clone(meter);
        }
        let meter = Arc::new(Meter::new(limit));
        self.by_rule.insert(id.to_owned(), Arc::clone(&meter));
        meter
    }

    /// Counts a call; `None` if that is over the limit.
    pub(crate) fn charge(&mut self, rule: &Rule, limit: Limit) -> Option<Arc<Meter>> {
        let meter = self.of(&rule.id, limit);
        meter.take_call().then_some(meter)
    }

    /// Forgets the meters of rules that are gone.
    pub fn retain(&mut self, has_rule_fn: impl Fn(&str) -> bool) {
        self.by_rule.retain(|id, _| has_rule_fn(id));
    }
}

/// Bytes that something open or connected may still move: under the limits of the rules that let
/// it be opened.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    meters: Vec<Arc<Meter>>,
}

impl Budget {
    pub(crate) fn add(&mut self, meter: Arc<Meter>) {
        if meter.limit.bytes.is_some() {
            self.meters.push(meter);
        }
    }

    /// Whether there is no limit.
    pub fn is_endless(&self) -> bool {
        self.meters.is_empty()
    }

    /// Takes as many of `bytes` as are left.
    ///
    /// # Errors
    /// The errno of the limit, if none is left and some are wanted.
    pub fn take(&self, bytes: u64) -> Result<u64, u16> {
        let mut granted = bytes;
        for meter in &self.meters {
            granted = granted.min(meter.lock().bytes.left);
            if granted == 0 && bytes > 0 {
                return Err(meter.limit.errno);
            }
        }
        // One thread takes for a container; others give back at most.
        self.meters.iter().for_each(|meter| meter.take(granted));
        Ok(granted)
    }

    /// Takes all of `bytes`, or none.
    ///
    /// # Errors
    /// The errno of the limit.
    pub fn take_all(&self, bytes: u64) -> Result<(), u16> {
        let granted = self.take(bytes)?;
        if granted < bytes {
            self.give_back(granted);
            return Err(self.meters.first().map_or(0, |meter| meter.limit.errno));
        }
        Ok(())
    }

    /// Returns what was taken and not moved.
    pub fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.meters.iter().for_each(|meter| meter.give_back(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Over;

    fn limit(calls: Option<u64>, bytes: Option<u64>, seconds: Option<u64>) -> Limit {
        Limit { calls, bytes, seconds, over: Over::Block, errno: 122 }
    }

    #[test]
    fn bucket_fills_in_its_time_and_loses_no_fraction() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Some(10), start);
        bucket.left = 0;
        // A token comes every 100 ms; it is looked at every 30 ms.
        for step in 1..=20 {
            bucket.fill(Some(1), start + Duration::from_millis(30 * step));
        }
        assert_eq!(bucket.left, 6);
        bucket.fill(Some(1), start + Duration::from_secs(100));
        assert_eq!(bucket.left, 10);
        bucket.left = 3;
        bucket.fill(None, start + Duration::from_secs(10_000));
        assert_eq!(bucket.left, 3);
    }

    #[test]
    fn budget_is_exact_and_stops_calls_when_it_is_used_up() {
        let meter = Arc::new(Meter::new(limit(Some(2), Some(100), None)));
        let mut budget = Budget::default();
        budget.add(Arc::clone(&meter));
        assert!(meter.take_call());
        assert_eq!(budget.take(60), Ok(60));
        assert_eq!(budget.take_all(41), Err(122));
        assert_eq!(budget.take(60), Ok(40));
        assert_eq!(budget.take(1), Err(122));
        assert!(!meter.take_call(), "no byte is left to move");
        budget.give_back(5);
        assert!(meter.take_call());
        assert!(!meter.take_call(), "two calls were allowed");
    }

    #[test]
    fn meters_outlive_a_policy_if_the_limit_is_the_same() {
        let mut meters = Meters::default();
        let once = limit(Some(1), None, None);
        let rule = Rule::new("a".into(), 1, crate::RuleAction::Accept);
        assert!(meters.charge(&rule, once).is_some());
        assert!(meters.charge(&rule, once).is_none());
        assert!(meters.charge(&rule, limit(Some(2), None, None)).is_some());
        meters.retain(|id| id != "a");
        assert!(meters.charge(&rule, once).is_some());
    }
}
