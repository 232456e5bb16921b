//! Tests of the network file.

use circuit::keys::DhPublic;
use proptest::prelude::*;

use super::*;
use crate::chain::Wei;
use crate::descriptor::{Descriptor, EPOCH_SECONDS};
use crate::sample::{NETWORK, NOW, chain, descriptor, identity, payment, signed};

const SIGNER: u8 = 99;

fn with(n: u8, change: impl FnOnce(&mut Descriptor)) -> SignedDescriptor {
    let mut new = descriptor(n);
    change(&mut new);
    SignedDescriptor::sign(new, &identity(n)).unwrap()
}

fn create(relays: impl IntoIterator<Item = SignedDescriptor>) -> NetworkFile {
    let mut view = View::new(NETWORK);
    for relay in relays {
        view.insert(relay).unwrap();
    }
    NetworkFile::create("demo net", view, &identity(SIGNER)).unwrap()
}

fn sample() -> NetworkFile {
    create((1..=4).map(signed))
}

fn parse(text: &str) -> Result<NetworkFile, FileError> {
    NetworkFile::parse(text, "network.toml", Some(identity(SIGNER).id()), NOW)
}

/// The error, after a check that it points at the first line that contains `at`.
fn error_at(text: &str, at: &str, key: &str) -> FileError {
    let error = parse(text).unwrap_err();
    assert_eq!(error.key, key, "{error}");
    let line = text.lines().nth(error.line - 1).unwrap();
    assert!(line.contains(at), "{error} points at: {line}");
    assert!(error.to_string().starts_with(&format!("network.toml:{}: {key}: ", error.line)));
    assert!(!error.fix.is_empty());
    error
}

/// A file around these relay tables, with a right signature over `view`'s relays.
fn around(relays: &[String], signed: &NetworkFile) -> String {
    let text = signed.to_text();
    let (head, _) = text.split_once("\n# id").unwrap();
    relays.iter().fold(head.to_owned(), |text, relay| text + "\n[[relay]]\n" + relay + "\n")
}

fn line_of(relay: &SignedDescriptor) -> String {
    format!("descriptor = \"{}\"", BASE64.encode(relay.bytes()))
}

// directory.file.1
#[test]
fn what_is_created_is_read_back() {
    let file = sample();
    let read = parse(&file.to_text()).unwrap();
    assert_eq!(read, file);
    assert_eq!(
        (read.name(), read.signer(), read.view().iter().len()),
        ("demo net", Some(identity(SIGNER).id()), 4)
    );
    assert_eq!((read.expires(), read.bootstrap()), (Some(NOW + EPOCH_SECONDS), None));
    assert_eq!(NetworkFile::parse(&file.to_text(), "", None, NOW), Ok(file));
    assert_eq!(read.into_view().network(), NETWORK);
}

#[test]
fn the_signed_bytes_are_those_of_the_specification() {
    let file = create([signed(1)]);
    let relay = signed(1);
    let length = u32::try_from(relay.bytes().len()).unwrap();
    let expected = [
        &b"\x08demo net"[..],
        &[0x11; 16],
        &(NOW + EPOCH_SECONDS).to_be_bytes(),
        &[0, 1],
        &length.to_be_bytes(),
        relay.bytes(),
    ]
    .concat();
    let verify = |message: &[u8], file: &NetworkFile| {
        let Kind::Static { signature, .. } = &file.kind else { panic!("a static file") };
        identity(SIGNER).id().verify("chive network file 1", message, signature).unwrap();
    };
    verify(&[&expected[..], &[0]].concat(), &file);
    let mut chain = chain();
    chain.rpc = vec!["http://a".to_owned()];
    chain.deployed = 12_345;
    let view = file.into_view().with_chain(chain);
    let file = NetworkFile::create("demo net", view, &identity(SIGNER)).unwrap();
    let chain_part = [
        &[1, 0, 0, 0, 0, 0, 0, 0x7a, 0x69][..],
        &[0xc0; 20],
        &[0, 0, 0, 0, 0, 0x03, 0x8d, 0x7e, 0xa4, 0xc6, 0x80, 0],
        &[0, 3, 0, 0, 0, 0, 0, 0, 0x30, 0x39, 1, 0, 8],
        b"http://a",
    ];
    verify(&[&expected[..], &chain_part.concat()].concat(), &file);
}

fn paid() -> NetworkFile {
    let mut view = View::new(NETWORK).with_chain(chain());
    for n in 1..=3 {
        view.insert(with(n, |d| d.payment = Some(payment(n)))).unwrap();
    }
    NetworkFile::create("demo net", view, &identity(SIGNER)).unwrap()
}

// directory.file.1 directory.file.6
#[test]
fn a_chain_is_read_back_and_shown_to_people() {
    let file = paid();
    let text = file.to_text();
    let read = parse(&text).unwrap();
    assert_eq!(read, file);
    assert_eq!(read.view().chain(), Some(&chain()));
    let owner = payment(1).owner;
    for line in [
        format!("contract = \"{}\"\n", chain().contract),
        "minimum_bond = \"1000000000000000 wei\"\n".to_owned(),
        "rpc = [\"http://127.0.0.1:8545\", \"https://example.org/rpc?key=1\"]\n".to_owned(),
        format!("# owner {owner}, wei per cell 1000, as an exit 16777216\n"),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    // Values count, not how they are written.
    let again = text
        .replace("1000000000000000 wei", "0.001 ether")
        .replace(&chain().contract.to_string(), &chain().contract.to_string().to_lowercase());
    assert_eq!(parse(&again), Ok(file));
    // What is left out is 20 exit operators, no RPC, and a contract that may have been there always.
    let mut view = paid().into_view();
    view = view.with_chain(Chain { rpc: vec![], exit_operators: EXIT_OPERATORS, ..chain() });
    let file = NetworkFile::create("demo net", view, &identity(SIGNER)).unwrap();
    let text = file.to_text().replace("rpc = []\n", "").replace("exit_operators = 20\ndeployed = 0\n", "");
    assert!(!text.contains("rpc") && !text.contains("exit_operators") && !text.contains("deployed"));
    assert_eq!(parse(&text), Ok(file));
}

// directory.file.1 directory.file.3 directory.file.6
#[test]
fn every_changed_value_of_the_chain_is_refused_where_it_stands() {
    let text = paid().to_text();
    let contract = chain().contract.to_string();
    let swapped = contract.replacen('C', "c", 1);
    for (from, to, at, key) in [
        ("id = 31337", "id = 31338", "signature =", "signature"),
        ("wei\"", "gwei\"", "signature =", "signature"),
        ("exit_operators = 3", "exit_operators = 4", "signature =", "signature"),
        (":8545", ":8546", "signature =", "signature"),
        ("deployed = 0", "deployed = 1", "signature =", "signature"),
        ("deployed = 0", "deployed = 9223372036854775808", "deployed =", "chain.deployed"),
        ("[chain]", "[chain]\nx = 1", "x = 1", "chain.x"),
        ("id = 31337", "id = 0", "id = 0", "chain.id"),
        ("id = 31337", "id = 9223372036854775808", "id =", "chain.id"),
        ("id = 31337", "", "[chain]", "chain.id"),
        (&contract, &swapped, "contract =", "chain.contract"),
        (&contract, "0x", "contract =", "chain.contract"),
        (&contract, "0x0000000000000000000000000000000000000000", "contract =", "chain.contract"),
        ("1000000000000000 wei", "1 euro", "minimum_bond =", "chain.minimum_bond"),
        ("\"1000000000000000 wei\"", "5", "minimum_bond =", "chain.minimum_bond"),
        ("exit_operators = 3", "exit_operators = 0", "exit_operators =", "chain.exit_operators"),
        ("exit_operators = 3", "exit_operators = 65536", "exit_operators =", "chain.exit_operators"),
        ("http://127", "gopher://127", "rpc =", "chain.rpc"),
        ("[\"http://127.0.0.1:8545\",", "[5,", "rpc =", "chain.rpc"),
        ("exit_operators = 3", "exit_operator = 3", "exit_operator =", "chain.exit_operator"),
    ] {
        assert!(text.contains(from), "{from}");
        error_at(&text.replacen(from, to, 1), at, key);
    }
    let section = text.find("[chain]").unwrap()..text.find("\n# id").unwrap();
    let mut free = text.clone();
    free.replace_range(section, "");
    error_at(&free, "signature =", "signature");
    let error = error_at(
        &text.replacen("exit_operators", "exit_operator", 1),
        "exit_operator",
        "chain.exit_operator",
    );
    assert_eq!(error.fix, "did you mean `exit_operators`?");
    let error = parse(&format!("chain = 5\n{free}")).unwrap_err();
    assert_eq!(error.key, "chain");
}

#[test]
fn the_text_is_for_people_and_comments_and_order_do_not_count() {
    let text = sample().to_text();
    for comment in [
        format!("# id {}\n", identity(1).id()),
        "# address 192.0.2.1:4433 [2001:db8::1]:4433\n".to_owned(),
        "# country DE, exit ports 80,443\n".to_owned(),
        "# country DE, exit ports none\n".to_owned(),
    ] {
        assert!(text.contains(&comment), "{comment}");
    }
    let bare: String =
        text.lines().filter(|l| !l.starts_with('#')).fold(String::new(), |t, l| t + l + "\r\n");
    assert_eq!(parse(&bare), Ok(sample()));
    let mut relays: Vec<String> = (1..=4).map(|n| line_of(&signed(n))).collect();
    relays.reverse();
    assert_eq!(parse(&around(&relays, &sample())), Ok(sample()));
    let bare = create([with(1, |d| d.country = None)]);
    assert!(bare.to_text().contains("# country unknown"));
}

// directory.file.2
#[test]
fn a_file_expires_with_its_first_descriptor() {
    let file = create([signed(1), with(2, |d| d.expires = NOW + 7_200)]);
    let text = file.to_text();
    assert_eq!(file.expires(), Some(NOW + 7_200));
    assert!(NetworkFile::parse(&text, "", None, NOW + 7_199).is_ok());
    assert_eq!(NetworkFile::parse(&text, "", None, NOW + 7_200).unwrap_err().key, "expires");
    let error = NetworkFile::parse(&text, "", None, NOW + 3 * 7_200).unwrap_err();
    assert_eq!((error.key.as_str(), error.problem.as_str()), ("expires", "the file expired 4 hours ago"));
    for (later, text) in [(0, "0 seconds"), (60, "1 minute"), (3_600, "1 hour"), (172_800, "2 days")] {
        let error = NetworkFile::parse(&file.to_text(), "", None, NOW + 7_200 + later).unwrap_err();
        assert_eq!(error.problem, format!("the file expired {text} ago"));
    }
    let short = with(1, |d| d.expires = NOW + 10);
    let error =
        error_at(&around(&[line_of(&short)], &create([signed(1)])), "descriptor", "relay[1].descriptor");
    assert!(error.problem.contains("expires before the file"), "{error}");
}

// directory.file.1 directory.file.4
#[test]
fn every_changed_value_is_refused_where_it_stands() {
    let text = sample().to_text();
    let replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    for (changed, at, key) in [
        (replace("demo net", "demo met"), "signature =", "signature"),
        (replace("demo net", "demo/net"), "name =", "name"),
        (replace("demo net", ""), "name =", "name"),
        (replace("network = \"11", "network = \"12"), "descriptor =", "relay[1].descriptor"),
        (replace("network = \"11", "network = \"1"), "network =", "network"),
        (replace("network = \"11", "network = \"G1"), "network =", "network"),
        (replace("expires = 1", "expires = _"), "expires =", "file"),
        (replace("expires = 1", "expires = -1"), "expires =", "expires"),
        (replace("expires = 1", "expires = 1e1"), "expires =", "expires"),
        (replace("schema = 1", "schema = 2"), "schema =", "schema"),
        (replace("schema = 1", "schema = '1'"), "schema =", "schema"),
        (replace("name = \"demo net\"", "name = 5"), "name =", "name"),
        (replace(&identity(SIGNER).id().to_string(), &identity(3).id().to_string()), "signer =", "signer"),
        (replace("schema = 1", "schema == 1"), "schema ==", "file"),
    ] {
        error_at(&changed, at, key);
    }
    let other = NetworkFile::parse(&text, "", Some(identity(3).id()), NOW).unwrap_err();
    assert!(other.problem.contains(&identity(3).id().to_string()), "{other}");
}

// directory.file.1
#[test]
fn a_relay_added_or_left_out_breaks_the_signature() {
    let lines: Vec<String> = (1..=5).map(|n| line_of(&signed(n))).collect();
    assert_eq!(parse(&around(&lines[..4], &sample())), Ok(sample()));
    for relays in [&lines[..], &lines[..3], &lines[1..]] {
        error_at(&around(relays, &sample()), "signature =", "signature");
    }
}

// directory.file.5
#[test]
fn one_bad_relay_is_named() {
    let good = line_of(&signed(1));
    let mut forged = signed(2).bytes().to_vec();
    forged[120] ^= 1;
    let relay = |inner: &str| around(&[good.clone(), inner.to_owned()], &sample());
    for (inner, at, key, problem) in [
        (
            format!("descriptor = \"{}\"", BASE64.encode(&forged)),
            "descriptor",
            "relay[2].descriptor",
            "signature",
        ),
        (line_of(&signed(2)).replace("Q0hW", "Q0h!"), "descriptor", "relay[2].descriptor", "not base64"),
        (format!("{}\nx = 1", line_of(&signed(2))), "x = 1", "relay[2].x", "not known"),
        (String::new(), "[[relay]]", "relay[2].descriptor", "missing"),
        ("descriptor = 7".to_owned(), "descriptor = 7", "relay[2].descriptor", "text in quotes"),
        (good.clone(), "descriptor", "relay[2].descriptor", "listed twice"),
        (
            line_of(&with(2, |d| d.link_key = DhPublic([1; 32]))),
            "descriptor",
            "relay[2].descriptor",
            "link key",
        ),
        (line_of(&with(2, |d| d.network.0[0] ^= 1)), "descriptor", "relay[2].descriptor", "network"),
        (line_of(&with(2, |d| d.expires = NOW)), "descriptor", "relay[2].descriptor", "expired"),
    ] {
        let error = error_at(&relay(&inner), at, key);
        assert!(error.problem.contains(problem), "{error}");
    }
    for relays in ["relay = []", "relay = 1", "relay = [1]", ""] {
        let text = sample().to_text();
        let (head, _) = text.split_once("\n# id").unwrap();
        let error = parse(&format!("{head}{relays}")).unwrap_err();
        assert!(error.key.starts_with("relay"), "{error}");
    }
}

// directory.file.3
#[test]
fn an_unknown_key_names_the_nearest() {
    let text = sample().to_text();
    for (wrong, right) in [("singer", "signer"), ("expire", "expires"), ("nam", "name"), ("relays", "relay")]
    {
        let error = error_at(&format!("{wrong} = 1\n{text}"), wrong, wrong);
        assert_eq!(error.fix, format!("did you mean `{right}`?"));
    }
}

#[test]
fn what_cannot_be_a_file_is_not_created() {
    let mut view = View::new(NETWORK);
    assert!(NetworkFile::create("demo", view.clone(), &identity(SIGNER)).is_err());
    view.insert(signed(1)).unwrap();
    for name in ["", "a\nb", "a\"b", "\u{e9}", &"x".repeat(MAX_NAME + 1)] {
        assert!(NetworkFile::create(name, view.clone(), &identity(SIGNER)).is_err(), "{name}");
    }
    let wrong = Chain { minimum_bond: Wei(u128::MAX), ..chain() };
    assert!(NetworkFile::create("demo", view.clone().with_chain(wrong), &identity(SIGNER)).is_err());
    assert!(NetworkFile::create(&"x".repeat(MAX_NAME), view, &identity(SIGNER)).is_ok());
    let long = "#".repeat(MAX_FILE + 1);
    assert!(parse(&long).unwrap_err().problem.contains("16 MiB"));
}

fn open() -> NetworkFile {
    let bootstrap = ["192.0.2.1:4434", "[2001:db8::1]:443", "relay-1.example.org:4434", "a:1"];
    let bootstrap = bootstrap.map(str::to_owned).to_vec();
    NetworkFile::open("open net", Chain { deployed: 77, ..chain() }, bootstrap, false).unwrap()
}

// directory.file.7 directory.file.8
#[test]
fn an_open_network_is_read_back_and_named_by_its_contract() {
    let file = open();
    let text = file.to_text();
    let read = NetworkFile::parse(&text, "", None, u64::MAX).unwrap();
    assert_eq!(read, file);
    assert_eq!((read.name(), read.signer(), read.expires()), ("open net", None, None));
    assert_eq!(read.bootstrap().map(<[String]>::len), Some(4));
    let view = read.into_view();
    assert_eq!((view.iter().len(), view.chain().map(|chain| chain.deployed)), (0, Some(77)));
    let mut hasher = blake3::Hasher::new_derive_key("chive open network 1");
    hasher.update(&[0, 0, 0, 0, 0, 0, 0x7a, 0x69]).update(&[0xc0; 20]);
    assert_eq!(view.network().0, hasher.finalize().as_bytes()[..16]);
    assert!(!view.is_local() && !text.contains("local"));
    let local = NetworkFile::open("tests", chain(), vec![], true).unwrap();
    let read = NetworkFile::parse(&local.to_text(), "", None, NOW).unwrap();
    assert!(read.view().is_local() && read == local);
    let first = NetworkFile::open("first", chain(), vec![], false).unwrap();
    assert_eq!(NetworkFile::parse(&first.to_text(), "", None, NOW), Ok(first));
}

// directory.file.3 directory.file.4 directory.file.7
#[test]
fn what_is_wrong_with_an_open_networks_file_is_named() {
    let text = open().to_text();
    let parse = |text: &str, pinned| NetworkFile::parse(text, "network.toml", pinned, NOW).unwrap_err();
    let error = parse(&text, Some(identity(SIGNER).id()));
    assert!(error.key == "bootstrap" && error.problem.contains("pinned"), "{error}");
    let many = format!("bootstrap = [{}]", vec!["\"a:1\""; MAX_BOOTSTRAP + 1].join(", "));
    let line = text.lines().find(|line| line.starts_with("bootstrap")).unwrap();
    for (from, to, key) in [
        (line, many.as_str(), "bootstrap"),
        (line, "bootstrap = 5", "bootstrap"),
        (line, "bootstrap = [\"10.0.0.1:7000\"]", "bootstrap"),
        ("schema = 1", "schema = 1\nlocal = 1", "local"),
        ("\"a:1\"", "5", "bootstrap"),
        ("\"open net\"", "\"open/net\"", "name"),
        ("schema = 1", "schema = 1\nsigner = \"\"", "signer"),
        ("schema = 1", "schema = 1\nrelay = []", "relay"),
        ("id = 31337", "id = 0", "chain.id"),
        ("deployed = 77", "deployed = -1", "chain.deployed"),
    ] {
        assert!(text.contains(from), "{from}");
        assert_eq!(parse(&text.replacen(from, to, 1), None).key, key);
    }
    let (head, _) = text.split_once("[chain]").unwrap();
    assert_eq!(parse(head, None).key, "chain");
    let long = format!("{}:1", vec!["a".repeat(63); 4].join("."));
    for bad in [
        "",
        ":",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:+1",
        "a:-1",
        "a b:1",
        "-a:1",
        "a-:1",
        "a..b:1",
        ".a:1",
        "a.:1",
        "1.2.3:1",
        "256.1.1.1:1",
        "192.0.2.1:0",
        "0.0.0.0:1",
        "[::]:1",
        "::1:1",
        "[fe80::1:1",
        "a\\:1",
        "\u{e9}:1",
        &long,
    ] {
        assert!(NetworkFile::open("n", chain(), vec![bad.to_owned()], false).is_err(), "{bad}");
    }
    assert!(NetworkFile::open("n", chain(), vec!["a:1".to_owned(); MAX_BOOTSTRAP + 1], false).is_err());
    for private in
        ["127.0.0.1:1", "192.168.1.2:1", "169.254.0.1:1", "[::1]:1", "[fd00::1]:1", "[::ffff:10.0.0.1]:1"]
    {
        let open = |local| NetworkFile::open("n", chain(), vec![private.to_owned()], local);
        assert!(open(true).is_ok() && open(false).is_err(), "{private}");
    }
    assert!(NetworkFile::open("n/", chain(), vec![], false).is_err());
    assert!(NetworkFile::open("n", Chain { id: 0, ..chain() }, vec![], false).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // directory.file.1
    #[test]
    fn a_changed_byte_is_refused_or_means_the_same(index: prop::sample::Index, byte in 0x20_u8..0x7f) {
        let file = paid();
        let mut bytes = file.to_text().into_bytes();
        *index.get_mut(&mut bytes) = byte;
        if let Ok(read) = parse(core::str::from_utf8(&bytes).unwrap()) {
            prop_assert_eq!(read, file);
        }
    }

    #[test]
    fn every_prefix_is_an_error_with_a_line(index: prop::sample::Index) {
        let text = paid().to_text();
        let cut = index.index(text.len() - 2);
        let error = parse(text.get(..cut).unwrap()).unwrap_err();
        prop_assert!(error.line <= text.lines().count());
    }
}
