//! A SOCKS5 client of a few lines (RFC 1928, RFC 1929).

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use super::processes::PATIENCE;

/// Where to go.
pub(crate) enum To<'a> {
    Ip(Ipv4Addr, u16),
    Name(&'a str, u16),
}

/// An IPv4 destination.
pub(crate) fn ip(address: SocketAddr) -> To<'static> {
    match address {
        SocketAddr::V4(v4) => To::Ip(*v4.ip(), v4.port()),
        SocketAddr::V6(_) => panic!("tests use IPv4"),
    }
}

/// A TCP connection to the proxy, before any SOCKS.
pub(crate) fn raw(proxy: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects through the proxy; fails with the reply code.
pub(crate) fn connect(proxy: SocketAddr, user: Option<(&str, &str)>, to: &To<'_>) -> Result<TcpStream, u8> {
    match ask(proxy, user, to) {
        (stream, 0) => Ok(stream),
        (_, code) => Err(code),
    }
}

fn ask(proxy: SocketAddr, user: Option<(&str, &str)>, to: &To<'_>) -> (TcpStream, u8) {
    let mut stream = raw(proxy);
    let method = if user.is_some() { 2 } else { 0 };
    stream.write_all(&[5, 1, method]).unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, method]);
    if let Some((name, password)) = user {
        let mut message = vec![1, u8::try_from(name.len()).unwrap()];
        message.extend(name.bytes());
        message.push(u8::try_from(password.len()).unwrap());
        message.extend(password.bytes());
        stream.write_all(&message).unwrap();
        let mut accepted = [0; 2];
        stream.read_exact(&mut accepted).unwrap();
        assert_eq!(accepted, [1, 0]);
    }
    let mut request = vec![5, 1, 0];
    let port = match to {
        To::Ip(ip, port) => {
            request.push(1);
            request.extend(ip.octets());
            port
        }
        To::Name(name, port) => {
            request.extend([3, u8::try_from(name.len()).unwrap()]);
            request.extend(name.bytes());
            port
        }
    };
    request.extend(port.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1));
    (stream, reply[1])
}
