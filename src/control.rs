//! The control API of a daemon: HTTP and JSON on a Unix socket that only its owner may use.
//!
//! `GET /status`, `GET /circuits`, `POST /stop`, which tells how long circuits in use are waited for; of a client `POST /circuits/build {"count": N, "concurrency": M}`, `GET /relays`,
//! `POST /ping {"all": BOOL}` or `{"relay": ID}`, `POST /new-identity`; of a relay `PUT /price {"ask": A, "exit_ask": B}` (B may be left out),
//! `POST /reach`, which asks others to begin a link to it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use payments::amount::Rate;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::config;
use crate::failure::Kind;
use crate::keystore;
use crate::open::{self, Open};
use crate::output::{Document, ErrorBody};

/// The longest path that a Unix socket may have on Linux.
const MAX_PATH: usize = 107;
/// The most circuits of one `POST /circuits/build`, and the most at a time.
const MAX_BUILD: usize = 65_535;
/// Circuits that are built at a time: an entry takes no more from one client in one go.
const MAX_CONCURRENCY: usize = 512;

/// The daemon that answers.
#[derive(Clone, Debug)]
pub(crate) enum Daemon {
    /// A relay.
    Relay(router::driver::Handle),
    /// A client.
    Client(client::driver::Handle),
}

/// The document of `GET /status`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(crate) enum Status {
    /// A relay's.
    Relay(router::status::Status),
    /// A client's.
    Client(client::status::Status),
}

/// The document of `GET /status`, with what a daemon knows of its open network.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Whole {
    /// The daemon's own.
    #[serde(flatten)]
    pub(crate) status: Status,
    /// Of an open network only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<open::Status>,
}

/// The document of `GET /circuits`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "role", content = "circuits", rename_all = "snake_case")]
pub(crate) enum Circuits {
    /// A relay's.
    Relay(Vec<router::status::Circuit>),
    /// A client's.
    Client(Vec<client::status::Circuit>),
}

/// What `POST /circuits/build` is to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Build {
    /// How many circuits.
    pub(crate) count: usize,
    /// How many at a time.
    pub(crate) concurrency: usize,
}

/// What `POST /ping` is to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ping {
    /// Through all circuits, and not only the one heard last.
    pub(crate) all: bool,
    /// Over circuits that are built with this relay.
    pub(crate) relay: Option<String>,
}

/// The answer to `GET /relays`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Relays {
    /// All that the client knows.
    pub(crate) relays: Vec<client::status::Relay>,
}

/// The answer to `POST /ping` through circuits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echoes {
    /// One for each circuit.
    pub(crate) echoes: Vec<client::status::Echo>,
}

/// The answer to `POST /new-identity`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Renewed {
    /// Always true.
    pub(crate) renewed: bool,
}

/// What `PUT /price` is to do: wei for a cell.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPrice {
    /// For carrying it on.
    pub(crate) ask: u64,
    /// For serving it as an exit; as before if it is left out.
    pub(crate) exit_ask: Option<u64>,
}

/// What a relay asks for a cell, in wei; the answer to `PUT /price`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Price {
    /// For carrying it on.
    pub(crate) ask: u64,
    /// For serving it as an exit.
    pub(crate) exit_ask: u64,
}

/// The answer to `POST /reach`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// How many relays were asked to begin a link.
    pub(crate) asked: usize,
}

/// The answer to `POST /stop`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stopping {
    /// Always true.
    pub(crate) stopping: bool,
    /// For how many seconds it waits at most for circuits in use, unless it is asked again.
    #[serde(default)]
    pub(crate) drain_s: u64,
}

impl Daemon {
    /// Asks it to stop.
    pub(crate) fn stop(&self) {
        match self {
            Self::Relay(handle) => handle.stop(),
            Self::Client(handle) => handle.stop(),
        }
    }

    async fn status(&self) -> Option<Status> {
        match self {
            Self::Relay(handle) => handle.status().await.map(Status::Relay),
            Self::Client(handle) => handle.status().await.map(Status::Client),
        }
    }

    async fn circuits(&self) -> Option<Circuits> {
        match self {
            Self::Relay(handle) => handle.circuits().await.map(Circuits::Relay),
            Self::Client(handle) => handle.circuits().await.map(Circuits::Client),
        }
    }
}

/// The control socket that is used when nothing else is said: in the user's runtime folder.
pub(crate) fn default_socket(of: &str) -> anyhow::Result<PathBuf> {
    let name = format!("{of}.sock");
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => Ok(PathBuf::from(folder).join("chive").join(name)),
        _ => {
            let user = fs::metadata("/proc/self").context("cannot find out which user this is")?.uid();
            Ok(PathBuf::from(format!("/tmp/chive-{user}")).join(name))
        }
    }
}

/// The control API's socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl Control {
    /// Opens the socket; the file of a daemon that is gone is replaced.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        if path.as_os_str().len() > MAX_PATH {
            bail!(
                "the path of the control socket {name} is longer than {MAX_PATH} bytes; change the setting `control`"
            );
        }
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        keystore::private_folder(folder)?;
        let (mode, owner) = fs::metadata(folder).map(|folder| (folder.mode(), folder.uid()))?;
        let user = fs::metadata("/proc/self").map_or(owner, |own| own.uid());
        if mode & 0o077 != 0 || owner != user {
            bail!(
                "others may enter the folder {0} of the control socket; chmod 700 {0}, or change the setting `control`",
                folder.display()
            );
        }
        match StdUnixStream::connect(path) {
            Ok(_) => bail!(
                "another chive answers on {name}; stop it (chive stop --control {name}), or change the setting `control`"
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(path)
                    .with_context(|| format!("cannot remove the old control socket {name}"))?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot use the control socket {name}")),
        }
        let listener = UnixListener::bind(path).with_context(|| {
            format!("cannot open the control socket {name}; change the setting `control`")
        })?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener: Some(listener), path: path.to_owned() })
    }

    /// Where the socket is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers requests until the future is dropped.
    ///
    /// `open` is the daemon's part in an open network; its circuits are waited for as long as `drain` when it is to stop.
    pub(crate) async fn serve(
        &mut self,
        daemon: Daemon,
        open: Option<Open>,
        drain: Duration,
    ) -> anyhow::Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        Ok(axum::serve(listener, routes(daemon, open, drain)).await?)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn routes(daemon: Daemon, open: Option<Open>, drain: Duration) -> Router {
    let directory = open.clone();
    let asked = Arc::new(AtomicBool::new(false));
    Router::new()
        .route("/reach", post(async move |State(daemon): State<Daemon>| reach(daemon, directory).await))
        .route("/status", get(async move |State(daemon): State<Daemon>| status(daemon, open).await))
        .route("/circuits", get(circuits))
        .route("/circuits/build", post(build))
        .route("/relays", get(relays))
        .route("/ping", post(ping))
        .route("/new-identity", post(new_identity))
        .route("/price", put(price))
        .route("/stop", post(async move |State(daemon): State<Daemon>| stop(&daemon, &asked, drain)))
        .fallback(async || error(StatusCode::NOT_FOUND, Kind::Usage, "there is no such path"))
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, Kind::Usage, "this path takes another method")
        })
        .with_state(daemon)
}

async fn status(daemon: Daemon, open: Option<Open>) -> Response {
    let status = daemon.status().await;
    answer(status.map(|status| Whole { status, directory: open.as_ref().map(Open::status) }))
}

async fn circuits(State(daemon): State<Daemon>) -> Response {
    answer(daemon.circuits().await)
}

async fn build(State(daemon): State<Daemon>, wanted: Result<Json<Build>, JsonRejection>) -> Response {
    let wanted = match wanted {
        Ok(Json(wanted)) => wanted,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, Kind::Usage, &rejection.body_text()),
    };
    if !(1..=MAX_BUILD).contains(&wanted.count) || !(1..=MAX_CONCURRENCY).contains(&wanted.concurrency) {
        return error(
            StatusCode::BAD_REQUEST,
            Kind::Usage,
            "count must be from 1 to 65535, and concurrency from 1 to 512",
        );
    }
    match daemon {
        Daemon::Client(handle) => answer(handle.build(wanted.count, wanted.concurrency).await),
        Daemon::Relay(_) => {
            error(StatusCode::BAD_REQUEST, Kind::Usage, "a relay builds no circuits; ask a client")
        }
    }
}

fn only_clients() -> Response {
    error(
        StatusCode::BAD_REQUEST,
        Kind::Usage,
        "a relay has no paths of its own; ask a client, by --control or --config",
    )
}

async fn relays(State(daemon): State<Daemon>) -> Response {
    let Daemon::Client(handle) = daemon else { return only_clients() };
    answer(handle.relays().await.map(|relays| Relays { relays }))
}

async fn new_identity(State(daemon): State<Daemon>) -> Response {
    let Daemon::Client(handle) = daemon else { return only_clients() };
    answer(handle.new_identity().await.map(|()| Renewed { renewed: true }))
}

async fn ping(State(daemon): State<Daemon>, wanted: Result<Json<Ping>, JsonRejection>) -> Response {
    let wanted = match wanted {
        Ok(Json(wanted)) => wanted,
        Err(rejection) => return error(StatusCode::BAD_REQUEST, Kind::Usage, &rejection.body_text()),
    };
    let Daemon::Client(handle) = daemon else { return only_clients() };
    let Some(relay) = wanted.relay else {
        return answer(handle.ping(wanted.all).await.map(|echoes| Echoes { echoes }));
    };
    match config::relay_id(&relay) {
        Some(relay) => answer(handle.probe(relay).await),
        None => error(StatusCode::BAD_REQUEST, Kind::Usage, "a relay is named by 64 hexadecimal digits"),
    }
}

async fn price(State(daemon): State<Daemon>, wanted: Result<Json<SetPrice>, JsonRejection>) -> Response {
    let refused = |why: &str| error(StatusCode::BAD_REQUEST, Kind::Usage, why);
    let wanted = match wanted {
        Ok(Json(wanted)) => wanted,
        Err(rejection) => return refused(&rejection.body_text()),
    };
    for ask in [Some(wanted.ask), wanted.exit_ask].into_iter().flatten().map(Rate) {
        if ask.encode().is_none() {
            let (ask, near) = (ask.0, ask.round_up().0);
            return refused(&format!(
                "{ask} wei has more than 24 significant bits; the nearest price is {near}"
            ));
        }
    }
    let Daemon::Relay(handle) = daemon else {
        return refused("a client asks no price; ask a relay, by --control or --config");
    };
    match handle.set_asks(wanted.ask, wanted.exit_ask).await {
        Some(Some(asks)) => answer(Some(Price { ask: asks.forward, exit_ask: asks.exit })),
        Some(None) => refused("this network is free: there are no prices"),
        None => answer::<Price>(None),
    }
}

async fn reach(daemon: Daemon, open: Option<Open>) -> Response {
    let (Daemon::Relay(relay), Some(open)) = (daemon, open) else {
        let why = "only a relay of an open network can ask others whether they reach it";
        return error(StatusCode::BAD_REQUEST, Kind::Usage, why);
    };
    let Some(linked) = relay.neighbours().await else { return answer::<Asked>(None) };
    answer(Some(Asked { asked: open.swarm().be_called(linked).await }))
}

/// Asks the daemon to stop; `asked` is whether it was asked before, and then it waits for nothing.
fn stop(daemon: &Daemon, asked: &AtomicBool, drain: Duration) -> Response {
    daemon.stop();
    let drain_s = if asked.swap(true, Ordering::Relaxed) { 0 } else { drain.as_secs() };
    if drain_s > 0 {
        tracing::info!("asked to stop: it ends when nothing has passed for 2 s, at most after {drain_s} s");
    } else {
        tracing::info!("asked to stop");
    }
    answer(Some(Stopping { stopping: true, drain_s }))
}

fn answer<T: Serialize>(body: Option<T>) -> Response {
    match body {
        Some(body) => Json(Document::new(body)).into_response(),
        None => error(StatusCode::SERVICE_UNAVAILABLE, Kind::NotRunning, "the daemon is stopping"),
    }
}

fn error(status: StatusCode, kind: Kind, message: &str) -> Response {
    (status, Json(ErrorBody::new(kind, message.to_owned()))).into_response()
}
