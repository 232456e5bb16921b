//! The UDP socket of a driver: batches in, bursts out, one size of packet.

use std::array;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use circuit::packet::PACKET;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

/// What is asked of the kernel for each of the two socket buffers.
const SOCKET_BUFFER: usize = 8 << 20;
/// Buffers filled by one receive call.
const BATCH: usize = 16;
/// Room for the largest burst that the kernel may join into one buffer, 65,535 bytes.
const BURST: usize = 1 << 16;
/// The largest burst that is sent in one call, in packets; with headers it stays below 64 KiB.
pub(crate) const MAX_SEGMENTS: usize = 44;

/// The socket could not be opened; says which setting to change.
#[derive(Debug, thiserror::Error)]
#[error("cannot receive UDP on {address}: {source}; {}, in the setting `{setting}`", self.advice())]
pub struct BindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// The name of the setting that holds the address.
    pub setting: String,
    source: io::Error,
}

impl BindError {
    fn advice(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => "another process has this port: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => {
                "this machine does not have the address: choose one of its own, or 0.0.0.0 or [::]"
            }
            io::ErrorKind::PermissionDenied => "this user may not take this port: choose one above 1023",
            _ => "choose another address",
        }
    }
}

/// What the kernel gave, in bytes, as it reports it; Linux reports twice of what packets may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// The receive buffer.
    pub receive: usize,
    /// The send buffer.
    pub send: usize,
}

/// A bound UDP socket that sends and receives bursts of packets in single calls where the kernel can (GSO, GRO).
#[derive(Debug)]
pub struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    buffers: BufferSizes,
}

/// What became of packets handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Packets that it took.
    pub(crate) packets: u64,
    /// Calls that it took them in.
    pub(crate) calls: u64,
    /// Packets that it refused, for example for want of a route.
    pub(crate) refused: u64,
}

impl Sent {
    pub(crate) const fn add(&mut self, more: Self) {
        self.packets += more.packets;
        self.calls += more.calls;
        self.refused += more.refused;
    }
}

impl UdpSocket {
    /// Binds to `address`, which is the value of the setting `setting`; asks for buffers of 8 MiB and takes what is given.
    ///
    /// `[::]` takes IPv4 as well. Must be called inside a tokio runtime.
    pub fn bind(address: SocketAddr, setting: &str) -> Result<Self, BindError> {
        Self::open(address).map_err(|source| BindError { address, setting: setting.to_owned(), source })
    }

    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        // Refused sizes are no failure: a small buffer only loses packets earlier.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let buffers = BufferSizes { receive: socket.recv_buffer_size()?, send: socket.send_buffer_size()? };
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        let io = tokio::net::UdpSocket::from_std(socket.into())?;
        let local = io.local_addr()?;
        if buffers.receive < SOCKET_BUFFER {
            tracing::info!(
                receive = buffers.receive,
                "the UDP receive buffer is smaller than {SOCKET_BUFFER} bytes; raise net.core.rmem_max"
            );
        }
        Ok(Self { io, state, local, buffers })
    }

    /// The address that the socket is bound to, with the port that was chosen where the setting said 0.
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The socket buffers that the kernel gave.
    pub const fn buffer_sizes(&self) -> BufferSizes {
        self.buffers
    }

    /// Waits until [`UdpSocket::try_receive`] may have something; fails when the runtime ends.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Fills `batch` with what has come; true if there may be more, [`io::ErrorKind::WouldBlock`] if there was nothing.
    pub(crate) fn try_receive(&self, batch: &mut Batch) -> io::Result<bool> {
        batch.filled = 0;
        let Batch { storage, metas, filled } = batch;
        let mut buffers = storage.chunks_exact_mut(BURST);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        let result = self.io.try_io(Interest::READABLE, || {
            *filled = self.state.recv((&self.io).into(), &mut slices, metas)?;
            // Saying so spares the call that would find the socket empty.
            if emptied(*filled) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if *filled > 0 { Ok(!emptied(*filled)) } else { result.map(|()| false) }
    }

    /// Sends all `packets` to `to`, in order and in as few calls as the kernel allows; waits while the socket is full.
    ///
    /// Refused packets are counted and never end anything: links live with loss.
    pub(crate) async fn send(&self, to: SocketAddr, packets: &[[u8; PACKET]]) -> Sent {
        let mut sent = Sent::default();
        let mut left = packets;
        while !left.is_empty() {
            // The number falls to 1 for good when a network card turns out to be unable.
            let most = self.state.max_gso_segments().clamp(1, MAX_SEGMENTS);
            let (burst, later) = left.split_at(most.min(left.len()));
            let count = burst.len() as u64;
            let result = self.io.try_io(Interest::WRITABLE, || self.try_send(to, burst));
            match result {
                Ok(()) => {
                    sent.packets += count;
                    sent.calls += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.io.writable().await.is_ok() {
                        continue;
                    }
                    sent.refused += count;
                }
                Err(_) if burst.len() > self.state.max_gso_segments() => continue,
                Err(_) => sent.refused += count,
            }
            left = later;
        }
        sent
    }

    fn try_send(&self, to: SocketAddr, burst: &[[u8; PACKET]]) -> io::Result<()> {
        // The kernel's answer to port 0 is the one by which cards refuse bursts: keep the two apart.
        if to.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let destination = match to.ip() {
            IpAddr::V4(ip) if self.local.is_ipv6() => (ip.to_ipv6_mapped(), to.port()).into(),
            _ => to,
        };
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: burst.as_flattened(),
            segment_size: Some(PACKET),
            src_ip: None,
        };
        self.state.try_send((&self.io).into(), &transmit)
    }

    /// Has ICMP errors reported by the calls of this socket, as some systems always do.
    #[cfg(test)]
    pub(crate) fn report_icmp_errors(&self) {
        self.state.enable_transport_errors((&self.io).into()).unwrap();
    }
}

/// The buffers of one receive call, reused by the next.
#[derive(Debug)]
pub(crate) struct Batch {
    storage: Box<[u8]>,
    metas: [RecvMeta; BATCH],
    filled: usize,
}

/// Datagrams of one sender that were received together, in place.
#[derive(Debug)]
pub(crate) struct Burst<'a> {
    /// Who sent them; never an IPv4-mapped address.
    pub(crate) from: SocketAddr,
    /// Those that have the size of a packet.
    pub(crate) packets: &'a mut [[u8; PACKET]],
    /// How many have another size.
    pub(crate) misfits: usize,
    /// The bytes of all.
    pub(crate) bytes: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { storage: vec![0; BATCH * BURST].into(), metas: [RecvMeta::default(); BATCH], filled: 0 }
    }

    /// The bursts of the last receive call, in order of arrival.
    pub(crate) fn bursts(&mut self) -> impl Iterator<Item = Burst<'_>> {
        let buffers = self.storage.chunks_exact_mut(BURST);
        buffers.zip(&self.metas).take(self.filled).map(|(buffer, meta)| {
            let bytes = meta.len.min(buffer.len());
            let (used, _) = buffer.split_at_mut(bytes);
            // link.size.1: any other size is dropped. All datagrams of a burst but the last have the same size.
            let (packets, misfits) = if meta.stride == PACKET {
                let (packets, tail) = used.as_chunks_mut();
                (packets, usize::from(!tail.is_empty()))
            } else {
                (Default::default(), bytes.div_ceil(meta.stride.max(1)).max(1))
            };
            Burst { from: canonical(meta.addr), packets, misfits, bytes }
        })
    }

    /// The packets of the buffer at `index`, which were handed out by [`Batch::bursts`].
    pub(crate) fn packets(&self, index: usize) -> &[[u8; PACKET]] {
        self.storage.chunks_exact(BURST).nth(index).map_or(&[], |buffer| buffer.as_chunks().0)
    }
}

/// Whether a receive call that filled so many buffers has emptied the socket; elsewhere calls fill one buffer at most.
const fn emptied(filled: usize) -> bool {
    cfg!(target_os = "linux") && filled < BATCH
}

/// The address of a sender as the network file writes it: a socket for both families sees IPv4 in IPv6 form.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => (ip, address.port()).into(),
        IpAddr::V6(_) => address,
    }
}
