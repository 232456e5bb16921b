//! An application of the demonstration: reaches the site by SOCKS5, measures and compares.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::site;

/// A transfer that came out right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// From the connection to the SOCKS port until the first byte of the answer.
    pub(crate) first_byte: Duration,
    /// All of it.
    pub(crate) whole: Duration,
}

/// Connects to `to` through the SOCKS5 proxy at `socks`.
async fn connect(socks: SocketAddr, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(socks).await.context("the SOCKS port does not answer")?;
    stream.set_nodelay(true)?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await.context("the SOCKS port closed the connection")?;
    ensure!(method == [5, 0], "the SOCKS port chose the method {method:?}");
    let IpAddr::V4(ip) = to.ip() else { bail!("the site has an IPv4 address") };
    let request = [&[5, 1, 0, 1][..], &ip.octets(), &to.port().to_be_bytes()].concat();
    stream.write_all(&request).await?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.context("the SOCKS port closed the connection")?;
    let [_, code, ..] = reply;
    ensure!(code == 0, "the exit could not connect to the site (SOCKS reply {code})");
    Ok(stream)
}

/// Reads the head of an HTTP answer: the moment of its first byte, and the bytes of the body that came with it.
async fn answer(stream: &mut TcpStream) -> anyhow::Result<(Instant, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut first = None;
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the site gave no complete answer");
        let first = *first.get_or_insert_with(Instant::now);
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            ensure!(bytes.starts_with(b"HTTP/1.1 200 "), "the site did not answer 200");
            return Ok((first, bytes.split_off(at + 4)));
        }
    }
}

/// Downloads so many bytes and compares them; `meanwhile` runs once, when the first have come.
pub(crate) async fn download(
    socks: SocketAddr,
    to: SocketAddr,
    count: u64,
    meanwhile: impl Future<Output = ()>,
) -> anyhow::Result<Transfer> {
    let start = Instant::now();
    let mut stream = connect(socks, to).await?;
    let request = format!("GET /bytes/{count} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (first, body) = answer(&mut stream).await?;
    let receive = async {
        let right = site::receive_pattern(&mut stream, &body, count).await?;
        ensure!(right, "the downloaded bytes are not those that the site sent");
        Ok(Transfer { first_byte: first - start, whole: start.elapsed() })
    };
    tokio::join!(receive, meanwhile).0
}

/// Uploads so many bytes, which the site compares.
pub(crate) async fn upload(socks: SocketAddr, to: SocketAddr, count: u64) -> anyhow::Result<Transfer> {
    let start = Instant::now();
    let mut stream = connect(socks, to).await?;
    let request = format!("POST /upload HTTP/1.1\r\nhost: {to}\r\ncontent-length: {count}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    site::send(&mut stream, count).await?;
    let (first, mut body) = answer(&mut stream).await?;
    stream.read_to_end(&mut body).await?;
    ensure!(body == b"right\n", "the uploaded bytes did not arrive as they were sent");
    Ok(Transfer { first_byte: first - start, whole: start.elapsed() })
}
