//! Requests and answers on a stream, those of set synchronisation and calls: the bytes, up to a limit, to the stream's end.

use std::io;

use libp2p::StreamProtocol;
use libp2p::futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::request_response;

use crate::exchange::{MAX_ANSWER, MAX_REQUEST};

/// Cuts nothing: what the bytes mean is the exchange's to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec {
    /// The longest request, and the longest answer.
    request: usize,
    answer: usize,
}

impl Codec {
    /// Of set synchronisation.
    pub(super) const SETS: Self = Self { request: MAX_REQUEST, answer: MAX_ANSWER };
    /// Of calls: nothing, and a byte.
    pub(super) const CALLS: Self = Self { request: 0, answer: 1 };
}

/// Reads to the end of the stream.
// directory.swarm.2
pub(super) async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take((most as u64).saturating_add(1)).read_to_end(&mut bytes).await?;
    if bytes.len() > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a longer message than any honest peer sends",
        ));
    }
    Ok(bytes)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.request).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.answer).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }
}

#[cfg(test)]
mod tests {
    use libp2p::futures::executor::block_on;
    use libp2p::futures::io::Cursor;

    use super::*;

    // directory.swarm.2
    #[test]
    fn what_is_longer_than_the_limit_is_not_read() {
        for length in 0..=8 {
            let bytes = vec![7; length];
            assert_eq!(block_on(read(&mut Cursor::new(&bytes), 8)).unwrap(), bytes);
        }
        let error = block_on(read(&mut Cursor::new(vec![7; 9]), 8)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // An endless stream is left after the limit.
        assert!(block_on(read(&mut libp2p::futures::io::repeat(1), 1000)).is_err());
    }
}
