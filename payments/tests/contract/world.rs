//! A chain with the contract on it, and people who hold keys.

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::{SolCall, SolError as _, SolEvent};
use payments::abi::{OnionPay, creation_code, runtime_code};
use payments::amount::Wei;
use payments::claim::Claim;
use payments::draw::{Chain, wins};
use payments::evm::{Evm, MAX_GAS, Outcome, Transaction};
use payments::session::{Domain, Session, Signer};

pub(crate) const CHAIN_ID: u64 = 31337;
pub(crate) const START: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;
pub(crate) const ETHER: u128 = 1_000_000_000_000_000_000;
pub(crate) const MIN_BOND: u128 = ETHER / 1000;
const DEPLOYER: Address = address!("d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0");

/// Somebody with an account of the chain and a key for sessions.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) address: Address,
    pub(crate) signer: Signer,
}

pub(crate) fn actor(n: u8) -> Actor {
    let signer = Signer::from_bytes([n + 1; 32]).unwrap();
    Actor { address: Address::repeat_byte(0xa0 + n), signer }
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) evm: Evm,
    pub(crate) contract: Address,
}

impl World {
    pub(crate) fn new() -> Self {
        let people = (0..16).map(|n| (actor(n).address, U256::from(1_000_000 * ETHER)));
        let mut evm = Evm::new(CHAIN_ID, &people.collect::<Vec<_>>());
        evm.set_block(1, START);
        let contract = deploy(&mut evm, creation_code());
        assert_eq!(evm.code(contract), runtime_code());
        Self { evm, contract }
    }

    pub(crate) fn domain(&self) -> Domain {
        Domain { chain_id: self.evm.chain_id(), contract: self.contract }
    }

    pub(crate) fn warp(&mut self, seconds: u64) {
        self.evm.set_block(self.evm.number() + 1, self.evm.time() + seconds);
    }

    pub(crate) fn send<C: SolCall>(&mut self, from: Address, value: u128, call: &C) -> Outcome {
        self.evm.transact(&self.transaction(from, value, call)).unwrap()
    }

    pub(crate) fn transaction<C: SolCall>(&self, from: Address, value: u128, call: &C) -> Transaction {
        Transaction {
            from,
            to: Some(self.contract),
            value: U256::from(value),
            data: call.abi_encode().into(),
            gas_limit: MAX_GAS,
            gas_price: 0,
        }
    }

    /// Sends a call that must succeed.
    #[track_caller]
    pub(crate) fn ok<C: SolCall>(&mut self, from: Address, value: u128, call: &C) -> Outcome {
        let outcome = self.send(from, value, call);
        assert!(outcome.success, "{}: {}", C::SIGNATURE, said(&outcome));
        outcome
    }

    /// Sends a call that must revert with this error.
    #[track_caller]
    pub(crate) fn refused<C: SolCall>(&mut self, from: Address, value: u128, call: &C, error: &[u8]) {
        let outcome = self.send(from, value, call);
        assert!(!outcome.success, "{} succeeded", C::SIGNATURE);
        assert_eq!(outcome.output.as_ref(), error, "{}: {}", C::SIGNATURE, said(&outcome));
    }

    #[track_caller]
    pub(crate) fn read<C: SolCall>(&self, call: &C) -> C::Return {
        let outcome = self.evm.view(&self.transaction(DEPLOYER, 0, call)).unwrap();
        assert!(outcome.success);
        C::abi_decode_returns(&outcome.output).unwrap()
    }

    pub(crate) fn pot(&self, owner: Address) -> OnionPay::Account {
        self.read(&OnionPay::accountsCall { owner })
    }

    pub(crate) fn money(&self, owner: Address) -> (u128, u128) {
        let pot = self.pot(owner);
        (Wei::from(pot.balance).0, Wei::from(pot.reserve).0)
    }

    /// Writes over a word of the contract's storage, in the machine's exported form.
    pub(crate) fn poke(&mut self, slot: U256, value: U256) {
        let mut bytes = self.evm.export();
        let at = bytes.windows(32).position(|window| window == slot.to_be_bytes::<32>()).unwrap() + 32;
        bytes[at..at + 32].copy_from_slice(&value.to_be_bytes::<32>());
        self.evm = Evm::import(&bytes).unwrap();
    }

    /// A pot with a signer, a balance and a reserve.
    pub(crate) fn fund(&mut self, who: &Actor, balance: u128, reserve: u128) {
        self.ok(who.address, 0, &OnionPay::setSignerCall { signer: who.signer.address() });
        self.ok(who.address, balance, &OnionPay::depositCall { owner: who.address });
        self.ok(who.address, reserve, &OnionPay::addReserveCall {});
    }

    /// A ticket that the contract takes as it is.
    pub(crate) fn ticket(&self, payer: &Actor, payee: Address, nonce: u32, face: u128) -> Claim {
        Terms { nonce, face, expiry: self.evm.time() + 2 * DAY, ..Terms::default() }.sign(
            &self.domain(),
            payer,
            payee,
        )
    }

    pub(crate) fn redeem(&mut self, from: Address, claim: &OnionPay::Claim) -> Outcome {
        self.send(from, 0, &OnionPay::redeemCall { claim: claim.clone() })
    }

    /// The payout, or why not.
    #[expect(clippy::unwrap_in_result, reason = "other failures are the test's")]
    #[track_caller]
    pub(crate) fn try_redeem(
        &mut self,
        from: Address,
        claim: &OnionPay::Claim,
    ) -> Result<u128, OnionPay::Code> {
        let outcome = self.redeem(from, claim);
        if outcome.success {
            let payout = OnionPay::redeemCall::abi_decode_returns(&outcome.output).unwrap();
            return Ok(Wei::from(payout).0);
        }
        Err(OnionPay::Refused::abi_decode(&outcome.output)
            .unwrap_or_else(|_| panic!("{}", said(&outcome)))
            .code)
    }
}

/// Where a pot's first word is: `bound 1 | defaults 2 | unlock time 5 | reserve 12 | balance 12`.
pub(crate) fn slot(owner: Address) -> U256 {
    U256::from_be_bytes(keccak256([owner.into_word(), B256::ZERO].concat()).0)
}

/// Puts a contract on the chain.
pub(crate) fn deploy(evm: &mut Evm, code: Bytes) -> Address {
    let tx = Transaction { from: DEPLOYER, data: code, gas_limit: MAX_GAS, ..Transaction::default() };
    let outcome = evm.transact(&tx).unwrap();
    assert!(outcome.success);
    outcome.created.unwrap()
}

fn said(outcome: &Outcome) -> String {
    format!("success {}, output {}", outcome.success, outcome.output)
}

/// What a ticket says besides the names.
pub(crate) struct Terms {
    pub(crate) nonce: u32,
    pub(crate) face: u128,
    pub(crate) win_prob: u64,
    pub(crate) expiry: u64,
    pub(crate) draws: u16,
    pub(crate) draw: u16,
    pub(crate) secret: B256,
    pub(crate) rand: B256,
}

impl Default for Terms {
    fn default() -> Self {
        let (secret, rand) = (B256::repeat_byte(1), B256::repeat_byte(2));
        Self { nonce: 0, face: 1, win_prob: u64::MAX, expiry: START + DAY, draws: 64, draw: 1, secret, rand }
    }
}

impl Terms {
    pub(crate) fn sign(&self, domain: &Domain, payer: &Actor, payee: Address) -> Claim {
        let chain = Chain::new(self.secret, self.draws);
        let session = Session {
            payer: payer.address,
            payee,
            nonce: self.nonce,
            anchor: chain.anchor(),
            rand_hash: keccak256(self.rand),
            face: Wei(self.face),
            win_prob: self.win_prob,
            expiry: self.expiry,
        };
        let link = chain.link(self.draw).unwrap_or_default();
        let signature = payer.signer.sign(&session.digest(domain));
        Claim { session, draw: self.draw, link, rand: self.rand, signature }
    }

    /// The same terms with a number of the payee's that makes the draw win, or lose.
    pub(crate) fn that(mut self, win: bool) -> Self {
        let link = Chain::new(self.secret, self.draws).link(self.draw).unwrap();
        while wins(&link, &self.rand, self.win_prob) != win {
            self.rand = keccak256(self.rand);
        }
        self
    }
}

/// The ticket as its payee shows it: everything or nothing.
pub(crate) fn full(claim: &Claim) -> OnionPay::Claim {
    OnionPay::Claim::new(claim, claim.session.face, false).unwrap()
}

/// The ticket as its payee shows it to get what there is.
pub(crate) fn any(claim: &Claim) -> OnionPay::Claim {
    OnionPay::Claim::new(claim, Wei(0), true).unwrap()
}

/// The events of one kind, in order.
pub(crate) fn events<E: SolEvent>(outcome: &Outcome) -> Vec<E> {
    outcome.logs.iter().filter_map(|log| E::decode_log(log).ok()).map(|log| log.data).collect()
}
