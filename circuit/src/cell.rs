//! The layout of a cell and of its body (docs/spec/02-circuit.md section 2).

use crate::error::{Malformed, Misuse};
use crate::packet::{CELL, Cell};

/// The size of a slot: masked counter word and tag.
pub const SLOT: usize = 20;
/// The most relays of a path, and so the slots of a cell.
pub const MAX_HOPS: usize = 5;
/// The size of all slots.
pub const SLOTS: usize = SLOT * MAX_HOPS;
/// The size of the slots behind the first one.
pub const REST: usize = SLOTS - SLOT;
/// The innermost part of a cell.
pub const BODY: usize = CELL - SLOTS;
/// The most data a body carries.
pub const MAX_DATA: usize = BODY - 2;

/// What a body carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyType {
    /// Nothing: cover, warm-up.
    Padding = 0,
    /// One QUIC packet.
    Quic = 1,
    /// A message of the circuit itself.
    Control = 2,
    /// A step of the key ratchet.
    Ratchet = 3,
    /// Loss accounting.
    Count = 4,
}

/// The parts of a cell, borrowed at once.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) slots: &'a mut [u8; SLOTS],
    pub(crate) body: &'a mut [u8; BODY],
}

#[expect(clippy::expect_used, reason = "the sizes are constants; every test of layers runs these lines")]
pub(crate) fn parts(cell: &mut Cell) -> Parts<'_> {
    let (slots, body) = cell.split_first_chunk_mut::<SLOTS>().expect("a cell has slots");
    Parts { slots, body: body.first_chunk_mut().expect("a cell has a body") }
}

/// The body of a cell that ends here.
pub fn body(cell: &mut Cell) -> &mut [u8; BODY] {
    parts(cell).body
}

/// Lets `fill` write at most [`MAX_DATA`] bytes of data of type `kind` into the body; zeros follow.
///
/// `fill` returns how many bytes it wrote; `None` leaves the body as it was.
pub fn write_body(
    body: &mut [u8; BODY],
    kind: BodyType,
    fill: impl FnOnce(&mut [u8; MAX_DATA]) -> Option<usize>,
) -> Result<Option<usize>, Misuse> {
    let Some((head, data)) = body.split_first_chunk_mut::<2>() else { return Err(Misuse("body size")) };
    let Some(data) = data.first_chunk_mut::<MAX_DATA>() else { return Err(Misuse("body size")) };
    let Some(length) = fill(data) else { return Ok(None) };
    let Some(tail) = data.get_mut(length..) else { return Err(Misuse("body length")) };
    tail.fill(0);
    let length_bits = u16::try_from(length).map_err(|_| Misuse("body length"))?;
    *head = ((kind as u16) << 13 | length_bits).to_be_bytes();
    Ok(Some(length))
}

/// Reads a body: its type and data.
pub fn read_body(body: &[u8; BODY]) -> Result<(BodyType, &[u8]), Malformed> {
    let Some((head, data)) = body.split_first_chunk::<2>() else { return Err(Malformed("body")) };
    let head = u16::from_be_bytes(*head);
    let kind = match head >> 13 {
        0 => BodyType::Padding,
        1 => BodyType::Quic,
        2 => BodyType::Control,
        3 => BodyType::Ratchet,
        4 => BodyType::Count,
        _ => return Err(Malformed("body type")),
    };
    // circuit.cell.5
    let (data, zeros) = data.split_at_checked(usize::from(head & 0x1fff)).ok_or(Malformed("body length"))?;
    if zeros.iter().any(|b| *b != 0) {
        return Err(Malformed("body padding"));
    }
    Ok((kind, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back() {
        for length in [0, 1, 700, MAX_DATA] {
            let mut bytes = [0xaa; BODY];
            let wrote = write_body(&mut bytes, BodyType::Quic, |data| {
                data[..length].fill(7);
                Some(length)
            });
            assert_eq!(wrote, Ok(Some(length)));
            assert_eq!(read_body(&bytes), Ok((BodyType::Quic, &vec![7; length][..])));
        }
        let mut bytes = [0xaa; BODY];
        assert_eq!(write_body(&mut bytes, BodyType::Quic, |_| None), Ok(None));
        assert_eq!(bytes, [0xaa; BODY]);
    }

    #[test]
    fn impossible_bodies_are_malformed() {
        // circuit.cell.5
        let mut bytes = [0; BODY];
        assert_eq!(read_body(&bytes), Ok((BodyType::Padding, &[][..])));
        bytes[BODY - 1] = 1;
        assert_eq!(read_body(&bytes), Err(Malformed("body padding")));
        let mut bytes = [0; BODY];
        bytes[..2].copy_from_slice(&(0x2000u16 | 0x4ff).to_be_bytes());
        assert_eq!(read_body(&bytes), Err(Malformed("body length")));
        bytes[..2].copy_from_slice(&(5u16 << 13).to_be_bytes());
        assert_eq!(read_body(&bytes), Err(Malformed("body type")));
    }
}
