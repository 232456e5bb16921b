//! Control frames.

use circuit::link::control::{Frame, Frames, NACK_RANGES, write_nack};
use circuit::packet::CELL;
use wire::Writer;

use crate::input::Input;

/// The frames of a cell are read the same again when they are written, and nothing follows a malformed one.
pub fn frames(data: &[u8]) {
    let cell: [u8; CELL] = Input::new(data).array();
    let mut frames = Frames::new(&cell);
    let mut good = vec![];
    for frame in frames.by_ref() {
        match frame {
            Ok(frame) => good.push(frame),
            Err(_) => break,
        }
    }
    if good.len() < Frames::new(&cell).count() {
        assert!(frames.next().is_none(), "a frame after a malformed one");
    }
    let mut again = [0; CELL];
    let mut w = Writer::new(&mut again);
    for frame in &good {
        let before = w.written();
        frame.write(&mut w).unwrap();
        let length = w.written() - before;
        frame.write(&mut Writer::new(&mut vec![0; length - 1])).unwrap_err();
        if let Frame::Nack(ranges) = frame {
            let ranges: Vec<_> = ranges.iter().collect();
            assert!(ranges.len() <= NACK_RANGES);
            let mut nack = vec![0; length];
            write_nack(&ranges, &mut Writer::new(&mut nack)).unwrap();
            assert_eq!(Frames::new(&nack).next(), Some(Ok(*frame)));
        }
    }
    let read: Vec<_> = Frames::new(&again).map(Result::unwrap).collect();
    assert_eq!(read, good);
}
