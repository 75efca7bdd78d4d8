//! Which addresses are one to whoever counts.

use std::net::IpAddr;

/// Who is counted together: an IPv4 address, or the first 64 bits of an IPv6 address, which is what
/// one network has; and the first 48, which is what one site has: 65,536 such networks.
///
/// Some have more than that. What holds against them is what holds for all together: the part that may
/// be without a login, and all connections that there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Network {
    /// This machine, whose users may come from any of 127.0.0.0/8, and from ::1.
    OwnMachine,
    V4(u32),
    V6(u64),
    Site(u64),
}

impl Network {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical().is_loopback() {
            true => Self::OwnMachine,
            false => Self::apart(address),
        }
    }

    /// The same, but with each address of this machine for itself. Only tests have them counted at the door, and
    /// there they stand for the addresses of others.
    pub(super) fn apart(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => {
                Self::V6(u64::try_from(address.to_bits() >> 64).unwrap_or_default())
            }
        }
    }

    /// The site that a network is of.
    pub(super) fn site(self) -> Option<Self> {
        match self {
            Self::V6(bits) => Some(Self::Site(bits >> 16)),
            Self::OwnMachine | Self::V4(_) | Self::Site(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_on_this_machine_has_one_share_from_all_of_its_addresses() {
        let of = |text: &str| Network::of(text.parse().unwrap());
        for own in ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(own), Network::OwnMachine, "{own}");
        }
        for other in ["128.0.0.1", "126.255.255.255", "::2", "192.0.2.1"] {
            assert_ne!(of(other), Network::OwnMachine, "{other}");
        }
    }
}
