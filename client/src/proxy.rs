//! The SOCKS5 listener: applications on one side, streams of the node on the other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use circuit::node::{FlowId, Node as _};
use circuit::request::{ReplyCode, Target};
use driver::Shared;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::node::ClientNode;
use crate::socks::{Credentials, Socks, Step, reply};

/// How long an application may take to say what it wants.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// How long an application is listened to after it was sent away, so that it reads why.
const LINGER: Duration = Duration::from_secs(1);
/// Applications that may be connected at once.
const MAX_APPLICATIONS: usize = 4096;
/// How long to wait when the system has no descriptor for one more connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers of exits on their way to the applications that wait for them.
pub(crate) type Answers = Rc<RefCell<HashMap<FlowId, oneshot::Sender<ReplyCode>>>>;

/// Takes applications in.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) shared: Rc<Shared<ClientNode>>,
    pub(crate) answers: Answers,
}

/// What an application asked for.
struct Wanted {
    target: Target,
    credentials: Option<Credentials>,
    leftover: Vec<u8>,
}

impl Proxy {
    /// Accepts applications for ever.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let room = Arc::new(tokio::sync::Semaphore::new(MAX_APPLICATIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, _)) => {
                    let proxy = self.clone();
                    tokio::task::spawn_local(async move {
                        // A broken connection has nobody to be told.
                        let _ = proxy.application(tcp).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept an application: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn application(self, mut tcp: TcpStream) -> io::Result<()> {
        let wanted = match timeout(HANDSHAKE, negotiate(&mut tcp)).await {
            Ok(wanted) => wanted?,
            Err(_) => return Ok(()),
        };
        let Some(wanted) = wanted else { return Ok(()) };
        let (sender, answered) = oneshot::channel();
        let flow = self.shared.with_node(|node, now| {
            let flow = node.open(now, wanted.credentials, wanted.target);
            self.answers.borrow_mut().insert(flow, sender);
            flow
        });
        let mut asked = Asked { proxy: &self, flow, carried: false };
        let code = tokio::select! {
            code = answered => code.unwrap_or(ReplyCode::GeneralFailure),
            // An application that leaves while it waits needs no stream.
            () = gone(&tcp) => return Ok(()),
        };
        tcp.set_nodelay(true)?;
        tcp.write_all(&reply(code)).await?;
        if code != ReplyCode::Succeeded {
            return linger(tcp).await;
        }
        asked.carried = true;
        driver::pump(&self.shared, flow, tcp, &wanted.leftover).await;
        Ok(())
    }
}

/// A request in the node; given up when dropped before a pump carries it.
struct Asked<'a> {
    proxy: &'a Proxy,
    flow: FlowId,
    carried: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.proxy.answers.borrow_mut().remove(&self.flow);
        if !self.carried {
            self.proxy.shared.with_node(|node, now| node.flow_reset(now, self.flow));
        }
    }
}

/// Resolves when the application has broken its connection; ending its own direction is not leaving.
async fn gone(tcp: &TcpStream) {
    // An error of the wait itself is one of the connection.
    let _ = tcp.ready(Interest::ERROR).await;
}

/// Speaks SOCKS5 until the application's wish is known; `None` if it was sent away.
async fn negotiate(tcp: &mut TcpStream) -> io::Result<Option<Wanted>> {
    let mut socks = Socks::new();
    let mut buffer = [0; 1024];
    let mut length = 0;
    loop {
        let mut step = socks.feed(buffer.get(..length).unwrap_or_default());
        while let Step::Send(bytes) = step {
            tcp.write_all(&bytes).await?;
            step = socks.feed(&[]);
        }
        match step {
            Step::More | Step::Send(_) => {}
            Step::Request { target, credentials, leftover } => {
                return Ok(Some(Wanted { target, credentials, leftover }));
            }
            Step::Close(last_words) => {
                if let Some(bytes) = last_words {
                    tcp.write_all(&bytes).await?;
                }
                let _ = tcp.shutdown().await;
                drain(tcp).await;
                return Ok(None);
            }
        }
        length = tcp.read(&mut buffer).await?;
        if length == 0 {
            return Ok(None);
        }
    }
}

/// Ends our direction, and throws away what still comes: closing at once could lose the answer in a reset.
async fn linger(mut tcp: TcpStream) -> io::Result<()> {
    tcp.shutdown().await?;
    drain(&mut tcp).await;
    Ok(())
}

async fn drain(tcp: &mut TcpStream) {
    let mut buffer = [0; 1024];
    let _ = timeout(LINGER, async { while tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) {} }).await;
}
