//! Where a server is, and names on it, as people type them.

use std::fmt;
use std::str::FromStr;

use ftx_channel::Pin;
use ftx_protocol::Name;
use ftx_protocol::token::TOKEN_PREFIX;

use crate::failure::{Class, Failure};

/// The port when none is given.
pub const DEFAULT_PORT: u16 = 7389;

/// A host and a port, and the key that the server there has to have, where the user said it.
///
/// Two that differ in the key only are not equal: nobody goes on with a connection that another key
/// was asked of. What is kept on disk about a server goes by host and port, as it is displayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    host: String,
    port: u16,
    pin: Option<Pin>,
}

impl ServerAddress {
    /// A host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The key that the server has to have, where the address says it.
    pub fn pin(&self) -> Option<Pin> {
        self.pin
    }

    /// Whether both lead to the same host and port, whatever they say of its key.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host) && self.port == other.port
    }

    /// As it can be read again, with the key.
    pub fn whole(&self) -> String {
        match self.pin {
            Some(pin) => format!("{self}#{pin}"),
            None => self.to_string(),
        }
    }
}

impl Default for ServerAddress {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: DEFAULT_PORT, pin: None }
    }
}

impl fmt::Display for ServerAddress {
    /// Host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ServerAddress {
    type Err = Failure;

    /// `host`, `host:port`, `[v6]`, `[v6]:port`, each with or without `ftx://` before it, one `/`
    /// behind it, and `#sha256:…` behind that.
    fn from_str(text: &str) -> Result<Self, Failure> {
        if text.contains(TOKEN_PREFIX) {
            let message = "there is a token in the address of a server, where it is shown and looked up; ftx login \
                 asks for it, and FTX_TOKEN or FTX_TOKEN_FILE has it for one command. Who made this one \
                 should take it back";
            return Err(Failure::new(Class::Usage, message));
        }
        let wrong = || {
            let message =
                format!("{text:?} is no server address; write host:port, such as 127.0.0.1:7389");
            Failure::new(Class::Usage, message)
        };
        let (bare, pin) = match text.split_once('#') {
            Some((bare, pin)) => (bare, Some(pin.parse().map_err(|_| wrong_pin(bare))?)),
            None => (text, None),
        };
        let bare = bare.strip_prefix("ftx://").unwrap_or(bare);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let (host, port) = match bare.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                (
                    host,
                    if rest.is_empty() {
                        None
                    } else {
                        Some(rest.strip_prefix(':').ok_or_else(wrong)?)
                    },
                )
            }
            None => match bare.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (bare, None),
            },
        };
        let is_no_host = |letter: char| {
            // A host is shown in messages, and has to be read again as it is shown.
            letter.is_control() || letter.is_whitespace() || "/@?#[]".contains(letter)
        };
        let fits = !host.is_empty() && !host.contains(is_no_host);
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
            None => DEFAULT_PORT,
        };
        if fits { Ok(Self { host: host.to_owned(), port, pin }) } else { Err(wrong()) }
    }
}

/// What stands behind the `#` is not shown: it may be a token in the wrong place.
fn wrong_pin(before: &str) -> Failure {
    let message = format!(
        "what follows {before:?}# is no key of a server; that is sha256: and 64 hexadecimal digits, \
         as ftx serve prints it"
    );
    Failure::new(Class::Usage, message)
}

/// A name on a server, as given on a command line: `name`, or `ftx://host:port/name` with percent
/// escapes. A `#` in the name is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The server, where the words name one.
    pub server: Option<ServerAddress>,
    /// The name.
    pub name: Name,
}

impl Remote {
    /// Reads the words.
    ///
    /// # Errors
    /// Of class `Usage`, when they are no name.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let Some(rest) = bytes.strip_prefix(b"ftx://") else {
            return Ok(Self { server: None, name: name(bytes)? });
        };
        let (server, path) = match rest.iter().position(|&byte| byte == b'/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, &b""[..]),
        };
        let server: ServerAddress = String::from_utf8_lossy(server).parse()?;
        let path = path.strip_prefix(b"/").unwrap_or(path);
        if path.is_empty() {
            let message = format!("ftx://{server} is a server, and no name on it");
            return Err(Failure::new(Class::Usage, message));
        }
        Ok(Self { server: Some(server), name: name(&unescape(path)?)? })
    }
}

fn name(bytes: &[u8]) -> Result<Name, Failure> {
    Name::parse(bytes).map_err(|error| {
        let shown = ftx_protocol::Escaped(bytes);
        Failure::new(Class::Usage, format!("\"{shown}\" cannot be a name on a server: {error}"))
    })
}

fn unescape(path: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let value = rest
            .split_at_checked(2)
            .and_then(|(digits, after)| {
                rest = after;
                std::str::from_utf8(digits).ok()
            })
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(value.ok_or_else(|| {
            Failure::new(
                Class::Usage,
                "a % in an ftx:// address is followed by two hexadecimal digits; a % itself is %25",
            )
        })?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_people_type_them() {
        for (text, shown) in [
            ("box", Some("box:7389")),
            ("box:1", Some("box:1")),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("[::1]", Some("[::1]:7389")),
            ("[::1]:99", Some("[::1]:99")),
            ("ftx://box:5/", Some("box:5")),
            ("", None),
            (":80", None),
            ("box:", None),
            ("box:+80", None),
            ("box:0", None),
            ("box:65536", None),
            ("a/b", None),
            ("[::1", None),
            ("::1", None),
            ("user@box", None),
            ("[[box]", None),
            ("box]", None),
            ("box\u{1b}[2J", None),
            ("box\u{a0}", None),
            ("box#", None),
            ("box#sha256:00", None),
            ("#sha256:00", None),
        ] {
            let read = text.parse::<ServerAddress>().ok().map(|address| address.to_string());
            assert_eq!(read.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn the_key_of_a_server_is_part_of_its_address_but_not_of_where_it_is() {
        let pin = format!("sha256:{}", "5a".repeat(32));
        let bare: ServerAddress = "[::1]:9".parse().unwrap();
        for text in ["ftx://[::1]:9/#", "ftx://[::1]:9#", "[::1]:9#"] {
            let address: ServerAddress = format!("{text}{pin}").parse().unwrap();
            assert_eq!(address.pin(), pin.parse().ok());
            assert_eq!(address.to_string(), "[::1]:9");
            assert_eq!(address.whole(), format!("[::1]:9#{pin}"));
            assert_eq!(address.whole().parse::<ServerAddress>().unwrap(), address);
            assert!(address != bare && address.is_same_place(&bare));
        }
        let other =
            format!("[::1]:9#{}", pin.replace("5a", "6a")).parse::<ServerAddress>().unwrap();
        assert_ne!(other, format!("[::1]:9#{pin}").parse().unwrap());
        let secret = "ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        let failure = format!("box#{secret}").parse::<ServerAddress>().unwrap_err();
        assert!(!failure.to_string().contains("AAEC"), "{failure}");
    }

    #[test]
    fn a_name_may_bring_its_server_and_any_byte() {
        let remote = Remote::parse(b"ftx://[::1]:9/a%20b/%ff%25").unwrap();
        assert_eq!(remote.server.unwrap().to_string(), "[::1]:9");
        assert_eq!(remote.name.as_bytes(), b"a b/\xff%");
        assert_eq!(Remote::parse(b"ftx://box/a#b%23").unwrap().name.as_bytes(), b"a#b#");
        assert_eq!(Remote::parse(b"50%").unwrap().name.as_bytes(), b"50%");
        for bad in [
            &b"ftx://box"[..],
            b"ftx://box/",
            b"ftx://box/%4",
            b"ftx://box/%zz",
            b"ftx://box/%+f",
            b"/etc",
            b"../x",
        ] {
            assert_eq!(Remote::parse(bad).unwrap_err().class, Class::Usage);
        }
    }
}
