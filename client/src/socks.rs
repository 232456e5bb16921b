//! The SOCKS5 entry: bytes of an application in, actions out (RFC 1928, RFC 1929).
//!
//! The driver reads from the connection, hands what it read to [`Socks::feed`], and does what the [`Step`] says until
//! that is [`Step::Request`] or [`Step::Close`]. Nothing here knows of sockets.

use core::fmt;

use circuit::request::{Kind, ReplyCode, Request, Target};
use wire::{Malformed, Reader};

/// The most bytes that are kept while a message is not complete: user name and password of 255 bytes each.
pub const MAX_MESSAGE: usize = 513;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
/// A SOCKS4 reply: request rejected.
const SOCKS4_REJECTED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];
const HTTP_METHODS: [&[u8]; 9] =
    [b"GET ", b"CONNECT ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE "];
const HTTP_HELP: &str = "\
This port is a SOCKS5 proxy. It is neither a web server nor an HTTP proxy.

In the settings of your program choose SOCKS5 (SOCKS v5) with this host and port, and let the proxy resolve names
(\"proxy DNS when using SOCKS v5\"). With curl, PORT being the port you used here:

    curl --proxy socks5h://127.0.0.1:PORT https://example.org/
";

/// What an application gave as user name and password; any values are accepted, and different ones never share a
/// circuit.
// circuit.isolation.1
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl Credentials {
    /// The credentials of an application.
    pub fn new(user: &[u8], password: &[u8]) -> Self {
        Self { user: user.to_vec(), password: password.to_vec() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What is to be done with the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more bytes and feed them.
    More,
    /// Write these bytes, then feed again (nothing, if nothing has come: there may be more steps).
    Send(Vec<u8>),
    /// Connect, then write [`reply`] and join both sides.
    Request {
        /// Where the application wants to go.
        target: Target,
        /// What isolates its streams from others, if it gave anything.
        credentials: Option<Credentials>,
        /// What the application sent after the request: the first bytes for the target.
        leftover: Vec<u8>,
    },
    /// Write these bytes if there are any, and close. Bytes that still come should be read and thrown away for a
    /// moment, or the answer may be lost in a reset.
    Close(Option<Vec<u8>>),
}

/// The reply to a request (RFC 1928 section 6), with the bound address 0.0.0.0:0.
pub const fn reply(code: ReplyCode) -> [u8; 10] {
    [VERSION, code.byte(), 0, 1, 0, 0, 0, 0, 0, 0]
}

/// One application's connection until its request is complete.
#[derive(Debug, Default)]
pub struct Socks {
    stage: Stage,
    buffer: Buffer,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Greeting,
    Password,
    Request(Option<Credentials>),
    Done,
}

/// Bytes not yet understood; they may hold credentials and targets.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// The bytes so far are the beginning of something, or can never become anything.
enum Incomplete {
    More,
    Close(Option<Vec<u8>>),
}

impl From<Malformed> for Incomplete {
    /// [`Reader`] only fails where bytes are missing: what they say is judged apart.
    fn from(_: Malformed) -> Self {
        Self::More
    }
}

impl Socks {
    /// A connection that was just accepted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the application. After a request or the end there is nothing more to feed.
    pub fn feed(&mut self, bytes: &[u8]) -> Step {
        if self.stage == Stage::Done {
            return Step::Close(None);
        }
        self.buffer.0.extend_from_slice(bytes);
        let step = match &mut self.stage {
            Stage::Greeting => greeting(&self.buffer.0).map(|(method, length)| {
                let next = if method == USER_AND_PASSWORD { Stage::Password } else { Stage::Request(None) };
                (Step::Send(vec![VERSION, method]), length, next)
            }),
            Stage::Password => password(&self.buffer.0).map(|(credentials, length)| {
                (Step::Send(vec![1, 0]), length, Stage::Request(Some(credentials)))
            }),
            Stage::Request(credentials) => request(&self.buffer.0).map(|(target, length)| {
                let leftover = self.buffer.0.split_off(length);
                let credentials = credentials.take();
                (Step::Request { target, credentials, leftover }, length, Stage::Done)
            }),
            Stage::Done => Err(Incomplete::Close(None)),
        };
        match step {
            Ok((step, length, next)) => {
                self.stage = next;
                self.buffer.0.drain(..length);
                step
            }
            Err(Incomplete::More) => Step::More,
            Err(Incomplete::Close(last)) => {
                *self = Self { stage: Stage::Done, buffer: Buffer::default() };
                Step::Close(last)
            }
        }
    }
}

/// The chosen method, and the length of the greeting.
fn greeting(bytes: &[u8]) -> Result<(u8, usize), Incomplete> {
    let mut r = Reader::new(bytes);
    match r.u8("version")? {
        VERSION => {}
        4 => return Err(Incomplete::Close(Some(SOCKS4_REJECTED.to_vec()))),
        _ => return Err(not_socks(bytes)),
    }
    let count = r.u8("methods")?.into();
    let methods = r.take(count, "methods")?;
    // Credentials isolate, so they are asked for whenever they are offered.
    match [USER_AND_PASSWORD, NO_AUTHENTICATION].into_iter().find(|method| methods.contains(method)) {
        Some(method) => Ok((method, 2 + count)),
        None => Err(Incomplete::Close(Some(vec![VERSION, NO_METHOD]))),
    }
}

/// The answer to bytes that are no SOCKS at all.
fn not_socks(bytes: &[u8]) -> Incomplete {
    if HTTP_METHODS.iter().any(|method| bytes.starts_with(method)) {
        let head = "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{HTTP_HELP}", HTTP_HELP.len());
        return Incomplete::Close(Some(answer.into_bytes()));
    }
    if HTTP_METHODS.iter().any(|method| method.starts_with(bytes)) {
        return Incomplete::More;
    }
    Incomplete::Close(None)
}

/// User name and password (RFC 1929), and the length of the message.
fn password(bytes: &[u8]) -> Result<(Credentials, usize), Incomplete> {
    let mut r = Reader::new(bytes);
    if r.u8("version")? != 1 {
        return Err(Incomplete::Close(Some(vec![1, 1])));
    }
    let length = r.u8("user")?.into();
    let user = r.take(length, "user")?;
    let length = r.u8("password")?.into();
    let password = r.take(length, "password")?;
    Ok((Credentials::new(user, password), bytes.len() - r.remaining()))
}

/// The target, and the length of the request.
fn request(bytes: &[u8]) -> Result<(Target, usize), Incomplete> {
    let mut r = Reader::new(bytes);
    let fail = |code| Err(Incomplete::Close(Some(reply(code).to_vec())));
    if r.u8("version")? != VERSION {
        return fail(ReplyCode::GeneralFailure);
    }
    if r.u8("command")? != 1 {
        return fail(ReplyCode::CommandNotSupported);
    }
    if r.u8("reserved")? != 0 {
        return fail(ReplyCode::GeneralFailure);
    }
    // From here on the bytes are those of a stream's request after its kind.
    let inner = [&[Kind::Connect as u8], r.rest()].concat();
    match Request::read(&inner) {
        _ if !matches!(inner.get(1), None | Some(1 | 3 | 4)) => fail(ReplyCode::AddressTypeNotSupported),
        Ok(None) => Err(Incomplete::More),
        Ok(Some((Request { target, .. }, length))) if target.port != 0 => Ok((target, length + 2)),
        Ok(Some(_)) | Err(Malformed(_)) => fail(ReplyCode::GeneralFailure),
    }
}

#[cfg(test)]
mod tests;
