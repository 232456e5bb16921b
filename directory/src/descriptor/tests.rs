use super::*;
use crate::payment::Rate;
use crate::sample::{FIRST_EPOCH, NETWORK, NOW, descriptor, identity, payment, signed};
use alloy_primitives::Address;
use proptest::prelude::*;

fn sign(change: impl FnOnce(&mut Descriptor)) -> Result<SignedDescriptor, Malformed> {
    let mut new = descriptor(1);
    change(&mut new);
    SignedDescriptor::sign(new, &identity(1))
}

/// Signs a body that [`SignedDescriptor::sign`] would refuse.
fn parse_body(body: &[u8]) -> Result<SignedDescriptor, Refused> {
    SignedDescriptor::parse(&[body, &identity(1).sign(LABEL, body)].concat(), NETWORK, NOW)
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let expected = [
        &b"CHVD\x01"[..],
        &identity(1).id().0,
        &[0x11; 16],
        &7_u64.to_be_bytes(),
        &(NOW - 50).to_be_bytes(),
        &(NOW + EPOCH_SECONDS).to_be_bytes(),
        &[1; 32],
        &FIRST_EPOCH.to_be_bytes(),
        &[0, 2],
        &[0x41; 32],
        &[0x81; 32],
        &[2, 4, 192, 0, 2, 1, 0x11, 0x51],
        &[6, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x11, 0x51],
        &[2, 0, 80, 0, 80, 1, 187, 1, 187],
        b"DE",
        b"\x0aoperator 1",
        b"\x0bchive 0.1.0",
        &[0, 0, 0x30, 0x39, 0x11, 0x52],
    ]
    .concat();
    let payment_part = [
        &[1, 0, 0, 0, 0, 0, 0, 0x7a, 0x69][..],
        &[0xc0; 20],
        &[1; 20],
        &[0, 0, 0x03, 0xe8],
        &[1, 0x80, 0, 0],
        &[0],
    ]
    .concat();
    let paid = sign(|d| d.payment = Some(payment(1))).unwrap();
    let paid_body = [&expected[..], &payment_part].concat();
    assert_eq!(paid.bytes().split_last_chunk::<64>().unwrap().0, paid_body);
    assert_eq!(SignedDescriptor::parse(paid.bytes(), NETWORK, NOW), Ok(paid));
    let expected = [&expected[..], &[0, 0]].concat();
    let signed = signed(1);
    assert_eq!(signed.bytes().split_last_chunk::<64>().unwrap().0, expected);
    assert_eq!(signed.bytes().len(), expected.len() + 64);
    assert_eq!(SignedDescriptor::parse(signed.bytes(), NETWORK, NOW), Ok(signed));
}

// directory.descriptor.8
#[test]
fn a_relay_is_dialled_by_ipv4_where_it_can_be() {
    let dialled = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|at| at.parse().unwrap()).collect();
        Descriptor { addresses, ..descriptor(1) }.dialled().map(|at| at.to_string())
    };
    let both = ["[2001:db8::1]:1", "192.0.2.1:2", "192.0.2.2:3"];
    assert_eq!(dialled(&both).as_deref(), Some("192.0.2.1:2"));
    assert_eq!(dialled(&["[2001:db8::1]:1", "[2001:db8::2]:1"]).as_deref(), Some("[2001:db8::1]:1"));
    assert_eq!(dialled(&[]), None);
}

#[test]
fn the_largest_descriptor_has_the_named_size() {
    let link = DhSecret::from_bytes([9; 32]);
    let mut largest = Descriptor { link_key: link.public(), ..descriptor(1) };
    let fill = |d: &mut Descriptor| {
        d.onion_keys = vec![DhPublic([1; 32]); MAX_EPOCHS];
        d.addresses = (1..5).map(|n| format!("[2001:db8::{n}]:1").parse().unwrap()).collect();
        d.exit = Some(ExitSummary::new((1..17).map(|n| n * 9..=n * 9 + 1).collect()).unwrap());
        d.operator = "o".repeat(MAX_OPERATOR);
        d.version = "v".repeat(MAX_VERSION);
        d.payment = Some(payment(1));
    };
    fill(&mut largest);
    let largest = SignedDescriptor::prove(largest, &identity(1), &link).unwrap();
    assert_eq!((largest.bytes().len(), MAX_DESCRIPTOR), (66_117, 66_117));
    assert_eq!(SignedDescriptor::parse(largest.bytes(), NETWORK, NOW), Ok(largest.clone()));
    let longer = [largest.bytes(), &[0]].concat();
    assert_eq!(SignedDescriptor::parse(&longer, NETWORK, NOW), Err(Refused::Malformed(Malformed("length"))));
}

// directory.descriptor.1 directory.descriptor.2
#[test]
fn every_prefix_every_flipped_bit_and_every_longer_text_is_refused() {
    let signed = sign(|d| d.payment = Some(payment(1))).unwrap();
    let bytes = signed.bytes();
    for cut in 0..bytes.len() {
        assert!(SignedDescriptor::parse(&bytes[..cut], NETWORK, NOW).is_err(), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(SignedDescriptor::parse(&changed, NETWORK, NOW).is_err(), "bit {bit}");
    }
    assert!(SignedDescriptor::parse(&[bytes, &[0]].concat(), NETWORK, NOW).is_err());
}

// directory.descriptor.2
#[test]
fn signed_bodies_that_no_honest_relay_makes_are_malformed() {
    for signed in [signed(1), sign(|d| d.payment = Some(payment(1))).unwrap()] {
        let (body, _) = signed.bytes().split_last_chunk::<64>().unwrap();
        assert!(parse_body(body).is_ok());
        for cut in 0..body.len() {
            assert!(matches!(parse_body(&body[..cut]), Err(Refused::Malformed(_))), "cut at {cut}");
        }
        assert!(matches!(parse_body(&[body, &[0]].concat()), Err(Refused::Malformed(_))));
    }
}

// directory.payment.1 directory.payment.2
#[test]
fn a_payment_part_has_one_form_and_names_real_accounts() {
    let bad: [fn(&mut Descriptor, &mut Payment); 7] = [
        |_, p| p.chain_id = 0,
        |_, p| p.chain_id = 1 << 63,
        |_, p| p.contract = Address::ZERO,
        |_, p| p.owner = Address::ZERO,
        |_, p| p.ask = Rate(0x0100_0001),
        |_, p| p.exit_ask = Rate(u64::MAX),
        |d, _| d.exit = None,
    ];
    for (i, change) in bad.into_iter().enumerate() {
        let (mut new, mut paid) = (descriptor(1), payment(1));
        change(&mut new, &mut paid);
        new.payment = Some(paid);
        assert!(SignedDescriptor::sign(new.clone(), &identity(1)).is_err(), "case {i}");
        if let Ok(body) = new.encode(None) {
            assert!(matches!(parse_body(&body), Err(Refused::Malformed(_))), "case {i}");
        }
    }
    // A relay that is no exit may have a price for what it does.
    let middle =
        SignedDescriptor::sign(Descriptor { payment: Some(payment(2)), ..descriptor(2) }, &identity(2));
    assert_eq!(middle.unwrap().payment, Some(payment(2)));
    let body = Descriptor { payment: Some(payment(1)), ..descriptor(1) }.encode(None).unwrap();
    let (rest, _) = body.split_last_chunk::<9>().unwrap();
    // Exponents above 40, and numbers that a lower exponent can say.
    for form in [0x0100_0001_u32, 0x017f_ffff, 0x29ff_ffff, u32::MAX] {
        for asks in [[form, 0], [0, form]] {
            let asks = asks.map(u32::to_be_bytes).concat();
            let body = [rest, &asks, &[0]].concat();
            assert!(matches!(parse_body(&body), Err(Refused::Malformed(_))), "{form:x}");
        }
    }
    let mut body = descriptor(1).encode(None).unwrap();
    let last = body.len() - 1;
    for place in [last - 1, last] {
        body[place] = 2;
        assert!(matches!(parse_body(&body), Err(Refused::Malformed(_))));
        body[place] = 0;
    }
}

// directory.link.1
#[test]
fn only_who_holds_a_link_key_can_prove_it() {
    let link = DhSecret::from_bytes([9; 32]);
    let with = |n: u8| Descriptor { link_key: link.public(), ..descriptor(n) };
    let proven = SignedDescriptor::prove(with(1), &identity(1), &link).unwrap();
    assert!(proven.holds_link_key());
    assert_eq!(SignedDescriptor::parse(proven.bytes(), NETWORK, NOW), Ok(proven.clone()));
    let plain = SignedDescriptor::sign(with(1), &identity(1)).unwrap();
    assert!(!plain.holds_link_key());
    assert_eq!(proven.bytes().len(), plain.bytes().len() + DH_PROOF);
    assert!(SignedDescriptor::prove(descriptor(1), &identity(1), &link).is_err(), "another link key");
    // The proof of one relay serves no other, and no other key's serves at all.
    let proof_of = |n: u8, link: &DhSecret| link.prove(LINK_LABEL, &link_message(&with(n)));
    let other = DhSecret::from_bytes([8; 32]);
    let mut bent = proof_of(2, &link);
    bent[DH_PROOF - 1] ^= 1;
    for wrong in [proof_of(1, &link), proof_of(2, &other), bent, [0; DH_PROOF]] {
        let stolen = SignedDescriptor::sign_with(with(2), &identity(2), Some(&wrong)).unwrap();
        let refused = SignedDescriptor::parse(stolen.bytes(), NETWORK, NOW);
        assert!(matches!(refused, Err(Refused::Forged(_))), "{refused:?}");
    }
}

// directory.descriptor.3 directory.descriptor.4 directory.descriptor.5 directory.descriptor.6
#[test]
fn no_signer_makes_what_readers_refuse() {
    assert!(SignedDescriptor::sign(descriptor(1), &identity(2)).is_err());
    let bad: [fn(&mut Descriptor); 22] = [
        |d| d.onion_keys.clear(),
        |d| d.onion_keys = vec![DhPublic([1; 32]); MAX_EPOCHS + 1],
        |d| d.first_epoch = u32::MAX,
        |d| d.expires = d.issued,
        |d| d.expires = u64::from(FIRST_EPOCH + 2) * EPOCH_SECONDS + 1,
        |d| d.addresses.clear(),
        |d| d.addresses = (1..6).map(|n| ([192, 0, 2, n], 1).into()).collect(),
        |d| d.addresses = vec![([192, 0, 2, 1], 1).into(); 2],
        |d| d.addresses = vec![([192, 0, 2, 1], 0).into()],
        |d| d.addresses = vec![([0, 0, 0, 0], 1).into()],
        |d| d.addresses = vec![([224, 0, 0, 1], 1).into()],
        |d| d.addresses = vec![([255; 4], 1).into()],
        |d| d.addresses = vec!["[::]:1".parse().unwrap()],
        |d| d.addresses = vec!["[ff02::1]:1".parse().unwrap()],
        |d| d.addresses = vec!["[::ffff:192.0.2.1]:1".parse().unwrap()],
        |d| d.addresses = vec!["[fe80::1%3]:1".parse().unwrap()],
        |d| d.country = Some(*b"de"),
        |d| d.country = Some([0; 2]),
        |d| d.operator = "o".repeat(MAX_OPERATOR + 1),
        |d| d.operator = "\x1b[31m".to_owned(),
        |d| d.version = "v".repeat(MAX_VERSION + 1),
        |d| d.version = "\u{202e}".to_owned(),
    ];
    for (i, change) in bad.into_iter().enumerate() {
        let mut new = descriptor(1);
        change(&mut new);
        assert!(SignedDescriptor::sign(new.clone(), &identity(1)).is_err(), "case {i}");
        // What still fits the encoding must be refused by readers, too.
        if let Ok(body) = new.encode(None)
            && new.onion_keys.len() <= MAX_EPOCHS
        {
            assert!(
                parse_body(&body).is_err() || Descriptor::read(&mut Reader::new(&body)) != Ok(new),
                "case {i}"
            );
        }
    }
}

// directory.descriptor.7
#[test]
fn another_network_and_an_expired_descriptor_are_named() {
    let signed = signed(1);
    let parse = |network, unix| SignedDescriptor::parse(signed.bytes(), network, unix).map(|_| ());
    assert_eq!(parse(NetworkId([0x22; 16]), NOW), Err(Refused::OtherNetwork(NETWORK)));
    assert_eq!(parse(NETWORK, signed.expires - 1), Ok(()));
    assert_eq!(parse(NETWORK, signed.expires), Err(Refused::Expired { at: signed.expires }));
}

#[test]
fn epochs_are_six_hours() {
    assert_eq!((epoch(0), epoch(21_599), epoch(21_600), epoch(u64::MAX)), (0, 0, 1, u32::MAX));
}

fn texts(max: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(0x20_u8..0x7f, 0..=max).prop_map(|b| String::from_utf8(b).unwrap())
}

fn descriptors() -> impl Strategy<Value = Descriptor> {
    let address = (any::<bool>(), 1_u16.., 1_u8..224).prop_map(|(v4, port, x)| {
        let v6 = Ipv6Addr::from([0x20, x, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, x]);
        SocketAddr::new(if v4 { Ipv4Addr::new(x, 1, 1, x).into() } else { v6.into() }, port)
    });
    let exit = prop::collection::btree_set(1_u16..32_000, 0..=16)
        .prop_map(|ports| ExitSummary::new(ports.into_iter().map(|p| p * 2..=p * 2).collect()).ok());
    let paid = (1_u64..1 << 63, 1_u8.., 1_u8.., any::<u64>(), any::<u64>()).prop_map(
        |(chain_id, contract, owner, ask, exit_ask)| Payment {
            chain_id,
            contract: Address::repeat_byte(contract),
            owner: Address::repeat_byte(owner),
            ask: Rate(ask).round_up(),
            exit_ask: Rate(exit_ask).round_up(),
        },
    );
    (
        (any::<u64>(), 0..NOW, any::<[u8; 32]>(), 0_u32..0x7fff_ffff),
        prop::collection::vec(any::<[u8; 32]>().prop_map(DhPublic), 1..9),
        prop::collection::hash_set(address, 1..=MAX_ADDRESSES),
        (exit, prop::option::of([b'A'..=b'Z', b'A'..=b'Z']), texts(MAX_OPERATOR), texts(MAX_VERSION)),
        (any::<u32>(), any::<u16>(), prop::option::of(paid)),
    )
        .prop_map(
            |(
                (sequence, issued, link_key, later),
                onion_keys,
                addresses,
                (exit, country, operator, version),
                (bandwidth, gossip_port, mut payment),
            )| {
                if let (None, Some(payment)) = (&exit, &mut payment) {
                    payment.exit_ask = Rate::FREE;
                }
                let first_epoch = FIRST_EPOCH + later % 1_000_000;
                let expires = u64::from(first_epoch + 1) * EPOCH_SECONDS - u64::from(later % 9);
                Descriptor {
                    id: identity(1).id(),
                    network: NETWORK,
                    sequence,
                    issued,
                    expires,
                    link_key: DhPublic(link_key),
                    first_epoch,
                    onion_keys,
                    addresses: addresses.into_iter().collect(),
                    exit,
                    country,
                    operator,
                    version,
                    bandwidth,
                    gossip_port,
                    payment,
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_signed_is_read_back(descriptor in descriptors()) {
        let signed = SignedDescriptor::sign(descriptor.clone(), &identity(1)).unwrap();
        let read = SignedDescriptor::parse(signed.bytes(), NETWORK, NOW).unwrap();
        prop_assert_eq!(&*read, &descriptor);
        prop_assert_eq!(read.bytes(), signed.bytes());
    }

    // directory.descriptor.2
    #[test]
    fn a_changed_body_is_refused_or_read_back_as_it_is(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let paid = Descriptor { payment: Some(payment(1)), ..descriptor(1) };
        let mut body = paid.encode(None).unwrap();
        for (index, byte) in changes {
            *index.get_mut(&mut body) = byte;
        }
        if let Ok(read) = parse_body(&body) {
            prop_assert_eq!(read.encode(None).unwrap(), body);
        }
    }
}
