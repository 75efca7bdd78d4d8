//! Sizes and other numbers as people type them.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU64;
use std::str::FromStr;

const NO_SIZE: &str = "a size is a number of bytes, or one with K, M, G or T";

/// A number of bytes: `4096`, `512K`, `64M`, `10G`, `1T`, each step 1,024, with or without `iB` or
/// `B` behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(NO_SIZE.to_owned()),
        };
        if number.is_empty() {
            return Err(NO_SIZE.to_owned());
        }
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "it is too large".to_owned())
    }
}

/// Bytes a second, as a size is written; not none.
pub fn rate(text: &str) -> Result<NonZeroU64, String> {
    let size: Size = text.parse()?;
    NonZeroU64::new(size.bytes()).ok_or_else(|| "a rate of 0 would move nothing".to_owned())
}

/// An address of this machine, and a port. Of a link-local one also which link, by its number or its name.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().ok().or_else(|| of_named_link(text)).ok_or_else(|| {
        "it is an address of this machine and a port, such as 127.0.0.1:7389, [::]:7389 or \
         [fe80::1%eth0]:7389; no name of a host"
            .to_owned()
    })
}

/// The system knows the numbers of links by their names, as it does for a client.
fn of_named_link(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    // Anything else would be looked up as the name of a host.
    let (address, _) = host.split_once('%')?;
    address.parse::<Ipv6Addr>().ok()?;
    (host, port.parse().ok()?).to_socket_addrs().ok()?.next()
}

/// A number of things that a server cannot do without.
pub fn count<N: FromStr + Default + PartialEq>(text: &str) -> Result<N, String> {
    match text.parse() {
        Ok(number) if number != N::default() => Ok(number),
        Ok(_) => Err("it is 1 or more: zero never means unlimited".to_owned()),
        Err(_) => Err("not a number from 1 on, or one too large".to_owned()),
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_type_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4_096)),
            ("1k", Some(1_024)),
            ("64M", Some(64 << 20)),
            ("10GiB", Some(10 << 30)),
            ("1TB", Some(1 << 40)),
            ("", None),
            ("G", None),
            ("-1", None),
            ("1.5G", None),
            ("1X", None),
            ("99999999T", None),
            ("99999999999999999999", None),
        ] {
            let read = text.parse::<Size>();
            assert_eq!(read.clone().ok().map(Size::bytes), bytes, "{text}");
            let is_too_large = text.starts_with("99999999");
            assert_eq!(read == Err("it is too large".to_owned()), is_too_large, "{text}");
        }
    }

    #[test]
    fn a_link_may_be_named() {
        let links = || std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        for link in links().filter_map(|link| link.file_name().into_string().ok()) {
            let number = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).unwrap();
            let by_number = listen(&format!("[fe80::1%{}]:7389", number.trim()));
            assert!(by_number.is_ok(), "{by_number:?}");
            assert_eq!(listen(&format!("[fe80::1%{link}]:7389")), by_number);
        }
        for text in ["[fe80::1%no-such-link]:7389", "[fe80::1%lo]", "[box%lo]:7389", "box:7389"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
