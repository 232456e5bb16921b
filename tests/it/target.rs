//! A TCP server as the destination of streams; the first line of a connection says what it is to do.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The server; it lives until the test process ends.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    notes: Arc<Mutex<Notes>>,
}

#[derive(Default)]
struct Notes {
    visitors: BTreeSet<IpAddr>,
    after_half_close: Vec<u8>,
}

/// Bytes without end that are the same every time, and differ everywhere.
pub(crate) struct Pattern(blake3::OutputReader);

impl Pattern {
    /// From the first on.
    pub(crate) fn new() -> Self {
        Self(blake3::Hasher::new_derive_key("chive test pattern").finalize_xof())
    }

    /// The next bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

/// The first bytes of the pattern.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    Pattern::new().fill(&mut bytes);
    bytes
}

/// Writes the first bytes of the pattern.
fn give(stream: &mut TcpStream, count: usize) -> std::io::Result<()> {
    let (mut pattern, mut piece, mut left) = (Pattern::new(), vec![0; 1 << 16], count);
    while left > 0 {
        let now = &mut piece[..left.min(1 << 16)];
        pattern.fill(now);
        stream.write_all(now)?;
        left -= now.len();
    }
    Ok(())
}

/// Names bytes.
pub(crate) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

impl Target {
    /// Opens it on a free port.
    pub(crate) fn open() -> Self {
        Self::open_at(([127, 0, 0, 1], 0).into())
    }

    /// Opens it at an address.
    pub(crate) fn open_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(Mutex::new(Notes::default()));
        let shared = Arc::clone(&notes);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let notes = Arc::clone(&shared);
                // A visitor that breaks off is the test's business.
                thread::spawn(move || drop(serve(stream, &notes)));
            }
        });
        Self { address, notes }
    }

    /// From which addresses connections came.
    pub(crate) fn visitors(&self) -> BTreeSet<IpAddr> {
        self.notes.lock().unwrap().visitors.clone()
    }

    /// What came on a connection after its own direction was ended by `half`.
    pub(crate) fn after_half_close(&self) -> Vec<u8> {
        self.notes.lock().unwrap().after_half_close.clone()
    }
}

fn note(notes: &Mutex<Notes>, what: impl FnOnce(&mut Notes)) {
    what(&mut notes.lock().unwrap());
}

fn serve(mut stream: TcpStream, notes: &Mutex<Notes>) -> std::io::Result<()> {
    let visitor = stream.peer_addr()?.ip();
    note(notes, |notes| {
        notes.visitors.insert(visitor);
    });
    let mut from = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    match words.as_slice() {
        // An HTTP request, for curl.
        ["GET", path, _] => {
            let count = path.trim_start_matches('/').parse().unwrap_or(0);
            while from.read_line(&mut line)? > 2 {}
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {count}\r\nconnection: close\r\n\r\n")?;
            give(&mut stream, count)?;
        }
        ["give", count] => give(&mut stream, count.parse().map_err(std::io::Error::other)?)?,
        ["take"] => {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            stream.write_all(hash(&bytes).as_bytes())?;
        }
        ["hold"] => {
            stream.write_all(b"held")?;
            from.read_to_end(&mut Vec::new())?;
        }
        ["half"] => {
            stream.write_all(b"bye")?;
            stream.shutdown(Shutdown::Write)?;
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            note(notes, |notes| notes.after_half_close = bytes);
        }
        _ => stream.write_all(b"what?")?,
    }
    stream.shutdown(Shutdown::Write)?;
    from.read_to_end(&mut Vec::new())?;
    Ok(())
}
