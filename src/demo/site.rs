//! A small web site: the destination of the demonstration.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The most bytes that `/bytes/N` gives, and that an upload may have.
const MAX_BYTES: u64 = 1 << 32;
const MAX_HEAD: usize = 8_192;
const PIECE: usize = 1 << 16;

/// The site.
#[derive(Debug)]
pub(crate) struct Site {
    listener: TcpListener,
    visits: Rc<RefCell<Visits>>,
}

/// Who came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visits {
    /// How many connections.
    pub(crate) connections: u64,
    /// From which addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// Bytes that differ everywhere, so that a lost, doubled or moved piece cannot hide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pattern {
    position: u64,
    /// What is left of the eight bytes that the last mixing gave.
    word: u64,
}

impl Pattern {
    /// Writes the next bytes.
    pub(crate) fn fill(&mut self, into: &mut [u8]) {
        for byte in into {
            *byte = self.next();
        }
    }

    /// Whether these are the next bytes.
    pub(crate) fn matches(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| *byte == self.next())
    }

    fn next(&mut self) -> u8 {
        if self.position.is_multiple_of(8) {
            self.word = mix(self.position);
        }
        self.position += 1;
        let [byte, ..] = self.word.to_le_bytes();
        self.word >>= 8;
        byte
    }
}

/// The finalizer of `SplitMix64`.
const fn mix(position: u64) -> u64 {
    let mut z = position.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Site {
    /// Opens the site on a free port.
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the web site cannot open a port")?;
        Ok(Self { listener, visits: Rc::default() })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Who has come so far.
    pub(crate) fn visits(&self) -> Visits {
        self.visits.borrow().clone()
    }

    /// Serves visitors until the future is dropped.
    pub(crate) async fn serve(&self) -> anyhow::Result<()> {
        loop {
            let (stream, from) = self.listener.accept().await.context("the web site broke down")?;
            {
                let mut visits = self.visits.borrow_mut();
                visits.connections += 1;
                visits.addresses.insert(from.ip());
            }
            tokio::task::spawn_local(async move {
                if let Err(error) = serve_one(stream, from.ip()).await {
                    tracing::debug!(%error, "a visit broke off");
                }
            });
        }
    }
}

/// Answers one request and closes.
async fn serve_one(mut stream: TcpStream, from: IpAddr) -> anyhow::Result<()> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        ensure!(head.len() < MAX_HEAD, "the head of the request is too long");
        ensure!(stream.read_buf(&mut head).await? > 0, "the request is not complete");
    };
    let body = head.split_off(end);
    let head = core::str::from_utf8(&head).context("the head of the request is no text")?;
    let mut words = head.split_ascii_whitespace();
    let (status, text) = match (words.next(), words.next()) {
        (Some("GET"), Some("/")) => ("200 OK", page(from)),
        (Some("GET"), Some("/address")) => ("200 OK", format!("{from}\n")),
        (Some("GET"), Some(path)) => {
            let count = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
            if let Some(count) = count.filter(|count| *count <= MAX_BYTES) {
                return send_bytes(stream, count).await;
            }
            ("404 Not Found", "there is no such page\n".to_owned())
        }
        (Some("POST"), Some("/upload")) => {
            let right = receive_pattern(&mut stream, &body, content_length(head)?).await?;
            ("200 OK", if right { "right\n" } else { "wrong\n" }.to_owned())
        }
        _ => ("400 Bad Request", "this is no request\n".to_owned()),
    };
    let kind = if text.starts_with('<') { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let answer = head_of(status, kind, text.len() as u64) + &text;
    stream.write_all(answer.as_bytes()).await?;
    close(stream).await
}

async fn send_bytes(mut stream: TcpStream, count: u64) -> anyhow::Result<()> {
    let head = head_of("200 OK", "application/octet-stream", count);
    stream.write_all(head.as_bytes()).await?;
    send(&mut stream, count).await?;
    close(stream).await
}

async fn close(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.shutdown().await?;
    // Waits for the visitor's end: closing at once could reset what is still on its way.
    while stream.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}

fn content_length(head: &str) -> anyhow::Result<u64> {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    line.filter(|length| *length <= MAX_BYTES).context("an upload needs a content-length")
}

fn head_of(status: &str, kind: &str, length: u64) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )
}

/// Sends so many bytes of the pattern.
pub(crate) async fn send(stream: &mut TcpStream, count: u64) -> anyhow::Result<()> {
    let (mut pattern, mut piece, mut left) = (Pattern::default(), vec![0; PIECE], count);
    while left > 0 {
        let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let (now, _) = piece.split_at_mut(length);
        pattern.fill(now);
        stream.write_all(now).await?;
        left -= now.len() as u64;
        // Sender and receiver share a thread: without this the first would fill all buffers before the other began.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Whether what comes, after `first`, is so many bytes of the pattern.
pub(crate) async fn receive_pattern(
    stream: &mut TcpStream,
    first: &[u8],
    count: u64,
) -> anyhow::Result<bool> {
    let (mut pattern, mut piece) = (Pattern::default(), vec![0; PIECE]);
    let mut right = pattern.matches(first);
    let mut received = first.len() as u64;
    while received < count {
        let length = stream.read(&mut piece).await?;
        ensure!(length > 0, "the connection ended after {received} of {count} bytes");
        right &= pattern.matches(piece.get(..length).unwrap_or_default());
        received += length as u64;
    }
    Ok(right && received == count)
}

fn page(from: IpAddr) -> String {
    format!(
        "<!doctype html><title>Chive</title>\n<h1>It works.</h1>\n\
         <p>You reached this page through a circuit of relays. This site saw a visitor from {from}: the exit.</p>\n\
         <p>More: <a href=\"/bytes/1000000\">/bytes/N</a>, N bytes to measure with; <a href=\"/address\">/address</a>, \
         who this site thinks you are.</p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_notices_what_is_lost_doubled_or_moved() {
        let mut bytes = vec![0; 10_000];
        Pattern::default().fill(&mut bytes);
        assert!(Pattern::default().matches(&bytes));
        let mut lost = bytes.clone();
        lost.remove(5_000);
        assert!(!Pattern::default().matches(&lost));
        let mut moved = bytes.clone();
        moved.swap(1_000, 2_001);
        assert!(!Pattern::default().matches(&moved));
        for shift in 1..2_000 {
            assert!(bytes[shift..] != bytes[..bytes.len() - shift], "repeats after {shift}");
        }
    }

    #[test]
    fn lengths_are_read() {
        assert_eq!(content_length("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n").unwrap(), 12);
        assert!(content_length("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n").is_err());
    }
}
