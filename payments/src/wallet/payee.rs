//! What a wallet knows of one payee: its sessions, how far each is drawn, and the wins that it may redeem.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, keccak256};

use super::{Context, PayeeView, Refusal, Rotation, WalletError};
use crate::amount::Wei;
use crate::draw::{Chain, wins};
use crate::frame::{Answer, Frame, Reason};
use crate::offer::{REDEMPTION, SKEW, may_draw};
use crate::outbox::{Promise, Repeat, is_due};
use crate::record::{Debt, Opened, PayeeRow, RecordId};
use crate::session::Session;

/// Wins that may wait for redemption before no more sessions are opened.
pub(super) const MAX_WINS: usize = 1 << 16;
/// The first quarantine, in seconds; each further one is twice as long, up to a week or so.
const QUARANTINE: u64 = 3600;
const LONGEST: u8 = 7;
/// So many sessions are kept where wins end them early.
const OFTEN: usize = 4;
/// A DRAW that is not answered is repeated after so many seconds.
const DRAW_PAUSE: u64 = 2;
/// Likewise WANT and SESSION.
const ASK_PAUSE: u64 = 1;
/// The last draw is written to disk so many seconds later: it is a hint, the payee knows better.
const SAVE_PAUSE: u64 = 1;

/// What is to come for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was sent before the promise is on disk.
    Signed(Promise),
    /// SESSION is sent, and not yet answered.
    Sent,
    /// The payee has it.
    Live,
}

/// A session that is not ended.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) opened: Opened,
    chain: Chain,
    state: State,
    /// The last draw that the payee is known to have.
    acked: u16,
    /// After a restart: the payee has not yet said how far it is.
    restored: bool,
    repeat: Option<Repeat>,
}

impl Open {
    pub(super) const fn new(opened: Opened, chain: Chain) -> Self {
        Self { opened, chain, state: State::Signed(Promise::New), acked: 0, restored: false, repeat: None }
    }

    /// Whether it has, or may have, draws left.
    fn is_usable(&self) -> bool {
        self.opened.index < self.opened.draws
    }

    const fn left(&self) -> u16 {
        self.opened.draws.saturating_sub(self.opened.index)
    }

    fn can_draw(&self, unix: u64) -> bool {
        let worth = self.opened.value > Wei::ZERO;
        self.state == State::Live && worth && self.is_usable() && may_draw(self.opened.session.expiry, unix)
    }

    /// The payee has this draw: how much that is more than we knew to have paid before a restart.
    fn reach(&mut self, index: u16) -> Wei {
        let more = index.saturating_sub(self.opened.index);
        self.opened.index += more;
        self.opened.value.saturating_mul(more.into())
    }

    fn draw_frame(&self) -> Option<Frame> {
        let Opened { session, index, .. } = self.opened;
        Some(Frame::Draw { nonce: session.nonce, index, link: self.chain.link(index)? })
    }

    /// When the payee ends it at the latest, by its clock.
    const fn stop(&self) -> u64 {
        self.opened.session.expiry.saturating_sub(REDEMPTION)
    }

    fn next_timeout(&self) -> u64 {
        let stop = self.stop().saturating_add(2 * SKEW);
        self.repeat.map_or(stop, |repeat| repeat.at.min(stop))
    }
}

/// The state of a payee.
#[derive(Debug)]
pub(super) struct Payee {
    /// As on disk, but for the sessions.
    pub(super) row: PayeeRow,
    pub(super) sessions: Vec<Open>,
    /// Wins that are not redeemed.
    pub(super) debts: BTreeMap<u32, Debt>,
    pub(super) target: Wei,
    pub(super) value: Wei,
    /// Whether somebody wants to pay.
    pub(super) wanted: bool,
    /// WANT was sent, or is held back.
    pub(super) ask: Option<Repeat>,
    /// WANT is held back, for an offer comes with ROTATE.
    held: bool,
    pub(super) refusal: Option<Refusal>,
    /// So many sessions are kept usable.
    depth: usize,
    /// Which session is drawn from first.
    turn: usize,
    /// What was paid in another life, and has come to light since.
    found: Wei,
    save_at: Option<u64>,
}

impl Payee {
    pub(super) fn new(payee: Address, value: Wei) -> Self {
        Self::restore(PayeeRow { payee, ..PayeeRow::default() }, vec![], value)
    }

    /// After a restart the payee is asked how far each session is.
    pub(super) fn restore(mut row: PayeeRow, chains: Vec<Chain>, value: Wei) -> Self {
        let sessions = core::mem::take(&mut row.sessions).into_iter().zip(chains).map(|(opened, chain)| {
            let state = if opened.index == 0 { State::Sent } else { State::Live };
            Open { opened, chain, state, acked: 0, restored: true, repeat: Some(Repeat::NOW) }
        });
        let sessions = sessions.collect();
        Self {
            row,
            sessions,
            debts: BTreeMap::new(),
            target: Wei::ZERO,
            value,
            wanted: false,
            ask: None,
            held: false,
            refusal: None,
            depth: 1,
            turn: 0,
            found: Wei::ZERO,
            save_at: None,
        }
    }

    pub(super) const fn is_quarantined(&self) -> bool {
        self.row.quarantine > 0
    }

    pub(super) fn paid(&self) -> Wei {
        self.sessions.iter().fold(self.row.tally.value, |sum, open| sum.saturating_add(open.opened.drawn()))
    }

    pub(super) fn undecided(&self) -> Wei {
        self.sessions.iter().fold(Wei::ZERO, |sum, Open { opened, acked, .. }| {
            sum.saturating_add(opened.value.saturating_mul(opened.index.saturating_sub(*acked).into()))
        })
    }

    /// Whether the payee has not yet said how far each session is.
    pub(super) fn is_restoring(&self) -> bool {
        self.sessions.iter().any(|open| open.restored)
    }

    pub(super) fn unsettled(&self) -> Wei {
        let restored = self.sessions.iter().filter(|open| open.restored);
        restored.fold(Wei::ZERO, |sum, open| sum.saturating_add(open.opened.value.saturating_mul(2)))
    }

    pub(super) const fn take_found(&mut self) -> Wei {
        core::mem::replace(&mut self.found, Wei::ZERO)
    }

    /// What must be there for wins that are not redeemed.
    pub(super) fn owed(&self) -> Wei {
        self.debts.values().fold(Wei::ZERO, |sum, debt| sum.saturating_add(debt.face))
    }

    /// Whether another session is to be opened: at half of the last one, and earlier where wins end sessions early.
    pub(super) fn wants(&self, max_open: usize) -> bool {
        let mut usable = self.sessions.iter().filter(|open| open.is_usable());
        let (count, newest) = (usable.clone().count(), usable.next_back());
        let goal = newest.map_or(1, |open| {
            let draws = u64::from(open.opened.draws);
            if open.opened.session.face < open.opened.value.saturating_mul(2 * draws) {
                OFTEN
            } else {
                1 + usize::from(count == 1 && u64::from(open.left()) * 2 < draws)
            }
        });
        let goal = goal.max(self.depth);
        self.wanted && count < goal && self.sessions.len() < max_open
    }

    /// Reveals what is due, and asks for a session if one is missing.
    pub(super) fn step(&mut self, cx: &mut Context<'_>) {
        if self.is_quarantined() {
            return;
        }
        // Not before it is known what was paid before a restart.
        if !self.is_restoring() {
            self.reveal(cx);
        }
        if self.ask.is_none() && self.wants(cx.max_open) {
            self.ask = Some(Repeat::after(cx.unix, ASK_PAUSE));
            self.send_want(cx);
        }
    }

    /// Reveals draws for all that is missing. A win voids what follows in its session: so that little does, sessions take turns,
    /// and share.
    fn reveal(&mut self, cx: &mut Context<'_>) {
        let unix = cx.unix;
        let mut missing = self.target.saturating_sub(self.paid());
        let mut ready = self.sessions.iter().filter(|open| open.can_draw(unix)).count();
        if missing == Wei::ZERO || ready == 0 {
            return;
        }
        self.turn = self.turn.wrapping_add(1) % self.sessions.len();
        let (later, sooner) = self.sessions.split_at_mut(self.turn);
        for open in sooner.iter_mut().chain(later).filter(|open| open.can_draw(unix)) {
            let (share, value) = (missing.0.div_ceil(ready.max(1) as u128), open.opened.value);
            ready -= 1;
            let draws = u16::try_from(share.div_ceil(value.0)).unwrap_or(u16::MAX).min(open.left());
            if draws == 0 {
                break;
            }
            open.opened.index += draws;
            missing = missing.saturating_sub(value.saturating_mul(draws.into()));
            open.repeat = Some(Repeat::after(unix, DRAW_PAUSE));
            if let Some(frame) = open.draw_frame() {
                cx.send(frame);
            }
        }
        self.save_at.get_or_insert_with(|| unix.saturating_add(SAVE_PAUSE));
        // What was there did not suffice: keep one more ready from now on.
        if missing > Wei::ZERO {
            self.depth = (self.depth + 1).min(cx.max_open);
        }
    }

    /// Does not wait for an offer that comes by itself: what came was an old one.
    pub(super) const fn ask_now(&mut self) {
        if self.held {
            self.ask = None;
        }
    }

    pub(super) fn introduce(&self, cx: &mut Context<'_>) {
        let said = self.sessions.iter().filter(|open| !matches!(open.state, State::Signed(_)));
        said.for_each(|open| send_session(open, cx));
    }

    fn send_want(&mut self, cx: &mut Context<'_>) {
        self.held = false;
        cx.send(Frame::Want { payer: cx.payer, floor: self.row.next_nonce, value: self.value });
    }

    /// Takes up a session that was just signed.
    pub(super) fn open(&mut self, cx: &mut Context<'_>, open: Open) {
        self.row.next_nonce = open.opened.session.nonce.saturating_add(1);
        self.sessions.push(open);
        self.ask = None;
        cx.save();
    }

    pub(super) fn write(&mut self, id: RecordId) -> PayeeRow {
        self.save_at = None;
        for open in &mut self.sessions {
            if let State::Signed(promise) = &mut open.state {
                promise.write(id);
            }
        }
        let sessions = self.sessions.iter().map(|open| open.opened).collect();
        PayeeRow { sessions, ..self.row.clone() }
    }

    // pay.disk.2
    pub(super) fn written(&mut self, cx: &mut Context<'_>, id: RecordId) {
        for open in &mut self.sessions {
            if let State::Signed(promise) = &mut open.state
                && promise.written(id)
            {
                open.state = State::Sent;
                open.repeat = Some(Repeat::after(cx.unix, ASK_PAUSE));
                send_session(open, cx);
            }
        }
    }

    fn find(&self, nonce: u32) -> Option<usize> {
        self.sessions.iter().position(|open| open.opened.session.nonce == nonce)
    }

    pub(super) fn answered(&mut self, cx: &mut Context<'_>, nonce: u32, answer: Answer) {
        let Some((at, open)) = self.find(nonce).and_then(|at| Some((at, self.sessions.get_mut(at)?))) else {
            if answer != Answer::Yes && nonce == self.row.next_nonce && self.ask.is_some() {
                self.refused(cx, answer);
            }
            return;
        };
        match (open.state, answer) {
            (State::Sent, Answer::Yes) => {
                // After a restart the next answer tells how far it is.
                if !open.restored {
                    open.state = State::Live;
                    open.repeat = None;
                }
                self.refusal = None;
            }
            // Nothing was revealed: it can never win.
            (State::Sent, _) => {
                self.sessions.remove(at);
                self.refused(cx, answer);
                cx.save();
            }
            (State::Live, Answer::Gone) => {
                self.lost(cx, at);
            }
            _ => (),
        }
    }

    fn refused(&mut self, cx: &Context<'_>, answer: Answer) {
        self.refusal = Some(Refusal::Payee(answer));
        match &mut self.ask {
            Some(ask) => ask.again(cx.unix),
            None => self.ask = Some(Repeat::after(cx.unix, 4)),
        }
    }

    /// Ends a session of which the payee shows no secret number: what was revealed counts, and may have won.
    fn lost(&mut self, cx: &mut Context<'_>, at: usize) {
        if at >= self.sessions.len() {
            return;
        }
        let open = self.sessions.remove(at).opened;
        self.row.tally.add(open.index, open.value, None);
        if open.index > 0 {
            self.owe(cx, Debt::new(&open, false));
        }
        cx.save();
    }

    fn owe(&mut self, cx: &mut Context<'_>, debt: Debt) {
        self.debts.insert(debt.nonce, debt);
        cx.save_debt(debt);
    }

    // pay.draw.5
    pub(super) fn draw_ok(
        &mut self,
        cx: &mut Context<'_>,
        nonce: u32,
        index: u16,
        link: &B256,
    ) -> Result<(), WalletError> {
        let Some(open) = self.find(nonce).and_then(|at| self.sessions.get_mut(at)) else { return Ok(()) };
        if open.chain.link(index) != Some(*link) {
            return Err(self.liar(cx, "it has draws that were never revealed"));
        }
        if open.state == State::Sent {
            open.state = State::Live;
        }
        self.found = self.found.saturating_add(open.reach(index));
        open.acked = open.acked.max(index);
        open.restored = false;
        if open.acked == open.opened.index && open.is_usable() {
            open.repeat = None;
        }
        Ok(())
    }

    // pay.rotate.2
    pub(super) fn rotated(&mut self, cx: &mut Context<'_>, rotation: &Rotation) -> Result<(), WalletError> {
        let Some((at, open)) =
            self.find(rotation.nonce).and_then(|at| Some((at, self.sessions.get_mut(at)?)))
        else {
            return Ok(());
        };
        let Opened { session, draws, value, .. } = open.opened;
        if matches!(open.state, State::Signed(_)) {
            return Ok(());
        }
        if open.chain.link(rotation.index) != Some(rotation.link) {
            return Err(self.liar(cx, "it ends a session at a draw that was never revealed"));
        }
        self.found = self.found.saturating_add(open.reach(rotation.index));
        if keccak256(rotation.rand) != session.rand_hash {
            return Err(self.liar(cx, "its secret number is not the one that it committed to"));
        }
        let chain = &open.chain;
        let win = |index| chain.link(index).is_some_and(|link| wins(&link, &rotation.rand, session.win_prob));
        let first = (1..=open.opened.index).find(|index| win(*index));
        let (won, denied) = match rotation.reason {
            Reason::Won if first == Some(rotation.index) => (Some(session.face), false),
            Reason::Won => return Err(self.liar(cx, "it claims a win that is none")),
            _ if first.is_some_and(|first| first <= rotation.index) => {
                return Err(self.liar(cx, "it hides a win"));
            }
            Reason::UsedUp if rotation.index < draws => {
                return Err(self.liar(cx, "it ends a session as used up that is not"));
            }
            // A draw that it says did not reach it would win: it must not be redeemed.
            _ => (None, first.is_some()),
        };
        let open = self.sessions.remove(at).opened;
        self.row.tally.add(rotation.index, value, won);
        if won.is_some() || denied {
            self.owe(cx, Debt::new(&open, denied));
        }
        if rotation.reason == Reason::Expiring {
            self.wanted = self.target > self.paid();
        }
        // The next offer comes with ROTATE; it is asked for if it does not.
        self.ask = Some(Repeat::after(cx.unix, ASK_PAUSE));
        self.held = true;
        cx.save();
        Ok(())
    }

    fn liar(&mut self, cx: &mut Context<'_>, what: &'static str) -> WalletError {
        self.row.quarantine = cx.unix.saturating_add(QUARANTINE << self.row.lies.min(LONGEST)).max(1);
        self.row.lies = self.row.lies.saturating_add(1);
        while !self.sessions.is_empty() {
            self.lost(cx, 0);
        }
        cx.save();
        WalletError::Liar(what)
    }

    /// It is paid no more for a while, and not what was meant for it.
    pub(super) fn quarantine(&mut self, cx: &mut Context<'_>) {
        if !self.is_quarantined() {
            self.liar(cx, "it charged for what it did not carry");
            self.target = self.paid();
            self.wanted = false;
        }
    }

    // pay.rotate.3
    pub(super) fn redeemed(&mut self, cx: &mut Context<'_>, nonce: u32) -> Result<(), WalletError> {
        let Some(debt) = self.debts.remove(&nonce) else { return Ok(()) };
        cx.drop_debt(nonce);
        if debt.denied && !self.is_quarantined() {
            return Err(self.liar(cx, "it redeemed a session that it said did not win"));
        }
        Ok(())
    }

    pub(super) fn timeout(&mut self, cx: &mut Context<'_>) {
        let unix = cx.unix;
        if self.row.quarantine > 0 && self.row.quarantine <= unix {
            self.row.quarantine = 0;
            cx.save();
        }
        self.debts.retain(|nonce, debt| {
            let lives = debt.expiry >= unix;
            if !lives {
                cx.drop_debt(*nonce);
            }
            lives
        });
        if self.save_at.is_some_and(|at| is_due(at, unix)) {
            cx.save();
        }
        if self.is_quarantined() {
            return;
        }
        if let Some(mut ask) = self.ask
            && ask.is_due(unix)
        {
            ask.again(unix);
            self.ask = Some(ask).filter(|_| self.wants(cx.max_open));
            if self.ask.is_some() {
                self.send_want(cx);
            }
        }
        for open in &mut self.sessions {
            if let Some(repeat) = open.repeat.as_mut().filter(|repeat| repeat.is_due(unix)) {
                repeat.again(unix);
                match open.state {
                    State::Sent => send_session(open, cx),
                    State::Live => open.draw_frame().into_iter().for_each(|frame| cx.send(frame)),
                    State::Signed(_) => (),
                }
            }
        }
        // The payee should have ended it by now.
        while let Some(at) = self.sessions.iter().position(|open| open.stop() + 2 * SKEW <= unix) {
            self.lost(cx, at);
            self.wanted = self.target > self.paid();
        }
    }

    pub(super) fn next_timeout(&self) -> Option<u64> {
        let own = [self.save_at, Some(self.row.quarantine).filter(|until| *until > 0)];
        let ask = self.ask.map(|ask| ask.at).filter(|_| !self.is_quarantined());
        // Sessions expire roughly in the order of their nonces.
        let debts = self.debts.values().next().map(|debt| debt.expiry.saturating_add(1));
        let sessions = self.sessions.iter().map(Open::next_timeout);
        own.into_iter().flatten().chain(ask).chain(debts).chain(sessions).min()
    }

    pub(super) fn view(&self) -> PayeeView {
        let open = self.sessions.iter().map(|open| u64::from(open.opened.index)).sum::<u64>();
        PayeeView {
            payee: self.row.payee,
            target: self.target,
            paid: self.paid(),
            draws: self.row.tally.draws.saturating_add(open),
            wins: self.row.tally.wins,
            won: self.row.tally.won,
            owed: self.owed(),
            sessions: self.sessions.len(),
            quarantined: self.is_quarantined(),
            refusal: self.refusal,
        }
    }
}

fn send_session(open: &Open, cx: &mut Context<'_>) {
    let Opened { session, signature, .. } = open.opened;
    let Session { payer, nonce, anchor, .. } = session;
    cx.send(Frame::Session { payer, nonce, offer: session.offer_tag(), anchor, signature });
}
