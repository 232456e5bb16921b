//! Whole directories on the loopback interface: they meet, lose members, and meet those who mean no good.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use circuit::keys::NetworkId;
use libp2p::futures::StreamExt as _;
use libp2p::gossipsub::PublishError;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use rand_core::SeedableRng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::descriptor::{Descriptor, EPOCH_SECONDS, epoch};
use crate::sample::{NETWORK, chain, descriptor, identity, payment};
use crate::swarm::behaviour::{Behaviour, BehaviourEvent, topic};
use crate::swarm::place::multiaddr;
use crate::view::Share;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_mins(2);
const EVERY: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "sockets live in real time")]
fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Now { instant: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap() }
}

/// The registry of the relays 1 to `relays`.
fn registry(relays: u8) -> Arc<Registry> {
    let mut registry = Registry::default();
    for n in 1..=relays {
        registry.apply(n.into(), payment(n).owner, identity(n).id(), true).unwrap();
        registry.set_bond(payment(n).owner, chain().minimum_bond);
    }
    Arc::new(registry)
}

fn describe(n: u8, at: SocketAddr) -> SignedDescriptor {
    let unix = now().unix();
    let described = Descriptor {
        sequence: 1,
        issued: unix - 10,
        expires: unix + EPOCH_SECONDS / 2,
        first_epoch: epoch(unix),
        addresses: vec![SocketAddr::new(at.ip(), 4433)],
        gossip_port: at.port(),
        payment: Some(payment(n)),
        ..descriptor(n)
    };
    SignedDescriptor::sign(described, &identity(n)).unwrap()
}

struct Lab {
    registry: watch::Sender<Arc<Registry>>,
    limits: Limits,
}

struct Relay {
    at: SocketAddr,
    handle: Handle,
}

impl Lab {
    fn new(relays: u8) -> Self {
        Self { registry: watch::Sender::new(registry(relays)), limits: Limits::default() }
    }

    fn settings(&self, seed: u8, listen: Vec<SocketAddr>, bootstrap: &[SocketAddr]) -> Settings {
        Settings {
            identity: identity(seed),
            listen,
            bootstrap: bootstrap.iter().map(ToString::to_string).collect(),
            view: View::new(NETWORK).with_chain(chain()),
            registry: self.registry.subscribe(),
            every: EVERY,
            limits: self.limits,
            random: Random::from_seed([seed; 32]),
            now,
        }
    }

    /// Starts the relay `n`, and publishes its descriptor.
    async fn relay(&self, n: u8, bootstrap: &[SocketAddr]) -> Relay {
        // A descriptor names the port before it is bound.
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let handle = start(self.settings(n, vec![at], bootstrap)).unwrap();
        handle.publish(describe(n, at)).await.unwrap();
        Relay { at, handle }
    }

    fn client(&self, seed: u8, bootstrap: &[SocketAddr]) -> Handle {
        start(self.settings(seed, vec![], bootstrap)).unwrap()
    }
}

// directory.swarm.7
#[tokio::test]
async fn private_addresses_are_dialed_on_local_networks_only() {
    for local in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keys = Keypair::ed25519_from_bytes(*identity(100).expose().expose()).unwrap();
        let behaviour = Behaviour::new(&keys, NETWORK, false, Limits::default(), registry(0)).unwrap();
        let mut swarm = task::build(keys, behaviour, PATIENCE, local).unwrap();
        swarm.dial(dial(listener.local_addr().unwrap())).unwrap();
        let refused = async {
            while !matches!(swarm.select_next_some().await, SwarmEvent::OutgoingConnectionError { .. }) {}
        };
        let dialed = async {
            tokio::select! {
                accepted = listener.accept() => accepted.is_ok(),
                () = refused => false,
            }
        };
        assert_eq!(timeout(PATIENCE, dialed).await, Ok(local));
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, waited).await.is_ok(), "not in time: {what}");
}

async fn knows(handle: &Handle, relays: usize) {
    let mut views = handle.views();
    let full = timeout(PATIENCE, views.wait_for(|view| view.iter().len() == relays)).await;
    assert!(full.is_ok(), "{:?}", handle.status());
}

/// A peer that speaks all protocols and does what a test wants of it.
fn raw(seed: u8) -> libp2p::Swarm<Behaviour> {
    let keys = Keypair::ed25519_from_bytes(*identity(seed).expose().expose()).unwrap();
    let behaviour = Behaviour::new(&keys, NETWORK, true, Limits::default(), registry(0)).unwrap();
    task::build(keys, behaviour, PATIENCE, true).unwrap()
}

fn dial(at: SocketAddr) -> DialOpts {
    DialOpts::unknown_peer_id().address(multiaddr(at)).allocate_new_port().build()
}

#[tokio::test]
async fn relays_and_clients_find_each_other_from_one_address_and_a_late_one_reaches_all() {
    let lab = Lab::new(6);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let mut all = vec![first.handle.clone()];
            for n in 2..=5 {
                all.push(lab.relay(n, &[first.at]).await.handle);
            }
            all.extend([lab.client(101, &[first.at]), lab.client(102, &[first.at])]);
            for handle in &all {
                knows(handle, 5).await;
            }
            let late = lab.relay(6, &[first.at]).await;
            all.push(late.handle);
            for handle in &all {
                knows(handle, 6).await;
                let status = handle.status();
                assert_eq!((status.left, status.trouble), (0, None));
            }
            let status = all[5].status();
            assert!(
                status.exchanges > 0 && status.last_exchange > 0 && status.listen.is_empty(),
                "{status:?}"
            );
            // Who is reached learns it, and where others see it.
            assert_eq!((status.inbound, status.last_inbound), (0, 0), "a client");
            let status = first.handle.status();
            assert!(status.inbound >= 3 && status.last_inbound > 0, "{status:?}");
            assert_eq!(status.seen_at, Some(first.at.ip()));
        })
        .await;
}

#[tokio::test]
async fn the_bootstrap_relay_dies_and_the_network_lives_on() {
    let lab = Lab::new(6);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let mut relays = Vec::new();
            for n in 2..=5 {
                relays.push(lab.relay(n, &[first.at]).await);
            }
            let old = lab.client(101, &[first.at]);
            for handle in relays.iter().map(|relay| &relay.handle).chain([&old]) {
                knows(handle, 5).await;
            }
            let dead = first.at;
            drop(first);
            until("the port is closed", || std::net::TcpStream::connect(dead).is_err()).await;
            // Who is new comes in by anybody else, and those who are old hear of it.
            let new = lab.client(102, &[dead, relays[2].at]);
            let joined = lab.relay(6, &[relays[1].at]).await;
            for handle in relays.iter().map(|relay| &relay.handle).chain([&old, &new, &joined.handle]) {
                knows(handle, 6).await;
            }
        })
        .await;
}

#[tokio::test]
async fn a_relay_that_registers_later_is_taken_when_the_registry_says_so() {
    let lab = Lab::new(2);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let second = lab.relay(2, &[first.at]).await;
            let third = lab.relay(3, &[first.at]).await;
            for relay in [&first, &second, &third] {
                knows(&relay.handle, 2).await;
            }
            lab.registry.send_replace(registry(3));
            for relay in [&first, &second, &third] {
                knows(&relay.handle, 3).await;
            }
        })
        .await;
}

// directory.swarm.5
#[tokio::test]
async fn a_peer_that_floods_is_left_and_others_notice_nothing() {
    let lab = Lab::new(3);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let second = lab.relay(2, &[first.at]).await;
            knows(&second.handle, 2).await;
            let mut evil = raw(90);
            evil.dial(dial(first.at)).unwrap();
            let described = describe(91, first.at);
            let (mut sent, mut connected) = (0_u64, true);
            let flood = async {
                while connected {
                    tokio::select! {
                        event = evil.select_next_some() => {
                            connected = !matches!(event, SwarmEvent::ConnectionClosed { .. });
                        }
                        () = tokio::task::yield_now() => {
                            // Of a relay that nobody registered, each different, each signed.
                            let next = Descriptor { sequence: sent, ..Descriptor::clone(&described) };
                            let next = SignedDescriptor::sign(next, &identity(91)).unwrap();
                            let gossip = evil.behaviour_mut().gossip.as_mut().unwrap();
                            match gossip.publish(topic(NETWORK), next.bytes()) {
                                Ok(_) => sent += 1,
                                Err(PublishError::NoPeersSubscribedToTopic | PublishError::AllQueuesFull(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                }
            };
            assert!(timeout(PATIENCE, flood).await.is_ok(), "{sent} sent");
            assert!(sent > 3_000, "{sent}");
            until("the peer is left", || first.handle.status().left == 1).await;
            let third = lab.relay(3, &[first.at]).await;
            for relay in [&first, &second, &third] {
                knows(&relay.handle, 3).await;
            }
        })
        .await;
}

// directory.swarm.5
#[tokio::test]
async fn a_peer_that_gossips_or_asks_garbage_is_left_at_once() {
    for gossips in [true, false] {
        let lab = Lab::new(1);
        LocalSet::new()
            .run_until(async {
                let first = lab.relay(1, &[]).await;
                let mut evil = raw(90);
                evil.dial(dial(first.at)).unwrap();
                let garble = async {
                    loop {
                        match evil.select_next_some().await {
                            SwarmEvent::ConnectionEstablished { peer_id, .. } if !gossips => {
                                evil.behaviour_mut().exchange.send_request(&peer_id, vec![7; 100]);
                            }
                            SwarmEvent::ConnectionClosed { .. } => break,
                            _ => {}
                        }
                        if gossips {
                            let gossip = evil.behaviour_mut().gossip.as_mut().unwrap();
                            let _ = gossip.publish(topic(NETWORK), vec![7; 100]);
                        }
                    }
                };
                assert!(timeout(PATIENCE, garble).await.is_ok());
                until("the peer is left", || first.handle.status().left == 1).await;
            })
            .await;
    }
}

// directory.swarm.6
#[tokio::test]
async fn a_peer_that_hides_relays_is_noticed_and_left() {
    let lab = Lab::new(8);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let mut honest = vec![first.handle.clone()];
            for n in 2..=7 {
                honest.push(lab.relay(n, &[first.at]).await.handle);
            }
            // It behaves as if there were only two relays, whatever it is given.
            let half = Lab::new(2);
            let hiding = half.relay(8, &[first.at]).await;
            let known = hiding.handle.clone();
            for handle in &honest {
                knows(handle, 7).await;
            }
            until("it knows what it wants to", || known.status().relays == 2).await;
            let client = lab.client(101, &[hiding.at, first.at]);
            knows(&client, 7).await;
            until("it is left", || client.status().left == 1).await;
            knows(&client, 7).await;
            assert!(honest.iter().all(|handle| handle.status().relays == 7));
        })
        .await;
}

// directory.swarm.3
#[tokio::test]
async fn many_peers_of_one_subnet_leave_places_for_others() {
    let lab = Lab { limits: Limits { per_subnet: 3, ..Limits::default() }, ..Lab::new(2) };
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let mut refused = 0;
            for n in 0..6 {
                let mut evil = raw(90 + n);
                evil.dial(dial(first.at)).unwrap();
                let outcome = async {
                    loop {
                        match evil.select_next_some().await {
                            SwarmEvent::ConnectionEstablished { .. } => break true,
                            SwarmEvent::OutgoingConnectionError { .. } => break false,
                            _ => {}
                        }
                    }
                };
                if timeout(PATIENCE, outcome).await.unwrap() {
                    tokio::task::spawn_local(async move {
                        loop {
                            evil.select_next_some().await;
                        }
                    });
                } else {
                    refused += 1;
                }
            }
            assert_eq!(refused, 3);
            until("the others are in", || first.handle.status().peers == 3).await;
            // One of that subnet hears nothing more, one of another does.
            assert_eq!(greeting(first.at, [127, 0, 0, 9]).await, None);
            assert!(greeting(first.at, [127, 1, 0, 1]).await.is_some());
        })
        .await;
}

/// The clock of a client that waits five minutes in a moment.
fn jumping() -> Now {
    ahead(&AHEAD)
}

/// The clock of another one.
fn jumping_too() -> Now {
    ahead(&AHEAD_TOO)
}

fn ahead(by: &AtomicU64) -> Now {
    let now = now();
    let ahead = Duration::from_mins(by.load(Ordering::Relaxed));
    Now { instant: now.instant + ahead, unix_ms: now.unix_ms + u64::try_from(ahead.as_millis()).unwrap() }
}

static AHEAD: AtomicU64 = AtomicU64::new(0);
static AHEAD_TOO: AtomicU64 = AtomicU64::new(0);

// path.guard.9
#[tokio::test]
async fn where_most_relays_have_stopped_few_are_believed_in_the_end() {
    let lab = Lab::new(5);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let settings = Settings { now: jumping, ..lab.settings(100, vec![], &[first.at]) };
            let client = start(settings).unwrap();
            knows(&client, 1).await;
            let gap = || client.views().borrow().gap();
            assert_eq!(gap(), Some(Share { known: 1, of: 5 }));
            AHEAD.store(4, Ordering::Relaxed);
            let before = client.status().exchanges;
            until("it is asked again", || client.status().exchanges > before + 1).await;
            assert!(gap().is_some());
            AHEAD.store(6, Ordering::Relaxed);
            until("it is believed", || gap().is_none()).await;
            assert!(client.views().borrow().is_content());
            // More relays come: nothing need be believed any more.
            let _more = [lab.relay(2, &[first.at]).await, lab.relay(3, &[first.at]).await];
            knows(&client, 3).await;
            until("enough are known", || !client.views().borrow().is_content()).await;
            assert_eq!(gap(), None);
            // The user's own word needs no time.
            let mut view = View::new(NETWORK).with_chain(chain());
            view.set_content(true);
            let told = start(Settings { view, ..lab.settings(101, vec![], &[]) }).unwrap();
            until("it is seen", || told.views().borrow().is_content()).await;
        })
        .await;
}

// path.guard.9
#[tokio::test]
async fn a_bootstrap_peer_that_knows_less_than_a_client_was_shown_is_a_witness_all_the_same() {
    let lab = Lab::new(20);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            // Somebody showed these to the client only.
            let mut view = View::new(NETWORK).with_chain(chain());
            view.set_registry(registry(20));
            for n in 2..=6 {
                view.insert(describe(n, first.at)).unwrap();
            }
            let settings = lab.settings(100, vec![], &[first.at]);
            let client = start(Settings { view, now: jumping_too, ..settings }).unwrap();
            knows(&client, 6).await;
            until("it seems to hide", || client.status().left == 1).await;
            assert!(client.views().borrow().gap().is_some());
            AHEAD_TOO.store(6, Ordering::Relaxed);
            until("few are believed", || client.views().borrow().gap().is_none()).await;
        })
        .await;
}

// directory.swarm.3
#[tokio::test]
async fn one_of_the_fullest_subnet_gives_way_to_another_subnets_first() {
    let Ok(far) = TcpListener::bind("[::1]:0").and_then(|free| free.local_addr()) else {
        // No IPv6 here, and so no second subnet.
        return;
    };
    let lab = Lab { limits: Limits { strangers: 3, ..Limits::default() }, ..Lab::new(2) };
    LocalSet::new()
        .run_until(async {
            let near = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let handle = start(lab.settings(1, vec![near, far], &[])).unwrap();
            let (told, mut tells) = mpsc::channel(16);
            let come = |seed: u8, to| {
                let (told, mut one) = (told.clone(), raw(seed));
                one.dial(dial(to)).unwrap();
                tokio::task::spawn_local(async move {
                    loop {
                        let stands = match one.select_next_some().await {
                            SwarmEvent::ConnectionEstablished { .. } => true,
                            SwarmEvent::ConnectionClosed { .. } => false,
                            _ => continue,
                        };
                        told.send((seed, stands)).await.unwrap();
                    }
                });
            };
            for seed in 90..93 {
                come(seed, near);
                assert_eq!(timeout(PATIENCE, tells.recv()).await.unwrap(), Some((seed, true)));
            }
            until("all have places", || handle.status().peers == 3).await;
            come(93, far);
            let mut next = async || timeout(PATIENCE, tells.recv()).await.unwrap().unwrap();
            let mut both = [next().await, next().await];
            both.sort_unstable();
            assert!(matches!(both, [(90..=92, false), (93, true)]), "{both:?}");
            until("one gave way", || handle.status().peers == 3).await;
        })
        .await;
}

/// What is said first to a connection from this address; nothing if it is ended instead.
async fn greeting(at: SocketAddr, from: [u8; 4]) -> Option<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut tcp = socket.connect(at).await.unwrap();
    // It may be ended already.
    let _ = tcp.write_all(b"\x13/multistream/1.0.0\n").await;
    timeout(PATIENCE, tcp.read_u8()).await.unwrap().ok()
}

// directory.swarm.1
#[tokio::test]
async fn who_finds_nobody_or_only_another_network_says_so() {
    let lab = Lab::new(1);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let other = View::new(NetworkId([0x99; 16])).with_chain(chain());
            let strange = start(Settings { view: other, ..lab.settings(101, vec![], &[first.at]) }).unwrap();
            let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let lonely = lab.client(102, &[nowhere]);
            let nobody = lab.client(103, &[]);
            for (handle, advice) in
                [(strange, "bootstrap"), (lonely, "it is tried again"), (nobody, "name bootstrap")]
            {
                until("it says so", || handle.status().trouble.is_some_and(|said| said.contains(advice)))
                    .await;
                assert_eq!((handle.status().exchanges, handle.status().relays), (0, 0));
            }
            assert_eq!(first.handle.status().left, 0);
        })
        .await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let lab = Lab::new(1);
    LocalSet::new()
        .run_until(async {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = taken.local_addr().unwrap();
            let error = start(lab.settings(1, vec![at], &[])).unwrap_err().to_string();
            assert!(error.contains(&at.to_string()) && error.contains("TCP"), "{error}");
        })
        .await;
}

// directory.stream.3
#[tokio::test]
async fn a_set_is_exchanged_by_hand_as_through_a_circuit() {
    let lab = Lab::new(2);
    LocalSet::new()
        .run_until(async {
            let relay = lab.relay(1, &[]).await.handle;
            knows(&relay, 1).await;
            let client = lab.client(101, &[]);
            let key = PeerKey::new([9; 32], [192, 0, 2, 1].into());
            let mut request = client.request().await;
            assert_eq!(request.as_ref().map(Vec::len), Some(49), "whether both have the same set");
            while let Some(asked) = request {
                let answer = relay.answer(key, asked).await.unwrap();
                request = client.take(key, answer).await;
            }
            knows(&client, 1).await;
            assert_eq!(relay.answer(key, vec![7; 100]).await, None);
            assert_eq!(client.take(key, vec![7; 100]).await, None);
        })
        .await;
}

/// Asks the relay at `at` for a call, as often as is said; the answers that came before it left us.
async fn ask_for_calls(mut swarm: libp2p::Swarm<Behaviour>, at: SocketAddr, times: usize) -> Vec<Vec<u8>> {
    swarm.dial(dial(at)).unwrap();
    let mut answers = Vec::new();
    let asked = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                    swarm.behaviour_mut().call.send_request(&peer_id, Vec::new());
                }
                SwarmEvent::ConnectionClosed { .. } => return,
                SwarmEvent::Behaviour(BehaviourEvent::Call(libp2p::request_response::Event::Message {
                    peer,
                    message: libp2p::request_response::Message::Response { response, .. },
                    ..
                })) => {
                    answers.push(response);
                    if answers.len() == times {
                        return;
                    }
                    swarm.behaviour_mut().call.send_request(&peer, Vec::new());
                }
                _ => {}
            }
        }
    };
    assert!(timeout(PATIENCE, asked).await.is_ok(), "{} answers", answers.len());
    answers
}

// directory.call.1, directory.call.2
#[tokio::test]
async fn a_relay_is_called_when_it_asks_and_nobody_else_however_often_they_ask() {
    let lab = Lab::new(3);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let second = lab.relay(2, &[first.at]).await;
            for handle in [&first.handle, &second.handle] {
                knows(handle, 2).await;
            }
            // Nobody takes calls yet, and they do not count.
            assert_eq!(Box::pin(ask_for_calls(raw(2), first.at, 2)).await, [[1], [1]]);
            let mut callers = first.handle.callers().await;
            until("a peer", || second.handle.status().peers > 0).await;
            assert_eq!(second.handle.be_called(BTreeSet::from([identity(1).id()])).await, 0, "a link stands");
            assert_eq!(second.handle.be_called(BTreeSet::new()).await, 1);
            assert_eq!(callers.recv().await, Some(identity(2).id()));
            until("an answer", || second.handle.status().called == 1).await;

            let answers = Box::pin(ask_for_calls(raw(2), first.at, 500)).await;
            assert!(answers.iter().all(|answer| *answer == [1]), "once in ten minutes");
            assert!(answers.len() < 500, "who asks without end is left");
            // Relay 3 is registered, and nobody has its descriptor; 50 is nobody.
            for stranger in [3, 50] {
                assert_eq!(Box::pin(ask_for_calls(raw(stranger), first.at, 3)).await, [[1], [1], [1]]);
            }
            assert!(callers.try_recv().is_err());
            // Who is not known itself asks nobody.
            let third = start(lab.settings(3, vec!["127.0.0.1:0".parse().unwrap()], &[first.at])).unwrap();
            knows(&third, 2).await;
            assert_eq!(third.be_called(BTreeSet::new()).await, 0);
        })
        .await;
}

// directory.call.1, directory.swarm.2
#[tokio::test]
async fn a_request_for_a_call_that_says_more_than_nothing_is_not_read() {
    let lab = Lab::new(2);
    LocalSet::new()
        .run_until(async {
            let first = lab.relay(1, &[]).await;
            let second = lab.relay(2, &[first.at]).await;
            knows(&first.handle, 2).await;
            let mut callers = first.handle.callers().await;
            let mut swarm = raw(2);
            swarm.dial(dial(first.at)).unwrap();
            let failed = async {
                loop {
                    match swarm.select_next_some().await {
                        SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                            let victim = b"203.0.113.7:53".to_vec();
                            swarm.behaviour_mut().call.send_request(&peer_id, victim);
                        }
                        SwarmEvent::Behaviour(BehaviourEvent::Call(
                            libp2p::request_response::Event::OutboundFailure { .. },
                        )) => return,
                        SwarmEvent::Behaviour(BehaviourEvent::Call(
                            libp2p::request_response::Event::Message {
                                message: libp2p::request_response::Message::Response { response, .. },
                                ..
                            },
                        )) => {
                            assert!(response.is_empty(), "the stream ended without an answer");
                            return;
                        }
                        _ => {}
                    }
                }
            };
            assert!(timeout(PATIENCE, failed).await.is_ok());
            assert!(callers.try_recv().is_err());
            drop(second);
        })
        .await;
}
