//! Descriptors, and the file that lists them.

use std::cell::OnceCell;

use circuit::keys::DhPublic;
use directory::chain::{Chain, parse_address, parse_amount};
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor};
use directory::exit_summary::ExitSummary;
use directory::network_file::NetworkFile;
use directory::payment::{Payment, Rate};
use directory::view::View;

use crate::edits::edit_text;
use crate::fixture::{NETWORK, UNIX, epoch, identity, link_key, onion_key};
use crate::input::Input;
use crate::neighbour::address;

const LABEL: &str = "chive descriptor 1";

/// Where the relays of the sample are paid.
pub(crate) fn chain() -> Chain {
    Chain {
        id: 31_337,
        contract: parse_address("0xc0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0").unwrap(),
        rpc: vec!["http://127.0.0.1:8545".to_owned()],
        minimum_bond: parse_amount("0.001 ether").unwrap(),
        exit_operators: 2,
        deployed: 0,
    }
}

/// A relay's descriptor; that of every second one is an exit's. That of relay 5 is paid.
pub(crate) fn sample(n: u8) -> SignedDescriptor {
    let owner = parse_address("0x0505050505050505050505050505050505050505").unwrap();
    let payment = Payment {
        chain_id: chain().id,
        contract: chain().contract,
        owner,
        ask: Rate(1_000),
        exit_ask: Rate(1 << 30),
    };
    describe(n, Some(payment).filter(|_| n == 5))
}

/// Relay `n`, and how it is paid.
pub(crate) fn describe(n: u8, payment: Option<Payment>) -> SignedDescriptor {
    let descriptor = Descriptor {
        id: identity(n).id(),
        network: NETWORK,
        sequence: 7,
        issued: UNIX - 50,
        expires: UNIX + EPOCH_SECONDS,
        link_key: link_key(n).public(),
        first_epoch: epoch(),
        onion_keys: vec![onion_key(n).public(), onion_key(n).public(), DhPublic([n; 32])],
        addresses: vec![address(n), "[2001:db8::1]:4433".parse().unwrap()],
        exit: (n % 2 == 1).then(|| ExitSummary::new(vec![80..=80, 443..=443]).unwrap()),
        country: Some(*b"DE"),
        operator: format!("operator {n}"),
        version: "chive 0.1.0".to_owned(),
        bandwidth: 12_345,
        gossip_port: 4434,
        payment,
    };
    SignedDescriptor::sign(descriptor, &identity(n)).unwrap()
}

/// Signs any bytes as a relay could.
fn sign(body: &[u8]) -> Vec<u8> {
    [body, &identity(1).sign(LABEL, body)].concat()
}

/// A descriptor that is believed is the only form of what it says, and no part of it is one.
///
/// The first byte decides whether the bytes are signed here, as a relay can sign whatever it likes.
pub fn descriptor(data: &[u8]) {
    let mut input = Input::new(data);
    let (signs, cut) = (input.u8() & 1 == 1, usize::from(input.u16()));
    let mut bytes = input.rest().to_vec();
    if signs {
        for (place, value) in [(5, &identity(1).id().0[..]), (37, &NETWORK.0)] {
            if let Some(to) = bytes.get_mut(place..place + value.len()) {
                to.copy_from_slice(value);
            }
        }
        bytes = sign(&bytes);
    }
    let Ok(signed) = SignedDescriptor::parse(&bytes, NETWORK, UNIX) else { return };
    assert_eq!(signed.bytes(), bytes);
    assert!(signed.expires > UNIX && signed.network == NETWORK);
    if signed.id == identity(1).id() && !signed.holds_link_key() {
        let again = SignedDescriptor::sign(Descriptor::clone(&signed), &identity(1));
        assert_eq!(again, Ok(signed));
    }
    let (body, _) = bytes.split_last_chunk::<64>().unwrap();
    let part = &body[..cut % body.len()];
    SignedDescriptor::parse(&sign(part), NETWORK, UNIX).unwrap_err();
    SignedDescriptor::parse(&sign(&[body, &[0]].concat()), NETWORK, UNIX).unwrap_err();
}

/// The text of a real file of three relays.
pub(crate) fn sample_file() -> String {
    thread_local!(static TEXT: OnceCell<String> = const { OnceCell::new() });
    TEXT.with(|text| {
        text.get_or_init(|| {
            let mut view = View::new(NETWORK).with_chain(chain());
            for n in [1, 2, 5] {
                view.insert(sample(n)).unwrap();
            }
            NetworkFile::create("sample", view, &identity(9)).unwrap().to_text()
        })
        .clone()
    })
}

/// The text of an open network's file.
pub(crate) fn sample_open_file() -> String {
    let bootstrap = ["192.0.2.1:4434", "[2001:db8::1]:443", "relay.example.org:4434"].map(str::to_owned);
    NetworkFile::open("open", chain(), bootstrap.to_vec(), false).unwrap().to_text()
}

/// A file that is believed says the same when it is written again; what is wrong with another is said in one line that
/// exists and that a terminal can show.
///
/// The first byte decides whether the bytes are the text, or changes to a real one, of one kind or the other.
pub fn network_file(data: &[u8]) {
    let mut input = Input::new(data);
    let (first, pinned) = (input.u8(), Some(identity(9).id()));
    let mut edited = |mut text: Vec<u8>| {
        edit_text(&mut input, &mut text);
        text
    };
    let (text, pinned) = match first % 4 {
        1 => (edited(sample_file().into_bytes()), pinned),
        2 => (input.rest().to_vec(), None),
        3 => (edited(sample_open_file().into_bytes()), None),
        _ => (input.rest().to_vec(), pinned),
    };
    let Ok(text) = String::from_utf8(text) else { return };
    match NetworkFile::parse(&text, "file", pinned, UNIX) {
        Ok(file) => {
            if let Some(pinned) = pinned {
                assert_eq!((file.signer(), file.name()), (Some(pinned), "sample"));
            }
            assert_eq!(file.signer().is_none(), file.bootstrap().is_some());
            assert_eq!(NetworkFile::parse(&file.to_text(), "file", pinned, UNIX), Ok(file));
        }
        Err(error) => {
            assert!((1..=1 + text.matches('\n').count()).contains(&error.line), "{error:?}");
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
    }
}
