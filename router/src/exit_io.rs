//! The exit's connections: names are resolved here, every address is checked, then TCP is tied to the flow.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use circuit::node::FlowId;
use circuit::request::{Host, ReplyCode, Target};
use driver::Shared;
use hickory_resolver::TokioResolver;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::node::RelayNode;

/// How long a name may take to resolve.
const RESOLVE_TIME: Duration = Duration::from_secs(8);
/// How long one address may take to answer.
const CONNECT_TIME: Duration = Duration::from_secs(8);
/// Addresses of one name that are tried.
const TRIED: usize = 4;

/// Makes the connections that an exit's streams ask for.
#[derive(Clone)]
pub(crate) struct Connector {
    shared: Rc<Shared<RelayNode>>,
    /// `None` where the system has no resolver configuration: then only addresses can be reached.
    resolver: Option<Rc<TokioResolver>>,
}

impl Connector {
    pub(crate) fn new(shared: Rc<Shared<RelayNode>>) -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = Duration::from_secs(3);
            options.attempts = 1;
            builder.build()
        });
        let resolver = resolver
            .inspect_err(|error| tracing::warn!("no names can be resolved, check /etc/resolv.conf: {error}"))
            .ok()
            .map(Rc::new);
        Self { shared, resolver }
    }

    /// Connects the flow to its target, tells the node, and carries the bytes until both directions have ended.
    pub(crate) async fn serve(self, flow: FlowId, target: Target) {
        match self.connect(&target).await {
            Ok(tcp) => {
                self.shared.with_node(|node, _| node.connected(flow, ReplyCode::Succeeded));
                driver::pump(&self.shared, flow, tcp, &[]).await;
            }
            Err(code) => self.shared.with_node(|node, _| node.connected(flow, code)),
        }
    }

    async fn connect(&self, target: &Target) -> Result<TcpStream, ReplyCode> {
        // circuit.exit.1: the policy is asked about every address after resolution.
        let addresses = self.resolve(&target.host).await?;
        let allowed: Vec<_> = self
            .shared
            .look(|node| addresses.into_iter().filter(|ip| node.exit_allows(*ip, target.port)).collect());
        let mut outcome = ReplyCode::NotAllowed;
        for ip in allowed.into_iter().take(TRIED) {
            let address = SocketAddr::new(ip, target.port);
            match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => outcome = code_of(&error),
                Err(_) => outcome = ReplyCode::TtlExpired,
            }
        }
        Err(outcome)
    }

    async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, ReplyCode> {
        let name = match host {
            Host::Ip(ip) => return Ok(vec![*ip]),
            Host::Name(name) => name,
        };
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        let resolver = self.resolver.as_ref().ok_or(ReplyCode::HostUnreachable)?;
        match timeout(RESOLVE_TIME, resolver.lookup_ip(name.as_str())).await {
            Ok(Ok(found)) => Ok(found.iter().collect()),
            Ok(Err(_)) | Err(_) => Err(ReplyCode::HostUnreachable),
        }
    }
}

fn code_of(error: &io::Error) -> ReplyCode {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => ReplyCode::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => ReplyCode::NetworkUnreachable,
        io::ErrorKind::HostUnreachable => ReplyCode::HostUnreachable,
        io::ErrorKind::TimedOut => ReplyCode::TtlExpired,
        _ => ReplyCode::GeneralFailure,
    }
}
