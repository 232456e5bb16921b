//! Which packets of a buffer go where, so that each destination gets its packets in order and in few calls.

use std::net::SocketAddr;

use circuit::packet::PACKET;

use crate::socket::{MAX_SEGMENTS, Sent, UdpSocket};

/// From this length on a run is sent from where it lies, though others go to the same address: a call costs about as
/// much as copying so many packets.
const LONG: usize = 8;

/// Consecutive packets of one buffer with one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    to: SocketAddr,
    buffer: usize,
    first: usize,
    count: usize,
}

/// The packets to be sent, and a place to gather those that lie apart; both reused.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    gathered: Vec<[u8; PACKET]>,
}

impl Runs {
    pub(crate) fn new() -> Self {
        Self { runs: Vec::new(), gathered: Vec::with_capacity(MAX_SEGMENTS) }
    }

    /// Notes that packet `at` of buffer `buffer` goes to `to`.
    pub(crate) fn add(&mut self, to: SocketAddr, buffer: usize, at: usize) {
        match self.runs.last_mut() {
            Some(run) if run.to == to && run.buffer == buffer && run.first + run.count == at => {
                run.count += 1;
            }
            _ => self.runs.push(Run { to, buffer, first: at, count: 1 }),
        }
    }

    /// Sends what was noted and forgets it; `packets` gives the packets of a buffer.
    pub(crate) async fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        packets: impl Fn(usize) -> &'a [[u8; PACKET]],
    ) -> Sent {
        let Self { runs, gathered } = self;
        let mut sent = Sent::default();
        // Stable, so the order of packets to one destination stays.
        runs.sort_by_key(|run| run.to);
        for group in runs.chunk_by(|a, b| a.to == b.to) {
            for run in group {
                let all = packets(run.buffer);
                let lying = all.get(run.first..run.first + run.count).unwrap_or_default();
                if group.len() > 1 && run.count < LONG {
                    if gathered.len() + run.count > MAX_SEGMENTS {
                        sent.add(socket.send(run.to, gathered).await);
                        gathered.clear();
                    }
                    gathered.extend_from_slice(lying);
                } else {
                    sent.add(socket.send(run.to, gathered).await);
                    gathered.clear();
                    sent.add(socket.send(run.to, lying).await);
                }
            }
            if let Some(last) = group.last() {
                sent.add(socket.send(last.to, gathered).await);
            }
            gathered.clear();
        }
        runs.clear();
        sent
    }
}
