// SPDX-License-Identifier: Apache-2.0
//! Addresses from the guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use trine_abi::socket::{AF_INET, AF_INET6};

/// A checked private copy of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    bytes: Vec<u8>,
    /// The address itself; an IPv4 address in IPv6 clothes is an IPv4 address.
    pub(crate) ip: IpAddr,
    /// The port, or the identifier of an ICMP echo.
    pub(crate) port: u16,
}

impl Address {
    /// Reads a `struct sockaddr_in` or `struct sockaddr_in6` of exactly its length.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let (family, rest) = bytes.split_first_chunk::<2>().ok_or(Errno::INVAL)?;
        let (port, rest) = rest.split_first_chunk::<2>().ok_or(Errno::INVAL)?;
        let ip: IpAddr = match u16::from_ne_bytes(*family) {
            AF_INET => {
                let (ip, rest) = rest.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
                if rest.len() != 8 {
                    return Err(Errno::INVAL);
                }
                Ipv4Addr::from(*ip).into()
            }
            AF_INET6 => {
                let rest = rest.get(4..).ok_or(Errno::INVAL)?;
                let (ip, rest) = rest.split_first_chunk::<16>().ok_or(Errno::INVAL)?;
                if rest.len() != 4 {
                    return Err(Errno::INVAL);
                }
                Ipv6Addr::from(*ip).to_canonical()
            }
            _ => return Err(Errno::AFNOSUPPORT),
        };
        Ok(Self { bytes: bytes.to_vec(), ip, port: u16::from_be_bytes(*port) })
    }

    /// That of a socket of a family; an IPv6 socket is told of an IPv4 address in IPv6 clothes.
    pub(super) fn of(address: SocketAddr, family: u16) -> Result<Self, Errno> {
        let mut bytes = family.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&address.port().to_be_bytes());
        match (family, address.ip()) {
            (AF_INET, IpAddr::V4(ip)) => {
                bytes.extend_from_slice(&ip.octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            (AF_INET6, ip) => {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(&ip.octets());
                bytes.extend_from_slice(&[0; 4]);
            }
            _ => return Err(Errno::AFNOSUPPORT),
        }
        Self::parse(&bytes)
    }

    /// As rules see it.
    pub(super) fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// As system calls take it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_wants_exact_lengths_and_sees_through_mapped_addresses() {
        let v4 = [&[2, 0, 0, 80, 10, 1, 2, 3][..], &[0; 8]].concat();
        let address = Address::parse(&v4).expect("an address");
        assert_eq!((address.ip, address.port), ("10.1.2.3".parse().expect("ip"), 80));
        let mut v6 = vec![0; 28];
        v6[..4].copy_from_slice(&[10, 0, 1, 187]);
        v6[18..20].fill(0xff);
        v6[20..24].copy_from_slice(&[169, 254, 169, 254]);
        let address = Address::parse(&v6).expect("an address");
        assert_eq!((address.ip, address.port), ("169.254.169.254".parse().expect("ip"), 443));
        for bad in [&v4[..15], &v6[..27], &[][..], &[1, 0][..], &[16, 0, 0, 0, 0, 0][..]] {
            assert!(Address::parse(bad).is_err());
        }
        assert!(Address::parse(&[&v4[..], &[0]].concat()).is_err());
    }
}
