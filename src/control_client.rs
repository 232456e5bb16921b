//! Asks a daemon over its control socket.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::At;
use crate::config;
use crate::control;
use crate::failure::{Failure, Kind};
use crate::output::{Document, ErrorBody};

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// A daemon that can be asked.
#[derive(Debug)]
pub(crate) struct ControlClient {
    path: PathBuf,
}

impl ControlClient {
    /// The daemon that the command line means: by its socket, its file, or the client and else the relay of this user.
    pub(crate) fn new(at: &At) -> anyhow::Result<Self> {
        let path = match (&at.control, &at.config) {
            (Some(path), _) => path.clone(),
            (None, Some(file)) => match config::control_of(file)? {
                (Some(path), _) => path,
                (None, relay) => control::default_socket(if relay { "relay" } else { "client" })?,
            },
            (None, None) => {
                let (client, relay) = (control::default_socket("client")?, control::default_socket("relay")?);
                if !client.exists() && relay.exists() { relay } else { client }
            }
        };
        Ok(Self { path })
    }

    /// Asks for a document.
    pub(crate) async fn get<T: DeserializeOwned>(&self, what: &str, patience: Duration) -> anyhow::Result<T> {
        self.ask(Method::GET, what, Bytes::new(), patience).await
    }

    /// Has the daemon do something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        what: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> anyhow::Result<T> {
        self.ask(Method::POST, what, serde_json::to_vec(body)?.into(), patience).await
    }

    /// Sets something.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        what: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> anyhow::Result<T> {
        self.ask(Method::PUT, what, serde_json::to_vec(body)?.into(), patience).await
    }

    /// The process of the daemon, where that can be seen.
    pub(crate) async fn process(&self) -> Option<u32> {
        let stream = UnixStream::connect(&self.path).await.ok()?;
        let process = stream.peer_cred().ok()?.pid()?;
        u32::try_from(process).ok().filter(|process| *process > 0)
    }

    /// Whether the daemon has ended, which had this process.
    pub(crate) async fn has_ended(&self, process: Option<u32>) -> bool {
        match process {
            // One that nobody has waited for yet has ended all the same.
            Some(process) => std::fs::read_to_string(format!("/proc/{process}/stat"))
                .ok()
                .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X'])))
                .unwrap_or(true),
            None => UnixStream::connect(&self.path).await.is_err(),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        what: &str,
        body: Bytes,
        patience: Duration,
    ) -> anyhow::Result<T> {
        let (ok, answer) =
            tokio::time::timeout(patience, self.exchange(method, what, body)).await.map_err(|_| {
                let text = format!("{} gave no answer within {} s", self.path.display(), patience.as_secs());
                Failure::new(Kind::TimedOut, text)
            })??;
        if ok {
            let document: Document<T> = serde_json::from_slice(&answer)
                .context("the daemon's answer is not understood; is it of another version?")?;
            return Ok(document.body);
        }
        match serde_json::from_slice::<Document<ErrorBody<String>>>(&answer) {
            Ok(document) => bail!("{}", document.body.error.message),
            Err(_) => {
                bail!("the daemon refused, and its answer is not understood; is it of another version?")
            }
        }
    }

    /// One request: whether it succeeded, and the answer.
    async fn exchange(&self, method: Method, what: &str, body: Bytes) -> anyhow::Result<(bool, Bytes)> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.not_connected(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(what)
            .header("host", "chive")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        // The connection ends by itself, with the exchange or by breaking, which fails the exchange.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.context("the daemon closed the connection")?;
        let ok = response.status().is_success();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let answer = answer.map_err(|error| anyhow!("the daemon's answer broke off: {error}"))?;
        Ok((ok, answer.to_bytes()))
    }

    fn not_connected(&self, error: &std::io::Error) -> anyhow::Error {
        let name = self.path.display();
        let text = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
                "no chive is running at {name}; start one (chive up, chive relay run), \
                 or name its socket with --control or its file with --config"
            ),
            ErrorKind::PermissionDenied => {
                return anyhow!("this user may not use {name}; ask as the user that runs the daemon");
            }
            _ => return anyhow!("cannot connect to {name}: {error}"),
        };
        Failure::new(Kind::NotRunning, text).into()
    }
}
