//! The file of a client's guards.

use client::guards::{Guards, MAX_FILE, MAX_REMEMBERED};

use crate::fixture::NETWORK;

/// What is read of a file is what was written, also where its checksum is right and the rest is anything.
pub fn guards(data: &[u8]) {
    let mut check = [0; 16];
    blake3::Hasher::new().update(data).finalize_xof().fill(&mut check);
    for bytes in [data.to_vec(), [data, &check].concat()] {
        if let Ok(Some(guards)) = Guards::decode(&bytes, NETWORK) {
            assert_eq!(guards.encode(NETWORK), bytes);
            assert!(bytes.len() <= MAX_FILE && guards.iter().len() <= MAX_REMEMBERED);
        }
    }
}

/// The bytes of two guards, without their checksum.
pub(crate) fn sample() -> Vec<u8> {
    let guard =
        |n: u8| [&[n; 32][..], &[0, 0, 0, 0, 0, 0, 1, n].repeat(3), &[0, 0, 0, 9, 0, 0, 0, n, 1]].concat();
    [b"CHVG\x01", &NETWORK.0[..], &[2], &guard(1), &guard(2)].concat()
}
