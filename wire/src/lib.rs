//! The one place that cuts and writes bytes.
//!
//! [`Reader`] cuts untrusted bytes without ever indexing; [`Writer`] fills a caller's buffer. Numbers are
//! big-endian. Every parser ends in [`Reader::finish`], which refuses trailing bytes.
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

use core::fmt;

pub mod compact;

/// Bytes that no honest encoder makes; names the field that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.0)
    }
}

impl core::error::Error for Malformed {}

/// Cuts fields from the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// The number of bytes not yet read.
    pub const fn remaining(&self) -> usize {
        self.left.len()
    }

    /// Cuts exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Malformed> {
        let (head, rest) = self.left.split_first_chunk::<N>().ok_or(Malformed(field))?;
        self.left = rest;
        Ok(head)
    }

    /// Cuts `count` bytes.
    pub fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.left.split_at_checked(count).ok_or(Malformed(field))?;
        self.left = rest;
        Ok(head)
    }

    /// Cuts `count` bytes as a reader of their own, for nested lengths.
    pub fn sub(&mut self, count: usize, field: &'static str) -> Result<Self, Malformed> {
        self.take(count, field).map(Self::new)
    }

    /// Reads one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(field).map(|b| u8::from_be_bytes(*b))
    }

    /// Reads a 16-bit number.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(|b| u16::from_be_bytes(*b))
    }

    /// Reads a 32-bit number.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(|b| u32::from_be_bytes(*b))
    }

    /// Reads a 64-bit number.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(|b| u64::from_be_bytes(*b))
    }

    /// Cuts `count` bytes that must all be zero.
    pub fn zeros(&mut self, count: usize, field: &'static str) -> Result<(), Malformed> {
        if self.take(count, field)?.iter().all(|b| *b == 0) { Ok(()) } else { Err(Malformed(field)) }
    }

    /// Takes all that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.left)
    }

    /// Refuses trailing bytes.
    pub const fn finish(self, field: &'static str) -> Result<(), Malformed> {
        if self.left.is_empty() { Ok(()) } else { Err(Malformed(field)) }
    }
}

/// The caller's buffer is too small for what is written; the caller's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer is too small for the message")
    }
}

impl core::error::Error for Full {}

/// Writes fields to the front of a caller's buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    left: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    /// A writer that may fill all of `buffer`.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { left: buffer, written: 0 }
    }

    /// The number of bytes written so far.
    pub const fn written(&self) -> usize {
        self.written
    }

    /// The number of bytes that still fit.
    pub const fn remaining(&self) -> usize {
        self.left.len()
    }

    /// Writes `bytes`, or nothing if they do not fit.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let left = core::mem::take(&mut self.left);
        if left.len() < bytes.len() {
            self.left = left;
            return Err(Full);
        }
        let (head, rest) = left.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.left = rest;
        self.written += bytes.len();
        Ok(())
    }

    /// Writes one byte.
    pub fn u8(&mut self, value: u8) -> Result<(), Full> {
        self.put(&[value])
    }

    /// Writes a 16-bit number.
    pub fn u16(&mut self, value: u16) -> Result<(), Full> {
        self.put(&value.to_be_bytes())
    }

    /// Writes a 32-bit number.
    pub fn u32(&mut self, value: u32) -> Result<(), Full> {
        self.put(&value.to_be_bytes())
    }

    /// Writes a 64-bit number.
    pub fn u64(&mut self, value: u64) -> Result<(), Full> {
        self.put(&value.to_be_bytes())
    }

    /// Fills what is left with zeros.
    pub fn pad(self) {
        self.left.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut buffer = [0xff; 20];
        let mut w = Writer::new(&mut buffer);
        w.u8(1).unwrap();
        w.u16(2).unwrap();
        w.u32(3).unwrap();
        w.u64(4).unwrap();
        w.put(b"abc").unwrap();
        assert_eq!((w.written(), w.remaining()), (18, 2));
        w.pad();
        let mut r = Reader::new(&buffer);
        assert_eq!((r.u8("a"), r.u16("b"), r.u32("c"), r.u64("d")), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!(r.sub(3, "e").unwrap().rest(), b"abc");
        assert_eq!(r.finish("f"), Err(Malformed("f")));
        r.zeros(2, "f").unwrap();
        r.finish("f").unwrap();
    }

    #[test]
    fn short_input_is_malformed_and_reads_nothing() {
        let mut r = Reader::new(&[1, 2, 3]);
        assert_eq!(r.u32("x"), Err(Malformed("x")));
        assert_eq!(r.take(4, "x"), Err(Malformed("x")));
        assert_eq!(r.remaining(), 3);
        assert_eq!(Reader::new(&[0, 1]).zeros(2, "z"), Err(Malformed("z")));
    }

    #[test]
    fn a_full_buffer_takes_nothing_more() {
        let mut buffer = [0; 3];
        let mut w = Writer::new(&mut buffer);
        assert_eq!(w.u32(7), Err(Full));
        assert_eq!(w.written(), 0);
        w.put(&[1, 2, 3]).unwrap();
        assert_eq!(w.u8(1), Err(Full));
    }
}
