//! Frames that wait for the next control packet of a link.

use std::collections::VecDeque;

use wire::Writer;

use crate::frame::Frame;

/// Frames for one neighbour; grants go last, behind the draws that pay for them.
#[derive(Debug, Default)]
pub struct Outgoing {
    frames: VecDeque<Frame>,
    // pay.grant.6
    grants: VecDeque<Frame>,
}

impl Outgoing {
    /// Adds a frame; a grant takes the place of an earlier one of the same circuit.
    pub fn push(&mut self, frame: Frame) {
        match frame {
            Frame::Grant { circuit, .. } => {
                let of_this =
                    |other: &Frame| matches!(other, Frame::Grant { circuit: of, .. } if *of == circuit);
                self.grants.retain(|other| !of_this(other));
                self.grants.push_back(frame);
            }
            _ => self.frames.push_back(frame),
        }
    }

    /// Fills a control packet's cell with as many as fit; true if nothing is left, or nothing fits.
    pub fn write(&mut self, cell: &mut [u8]) -> bool {
        let mut out = Writer::new(cell);
        for queue in [&mut self.frames, &mut self.grants] {
            while let Some(frame) = queue.front() {
                if frame.write(&mut out).is_err() {
                    break;
                }
                queue.pop_front();
            }
            if !queue.is_empty() {
                break;
            }
        }
        let nothing = out.written() == 0;
        out.pad();
        nothing || (self.frames.is_empty() && self.grants.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frames, Level};

    // pay.grant.6
    #[test]
    fn grants_go_behind_what_pays_for_them_and_the_newest_of_a_circuit_only() {
        let mut outgoing = Outgoing::default();
        for cells in 1..=30 {
            outgoing.push(Frame::Grant { circuit: cells % 3, cells: cells.into() });
        }
        outgoing.push(Frame::Credit(Level::Low));
        let mut cell = [0xee; 64];
        let mut all = vec![];
        while !outgoing.write(&mut cell) {
            all.extend(Frames::new(&cell).map(Result::unwrap));
        }
        all.extend(Frames::new(&cell).map(Result::unwrap));
        let grant = |circuit, cells| Frame::Grant { circuit, cells };
        assert_eq!(all, [Frame::Credit(Level::Low), grant(1, 28), grant(2, 29), grant(0, 30)]);
        assert!(outgoing.write(&mut [0; 4]));
    }
}
