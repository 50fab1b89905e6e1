// SPDX-License-Identifier: Apache-2.0
//! Address ranges, and the one form that an address is compared in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A set of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Every address.
    Any,
    /// 127.0.0.0/8 and ::1.
    Loopback,
    /// Addresses that mean nothing on the Internet (private, shared, link-local, unique local,
    /// loopback, multicast, reserved).
    Private,
    /// The others.
    Public,
    /// A network: its address in 128 bits, and how many of them count.
    Network(u128, u32),
}

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address, no network such as 10.0.0.0/8, and none of any, loopback, private, public"
)]
pub struct RangeError(String);

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from_be_bytes(v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => u128::from_be_bytes(v6.octets()),
    }
}

/// The address that a packet really goes to: an IPv4 address however it is written, and the
/// loopback address for the unspecified one.
pub fn canonical(address: IpAddr) -> IpAddr {
    match canonical_to_bind(address) {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    }
}

/// The address that a socket is really bound to: an IPv4 address however it is written.  The
/// unspecified address stays what it is, for it means every address and not loopback.
pub fn canonical_to_bind(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let last = || {
                let octets = v6.octets();
                Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15])
            };
            if let Some(v4) = v6.to_ipv4_mapped() {
                IpAddr::V4(v4)
            } else if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
                // NAT64: the gateway sends it to this IPv4 address.
                IpAddr::V4(last())
            } else if segments[..6] == [0; 6] && segments[6] != 0 {
                // IPv4-compatible, long out of use.
                IpAddr::V4(last())
            } else {
                address
            }
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whether an address means nothing on the Internet.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && (c == 0 || c == 2))
                || (a == 198 && (b == 18 || b == 19 || (b == 51 && c == 100)))
                || (a == 203 && b == 0 && c == 113)
        }
        // Global unicast is 2000::/3; in it, documentation and 6to4 are not for us.
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            segments[0] & 0xe000 != 0x2000
                || segments[..2] == [0x2001, 0xdb8]
                || segments[0] == 0x2002
        }
    }
}

impl Range {
    /// Reads a range: an address, a network, or a word.
    ///
    /// # Errors
    /// [`RangeError`].
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let refuse = || RangeError(text.to_owned());
        match text {
            "any" => return Ok(Self::Any),
            "loopback" => return Ok(Self::Loopback),
            "private" => return Ok(Self::Private),
            "public" => return Ok(Self::Public),
            _ => {}
        }
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let (width, skip) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = match length {
            Some(length) => length.parse().ok().filter(|&length| length <= width),
            None => Some(width),
        };
        let length: u32 = length.ok_or_else(refuse)? + skip;
        let network = bits(address);
        let mask = mask(length);
        if network & !mask != 0 {
            return Err(refuse());
        }
        Ok(Self::Network(network, length))
    }

    /// Addresses in it and at its edges, to try.
    pub(crate) fn examples(&self) -> Vec<IpAddr> {
        let v4 = |octets: [u8; 4]| IpAddr::from(octets);
        match *self {
            Self::Any => Vec::new(),
            Self::Loopback => vec![v4([127, 0, 0, 1])],
            Self::Private => vec![v4([10, 255, 0, 1]), v4([169, 254, 169, 254])],
            Self::Public => vec![v4([93, 184, 216, 34])],
            Self::Network(network, length) => {
                let last = network | !mask(length);
                let near = [network, last, network.wrapping_sub(1), last.wrapping_add(1)];
                near.map(|bits| Ipv6Addr::from(bits).to_canonical()).to_vec()
            }
        }
    }

    /// Whether an address is in it; only [`canonical`] ones should be asked for.
    pub fn contains(&self, address: IpAddr) -> bool {
        match *self {
            Self::Any => true,
            Self::Loopback => address.is_loopback(),
            Self::Private => is_private(address),
            Self::Public => !is_private(address),
            Self::Network(network, length) => bits(address) & mask(length) == network,
        }
    }
}

fn mask(length: u32) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        canonical(text.parse().expect(text))
    }

    #[test]
    fn every_form_of_an_address_is_the_same_address() {
        let metadata = Range::parse("169.254.169.254").expect("a range");
        for form in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
        ] {
            assert!(metadata.contains(ip(form)), "{form}");
            assert!(Range::Private.contains(ip(form)), "{form}");
        }
        for form in ["0.0.0.0", "::", "::1", "127.9.9.9", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert!(Range::Loopback.contains(ip(form)), "{form}");
            assert!(!Range::Public.contains(ip(form)), "{form}");
        }
    }

    #[test]
    fn networks_contain_what_they_should() {
        let ten = Range::parse("10.0.0.0/8").expect("a range");
        assert!(ten.contains(ip("10.255.0.1")) && !ten.contains(ip("11.0.0.1")));
        let all = Range::parse("::/0").expect("a range");
        assert!(all.contains(ip("2001::1")));
        let v4 = Range::parse("0.0.0.0/0").expect("a range");
        assert!(v4.contains(ip("8.8.8.8")) && !v4.contains(ip("2606:4700::1111")));
        assert!(
            Range::Public.contains(ip("8.8.8.8")) && Range::Public.contains(ip("2606:4700::1"))
        );
        for private in [
            "100.64.0.1",
            "192.168.1.1",
            "fe80::1",
            "fd00::1",
            "224.0.0.1",
            "240.0.0.1",
            "2001:db8::1",
            "2002:a00::1",
            "ff02::1",
        ] {
            assert!(Range::Private.contains(ip(private)), "{private}");
        }
        for bad in ["10.0.0.1/8", "10.0.0.0/33", "x", "", "1.2.3", "10.0.0.0/"] {
            assert!(Range::parse(bad).is_err(), "{bad}");
        }
    }
}
