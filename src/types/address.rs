//! Node addresses: `host:port`, as other nodes dial them.

use crate::limits::ADDRESS_BYTES_MAX;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why [`check_address`] rejects an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// The text is not `host:port`: the host or the port is missing, or the host has characters that no host name has.
    #[error("an address is HOST:PORT, with an IPv6 address in brackets")]
    Malformed,
    /// The port is 0 or not a number.
    #[error("the port is a number from 1 to 65535")]
    InvalidPort,
    /// The host is a wildcard, broadcast or multicast address, which cannot be dialed.
    #[error(
        "the host is a name or address at which other nodes dial one machine; not 0.0.0.0, [::] or a multicast address"
    )]
    UndialableHost,
    /// The text has more than `ADDRESS_BYTES_MAX` bytes.
    #[error("it is too long")]
    TooLong,
}

/// Checks whether other nodes can dial `address`, by its text alone: no name is resolved.
///
/// # Errors
///
/// The reason of the first check that fails.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    let (host, port) = address.rsplit_once(':').ok_or(AddressError::Malformed)?;
    if !port.bytes().all(|digit| digit.is_ascii_digit()) || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(AddressError::InvalidPort);
    }
    let ip = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(bracketed_ip) => {
            let bracketed_ip =
                bracketed_ip.and_then(|bracketed_ip| bracketed_ip.split('%').next()).ok_or(AddressError::Malformed)?;
            Some(IpAddr::V6(bracketed_ip.parse::<Ipv6Addr>().map_err(|_| AddressError::Malformed)?))
        }
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) || byte >= 0x80;
    match ip {
        Some(ip) if ip.is_unspecified() || ip.is_multicast() => Err(AddressError::UndialableHost),
        Some(IpAddr::V4(ip)) if ip.is_broadcast() => Err(AddressError::UndialableHost),
        Some(_) => Ok(()),
        None if host.is_empty() || !host.bytes().all(is_name_byte) => Err(AddressError::Malformed),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialable_addresses_are_accepted() {
        for address in ["127.0.0.1:7401", "db-1.example.com:1", "[::1]:65535", "[fe80::1%eth0]:7401", "n_1:7401"] {
            assert_eq!(check_address(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn undialable_addresses_are_rejected_with_the_reason() {
        let undialable_hosts = ["0.0.0.0:7401", "[::]:7401", "224.0.0.1:7401", "255.255.255.255:1", "[ff02::1]:7401"];
        let invalid_ports = ["a:0", "a:", "a:65536", "a:+1", "a:-1", "a:7401 "];
        let malformed_addresses =
            ["", "7401", ":7401", "a b:7401", "::1:7401", "[::1:7401", "[a]:7401", "a/b:7401", "1=a:7401"];
        for (wrong, addresses) in [
            (AddressError::UndialableHost, &undialable_hosts[..]),
            (AddressError::InvalidPort, &invalid_ports[..]),
            (AddressError::Malformed, &malformed_addresses[..]),
            (AddressError::TooLong, &[&*format!("{}:1", "a".repeat(ADDRESS_BYTES_MAX))]),
        ] {
            for address in addresses {
                assert_eq!(check_address(address), Err(wrong), "{address:?}");
            }
        }
    }
}
