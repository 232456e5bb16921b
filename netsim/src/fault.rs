//! What befalls hosts.

use circuit::seen::SeenSetups;

use crate::host::{HostId, Program, Running};
use crate::sim::Sim;

/// What a host still has after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Its log of replay tags.
    Kept,
    /// Only its configuration.
    Lost,
}

impl Sim {
    /// Ends the node of a host without a word; its connections are gone.
    pub fn kill(&mut self, id: HostId) {
        let host = self.host_mut(id);
        host.running = None;
        host.frozen = None;
        host.armed = None;
        host.apps.clear();
        host.connections.clear();
    }

    /// Stops a node; what comes waits in its socket, as much as that holds.
    pub fn freeze(&mut self, id: HostId) {
        self.host_mut(id).frozen.get_or_insert_default();
    }

    /// Lets a frozen node go on.
    pub fn thaw(&mut self, id: HostId) {
        let address = self.host(id).address;
        let Some(waiting) = self.host_mut(id).frozen.take() else {
            return;
        };
        self.host_mut(id).armed = None;
        for (from, packet) in waiting.packets {
            self.arrive(from, address, packet);
        }
        for (connection, signal) in waiting.signals {
            self.take_signal(connection, signal);
        }
        self.drive(id);
    }

    /// Starts the program of a host anew, killing what runs.
    ///
    /// # Panics
    ///
    /// When a test has made the node itself.
    pub fn restart(&mut self, id: HostId, disk: Disk) {
        self.kill(id);
        let (now, seed) = (self.now(), self.draw());
        let host = self.host_mut(id);
        if disk == Disk::Lost {
            host.log.clear();
            host.guards.clear();
        }
        let running = match &host.program {
            Program::Relay(relay) => {
                let minute = u32::try_from(now.unix() / 60).unwrap_or(u32::MAX);
                let seen = match disk {
                    Disk::Kept => SeenSetups::restored(host.log.iter().copied()),
                    Disk::Lost => SeenSetups::lost(minute),
                };
                Running::Relay(Box::new(relay.start(seen, &host.disk, seed)))
            }
            Program::Client(client) => {
                Running::Client(Box::new(client.start(now, &host.disk, &host.guards, seed)))
            }
            Program::Foreign => panic!("a node that a test has made is restarted by that test"),
        };
        self.host_mut(id).running = Some(running);
        self.drive(id);
    }
}
