//! Reader and writer.

use wire::{Full, Malformed, Reader, Writer};

use crate::input::Input;

/// The reader gives the bytes one after the other and nothing else, and the writer writes what was read.
pub fn reader(data: &[u8]) {
    let mut input = Input::new(data);
    let plan = input.chunk();
    let bytes = input.rest();
    let mut copy = vec![0xa5; bytes.len()];
    let (mut r, mut w, mut at) = (Reader::new(bytes), Writer::new(&mut copy), 0);
    for [kind, count] in plan.as_chunks().0 {
        let left = &bytes[at..];
        let count = usize::from(*count);
        let (wanted, read) = read(&mut r, &mut w, *kind, count);
        match read {
            Ok(read) => assert_eq!(Some(&read[..]), left.get(..wanted), "{kind}"),
            Err(Malformed("zeros")) if left.len() >= wanted => {
                assert!(left[..wanted].iter().any(|byte| *byte != 0));
                w.put(&left[..wanted]).unwrap();
            }
            Err(Malformed(field)) => {
                assert!(field == "field" || field == "zeros");
                assert!(left.len() < wanted);
                assert_eq!(w.put(&vec![1; wanted]), Err(Full));
                continue;
            }
        }
        at += wanted;
        assert_eq!((r.remaining(), w.remaining(), w.written()), (bytes.len() - at, bytes.len() - at, at));
    }
    assert_eq!(r.finish("end").is_ok(), at == bytes.len());
    assert_eq!(r.rest(), &bytes[at..]);
    w.pad();
    assert!(copy[..at] == bytes[..at] && copy[at..].iter().all(|byte| *byte == 0));
}

/// Reads one field and writes it again: its length, and its bytes.
fn read(
    r: &mut Reader<'_>,
    w: &mut Writer<'_>,
    kind: u8,
    count: usize,
) -> (usize, Result<Vec<u8>, Malformed>) {
    let bytes = |w: &mut Writer<'_>, bytes: &[u8]| {
        w.put(bytes).unwrap();
        bytes.to_vec()
    };
    match kind % 8 {
        0 => (1, r.u8("field").inspect(|n| w.u8(*n).unwrap()).map(|n| n.to_be_bytes().to_vec())),
        1 => (2, r.u16("field").inspect(|n| w.u16(*n).unwrap()).map(|n| n.to_be_bytes().to_vec())),
        2 => (4, r.u32("field").inspect(|n| w.u32(*n).unwrap()).map(|n| n.to_be_bytes().to_vec())),
        3 => (8, r.u64("field").inspect(|n| w.u64(*n).unwrap()).map(|n| n.to_be_bytes().to_vec())),
        4 => (16, r.array::<16>("field").map(|read| bytes(w, read))),
        5 => (count, r.take(count, "field").map(|read| bytes(w, read))),
        6 => (count, r.sub(count, "field").map(|mut read| bytes(w, read.rest()))),
        _ => (count, r.zeros(count, "zeros").map(|()| bytes(w, &vec![0; count]))),
    }
}
