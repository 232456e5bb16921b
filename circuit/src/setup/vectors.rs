//! Setups and replies are those of the independent reference (docs/spec/vectors/setup.json).

use core::fmt::Debug;

use rand_core::SeedableRng as _;
use serde_json::Value;

use super::*;

const REGION: usize = 480;

fn number<T: TryFrom<u64, Error: Debug>>(value: &Value) -> T {
    value.as_u64().unwrap().try_into().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Runs `check` for the paths of 1 to 5 relays.
fn for_each_case(check: impl Fn(&Value, &[Hop<'_>])) {
    let file: Value = serde_json::from_str(include_str!("../../../docs/spec/vectors/setup.json")).unwrap();
    let cases = list(&file["cases"]);
    assert_eq!(cases.len(), MAX_HOPS);
    for case in cases {
        let hop = |(i, hop)| Hop::new(format!("{} hops, hop {i}", case["hops"]), &case["epoch"], hop);
        let hops: Vec<_> = list(&case["path"]).iter().enumerate().map(hop).collect();
        check(case, &hops);
    }
}

/// One relay of a case, and what the client knows of it.
struct Hop<'a> {
    name: String,
    json: &'a Value,
    id: RelayId,
    epoch: u32,
    onion: DhSecret,
    x: DhSecret,
    y: DhSecret,
    block: [u8; BLOCK],
    header: Header,
}

impl<'a> Hop<'a> {
    fn new(name: String, epoch: &Value, json: &'a Value) -> Self {
        let secret = |name| DhSecret::from_bytes(array(&json[name]));
        let (id, epoch) = (RelayId(array(&json["relay_id"])), number(epoch));
        let (onion, x, y) = (secret("onion_secret"), secret("x_secret"), secret("y_secret"));
        for (secret, public) in [(&onion, "onion_public"), (&x, "x_public"), (&y, "y_public")] {
            assert_eq!(secret.public().0, array(&json[public]), "{name}: {public}");
        }
        let s = x.agree(&onion.public()).unwrap();
        assert_eq!(s.expose(), &array(&json["s"]), "{name}: s");
        let header = Header::derive(&s, &x.public(), &onion.public(), &id, epoch);
        Self { name, json, id, epoch, onion, x, y, block: array(&json["block"]), header }
    }

    fn block(&self) -> Block {
        Block::read(&self.block).unwrap()
    }

    /// The setup as this hop receives it.
    fn message(&self) -> Cell {
        array(&self.json["setup_received"])
    }

    fn transcript(&self) -> Transcript {
        Transcript {
            m: self.header.m.clone(),
            x: self.x.public(),
            onion: self.onion.public(),
            id: self.id,
            block_hash: *blake3::hash(&self.block).as_bytes(),
        }
    }

    /// AUTH and keys, with the Y of the reference.
    fn session(&self) -> ([u8; 16], HopKeys) {
        let (name, y) = (&self.name, self.y.public());
        let e = self.y.agree(&self.x.public()).unwrap();
        assert_eq!(e.expose(), &array(&self.json["e"]), "{name}: e");
        assert_eq!(self.x.agree(&y).unwrap(), e, "{name}: e of the client");
        self.transcript().session(&e, &y, self.block().suite)
    }

    /// The cell that this hop answers or passes on, given the cell that came from the next hop.
    fn answer(&self, rng: &mut Random, status: u8, behind: Option<&Cell>, expected: &Value) -> Cell {
        if status != 0 {
            let answer = Answer { transcript: self.transcript(), reply: self.header.reply.clone() };
            assert_eq!(status, Status::Busy as u8);
            assert_eq!(Record::refusal(Status::Busy), array(expected), "{}: refusal", self.name);
            return answer.refuse(rng, Status::Busy);
        }
        let (auth, _) = self.session();
        let Block { expiry, terms, .. } = self.block();
        let record =
            Record { y: self.y.public(), auth, status: Status::Ok, class: terms.class, expiry }.write();
        assert_eq!(record, array(expected), "{}: record", self.name);
        let region = match behind {
            None => Region::first(&self.header.reply, &record),
            Some(reply) => Region::of(reply).behind(&self.header.reply, &record),
        };
        region.into_cell(rng)
    }
}

#[test]
fn keys_are_those_of_the_reference() {
    for_each_case(|_, hops| {
        for Hop { name, json, header, .. } in hops {
            let Header { mac, beta, delta, reply, tag, m } = header;
            let ReplyKeys { stream, mac: reply_mac, fill } = reply;
            let secrets = [
                ("k_mac", mac),
                ("k_beta", beta),
                ("k_delta", delta),
                ("k_rep", stream),
                ("k_repmac", reply_mac),
                ("k_fill", fill),
                ("m", m),
            ];
            for (key, secret) in secrets {
                assert_eq!(secret.expose(), &array(&json["setup_keys"][key]), "{name}: {key}");
            }
            assert_eq!(tag, &array(&json["setup_keys"]["rtag"]), "{name}: rtag");
        }
        for hop in hops {
            let (name, json) = (&hop.name, &hop.json["session_keys"]);
            let (auth, HopKeys { forward, backward, .. }) = hop.session();
            assert_eq!(auth, array(&json["auth"]), "{name}: auth");
            for (direction, (mask, ratchet)) in [("f", forward), ("b", backward)] {
                let expected: [u8; 16] = array(&json[format!("mask_{direction}")]);
                assert_eq!(mask.expose(), &expected, "{name}: mask_{direction}");
                let expected: [u8; 32] = array(&json[format!("ratchet_{direction}")]);
                assert_eq!(ratchet.expose(), &expected, "{name}: ratchet_{direction}");
            }
        }
    });
}

#[test]
fn relays_read_and_pass_on_the_setups_of_the_reference() {
    for_each_case(|case, hops| {
        for (i, hop) in hops.iter().enumerate() {
            let (name, fields) = (&hop.name, &hop.json["block_fields"]);
            let received = receive(hop.id, &hop.onion, hop.epoch, &hop.message()).expect(name);
            assert_eq!(received.tag, hop.header.tag, "{name}: replay tag");
            assert_eq!(received.block, hop.block, "{name}: block");
            let block = received.block().expect(name);
            let flags: u8 = number(&fields["flags"]);
            let expected = Block {
                terminal: flags & 1 != 0,
                exit: flags & 2 != 0,
                suite: Suite::from_code(number(&fields["suite"])).unwrap(),
                expiry: number(&fields["expiry"]),
                next_id: RelayId(array(&fields["next_id"])),
                terms: Terms {
                    class: number(&fields["class"]),
                    role: if fields["role"] == 0 { Role::Forward } else { Role::Exit },
                    rate_in: number(&fields["rate_in"]),
                    rate_out: number(&fields["rate_out"]),
                },
                minute: number(&fields["minute"]),
                ..block
            };
            assert_eq!(block, expected, "{name}: block fields");
            assert_eq!(block.write(), hop.block, "{name}: block as we write it");
            assert_eq!(received.minute(), expected.minute, "{name}: minute");
            if let Some(next) = hops.get(i + 1) {
                assert_eq!(received.onward(&block), next.message(), "{name}: next setup");
            } else {
                assert_eq!(received.delta, array(&case["delta_innermost"]), "{name}: delta");
                assert_eq!(received.early(), Ok(&bytes(&case["early_data"])[..]), "{name}: early data");
            }
        }
    });
}

#[test]
fn the_client_wraps_as_the_reference_does() {
    for_each_case(|case, hops| {
        let last = hops.len() - 1;
        for (i, hop) in hops.iter().enumerate() {
            let message = if let Some(next) = hops.get(i + 1) {
                let next = Message::read(&next.message()).unwrap();
                enclose(&hop.header, hop.x.public(), &hop.block, &next, None)
            } else {
                // What the hops before the last appended stands in the reference's message; `receive` makes the same.
                let received = Message::read(&hop.message()).unwrap();
                let tail = &received.beta[BETA - BLOCK * last..];
                let mut beta = [0; BETA];
                let noise = bytes(&case["beta_noise_plain"]);
                beta[..noise.len()].copy_from_slice(&noise);
                let delta = array(&case["delta_innermost"]);
                let inside = Message { x: DhPublic([0; 32]), mac: [0; 16], beta, delta };
                enclose(&hop.header, hop.x.public(), &hop.block, &inside, Some(tail))
            };
            assert_eq!(message.write(), hop.message(), "{}: setup", hop.name);
        }
    });
}

#[test]
fn replies_are_those_of_the_reference_and_open() {
    // circuit.reply.2, circuit.reply.3
    for_each_case(|case, hops| {
        let mut rng = Random::seed_from_u64(1);
        for reply in list(&case["failures"]).iter().chain([&case["reply"]]) {
            let answered: usize = number(&reply["answered_by"]);
            let mut cell: Option<Cell> = None;
            for (i, hop) in hops.iter().enumerate().take(answered + 1).rev() {
                let status = if i == answered { number(&reply["status"]) } else { 0 };
                let emitted = hop.answer(&mut rng, status, cell.as_ref(), &reply["records"][i]);
                let expected: [u8; REGION] = array(&reply["regions"][i]);
                assert_eq!(emitted[..REGION], expected, "{}: region, answered by {answered}", hop.name);
                cell = Some(emitted);
            }
            let sent = SentSetup {
                hops: hops
                    .iter()
                    .map(|hop| SentHop {
                        secret: hop.x.clone(),
                        transcript: hop.transcript(),
                        reply: hop.header.reply.clone(),
                        suite: hop.block().suite,
                    })
                    .collect(),
            };
            let name = format!("{} hops, answered by {answered}", hops.len());
            match sent.open_reply(&cell.unwrap()).expect(&name) {
                Outcome::Ready(keys) => {
                    assert_eq!((answered, keys.len()), (hops.len() - 1, hops.len()), "{name}");
                    for (keys, hop) in keys.iter().zip(hops) {
                        let expected = hop.session().1;
                        assert_eq!(keys.suite, expected.suite, "{}", hop.name);
                        assert_eq!(keys.forward, expected.forward, "{}", hop.name);
                        assert_eq!(keys.backward, expected.backward, "{}", hop.name);
                    }
                }
                Outcome::Refused { hop, status } => {
                    assert_eq!((hop, status), (answered, Status::Busy), "{name}");
                    assert_ne!(reply["status"], 0, "{name}");
                }
            }
        }
    });
}
