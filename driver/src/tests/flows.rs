use std::cell::Cell;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use circuit::node::{Event, FlowId};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use super::toy::{PIPE, Toy};
use super::{Memory, Running, any_port, on_one_thread, until};
use crate::flow::pump_lingering;
use crate::{Ended, pump};

/// Two TCP connections, each tied to one of two flows that the toy joins, and the tasks that pump them.
struct Pair {
    left: TcpStream,
    right: TcpStream,
    pumps: [JoinHandle<Ended>; 2],
}

/// Both ends of a TCP connection, the second of which sends into a receive buffer of this size.
async fn connection(buffer: u32) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpSocket::new_v4().unwrap();
    near.set_recv_buffer_size(buffer).unwrap();
    let (near, far) = tokio::join!(near.connect(listener.local_addr().unwrap()), listener.accept());
    let far = far.unwrap().0;
    SockRef::from(&far).set_send_buffer_size(buffer as usize).unwrap();
    (near.unwrap(), far)
}

impl Pair {
    /// The pair of flows `2 * number` and the one after it; `early` was read on the left before.
    async fn new(toy: &Running, number: u64, early: &'static [u8]) -> Self {
        Self::with_buffers(toy, number, early, 1 << 18).await
    }

    async fn with_buffers(toy: &Running, number: u64, early: &'static [u8], buffer: u32) -> Self {
        let ((left, left_inner), (right, right_inner)) = (connection(buffer).await, connection(buffer).await);
        let start = |flow, tcp, early| {
            let shared = Rc::clone(&toy.shared);
            spawn_local(async move { pump(&shared, FlowId(flow), tcp, early).await })
        };
        let pumps = [start(2 * number, left_inner, early), start(2 * number + 1, right_inner, b"")];
        Self { left, right, pumps }
    }

    async fn ended(self) -> [Ended; 2] {
        let [a, b] = self.pumps;
        [a.await.unwrap(), b.await.unwrap()]
    }
}

/// Bytes that tell their place, in blocks of odd sizes.
fn block(seed: u64, number: u64) -> Vec<u8> {
    let length = 1 + (number * 7919 + seed) % 50_000;
    let mut state = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state & 0xff) as u8
        })
        .collect()
}

/// Writes so many blocks, ends the direction, and returns their length and hash.
async fn write_all(tcp: &mut (impl tokio::io::AsyncWrite + Unpin), seed: u64, blocks: u64) -> (u64, u64) {
    let (mut length, mut hash) = (0, DefaultHasher::new());
    for number in 0..blocks {
        let bytes = block(seed, number);
        tcp.write_all(&bytes).await.unwrap();
        length += bytes.len() as u64;
        hash.write(&bytes);
    }
    tcp.shutdown().await.unwrap();
    (length, hash.finish())
}

/// Reads to the end and returns length and hash; the hash does not depend on how reads cut the bytes.
async fn read_all(tcp: &mut (impl tokio::io::AsyncRead + Unpin), seed: u64, blocks: u64) -> (u64, u64) {
    let (mut length, mut hash) = (0, DefaultHasher::new());
    for number in 0..blocks {
        let mut bytes = vec![0; block(seed, number).len()];
        tcp.read_exact(&mut bytes).await.unwrap();
        length += bytes.len() as u64;
        hash.write(&bytes);
    }
    assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);
    (length, hash.finish())
}

#[test]
fn each_direction_ends_on_its_own() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        for number in 0..2 {
            let mut pair = Pair::new(&toy, number, b"").await;
            // Which side ends first makes no difference.
            let (first, second) = if number == 0 {
                (&mut pair.left, &mut pair.right)
            } else {
                (&mut pair.right, &mut pair.left)
            };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut text = String::new();
            second.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            // Long after the end of one direction the other one still works.
            for n in 0..100_u8 {
                second.write_all(&[n]).await.unwrap();
                assert_eq!(first.read_u8().await.unwrap(), n);
            }
            second.shutdown().await.unwrap();
            assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(pair.ended().await, [Ended::InOrder; 2]);
        }
        toy.assert_nothing_wrong();
    });
}

fn is_reset(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

// circuit.stream.3
#[test]
fn a_reset_is_a_reset_on_the_other_side() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        for number in 0..2 {
            let mut pair = Pair::new(&toy, number, b"").await;
            let (mut first, mut second) = (pair.left, pair.right);
            if number == 0 {
                std::mem::swap(&mut first, &mut second);
            }
            first.write_all(b"x").await.unwrap();
            assert_eq!(second.read_u8().await.unwrap(), b'x');
            first.set_zero_linger().unwrap();
            drop(first);
            assert!(is_reset(&second.read(&mut [0]).await));
            for task in &mut pair.pumps {
                assert_eq!(task.await.unwrap(), Ended::ByReset);
            }
        }
    });
}

#[test]
fn a_reset_is_noticed_even_while_nothing_is_read() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let mut pair = Pair::new(&toy, 0, b"").await;
        let (left, mut right) = (pair.left, pair.right);
        // The right side does not read: the pipe fills, and both pumps hold bytes back.
        fill(&left, &toy).await;
        left.set_zero_linger().unwrap();
        drop(left);
        for task in &mut pair.pumps {
            assert_eq!(task.await.unwrap(), Ended::ByReset);
        }
        let mut sink = vec![0; 1 << 16];
        while let result = right.read(&mut sink).await
            && !is_reset(&result)
        {
            assert!(result.unwrap() > 0);
        }
    });
}

#[test]
fn what_a_closed_flow_left_is_delivered_to_a_slow_reader() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        // The right connection is too small for all of it, the node is not.
        let mut pair = Pair::with_buffers(&toy, 0, b"", 4096).await;
        pair.left.write_all(&vec![7; PIPE]).await.unwrap();
        pair.left.shutdown().await.unwrap();
        pair.right.shutdown().await.unwrap();
        assert_eq!(pair.left.read(&mut [0]).await.unwrap(), 0);
        until(|| pair.pumps[0].is_finished()).await;
        assert!(!pair.pumps[1].is_finished());
        toy.shared.with_node(|toy, _| toy.events.push_back(Event::Closed(FlowId(1))));
        let mut bytes = Vec::new();
        pair.right.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, vec![7; PIPE]);
        assert_eq!(pair.ended().await, [Ended::InOrder; 2]);
    });
}

#[test]
fn a_closed_flow_does_not_wait_for_a_reader_that_never_reads() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let ((left, left_inner), (_right, right_inner)) = (connection(4096).await, connection(4096).await);
        let other = Rc::clone(&toy.shared);
        spawn_local(async move { pump(&other, FlowId(0), left_inner, b"").await });
        let soon = Duration::from_millis(100);
        let pump = pump_lingering(&toy.shared, FlowId(1), right_inner, b"", soon);
        let (ended, ()) = tokio::join!(pump, async {
            fill(&left, &toy).await;
            toy.shared.with_node(|toy, _| toy.events.push_back(Event::Closed(FlowId(1))));
        });
        assert_eq!(ended, Ended::ByReset);
    });
}

#[test]
fn a_flow_that_closes_without_an_end_resets_its_connection_and_is_forgotten() {
    on_one_thread(async {
        let memory = Memory::default();
        let toy = Running::start_with(Toy::default(), any_port(), memory.clone(), std::future::pending());
        let mut pair = Pair::new(&toy, 0, b"").await;
        pair.left.write_all(b"x").await.unwrap();
        assert_eq!(pair.right.read_u8().await.unwrap(), b'x');
        toy.shared.with_node(|toy, _| toy.events.push_back(Event::Closed(FlowId(1))));
        assert!(is_reset(&pair.right.read(&mut [0]).await));
        assert!(is_reset(&pair.left.read(&mut [0]).await));
        assert_eq!(pair.ended().await, [Ended::ByReset; 2]);
        let late = Event::Readable(FlowId(1));
        toy.shared.with_node(|toy, _| toy.events.push_back(late.clone()));
        until(|| memory.0.borrow().contains(&late)).await;
    });
}

#[test]
fn a_reset_by_the_node_resets_both_connections() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let mut pair = Pair::new(&toy, 0, b"").await;
        pair.left.write_all(b"x").await.unwrap();
        assert_eq!(pair.right.read_u8().await.unwrap(), b'x');
        toy.shared.with_node(|toy, now| circuit::node::Node::flow_reset(toy, now, FlowId(0)));
        assert!(is_reset(&pair.left.read(&mut [0]).await));
        assert!(is_reset(&pair.right.read(&mut [0]).await));
        assert_eq!(pair.ended().await, [Ended::ByReset; 2]);
    });
}

#[test]
fn a_pump_that_is_dropped_resets_both_sides() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let mut pair = Pair::new(&toy, 0, b"").await;
        pair.left.write_all(b"x").await.unwrap();
        assert_eq!(pair.right.read_u8().await.unwrap(), b'x');
        pair.pumps[0].abort();
        assert!(is_reset(&pair.left.read(&mut [0]).await));
        assert!(is_reset(&pair.right.read(&mut [0]).await));
    });
}

#[test]
fn bytes_that_were_read_before_come_first() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let mut pair = Pair::new(&toy, 0, b"first, ").await;
        pair.left.write_all(b"then").await.unwrap();
        pair.left.shutdown().await.unwrap();
        let mut text = String::new();
        pair.right.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first, then");
    });
}

/// Writes to `tcp` until nothing moves any more; returns how many bytes went in.
async fn fill(tcp: &TcpStream, toy: &Running) -> u64 {
    let mut length = 0;
    let block = vec![7; 1 << 16];
    loop {
        match tokio::time::timeout(Duration::from_millis(200), tcp.writable()).await {
            Ok(writable) => writable.unwrap(),
            Err(_) => break,
        }
        if let Ok(n) = tcp.try_write(&block) {
            length += n as u64;
        }
    }
    until(|| toy.shared.look(|toy| toy.ends.values().any(|end| end.bytes.len() == PIPE))).await;
    length
}

#[test]
fn a_reader_that_is_slow_holds_the_writer_back() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let mut pair = Pair::new(&toy, 0, b"").await;
        let filled = fill(&pair.left, &toy).await;
        let read = Rc::new(Cell::new(0));
        let mut right = pair.right;
        let count = Rc::clone(&read);
        let reader = spawn_local(async move {
            let mut block = vec![0; 1 << 12];
            while let n @ 1.. = right.read(&mut block).await.unwrap() {
                assert!(block[..n].iter().all(|b| *b == 7));
                count.set(count.get() + n as u64);
                tokio::task::yield_now().await;
            }
            right.shutdown().await.unwrap();
        });
        pair.left.write_all(&vec![7; 3_000_000]).await.unwrap();
        pair.left.shutdown().await.unwrap();
        reader.await.unwrap();
        assert_eq!(read.get(), filled + 3_000_000);
        assert_eq!(pair.left.read(&mut [0]).await.unwrap(), 0);
        toy.assert_nothing_wrong();
    });
}

/// Both directions of one pair at once.
async fn exchange(pair: Pair, seed: u64, blocks: u64) {
    let Pair { mut left, mut right, pumps } = pair;
    let ((mut left_in, mut left_out), (mut right_in, mut right_out)) = (left.split(), right.split());
    let (a, b, c, d) = tokio::join!(
        write_all(&mut left_out, seed, blocks),
        read_all(&mut right_in, seed, blocks),
        write_all(&mut right_out, seed + 1, blocks),
        read_all(&mut left_in, seed + 1, blocks),
    );
    assert_eq!((a, c), (b, d));
    for task in pumps {
        assert_eq!(task.await.unwrap(), Ended::InOrder);
    }
}

#[test]
fn a_big_transfer_arrives_as_it_was_sent() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        exchange(Pair::new(&toy, 0, b"").await, 1, 2_000).await;
        toy.assert_nothing_wrong();
    });
}

#[test]
fn fifty_flows_at_once_do_not_mix() {
    on_one_thread(async {
        let toy = Running::start(Toy::default());
        let mut tasks = Vec::new();
        for number in 0..50 {
            tasks.push(spawn_local(exchange(Pair::new(&toy, number, b"").await, 100 * number, 40)));
        }
        for task in tasks {
            task.await.unwrap();
        }
        toy.assert_nothing_wrong();
    });
}
