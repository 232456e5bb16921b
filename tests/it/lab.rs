//! Hosts in network namespaces, joined by a bridge; all of it goes when dropped.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::processes::{eventually, text};

static LABS: AtomicU32 = AtomicU32::new(0);

/// The hosts.
pub(crate) struct Lab {
    name: String,
    hosts: Vec<Host>,
}

/// One of them.
pub(crate) struct Host {
    /// Its namespace.
    name: String,
    pub(crate) address: Ipv4Addr,
}

/// A running record of all that a host's card sends and receives.
pub(crate) struct Capture {
    tcpdump: Child,
    log: PathBuf,
    file: PathBuf,
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

/// Without it the kernel itself has nothing to say.
fn without_ipv6(namespace: &str) {
    for setting in ["all", "default"] {
        let setting = format!("net.ipv6.conf.{setting}.disable_ipv6=1");
        run(&["ip", "netns", "exec", namespace, "sysctl", "-qw", &setting]);
    }
}

impl Lab {
    /// Hosts 10.77.0.1 and so on; names are resolved at `resolver`. No card joins or splits packets.
    pub(crate) fn new(hosts: u8, resolver: Ipv4Addr) -> Self {
        Self::of(hosts, resolver, |number| (Ipv4Addr::new(10, 77, 0, number), 24))
    }

    /// Hosts at addresses of the public internet, 93.1.0.1, 93.2.0.1 and so on, which reach each other without a router; the
    /// neighbours are in one /16.
    pub(crate) fn spread(hosts: u8, resolver: Ipv4Addr, neighbours: [u8; 2]) -> Self {
        let [one, other] = neighbours;
        let place = |number| if number == other { [93, one, 0, 2] } else { [93, number, 0, 1] };
        Self::of(hosts, resolver, |number| (place(number).into(), 8))
    }

    fn of(hosts: u8, resolver: Ipv4Addr, place: impl Fn(u8) -> (Ipv4Addr, u8)) -> Self {
        // Unique on this machine, and short enough for everything.
        let name = format!("chive{}x{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let mut lab = Self { name, hosts: Vec::new() };
        run(&["ip", "netns", "add", &lab.name]);
        without_ipv6(&lab.name);
        run(&["ip", "-n", &lab.name, "link", "add", "bridge0", "type", "bridge"]);
        run(&["ip", "-n", &lab.name, "link", "set", "bridge0", "up"]);
        for number in 1..=hosts {
            lab.add(number, resolver, place(number));
        }
        lab
    }

    fn add(&mut self, number: u8, resolver: Ipv4Addr, (address, prefix): (Ipv4Addr, u8)) {
        let host = Host { name: format!("{}h{number}", self.name), address };
        let (hub, port) = (self.name.clone(), format!("port{number}"));
        run(&["ip", "netns", "add", &host.name]);
        // From here on dropping the lab removes it.
        self.hosts.push(Host { name: host.name.clone(), ..host });
        // Programs that `ip netns exec` starts find this in the place of /etc/resolv.conf.
        let folder = host.settings();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("resolv.conf"), format!("nameserver {resolver}\n")).unwrap();
        without_ipv6(&host.name);
        run(&[
            "ip", "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &host.name,
        ]);
        let offloads = ["tx-udp-segmentation", "gso", "gro", "tso"].map(|offload| [offload, "off"]);
        for (namespace, card) in [(&hub, port.as_str()), (&host.name, "eth0")] {
            let ethtool = ["ip", "netns", "exec", namespace, "ethtool", "-K", card];
            run(&[&ethtool[..], offloads.as_flattened()].concat());
            run(&["ip", "-n", namespace, "link", "set", card, "multicast", "off", "up"]);
        }
        run(&["ip", "-n", &hub, "link", "set", &port, "master", "bridge0"]);
        run(&["ip", "-n", &host.name, "link", "set", "lo", "up"]);
        run(&["ip", "-n", &host.name, "addr", "add", &format!("{address}/{prefix}"), "dev", "eth0"]);
    }

    /// Plugs a host's cable in, or out.
    pub(crate) fn set_cable(&self, number: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        run(&["ip", "-n", &self.name, "link", "set", &format!("port{number}"), state]);
    }

    /// A host by its number; numbers begin at 1.
    pub(crate) fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = fs::remove_dir_all(host.settings());
            let _ = Command::new("ip").args(["netns", "del", &host.name]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        // Only if it was made for this and is empty again.
        let _ = fs::remove_dir("/etc/netns");
    }
}

impl Host {
    fn settings(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    /// A command, to be run on this host.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let mut here = Command::new("ip");
        here.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        // Variables that were taken away have no value.
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => here.env(name, value),
                None => here.env_remove(name),
            };
        }
        here
    }

    /// Does something on this host: the sockets that are made stay here.
    pub(crate) fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                what()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Records everything on the host's card, into files in `folder`.
    pub(crate) fn capture(&self, folder: &Path) -> Capture {
        let (file, log) =
            (folder.join(format!("{}.pcap", self.name)), folder.join(format!("{}.log", self.name)));
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", "eth0", "-n", "-U", "-s", "0", "-B", "65536", "-Z", "root", "-w"]).arg(&file);
        let mut tcpdump = self.command(&tcpdump);
        let tcpdump = tcpdump.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let capture = Capture { tcpdump, log, file };
        eventually("tcpdump listens", || capture.said("listening on").then_some(()));
        capture
    }
}

impl Capture {
    fn said(&self, what: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(what)
    }

    /// Ends it; all frames, none of which was lost.
    pub(crate) fn frames(mut self) -> Vec<Vec<u8>> {
        // What was sent last is on its way through the kernel's buffer.
        thread::park_timeout(Duration::from_millis(500));
        let id = self.tcpdump.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        self.tcpdump.wait().unwrap();
        assert!(self.said("\n0 packets dropped by kernel"), "{}", fs::read_to_string(&self.log).unwrap());
        frames(&fs::read(&self.file).unwrap())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// The frames of a pcap file of this machine's byte order.
fn frames(pcap: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_ne_bytes(pcap[at..at + 4].try_into().unwrap());
    assert!([0xa1b2_c3d4, 0xa1b2_3c4d].contains(&word(0)) && word(20) == 1, "no capture of an Ethernet card");
    let (mut frames, mut at) = (Vec::new(), 24);
    while at < pcap.len() {
        let (kept, length) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(kept, length, "a frame was cut");
        frames.push(pcap[at + 16..at + 16 + kept].to_vec());
        at += 16 + kept;
    }
    frames
}
