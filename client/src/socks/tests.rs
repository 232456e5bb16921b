//! Tests of the SOCKS5 entry.

use circuit::request::Host;
use proptest::prelude::*;

use super::*;

const GREETING: &[u8] = &[5, 1, 0];
const CONNECT_V4: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 1, 1, 187];

fn request_to(host: Host, port: u16, credentials: Option<Credentials>, leftover: &[u8]) -> Step {
    Step::Request { target: Target { host, port }, credentials, leftover: leftover.to_vec() }
}

fn ip(text: &str) -> Host {
    Host::Ip(text.parse().unwrap())
}

/// Feeds chunks as a driver does; returns all steps but [`Step::More`], and whether more is wanted.
fn run(chunks: &[&[u8]]) -> (Vec<Step>, bool) {
    let mut socks = Socks::new();
    let mut steps = Vec::new();
    for chunk in chunks {
        let mut input = *chunk;
        loop {
            let step = socks.feed(input);
            input = &[];
            match step {
                Step::More => {
                    assert!(socks.buffer.0.len() < MAX_MESSAGE);
                    break;
                }
                Step::Send(_) => steps.push(step),
                Step::Request { .. } | Step::Close(_) => {
                    steps.push(step);
                    return (steps, false);
                }
            }
        }
    }
    (steps, true)
}

/// What is fed byte by byte, and cut in two anywhere, gives the steps of the whole; every prefix wants more.
fn check(input: &[u8], expected: &[Step]) {
    assert_eq!(run(&[input]), (expected.to_vec(), false), "{input:?}");
    let single: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&single), (expected.to_vec(), false), "{input:?}");
    for cut in 0..input.len() {
        let (head, tail) = input.split_at(cut);
        assert_eq!(run(&[head, tail]), (expected.to_vec(), false), "{input:?} cut at {cut}");
        let (steps, more) = run(&[head]);
        assert!(more, "{input:?} ends early at {cut}");
        assert!(expected.starts_with(&steps));
    }
}

fn after_greeting(rest: &[u8]) -> Vec<u8> {
    [GREETING, rest].concat()
}

fn no_authentication(last: Step) -> [Step; 2] {
    [Step::Send(vec![5, 0]), last]
}

#[test]
fn the_three_forms_of_address_are_targets() {
    check(&after_greeting(CONNECT_V4), &no_authentication(request_to(ip("192.0.2.1"), 443, None, &[])));
    let v6 = [&[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1, 0, 80]].concat();
    check(&after_greeting(&v6), &no_authentication(request_to(ip("2001:db8::1"), 80, None, &[])));
    for name in ["a", "example.org", &"x".repeat(255)] {
        let length = u8::try_from(name.len()).unwrap();
        let request = [&[5, 1, 0, 3, length][..], name.as_bytes(), &[0x1f, 0x90]].concat();
        let host = Host::name(name.as_bytes()).unwrap();
        check(&after_greeting(&request), &no_authentication(request_to(host, 8080, None, &[])));
    }
}

// circuit.isolation.1
#[test]
fn user_and_password_are_preferred_and_any_values_isolate() {
    let long = [0xff; 255];
    for (user, password) in [(&b"user"[..], &b"secret"[..]), (b"", b""), (&long, &long)] {
        let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
        let input =
            [&[5, 3, 1, 0, 2, 1, length(user)], user, &[length(password)], password, CONNECT_V4].concat();
        let credentials = Some(Credentials::new(user, password));
        check(
            &input,
            &[
                Step::Send(vec![5, 2]),
                Step::Send(vec![1, 0]),
                request_to(ip("192.0.2.1"), 443, credentials, &[]),
            ],
        );
    }
    assert_ne!(Credentials::new(b"ab", b"c"), Credentials::new(b"a", b"bc"));
    assert_ne!(Credentials::new(b"a", b"b"), Credentials::new(b"a", b"c"));
    assert_eq!(Credentials::new(b"a", b"b"), Credentials::new(b"a", b"b"));
}

#[test]
fn the_longest_message_has_the_named_size() {
    let password = [&[1, 255][..], &[7; 255], &[255], &[8; 255]].concat();
    assert_eq!(password.len(), MAX_MESSAGE);
}

#[test]
fn methods_that_nobody_serves_are_refused() {
    check(&[5, 0], &[Step::Close(Some(vec![5, 0xff]))]);
    check(&[5, 2, 1, 3], &[Step::Close(Some(vec![5, 0xff]))]);
    check(&[5, 1, 2, 2], &[Step::Send(vec![5, 2]), Step::Close(Some(vec![1, 1]))]);
}

#[test]
fn failures_have_exact_codes() {
    let close = |code| [Step::Send(vec![5, 0]), Step::Close(Some(vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]))];
    for (request, code) in [
        (&[4][..], 1),                          // another version
        (&[5, 2], 7),                           // BIND
        (&[5, 3], 7),                           // UDP ASSOCIATE
        (&[5, 0xf0], 7),                        // no command of RFC 1928
        (&[5, 1, 1], 1),                        // reserved byte
        (&[5, 1, 0, 2], 8),                     // no address type
        (&[5, 1, 0, 0], 8),                     // no address type
        (&[5, 1, 0, 3, 0], 1),                  // a name without characters
        (&[5, 1, 0, 3, 1, b' ', 0, 80], 1),     // a name that cannot be sent
        (&[5, 1, 0, 3, 1, 0xc3, 0, 80], 1),     // a name that is not ASCII
        (&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0], 1), // port 0
    ] {
        check(&after_greeting(request), &close(code));
    }
}

#[test]
fn every_reply_has_ten_exact_bytes() {
    for code in 0..=8 {
        assert_eq!(reply(ReplyCode::from_byte(code)), [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn what_follows_the_request_is_handed_on() {
    let input = [GREETING, CONNECT_V4, b"GET / HTTP/1.1\r\n"].concat();
    let expected = no_authentication(request_to(ip("192.0.2.1"), 443, None, b"GET / HTTP/1.1\r\n"));
    assert_eq!(run(&[&input]), (expected.to_vec(), false));
    let large = [CONNECT_V4, &[9; 10_000]].concat();
    let expected = no_authentication(request_to(ip("192.0.2.1"), 443, None, &[9; 10_000]));
    assert_eq!(run(&[GREETING, &large]), (expected.to_vec(), false));
}

#[test]
fn other_protocols_get_an_answer_that_helps() {
    check(&[4], &[Step::Close(Some(vec![0, 91, 0, 0, 0, 0, 0, 0]))]);
    for method in ["GET ", "CONNECT ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE "] {
        let (steps, _) = run(&[method.as_bytes()]);
        let [Step::Close(Some(answer))] = &steps[..] else { panic!("{steps:?}") };
        let text = core::str::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 501 Not Implemented\r\n"));
        assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())));
        assert!(body.contains("SOCKS5") && body.contains("socks5h://"));
        check(method.as_bytes(), &steps);
    }
    for garbage in [&b"\x16"[..], b"\0", b"X", b"GEX", b"PI", b"get "] {
        let (steps, more) = run(&[garbage]);
        assert_eq!((&steps[..], more), (&[Step::Close(None)][..], false), "{garbage:?}");
    }
}

#[test]
fn after_the_end_nothing_is_taken() {
    for input in [&[0][..], &after_greeting(CONNECT_V4)] {
        let mut socks = Socks::new();
        while !matches!(socks.feed(input), Step::Close(_) | Step::Request { .. }) {}
        assert_eq!(socks.feed(&[5, 1, 0]), Step::Close(None));
        assert!(socks.buffer.0.is_empty());
    }
}

#[test]
fn debug_output_names_nobody() {
    let mut socks = Socks::new();
    let inputs = [&[5, 1, 2][..], b"\x01\x05alice\x06secret", b"\x05\x01\0\x03\x0bexample.org\0", &[80]];
    let text = inputs.map(|input| format!("{:?} {socks:?}", socks.feed(input))).concat();
    assert!(text.contains("Request"), "{text}");
    for secret in ["alice", "secret", "example", "97, 108"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Beginnings that lead deep into the state machine.
fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        vec![],
        vec![5],
        vec![5, 1, 0],
        vec![5, 1, 2],
        vec![5, 1, 2, 1, 1, b'u', 1, b'p'],
        vec![5, 1, 0, 5, 1, 0],
        vec![5, 1, 0, 5, 1, 0, 3],
        b"CON".to_vec(),
    ])
}

proptest! {
    #[test]
    fn garbage_gives_the_same_steps_however_it_is_cut(
        start in beginnings(),
        garbage in prop::collection::vec(any::<u8>(), 0..700),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let input = [start, garbage].concat();
        let (whole, more) = run(&[&input]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut rest = &input[..];
        for cut in cuts {
            let (chunk, tail) = rest.split_at(cut - (input.len() - rest.len()));
            chunks.push(chunk);
            rest = tail;
        }
        chunks.push(rest);
        let (cut, cut_more) = run(&chunks);
        prop_assert_eq!(more, cut_more);
        prop_assert_eq!(whole.len(), cut.len());
        for pair in whole.into_iter().zip(cut) {
            match pair {
                // What comes after the request in later chunks is never fed.
                (
                    Step::Request { target, credentials, leftover },
                    Step::Request { target: t, credentials: c, leftover: l },
                ) => prop_assert!(target == t && credentials == c && leftover.starts_with(&l)),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
