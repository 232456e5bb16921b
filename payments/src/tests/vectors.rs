//! Payments are those of the independent reference (docs/spec/vectors/payments.json).

use core::fmt::Debug;
use core::str::FromStr;

use alloy_primitives::{Address, B256, hex, keccak256};
use serde_json::Value;
use wire::Writer;

use crate::amount::{Rate, Tier, Wei};
use crate::claim::Claim;
use crate::class::Class;
use crate::draw::{walk, wins};
use crate::frame::{Answer, Frame, Frames, Level, Reason, Role};
use crate::offer::Offer;
use crate::seed::{Place, Seed};
use crate::session::{Domain, Session, Signature, Signer};

fn file() -> Value {
    serde_json::from_str(include_str!("../../../docs/spec/vectors/payments.json")).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value[name].as_array().unwrap();
    assert!(!list.is_empty(), "{name}");
    list
}

/// A number, as such or as text.
fn number<T: FromStr<Err: Debug>>(value: &Value) -> T {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned).parse().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn hash(value: &Value) -> B256 {
    B256::from(array(value))
}

fn address(value: &Value) -> Address {
    Address::from(array::<20>(value))
}

fn wei(value: &Value) -> Wei {
    Wei(number(value))
}

fn rate(value: &Value) -> Rate {
    Rate(number(value))
}

// pay.rate.1, pay.rate.2, pay.rate.3
#[test]
fn rates_and_tiers() {
    let file = file();
    for case in list(&file, "rates") {
        let own = rate(&case["rate"]);
        assert_eq!(own.encode().map(u64::from), case["form"].as_u64(), "{own:?}");
        assert_eq!(own.round_up(), rate(&case["rounded_up"]), "{own:?}");
    }
    for case in list(&file, "forms") {
        let expected = (!case["rate"].is_null()).then(|| rate(&case["rate"]));
        assert_eq!(Rate::decode(number(&case["form"])).ok(), expected, "{case}");
    }
    let tiers = list(&file, "tiers");
    assert_eq!(tiers.len(), 97);
    for (tier, expected) in (0..).zip(tiers) {
        assert_eq!(Tier::new(tier).unwrap().rate(), rate(expected), "tier {tier}");
    }
}

// pay.class.1, pay.offer.1
#[test]
fn classes_and_odds() {
    let file = file();
    for case in list(&file, "classes") {
        let class = Class::from_number(number(&case["class"])).unwrap();
        let rates = class.rates(rate(&case["ask"]), number(&case["hops"]));
        let expected: Vec<_> =
            list(case, "rates").iter().map(|pair| (rate(&pair[0]), rate(&pair[1]))).collect();
        assert_eq!(rates, expected, "{case}");
    }
    for case in list(&file, "odds") {
        let expected = (!case["win_prob"].is_null()).then(|| number(&case["win_prob"]));
        assert_eq!(Offer::odds(wei(&case["value"]), wei(&case["face"])), expected, "{case}");
    }
}

// pay.session.1, pay.secret.1, pay.secret.2, pay.draw.1, pay.draw.2, pay.claim.1
#[test]
fn sessions_draws_and_claims() {
    let file = file();
    for case in list(&file, "sessions") {
        let fields = &case["session"];
        let session = Session {
            payer: address(&fields["payer"]),
            payee: address(&fields["payee"]),
            nonce: number(&fields["nonce"]),
            anchor: hash(&fields["anchor"]),
            rand_hash: hash(&fields["rand_hash"]),
            face: wei(&fields["face"]),
            win_prob: number(&fields["win_prob"]),
            expiry: number(&fields["expiry"]),
        };
        let domain = Domain { chain_id: number(&case["chain_id"]), contract: address(&case["contract"]) };
        let Session { payer, payee, nonce, .. } = session;
        let place = Place { domain, payer, payee, nonce };
        let rand = Seed::new(array(&case["payee_seed"])).rand(&place, &array(&case["salt"]));
        assert_eq!((rand, keccak256(rand)), (hash(&case["rand"]), session.rand_hash));
        let draws = number(&case["draws"]);
        let chain = Seed::new(array(&case["payer_seed"])).chain(&place, &session.rand_hash, draws);
        let links: Vec<_> = list(case, "links").iter().map(hash).collect();
        assert_eq!((0..=draws).map_while(|i| chain.link(i)).collect::<Vec<_>>(), links);
        assert_eq!(walk(&chain.link(draws).unwrap(), draws), session.anchor);
        assert_eq!(Offer::odds(wei(&case["value"]), session.face), Some(session.win_prob));

        let digest = session.digest(&domain);
        assert_eq!(digest, hash(&case["digest"]));
        let signer = Signer::from_bytes(array(&case["signer_secret"])).unwrap();
        assert_eq!(signer.address(), address(&case["signer"]));
        let signature = signer.sign(&digest);
        assert_eq!(signature.0, array(&case["signature"]));

        let won: Vec<_> =
            (1..=draws).filter(|i| wins(&chain.link(*i).unwrap(), &rand, session.win_prob)).collect();
        let expected: Vec<u16> = case["wins"].as_array().unwrap().iter().map(number).collect();
        assert_eq!(won, expected);
        for case in case["claims"].as_array().unwrap() {
            let draw = number(&case["draw"]);
            let claim = Claim { session, draw, link: chain.link(draw).unwrap(), rand, signature };
            assert_eq!(claim.encode().unwrap().to_vec(), bytes(&case["claim"]));
            assert_eq!(claim.signer(&domain), Some(signer.address()));
        }
    }
}

// pay.session.2
#[test]
fn recoveries() {
    for case in list(&file(), "recoveries") {
        let expected = (!case["signer"].is_null()).then(|| address(&case["signer"]));
        assert_eq!(Signature(array(&case["signature"])).recover(&hash(&case["digest"])), expected, "{case}");
    }
}

fn frame(name: &str, f: &Value) -> Frame {
    let byte = |value: &Value| number::<u8>(value);
    match name {
        "WANT" => {
            Frame::Want { payer: address(&f["payer"]), floor: number(&f["floor"]), value: wei(&f["value"]) }
        }
        "OFFER" => Frame::Offer {
            payee: address(&f["payee"]),
            offer: Offer {
                nonce: number(&f["nonce"]),
                rand_hash: hash(&f["rand_hash"]),
                face: wei(&f["face"]),
                win_prob: number(&f["win_prob"]),
                draws: number(&f["draws"]),
                expiry: number(&f["expiry"]),
                value: wei(&f["value"]),
            },
        },
        "SESSION" => Frame::Session {
            payer: address(&f["payer"]),
            nonce: number(&f["nonce"]),
            offer: array(&f["offer"]),
            anchor: hash(&f["anchor"]),
            signature: Signature(array(&f["signature"])),
        },
        "SESSION_OK" => Frame::SessionOk {
            nonce: number(&f["nonce"]),
            answer: Answer::from_number(byte(&f["answer"])).unwrap(),
        },
        "DRAW" => {
            Frame::Draw { nonce: number(&f["nonce"]), index: number(&f["index"]), link: hash(&f["link"]) }
        }
        "DRAW_OK" => {
            Frame::DrawOk { nonce: number(&f["nonce"]), index: number(&f["index"]), link: hash(&f["link"]) }
        }
        "ROTATE" => Frame::Rotate {
            nonce: number(&f["nonce"]),
            reason: Reason::from_number(byte(&f["reason"])).unwrap(),
            index: number(&f["index"]),
            link: hash(&f["link"]),
            rand: hash(&f["rand"]),
        },
        "METER" => Frame::Meter {
            role: Role::from_number(byte(&f["role"])).unwrap(),
            cells: number(&f["cells"]),
            due: wei(&f["due"]),
            credited: wei(&f["credited"]),
        },
        "CREDIT" => Frame::Credit(Level::from_number(byte(&f["level"])).unwrap()),
        "GRANT" => Frame::Grant { circuit: number(&f["circuit"]), cells: number(&f["cells"]) },
        _ => panic!("{name}"),
    }
}

// pay.frame.1
#[test]
fn frames() {
    let file = file();
    for case in list(&file, "frames") {
        let frame = frame(case["name"].as_str().unwrap(), &case["fields"]);
        let mut buffer = [0; Frame::MAX];
        let mut w = Writer::new(&mut buffer);
        frame.write(&mut w).unwrap();
        let written = w.written();
        assert_eq!(buffer[..written].to_vec(), bytes(&case["bytes"]), "{case}");
        assert_eq!(Frames::new(&bytes(&case["bytes"])).collect::<Vec<_>>(), [Ok(frame)]);
    }
    for cell in list(&file, "frames_refused") {
        assert!(Frames::new(&bytes(cell)).any(|frame| frame.is_err()), "{cell}");
    }
}
