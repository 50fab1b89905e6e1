// SPDX-License-Identifier: Apache-2.0
//! DNS names of addresses, learnt from the answers that a guest gets.
//!
//! Only answers from port 53 of an address that the guest asked from the same socket, with the
//! policy's leave, are looked at ([`super::object::Object::asks`]), and only if rules speak of
//! names.  A guest could ask a server of its own that lies: rules that allow names go with one that
//! allows only the pod's resolver.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 4096;
/// An answer is believed a little longer than it says: programs connect some time after it.
const GRACE: Duration = Duration::from_secs(30);
/// Longest time that an answer is believed.
const AGE_MAX: u32 = 3600;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// Compression pointers that one name may have.
const POINTERS_MAX: usize = 16;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_address: HashMap<IpAddr, Vec<(String, Instant)>>,
    order: VecDeque<IpAddr>,
}

/// Reads a name; where it ends.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut end = None;
    let mut pointers = 0;
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some((text.to_ascii_lowercase(), end.unwrap_or(at + 1)));
        }
        if length >= 0xc0 {
            pointers += 1;
            if pointers > POINTERS_MAX {
                return None;
            }
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
            continue;
        }
        let label = message.get(at + 1..at + 1 + length)?;
        if length > 63 || !label.is_ascii() || text.len() > 255 {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|&byte| char::from(byte)));
        at += 1 + length;
    }
}

fn half(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// The question's name, and the addresses that answer it with the seconds they hold.
fn answers(message: &[u8]) -> Option<(String, Vec<(IpAddr, u32)>)> {
    // A response without an error, to one question.
    if message.get(2)? & 0x80 == 0 || message.get(3)? & 0xf != 0 || half(message, 4)? != 1 {
        return None;
    }
    let (question, end) = name(message, 12)?;
    let mut at = end + 4;
    let mut found = Vec::new();
    for _ in 0..half(message, 6)? {
        let (_, end) = name(message, at)?;
        let kind = half(message, end)?;
        let seconds = u32::from_be_bytes(message.get(end + 4..end + 8)?.try_into().ok()?);
        let length = usize::from(half(message, end + 8)?);
        let data = message.get(end + 10..end + 10 + length)?;
        match kind {
            TYPE_A => {
                let bytes: [u8; 4] = data.try_into().ok()?;
                found.push((Ipv4Addr::from(bytes).into(), seconds));
            }
            TYPE_AAAA => {
                let bytes: [u8; 16] = data.try_into().ok()?;
                found.push((Ipv6Addr::from(bytes).to_canonical(), seconds));
            }
            _ => {}
        }
        at = end + 10 + length;
    }
    Some((question, found))
}

impl Names {
    /// Learns from a datagram that came from port 53.
    pub(super) fn learn(&mut self, message: &[u8], now: Instant) {
        let Some((question, found)) = answers(message) else { return };
        for (address, seconds) in found {
            let until = now + Duration::from_secs(seconds.min(AGE_MAX).into()) + GRACE;
            if !self.by_address.contains_key(&address) {
                if self.order.len() >= ADDRESSES_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.by_address.remove(&oldest);
                }
                self.order.push_back(address);
            }
            let names = self.by_address.entry(address).or_default();
            names.retain(|(name, until)| *name != question && *until > now);
            if names.len() < 64 {
                names.push((question.clone(), until));
            }
        }
    }

    /// The names of an address.
    pub(super) fn of(&self, address: IpAddr) -> Vec<String> {
        let now = Instant::now();
        let names = self.by_address.get(&address).into_iter().flatten();
        names.filter(|(_, until)| *until > now).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> Vec<u8> {
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
        message.extend_from_slice(b"\x03Www\x07example\x03org\x00\x00\x01\x00\x01");
        // www is another name for web, whose address follows.
        message
            .extend_from_slice(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x06\x03web\xc0\x10");
        message
            .extend_from_slice(b"\xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x01\x02\x03");
        message
    }

    #[test]
    fn learn_knows_the_name_that_was_asked_for() {
        let mut names = Names::default();
        names.learn(&response(), Instant::now());
        assert_eq!(names.of("10.1.2.3".parse().expect("ip")), ["www.example.org"]);
        assert!(names.of("10.1.2.4".parse().expect("ip")).is_empty());
    }

    #[test]
    fn learn_forgets_and_survives_nonsense() {
        let mut names = Names::default();
        let past = Instant::now().checked_sub(Duration::from_secs(100)).expect("an earlier time");
        names.learn(&response(), past);
        assert!(names.of("10.1.2.3".parse().expect("ip")).is_empty());
        let whole = response();
        for end in 0..whole.len() {
            names.learn(&whole[..end], Instant::now());
        }
        let mut looped = whole.clone();
        looped[12..14].copy_from_slice(&[0xc0, 12]);
        names.learn(&looped, Instant::now());
        assert!(names.of("10.1.2.3".parse().expect("ip")).is_empty());
    }
}
