//! How much a relay carries, and its end: the month's traffic, draining, and the moment to stop.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use driver::Shared;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::node::RelayNode;
use crate::quota::Quota;
use crate::status::{Load, Monthly};

const NAME: &str = "traffic";
/// How often the month's traffic is looked at, and written down.
const BEAT: Duration = Duration::from_secs(15);
/// Circuits that have carried nothing for so long are not waited for at the end.
const QUIET: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

/// The month's traffic, with its note on disk.
#[derive(Debug)]
pub(crate) struct Traffic {
    quota: Quota,
    path: PathBuf,
    /// What the node had carried when it was looked at last.
    carried: u64,
}

impl Traffic {
    /// Goes on with what is noted in `folder`.
    pub(crate) fn open(folder: &Path, mut quota: Quota) -> io::Result<Self> {
        let path = folder.join(NAME);
        match fs::read_to_string(&path) {
            Ok(text) if quota.restore(&text) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() != io::ErrorKind::InvalidData => return Err(error),
            _ => tracing::warn!("the note of the month's traffic is damaged: it is counted from 0 again"),
        }
        let traffic = Self { quota, path, carried: 0 };
        traffic.keep()?;
        Ok(traffic)
    }

    /// Takes note of what has been carried in all.
    fn count(&mut self, unix: u64, carried: u64) {
        self.quota.add(unix, carried.saturating_sub(self.carried));
        self.carried = carried;
    }

    /// Writes the note; it is with the kernel when this returns.
    fn keep(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(self.quota.to_text().as_bytes())?;
        fs::rename(&new, &self.path)
    }

    fn monthly(&self) -> Monthly {
        let (used, cap) = self.quota.used();
        Monthly { used, cap, resets: self.quota.ends() }
    }
}

/// Whether the note of the month's traffic in `folder` can be read; also if there is none.
pub fn traffic_is_whole(folder: &Path) -> io::Result<bool> {
    match fs::read_to_string(folder.join(NAME)) {
        Ok(text) => Ok(Quota::new(0, 1, 0).restore(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
        Err(error) => Err(error),
    }
}

/// Watches over a relay until it is to end.
#[derive(Debug)]
pub(crate) struct Watchman {
    pub(crate) shared: Rc<Shared<RelayNode>>,
    /// How often the relay was asked to stop.
    pub(crate) stopped: watch::Receiver<u32>,
    /// How long circuits in use are waited for.
    pub(crate) drain: Duration,
    pub(crate) traffic: Option<Traffic>,
    pub(crate) tells: watch::Sender<Load>,
}

impl Watchman {
    /// Returns when the relay is to end.
    pub(crate) async fn watch(mut self) {
        let mut stopped = self.stopped.clone();
        let mut asked = std::pin::pin!(asked(&mut stopped, 1));
        // When the circuits of a month that is over are ended.
        let mut last_call: Option<Instant> = None;
        loop {
            self.look(&mut last_call);
            tokio::select! {
                biased;
                () = &mut asked => break,
                () = sleep(BEAT), if self.traffic.is_some() => {}
            }
        }
        self.set_draining(true);
        let mut again = self.stopped.clone();
        tokio::select! {
            biased;
            () = self::asked(&mut again, 2) => {}
            () = sleep(self.drain) => {}
            () = quiet(&self.shared) => {}
        }
        self.look(&mut None);
        self.shared.with_node(RelayNode::leave);
    }

    /// Counts the month's traffic, and drains or resumes as it says.
    fn look(&mut self, last_call: &mut Option<Instant>) {
        let Some(traffic) = &mut self.traffic else { return };
        let carried = self.shared.look(RelayNode::carried);
        traffic.count(driver::now().unix(), carried);
        if let Err(error) = traffic.keep() {
            tracing::warn!("the month's traffic cannot be noted: {error}");
        }
        let (spent, monthly) = (traffic.quota.is_spent(), traffic.monthly());
        self.tells.send_if_modified(|load| load.monthly.replace(monthly) != Some(monthly));
        let draining = self.tells.borrow().draining;
        if spent && !draining {
            tracing::warn!("the month's traffic is used up: no new circuits are taken until the next month");
            *last_call = Some(Instant::now() + self.drain);
            self.set_draining(true);
        } else if spent && last_call.take_if(|at| *at <= Instant::now()).is_some() {
            self.shared.with_node(RelayNode::end_circuits);
        } else if !spent && draining && *self.stopped.borrow() == 0 {
            tracing::info!("a new month has begun: circuits are taken again");
            self.set_draining(false);
        }
    }

    fn set_draining(&self, draining: bool) {
        self.shared.with_node(|node, now| if draining { node.drain(now) } else { node.resume(now) });
        self.tells.send_modify(|load| load.draining = draining);
    }
}

/// Waits until the relay was asked to stop so often.
async fn asked(stopped: &mut watch::Receiver<u32>, times: u32) {
    // A handle that is gone can no longer ask to stop: then the relay runs on.
    if stopped.wait_for(|asked| *asked >= times).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until no circuit is in use.
async fn quiet(shared: &Shared<RelayNode>) {
    let look = || shared.look(|node| (node.relay().circuits(), node.carried()));
    let (_, mut carried) = look();
    let mut until = Instant::now() + QUIET;
    loop {
        let (circuits, now_carried) = look();
        if circuits == (0, 0) || Instant::now() >= until {
            return;
        }
        if now_carried != carried {
            (carried, until) = (now_carried, Instant::now() + QUIET);
        }
        sleep_until(until.min(Instant::now() + LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_survives_a_restart_and_damage_is_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let quota = || Quota::new(1_000, 1, 1_800_000_000);
        let mut traffic = Traffic::open(folder.path(), quota()).unwrap();
        traffic.count(1_800_000_000, 300);
        traffic.count(1_800_000_001, 500);
        traffic.keep().unwrap();
        let traffic = Traffic::open(folder.path(), quota()).unwrap();
        assert_eq!(traffic.monthly().used, 500);
        fs::write(folder.path().join(NAME), "?").unwrap();
        assert_eq!(Traffic::open(folder.path(), quota()).unwrap().monthly().used, 0);
        assert!(Traffic::open(&folder.path().join("none"), quota()).is_err());
    }
}
