//! The body of a cell.

use circuit::cell::{BODY, MAX_DATA, read_body, write_body};

use crate::input::Input;

/// A body that is read is written as it was.
pub fn body(data: &[u8]) {
    let bytes: [u8; BODY] = Input::new(data).array();
    let Ok((kind, read)) = read_body(&bytes) else { return };
    assert!(read.len() <= MAX_DATA);
    let mut again = [0xa5; BODY];
    let written = write_body(&mut again, kind, |data| {
        data[..read.len()].copy_from_slice(read);
        Some(read.len())
    });
    assert_eq!(written, Ok(Some(read.len())));
    assert_eq!(again, bytes);
}
