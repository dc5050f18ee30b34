//! Who a peer is, and where it is said to be.

use std::fmt;
use std::str::FromStr;

use super::{ParseIdError, hex32, serde_as_hex, write_hex};

/// A node's Ed25519 public key: who it is, wherever it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Wraps the 32 bytes of an Ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten digits, enough to tell peers apart in a log line.
    pub fn short(&self) -> String {
        format!("{self:.10}")
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        hex32(text.as_bytes()).map(Self).ok_or_else(|| ParseIdError::Peer(text.to_owned()))
    }
}

serde_as_hex!(PeerId);

/// A peer as the user names it: `[ID@]HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerSpec {
    /// The key it must present; without one, the network secret vouches for it.
    pub id: Option<PeerId>,
    /// A host name, an IPv4 address or an IPv6 address (without brackets).
    pub host: String,
    /// A TCP port, not 0.
    pub port: u16,
}

impl FromStr for PeerSpec {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError::PeerSpec(text.to_owned());
        let (id, address) = match text.split_once('@') {
            Some((id, address)) => (Some(id.parse::<PeerId>()?), address),
            None => (None, text),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(bad)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                inner
            }
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let bracketed = address.starts_with('[');
        if host.is_empty() || !(bracketed || host.chars().all(plain)) {
            return Err(bad());
        }
        Ok(Self { id, host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = self.id {
            write!(f, "{id}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let id = PeerId::from_bytes([0xab; 32]);
        for text in ["127.0.0.1:7117".to_owned(), "node-7.lab:1".to_owned(), format!("{id}@[::1]:65535")] {
            assert_eq!(text.parse::<PeerSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_peer_is_named_in_the_error() {
        for text in
            ["", "host", ":1", "host:", "host:0", "host:65536", "ab@host:1", "[::1:7", "::1:7", "a b:1", "[x]:1"]
        {
            let error = text.parse::<PeerSpec>().unwrap_err();
            assert!(error.to_string().contains(text.split('@').next().unwrap()), "{text}: {error}");
        }
    }
}
