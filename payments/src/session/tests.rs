use alloy_primitives::{U256, hex};
use alloy_sol_types::{Eip712Domain, SolStruct as _, sol};

use super::*;

/// The order of secp256k1.
const ORDER: U256 =
    U256::from_be_bytes(hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"));

mod typed {
    use super::sol;
    sol! {
        struct Session { address payer; address payee; uint32 nonce; bytes32 anchor; bytes32 randHash; uint96 face; uint64 winProb; uint40 expiry; }
    }
}

fn session() -> Session {
    Session {
        payer: Address::repeat_byte(1),
        payee: Address::repeat_byte(2),
        nonce: 0x0304_0506,
        anchor: B256::repeat_byte(7),
        rand_hash: B256::repeat_byte(8),
        face: Wei(0x0102_0304_0506_0708_090a_0b0c),
        win_prob: 0x0d0e_0f10_1112_1314,
        expiry: 0x15_1617_1819,
    }
}

fn domain() -> Domain {
    Domain { chain_id: 31337, contract: Address::repeat_byte(9) }
}

// pay.session.1
#[test]
fn the_digest_is_that_of_eip_712() {
    let (s, d) = (session(), domain());
    let typed = typed::Session {
        payer: s.payer,
        payee: s.payee,
        nonce: s.nonce,
        anchor: s.anchor,
        randHash: s.rand_hash,
        face: s.face.0.try_into().unwrap(),
        winProb: s.win_prob,
        expiry: s.expiry.try_into().unwrap(),
    };
    let typed_domain = Eip712Domain::new(
        Some("OnionPay".into()),
        Some("1".into()),
        Some(U256::from(d.chain_id)),
        Some(d.contract),
        None,
    );
    assert_eq!(s.digest(&d), typed.eip712_signing_hash(&typed_domain));
}

#[test]
fn every_field_and_the_domain_change_the_digest() {
    let (s, d) = (session(), domain());
    let others = [
        Session { payer: Address::ZERO, ..s },
        Session { payee: Address::ZERO, ..s },
        Session { nonce: 0, ..s },
        Session { anchor: B256::ZERO, ..s },
        Session { rand_hash: B256::ZERO, ..s },
        Session { face: Wei(0), ..s },
        Session { win_prob: 0, ..s },
        Session { expiry: 0, ..s },
    ];
    assert!(others.iter().all(|other| other.digest(&d) != s.digest(&d)));
    assert_ne!(s.digest(&Domain { chain_id: 1, ..d }), s.digest(&d));
    assert_ne!(s.digest(&Domain { contract: Address::ZERO, ..d }), s.digest(&d));
}

#[test]
fn a_signature_names_its_signer() {
    let signer = Signer::from_bytes([3; 32]).unwrap();
    for n in 0..20u8 {
        let digest = keccak256([n]);
        let signature = signer.sign(&digest);
        assert_eq!(signature.recover(&digest), Some(signer.address()));
        assert_ne!(signature.recover(&keccak256([n, n])), Some(signer.address()));
    }
    assert_eq!(format!("{signer:?}"), "[redacted]");
    // A well-known pair of key and address.
    let known =
        Signer::from_bytes(hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")).unwrap();
    assert_eq!(known.address(), Address::from(hex!("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")));
}

// pay.session.2
#[test]
fn a_signature_has_one_form() {
    let signer = Signer::from_bytes([3; 32]).unwrap();
    for n in 0..40u8 {
        let digest = keccak256([n]);
        let signature = signer.sign(&digest);
        let mut flipped = signature;
        flipped.0[32] ^= 0x80;
        assert_ne!(flipped.recover(&digest), Some(signer.address()));
    }
    // The other root, n - s, has 256 bits but for the few between n/2 and 2^255.
    let digest = keccak256([1]);
    for s in [
        "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a1",
        "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        let mut bad = signer.sign(&digest);
        bad.0[32..].copy_from_slice(&hex::decode(s).unwrap());
        assert_eq!(bad.recover(&digest), None, "{s}");
        bad.0[32] |= 0x80;
        assert_eq!(bad.recover(&digest), None, "{s}");
    }
    let mut limit = signer.sign(&digest);
    limit.0[32..].copy_from_slice(&HALF_ORDER);
    assert!(limit.recover(&digest).is_some());
    let mut zero_r = signer.sign(&digest);
    zero_r.0[..32].fill(0);
    assert_eq!((zero_r.recover(&digest), Signature([0xff; 64]).recover(&digest)), (None, None));
}

#[test]
fn what_is_no_secret_key_is_refused() {
    assert!(Signer::from_bytes([0; 32]).is_err());
    assert!(Signer::from_bytes(ORDER.to_be_bytes()).is_err());
    assert!(Signer::from_bytes((ORDER - U256::ONE).to_be_bytes()).is_ok());
}

#[test]
fn the_fixed_form_comes_back() {
    let mut bytes = [0; Session::SIZE];
    let mut w = Writer::new(&mut bytes);
    session().write(&mut w).unwrap();
    assert_eq!(w.remaining(), 0);
    let mut r = Reader::new(&bytes);
    assert_eq!(Session::read(&mut r), Ok(session()));
    r.finish("session").unwrap();
    let late = Session { expiry: MAX_EXPIRY + 1, ..session() };
    assert_eq!(late.write(&mut Writer::new(&mut [0; Session::SIZE])), Err(Full));
    let rich = Session { face: Wei(1 << 96), ..session() };
    assert_eq!(rich.write(&mut Writer::new(&mut [0; Session::SIZE])), Err(Full));
}
