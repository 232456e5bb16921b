//! A TCP server that gives and takes as many bytes as it is asked for, and the pattern of these bytes.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;

/// The length of the pattern: a prime, so that no two packets look alike.
const PATTERN: usize = 1_000_003;
/// The bytes that are read or written in one call.
const PIECE: usize = 1 << 18;

/// The pattern twice, so that a piece may begin anywhere in it.
fn pattern() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut once = vec![0; PATTERN];
        blake3::Hasher::new_derive_key("chive load pattern").finalize_xof().fill(&mut once);
        [once.as_slice(), once.as_slice()].concat()
    })
}

/// The bytes from `offset` on, at most a piece and at most up to `end`.
fn piece(offset: usize, end: usize) -> &'static [u8] {
    let at = offset % PATTERN;
    &pattern()[at..at + (end - offset).min(PIECE)]
}

/// Opens the server on a free port; it lives until the process ends.
pub(crate) fn open() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A visitor that breaks off is its own business.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    Ok(address)
}

/// Serves `give N` and `take N` lines until the visitor is done.
fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut from = BufReader::with_capacity(PIECE, stream);
    let mut line = String::new();
    while from.read_line(&mut line)? > 0 {
        let (word, count) = line.trim_end().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let count = count.parse().map_err(io::Error::other)?;
        if word == "give" {
            write(from.get_mut(), count)?;
        } else {
            check(&mut from, count)?;
            from.get_mut().write_all(b"k")?;
        }
        line.clear();
    }
    Ok(())
}

fn write(to: &mut TcpStream, count: usize) -> io::Result<()> {
    let mut done = 0;
    while done < count {
        done += to.write(piece(done, count))?;
    }
    Ok(())
}

/// Reads `count` bytes and compares every one.
fn check(from: &mut impl Read, count: usize) -> io::Result<()> {
    let mut buffer = vec![0; PIECE.min(count)];
    let mut done = 0;
    while done < count {
        let most = buffer.len().min(count - done);
        let got = from.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buffer[..got] != *piece(done, done + got) {
            return Err(io::Error::other(format!("wrong bytes near {done}")));
        }
        done += got;
    }
    Ok(())
}

/// Has the server give `count` bytes.
pub(crate) fn download(stream: &mut TcpStream, count: usize) -> io::Result<()> {
    stream.write_all(format!("give {count}\n").as_bytes())?;
    check(stream, count)
}

/// Has the server take `count` bytes.
pub(crate) fn upload(stream: &mut TcpStream, count: usize) -> io::Result<()> {
    stream.write_all(format!("take {count}\n").as_bytes())?;
    write(stream, count)?;
    stream.read_exact(&mut [0])
}
