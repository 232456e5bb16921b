//! What a stream asks the exit for, and what a cell's body carries (docs/spec/02-circuit.md sections 2 and 3).

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::{Full, Malformed, Reader, Writer};

/// The longest request header: kind, type, length, a name of 255 bytes, port.
pub const MAX_REQUEST: usize = 260;

/// The kind of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A TCP connection.
    Connect = 1,
    /// A UDP association.
    Udp = 2,
    /// A name to be resolved.
    Resolve = 3,
    /// An answer at once, by the exit itself.
    Ping = 4,
    /// The exit's view of the network.
    Directory = 5,
}

/// A host as an application names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name of 1 to 255 printable ASCII bytes, resolved by the exit only.
    Name(String),
}

/// Where a stream goes; printed in full only on purpose, by `to_string`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl Host {
    /// A name, if it is one that can be sent.
    pub fn name(name: &[u8]) -> Result<Self, Malformed> {
        let text = core::str::from_utf8(name).map_err(|_| Malformed("host name"))?;
        if text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Malformed("host name"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted target]")
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted host]")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// The first bytes of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub kind: Kind,
    /// Of whom.
    pub target: Target,
}

impl Request {
    /// Writes the request; at most [`MAX_REQUEST`] bytes.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.u8(self.kind as u8)?;
        match &self.target.host {
            Host::Ip(IpAddr::V4(ip)) => {
                out.u8(1)?;
                out.put(&ip.octets())?;
            }
            Host::Ip(IpAddr::V6(ip)) => {
                out.u8(4)?;
                out.put(&ip.octets())?;
            }
            Host::Name(name) => {
                out.u8(3)?;
                out.u8(u8::try_from(name.len()).map_err(|_| Full)?)?;
                out.put(name.as_bytes())?;
            }
        }
        out.u16(self.target.port)
    }

    /// Reads a request from the front of `bytes`: the request and its length, or `None` if more bytes are needed.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some((&[kind, address], _)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        let kind = match kind {
            1 => Kind::Connect,
            2 => Kind::Udp,
            3 => Kind::Resolve,
            4 => Kind::Ping,
            5 => Kind::Directory,
            _ => return Err(Malformed("stream kind")),
        };
        let host_length = match (address, bytes.get(2)) {
            (1, _) => 4,
            (4, _) => 16,
            (3, Some(0)) => return Err(Malformed("host name")),
            (3, Some(length)) => 1 + usize::from(*length),
            (3, None) => return Ok(None),
            _ => return Err(Malformed("address type")),
        };
        let total = 2 + host_length + 2;
        let Some((whole, _)) = bytes.split_at_checked(total) else { return Ok(None) };
        let mut r = Reader::new(whole);
        r.take(2, "stream kind")?;
        let host = match address {
            1 => Host::Ip(Ipv4Addr::from(*r.array::<4>("IPv4 address")?).into()),
            4 => Host::Ip(Ipv6Addr::from(*r.array::<16>("IPv6 address")?).into()),
            _ => {
                let length = r.u8("host name")?;
                Host::name(r.take(length.into(), "host name")?)?
            }
        };
        let port = r.u16("port")?;
        r.finish("stream request")?;
        Ok(Some((Self { kind, target: Target { host, port } }, total)))
    }
}

/// The exit's answer to a request: the reply codes of SOCKS5 (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReplyCode {
    /// The connection stands.
    Succeeded = 0,
    /// Something else failed.
    GeneralFailure = 1,
    /// The exit policy refuses the destination.
    NotAllowed = 2,
    /// No route to the network.
    NetworkUnreachable = 3,
    /// No route to the host, or its name is not known.
    HostUnreachable = 4,
    /// The destination refused.
    ConnectionRefused = 5,
    /// The destination did not answer.
    TtlExpired = 6,
    /// The exit does not serve this kind of stream.
    CommandNotSupported = 7,
    /// The exit does not serve this kind of address.
    AddressTypeNotSupported = 8,
}

impl ReplyCode {
    /// The code of a received byte; what is not known is a general failure.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Succeeded,
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::ConnectionRefused,
            6 => Self::TtlExpired,
            7 => Self::CommandNotSupported,
            8 => Self::AddressTypeNotSupported,
            _ => Self::GeneralFailure,
        }
    }

    /// The byte that travels.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        ["192.0.2.1", "2001:db8::1"]
            .map(|ip| Host::Ip(ip.parse().unwrap()))
            .into_iter()
            .chain(["a", "example.org", &"x".repeat(255)].map(|n| Host::name(n.as_bytes()).unwrap()))
            .map(|host| Request { kind: Kind::Connect, target: Target { host, port: 443 } })
            .collect()
    }

    #[test]
    fn requests_come_back_and_no_prefix_is_one() {
        for request in requests() {
            let mut buffer = [0; MAX_REQUEST];
            let mut w = Writer::new(&mut buffer);
            request.write(&mut w).unwrap();
            let n = w.written();
            for cut in 0..n {
                assert_eq!(Request::read(&buffer[..cut]), Ok(None));
            }
            assert_eq!(Request::read(&buffer[..n]), Ok(Some((request.clone(), n))));
            assert_eq!(Request::read(&buffer), Ok(Some((request, n))));
        }
    }

    #[test]
    fn nonsense_is_malformed() {
        for bad in [
            &[0, 1][..],
            &[6, 1],
            &[1, 2],
            &[1, 5],
            &[1, 3, 0],
            &[1, 3, 1, b' ', 0, 80],
            &[1, 3, 1, 0xff, 0, 80],
        ] {
            assert!(Request::read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_names_nobody() {
        assert!(!format!("{:?}", requests()).contains("example"));
    }
}
