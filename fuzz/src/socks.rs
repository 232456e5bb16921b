//! The entry for applications.

use circuit::request::{Host, ReplyCode};
use client::socks::{MAX_MESSAGE, Socks, Step, reply};

use crate::input::Input;

/// What an application's bytes lead to does not depend on how they are cut; answers are short, and targets can be sent.
pub fn socks(data: &[u8]) {
    let mut input = Input::new(data);
    let cut = usize::from(input.u8());
    let bytes = input.rest();
    let whole = run([bytes].into_iter());
    if cut > 0 {
        assert_eq!(run(bytes.chunks(cut)), whole, "in pieces of {cut} bytes");
    }
    if let Some(Step::Request { target, leftover, .. }) = whole.last() {
        assert!(target.port != 0 && bytes.ends_with(leftover));
        if let Host::Name(name) = &target.host {
            assert!((1..256).contains(&name.len()) && name.is_ascii());
        }
    }
    assert_eq!(reply(ReplyCode::Succeeded)[..2], [5, 0]);
}

/// The steps to an application that sends these pieces, without those that ask for more.
fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Step> {
    let mut socks = Socks::new();
    let mut steps = vec![];
    let mut leftover = vec![];
    for piece in pieces {
        if let Some(Step::Request { leftover, .. }) = steps.last_mut() {
            // The driver passes on what comes after the request.
            Vec::extend_from_slice(leftover, piece);
            continue;
        }
        let mut step = socks.feed(piece);
        while let Step::Send(answer) = &step {
            assert!(answer.len() == 2 && steps.len() < 2);
            steps.push(step);
            step = socks.feed(&[]);
        }
        if step == Step::More {
            leftover.extend_from_slice(piece);
            continue;
        }
        let over = matches!(step, Step::Close(_));
        steps.push(step);
        if over {
            assert_eq!(socks.feed(piece), Step::Close(None), "after the end there is nothing");
            break;
        }
    }
    if steps.is_empty() {
        assert!(leftover.len() <= MAX_MESSAGE, "{} bytes are kept", leftover.len());
    }
    steps
}
