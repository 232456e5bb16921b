//! Every lie of a payee to a wallet, and of a payer to a till.

use alloy_primitives::{Address, B256, keccak256};

use super::pair::{DOMAIN, NOW, PAYEE, PAYER, Pair, VALUE, pot, signer, till_limits, wallet_limits};
use crate::amount::Wei;
use crate::draw::{Chain, wins};
use crate::frame::{Answer, Frame, Reason};
use crate::offer::{Face, LIFE, Offer};
use crate::session::Signature;
use crate::till::{TillError, TillLimits};
use crate::wallet::{Refusal, Wallet, WalletError};

/// A wallet whose payee is played by the test; its secret number and a session, of which no draw is revealed yet.
struct Prey {
    wallet: Wallet,
    rand: B256,
    offer: Offer,
}

const FACE: Wei = Wei(4000);

fn offer(nonce: u32, rand: &B256) -> Offer {
    let win_prob = Offer::odds(VALUE, FACE).unwrap();
    Offer {
        nonce,
        rand_hash: keccak256(rand),
        face: FACE,
        win_prob,
        draws: 64,
        expiry: NOW + LIFE,
        value: VALUE,
    }
}

impl Prey {
    /// With a secret number for which draw `win` is the first to win, if any of the first 20 is.
    fn new(win: Option<u16>) -> (Self, Chain) {
        for salt in 0.. {
            let mut prey = Self::with(keccak256(u64::to_be_bytes(salt)));
            // The chain is known to nobody but the wallet: it is read off another one with the same seed.
            let mut other = Self::with(prey.rand);
            other.wallet.pay(NOW, PAYEE, Wei(64_000));
            let Some((_, Frame::Draw { index: 64, link, .. })) = other.wallet.poll_frame() else { panic!() };
            let chain = Chain::new(link, 64);
            let first = (1..=20).find(|i| wins(&chain.link(*i).unwrap(), &prey.rand, prey.offer.win_prob));
            if first == win {
                prey.frames();
                return (prey, chain);
            }
        }
        unreachable!()
    }

    fn with(rand: B256) -> Self {
        let mut wallet = Wallet::new(DOMAIN, PAYER, signer(), [1; 32], wallet_limits());
        wallet.on_account(NOW, Some(pot()));
        wallet.pay(NOW, PAYEE, Wei(0));
        let offer = offer(3, &rand);
        let mut prey = Self { wallet, rand, offer };
        prey.handle(&Frame::Offer { payee: PAYEE, offer }).unwrap();
        while let Some((id, _)) = prey.wallet.poll_record() {
            prey.wallet.persisted(NOW, id);
        }
        assert!(prey.frames().iter().any(|frame| matches!(frame, Frame::Session { nonce: 3, .. })));
        prey.handle(&Frame::SessionOk { nonce: 3, answer: Answer::Yes }).unwrap();
        prey.frames();
        prey
    }

    fn frames(&mut self) -> Vec<Frame> {
        core::iter::from_fn(|| self.wallet.poll_frame()).map(|(_, frame)| frame).collect()
    }

    fn handle(&mut self, frame: &Frame) -> Result<(), WalletError> {
        self.wallet.handle(NOW, PAYEE, frame)
    }

    fn rotate(&mut self, reason: Reason, index: u16, chain: &Chain) -> Result<(), WalletError> {
        let link = chain.link(index).unwrap();
        self.handle(&Frame::Rotate { nonce: 3, reason, index, link, rand: self.rand })
    }

    /// The wallet pays this payee nothing more, for an hour.
    fn assert_quarantined(&mut self) {
        self.frames();
        assert!(self.wallet.quarantined(PAYEE));
        let paid = self.wallet.paid(PAYEE);
        self.wallet.pay(NOW, PAYEE, Wei(1_000_000));
        let offer = offer(9, &self.rand);
        self.handle(&Frame::Offer { payee: PAYEE, offer }).unwrap();
        self.wallet.handle_timeout(NOW + 3599);
        assert_eq!((self.frames(), self.wallet.paid(PAYEE)), (vec![], paid));
        self.wallet.handle_timeout(NOW + 3600);
        assert!(!self.wallet.quarantined(PAYEE));
        assert!(matches!(self.frames()[..], [Frame::Want { .. }]));
    }
}

// pay.rotate.2
#[test]
fn an_honest_end_takes_void_draws_back() {
    let (mut prey, chain) = Prey::new(Some(5));
    prey.wallet.pay(NOW, PAYEE, Wei(20_000));
    assert_eq!(prey.wallet.paid(PAYEE), Wei(20_000));
    prey.rotate(Reason::Won, 5, &chain).unwrap();
    assert_eq!(prey.wallet.paid(PAYEE), Wei(5000));
    prey.rotate(Reason::Won, 5, &chain).unwrap();
    let view = prey.wallet.snapshot()[0];
    assert_eq!((view.paid, view.wins, view.owed), (Wei(5000), 1, FACE));
}

// pay.rotate.2
#[test]
fn a_liar_is_quarantined() {
    type Lie = fn(&mut Prey, &Chain) -> Result<(), WalletError>;
    let lies: [Lie; 7] = [
        |prey, chain| prey.rotate(Reason::Won, 4, chain),
        |prey, chain| prey.rotate(Reason::Won, 6, chain),
        |prey, chain| prey.rotate(Reason::Expiring, 5, chain),
        |prey, chain| prey.rotate(Reason::Changed, 20, chain),
        |prey, chain| prey.rotate(Reason::UsedUp, 4, chain),
        |prey, chain| {
            let link = chain.link(5).unwrap();
            prey.handle(&Frame::Rotate { nonce: 3, reason: Reason::Won, index: 5, link, rand: B256::ZERO })
        },
        // A draw of which it cannot know the link: it has not been revealed.
        |prey, _| {
            prey.handle(&Frame::Rotate {
                nonce: 3,
                reason: Reason::Expiring,
                index: 21,
                link: B256::repeat_byte(1),
                rand: prey.rand,
            })
        },
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let (mut prey, chain) = Prey::new(Some(5));
        prey.wallet.pay(NOW, PAYEE, Wei(20_000));
        assert!(matches!(lie(&mut prey, &chain), Err(WalletError::Liar(_))), "lie {n}");
        assert_eq!(prey.wallet.snapshot()[0].owed, FACE);
        prey.assert_quarantined();
    }
    let (mut prey, _) = Prey::new(None);
    prey.wallet.pay(NOW, PAYEE, Wei(2000));
    let lie = prey.handle(&Frame::DrawOk { nonce: 3, index: 3, link: B256::ZERO });
    assert!(matches!(lie, Err(WalletError::Liar(_))));
    prey.assert_quarantined();
}

// pay.rotate.3
#[test]
fn a_win_that_was_denied_must_not_be_redeemed() {
    let (mut prey, chain) = Prey::new(Some(5));
    prey.wallet.pay(NOW, PAYEE, Wei(20_000));
    // It says that draws 5 to 20 did not come.
    prey.rotate(Reason::Changed, 4, &chain).unwrap();
    assert_eq!((prey.wallet.paid(PAYEE), prey.wallet.snapshot()[0].owed), (Wei(4000), FACE));
    assert!(matches!(prey.wallet.redeemed(NOW, PAYEE, 3), Err(WalletError::Liar(_))));
    assert_eq!(prey.wallet.redeemed(NOW, PAYEE, 3), Ok(()));
    prey.assert_quarantined();
}

#[test]
fn what_a_payee_has_forgotten_is_paid_and_may_have_won() {
    let (mut prey, _) = Prey::new(Some(5));
    prey.wallet.pay(NOW, PAYEE, Wei(20_000));
    prey.handle(&Frame::SessionOk { nonce: 3, answer: Answer::Gone }).unwrap();
    assert_eq!((prey.wallet.paid(PAYEE), prey.wallet.snapshot()[0].owed), (Wei(20_000), FACE));
    assert_eq!(prey.wallet.redeemed(NOW, PAYEE, 3), Ok(()));
    assert!(!prey.wallet.quarantined(PAYEE));
}

// pay.nonce.1, pay.offer.1, pay.offer.3
#[test]
fn bad_offers_are_not_signed() {
    let rand = B256::repeat_byte(1);
    let good = offer(4, &rand);
    let odds = |value, face| Offer { value, face, win_prob: Offer::odds(value, face).unwrap(), ..good };
    let sign = |payee, offer| {
        let mut prey = Prey::with(rand);
        let result = prey.handle(&Frame::Offer { payee, offer });
        let signed = core::iter::from_fn(|| prey.wallet.poll_record()).count();
        (result, signed, prey.wallet.refusal(PAYEE))
    };
    assert_eq!(sign(PAYEE, good), (Ok(()), 1, None));
    assert_eq!(sign(PAYEE, Offer { nonce: 3, ..good }), (Ok(()), 0, None));
    assert!(matches!(sign(PAYER, good), (Err(WalletError::Misbehaved(_)), 0, None)));
    for bad in [
        Offer { win_prob: good.win_prob + 1, ..good },
        Offer { win_prob: 0, ..good },
        Offer { draws: 65, ..good },
        Offer { expiry: NOW + LIFE + 301, ..good },
        Offer { expiry: NOW + 36 * 3600 - 1, ..good },
    ] {
        assert!(matches!(sign(PAYEE, bad), (Err(WalletError::BadOffer(_)), 0, None)), "{bad:?}");
    }
    // 40 redemptions of a million wei.
    assert_eq!(sign(PAYEE, odds(VALUE, Wei(40_000_000))), (Ok(()), 1, None));
    assert!(matches!(sign(PAYEE, odds(VALUE, Wei(40_000_001))), (Ok(()), 0, Some(Refusal::Face { .. }))));
    assert!(matches!(sign(PAYEE, odds(Wei(10_001), Wei(40_000))), (Ok(()), 0, Some(Refusal::Value { .. }))));
    assert_eq!(sign(PAYEE, Offer { nonce: 19, ..good }), (Ok(()), 0, Some(Refusal::Nonces)));
    assert_eq!(sign(PAYEE, Offer { nonce: u32::MAX, ..good }), (Ok(()), 0, Some(Refusal::Nonces)));
}

/// A pair with a live session and what the payer has not yet revealed.
fn live() -> (Pair, Frame) {
    let mut pair = Pair::with(wallet_limits(), TillLimits { face: Face::Draws(20_000), ..till_limits() });
    pair.pay(3000);
    pair.settle();
    pair.pay(9000);
    let Some(draw) = pair.up.pop_front() else { panic!() };
    assert_eq!(pair.till.credited(PAYER), Wei(3000));
    (pair, draw)
}

// pay.draw.4
#[test]
fn a_payer_that_lies_about_draws_is_credited_nothing() {
    let (mut pair, draw) = live();
    let Frame::Draw { nonce, index: 9, link } = draw else { panic!("{draw:?}") };
    let lies = [
        Frame::Draw { nonce, index: 10, link },
        Frame::Draw { nonce, index: 8, link },
        // One that was credited is no way to learn of how far the session is.
        Frame::Draw { nonce, index: 2, link },
        Frame::Draw { nonce, index: 9, link: B256::ZERO },
        Frame::Draw { nonce, index: 0, link },
        Frame::Draw { nonce, index: 65, link },
        Frame::Draw { nonce, index: u16::MAX, link },
    ];
    for lie in lies {
        assert!(matches!(pair.till_gets(&lie), Err(TillError::Misbehaved(_))), "{lie:?}");
        assert_eq!(pair.till.credited(PAYER), Wei(3000));
    }
    assert_eq!(pair.till_gets(&Frame::Draw { nonce: 77, index: 1, link }), Ok(Wei(0)));
    assert_eq!(pair.down.pop_front(), Some(Frame::SessionOk { nonce: 77, answer: Answer::Gone }));
    assert_eq!(pair.till_gets(&draw), Ok(Wei(6000)));
    // pay.draw.5: again it is worth nothing, and answered.
    assert_eq!(pair.till_gets(&draw), Ok(Wei(0)));
    assert_eq!(pair.down.pop_back(), Some(Frame::DrawOk { nonce, index: 9, link }));
}

// pay.rotate.1
#[test]
fn only_who_knows_a_link_is_told_what_an_ended_session_came_to() {
    let limits = TillLimits { face: Face::Draws(20_000), draws: 4, ..till_limits() };
    let mut pair = Pair::with(wallet_limits(), limits);
    pair.pay(0);
    pair.settle();
    pair.pay(4_000);
    let last = pair.up.iter().copied().find(|frame| matches!(frame, Frame::Draw { index: 4, .. })).unwrap();
    let Frame::Draw { nonce, link, .. } = last else { panic!("{last:?}") };
    let back = |steps: u16| (0..steps).fold(link, |link, _| keccak256(link));
    let session = |anchor| {
        let signature = Signature([1; 64]);
        Frame::Session { payer: PAYER, nonce, offer: [0; 4], anchor, signature }
    };
    pair.till_gets(&last).unwrap();
    pair.write(9, 9);
    let mut answer = |frame: &Frame| {
        pair.down.clear();
        assert_eq!(pair.till_gets(frame), Ok(Wei(0)));
        assert_eq!(pair.down.len(), 1);
        pair.down[0]
    };
    for probe in [
        Frame::Draw { nonce, index: 4, link: B256::ZERO },
        Frame::Draw { nonce, index: 1, link },
        Frame::Draw { nonce, index: 0, link: B256::ZERO },
        Frame::Draw { nonce, index: 64, link },
        Frame::Draw { nonce, index: u16::MAX, link },
    ] {
        assert_eq!(answer(&probe), Frame::SessionOk { nonce, answer: Answer::Gone }, "{probe:?}");
    }
    assert_eq!(answer(&session(B256::ZERO)), Frame::SessionOk { nonce, answer: Answer::NoOffer });
    for known in [last, Frame::Draw { nonce, index: 1, link: back(3) }, session(back(4))] {
        let said = answer(&known);
        assert!(matches!(said, Frame::Rotate { index: 4, .. }), "{said:?}");
    }
}

// pay.session.3
#[test]
fn a_session_that_nobody_offered_or_signed_is_refused() {
    let mut pair = Pair::new();
    pair.pay(0);
    pair.write(9, 9);
    let want = pair.up.pop_front().unwrap();
    pair.till_gets(&want).unwrap();
    let offer = pair.down.pop_front().unwrap();
    pair.wallet_gets(&offer).unwrap();
    pair.write(9, 9);
    let good = pair.up.pop_back().unwrap();
    let Frame::Session { payer, nonce, offer, anchor, signature } = good else { panic!("{good:?}") };
    let forged = [
        Frame::Session { payer, nonce, offer, anchor: B256::ZERO, signature },
        Frame::Session { payer, nonce, offer, anchor, signature: Signature([1; 64]) },
    ];
    for frame in forged {
        assert_eq!(pair.till_gets(&frame), Err(TillError::BadSignature));
        assert_eq!(pair.down.pop_front(), Some(Frame::SessionOk { nonce, answer: Answer::Signature }));
    }
    for frame in [
        Frame::Session { payer, nonce: nonce + 1, offer, anchor, signature },
        Frame::Session { payer, nonce, offer: [9; 4], anchor, signature },
    ] {
        assert_eq!(pair.till_gets(&frame), Ok(Wei(0)));
        assert!(matches!(pair.down.pop_front(), Some(Frame::SessionOk { answer: Answer::NoOffer, .. })));
    }
    let other = Frame::Session { payer: Address::ZERO, nonce, offer, anchor, signature };
    assert!(matches!(pair.till_gets(&other), Err(TillError::Misbehaved(_))));
    // pay.disk.2, pay.disk.3: it is confirmed once it is on disk.
    pair.till_gets(&good).unwrap();
    assert_eq!(pair.down.pop_front(), None);
    let early = Frame::Draw { nonce, index: 1, link: B256::ZERO };
    assert!(matches!(pair.till_gets(&early), Err(TillError::Misbehaved(_))));
    pair.write(0, 9);
    assert_eq!(pair.down.pop_front(), Some(Frame::SessionOk { nonce, answer: Answer::Yes }));
    let twice = Frame::Session { payer, nonce, offer, anchor: B256::ZERO, signature };
    assert!(matches!(pair.till_gets(&twice), Err(TillError::Misbehaved(_))));
    pair.till_gets(&good).unwrap();
    assert_eq!(pair.down.pop_front(), Some(Frame::SessionOk { nonce, answer: Answer::Yes }));
}
