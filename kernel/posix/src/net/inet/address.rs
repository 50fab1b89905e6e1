// SPDX-License-Identifier: Apache-2.0
//! Addresses of the internet families, as the server wants them: exact in length.

use alloc::vec::Vec;

use trine_abi::socket::{AF_INET, AF_INET6};

use crate::{Errno, net::AF_UNSPEC};

/// Bytes of a `struct sockaddr_in`.
const V4_BYTES: usize = 16;
/// Bytes of a `struct sockaddr_in6`, and of the older one without a scope.
const V6_BYTES: usize = 28;
const V6_BYTES_OLD: usize = 24;

/// Reads an address for a socket of `family`.
///
/// # Errors
/// `EINVAL` if it is too short, `EAFNOSUPPORT` if it is of another family.
pub(super) fn read(family: u16, bytes: &[u8]) -> Result<Vec<u8>, Errno> {
    let given = bytes.first_chunk::<2>().ok_or(Errno::INVAL)?;
    match u16::from_le_bytes(*given) {
        // An IPv6 socket that speaks IPv4, too, may be told an IPv4 address to send to.
        AF_INET if bytes.len() >= V4_BYTES => {
            let mut address = bytes[..V4_BYTES].to_vec();
            // Linux does not look at the padding.
            address[8..].fill(0);
            Ok(address)
        }
        // As ever, no family at all is IPv4.
        AF_UNSPEC if family == AF_INET && bytes.len() >= V4_BYTES => {
            let mut address = bytes[..V4_BYTES].to_vec();
            address[..2].copy_from_slice(&AF_INET.to_le_bytes());
            address[8..].fill(0);
            Ok(address)
        }
        AF_INET6 if family == AF_INET6 && bytes.len() >= V6_BYTES_OLD => {
            let mut address = bytes[..bytes.len().min(V6_BYTES)].to_vec();
            address.resize(V6_BYTES, 0);
            Ok(address)
        }
        AF_INET | AF_UNSPEC if family == AF_INET => Err(Errno::INVAL),
        AF_INET6 if family == AF_INET6 => Err(Errno::INVAL),
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// The port of an address.
pub(super) fn port(address: &[u8]) -> u16 {
    address.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_makes_lengths_exact() {
        let v4 = [2, 0, 0, 80, 127, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
        let address = read(AF_INET, &v4).expect("an address");
        assert_eq!((address.len(), &address[8..], port(&address)), (16, &[0; 8][..], 80));
        assert_eq!(read(AF_INET, &v4[..15]), Err(Errno::INVAL));
        assert_eq!(read(AF_INET6, &v4).map(|address| address.len()), Ok(16));
        let mut v6 = [0; 30];
        v6[0] = 10;
        assert_eq!(read(AF_INET6, &v6).map(|address| address.len()), Ok(28));
        assert_eq!(read(AF_INET6, &v6[..24]).map(|address| address.len()), Ok(28));
        assert_eq!(read(AF_INET6, &v6[..23]), Err(Errno::INVAL));
        assert_eq!(read(AF_INET, &v6), Err(Errno::AFNOSUPPORT));
        assert_eq!(read(AF_INET, &[1, 0, b'x']), Err(Errno::AFNOSUPPORT));
    }
}
