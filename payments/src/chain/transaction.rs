//! Ethereum transactions, signed and raw.

use alloy::consensus::{SignableTransaction, Transaction as _, TxEip1559, TxEnvelope, TxLegacy};
use alloy::eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};

use crate::amount::Wei;
use crate::chain::{Place, Signed};
use crate::session::{Signature as Compact, Signer};

/// A transaction before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The chain it is for.
    pub chain_id: u64,
    /// Its number among its sender's.
    pub nonce: u64,
    /// The most gas it may use.
    pub gas: u64,
    /// The most wei per gas.
    pub max_fee: u128,
    /// The most of it that is a tip.
    pub tip: u128,
    /// Whom it calls; `None` to deploy `data`.
    pub to: Option<Address>,
    /// The wei that go along.
    pub value: Wei,
    /// The encoded arguments.
    pub data: Bytes,
}

impl Transaction {
    /// Signs it in the form of EIP-1559, or with one price (EIP-155).
    pub fn sign(self, signer: &Signer, legacy: bool) -> Signed {
        let place = Place { nonce: self.nonce, max_fee: self.max_fee, tip: self.tip };
        let to = self.to.map_or(TxKind::Create, TxKind::Call);
        let value = U256::from(self.value.0);
        if legacy {
            let transaction = TxLegacy {
                chain_id: Some(self.chain_id),
                nonce: self.nonce,
                gas_price: self.max_fee,
                gas_limit: self.gas,
                to,
                value,
                input: self.data,
            };
            return raw(transaction, place, signer);
        }
        let transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: self.max_fee,
            max_priority_fee_per_gas: self.tip,
            to,
            value,
            input: self.data,
            ..TxEip1559::default()
        };
        raw(transaction, place, signer)
    }

    /// Reads a raw transaction: what it is, who signed it, and its hash. `None` if it is none of the forms of [`Transaction::sign`].
    pub fn decode(raw: &[u8]) -> Option<(Self, Address, B256)> {
        let envelope = TxEnvelope::decode_2718_exact(raw).ok()?;
        let digest = envelope.signature_hash();
        let sender = Compact(envelope.signature().as_erc2098()).recover(&digest)?;
        if !envelope.is_legacy() && !envelope.is_eip1559() {
            return None;
        }
        let transaction = Self {
            chain_id: envelope.chain_id()?,
            nonce: envelope.nonce(),
            gas: envelope.gas_limit(),
            max_fee: envelope.max_fee_per_gas(),
            tip: envelope.max_priority_fee_per_gas().unwrap_or_else(|| envelope.max_fee_per_gas()),
            to: envelope.to(),
            value: Wei::try_from(envelope.value()).ok()?,
            data: envelope.input().clone(),
        };
        Some((transaction, sender, *envelope.tx_hash()))
    }
}

fn raw<T: SignableTransaction<Signature>>(transaction: T, place: Place, signer: &Signer) -> Signed
where
    TxEnvelope: From<alloy::consensus::Signed<T>>,
{
    let signature = Signature::from_erc2098(&signer.sign(&transaction.signature_hash()).0);
    let envelope = TxEnvelope::from(transaction.into_signed(signature));
    Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718(), place }
}
