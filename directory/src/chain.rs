//! The chain of a paid network, as its network file names it (docs/spec/04-directory.md section 2).

use core::str::FromStr as _;

use alloy_primitives::Address;
use circuit::keys::NetworkId;
pub use payments::amount::Wei;
use payments::session::Domain;

use crate::payment::Payment;

/// The highest chain id.
pub const MAX_ID: u64 = u64::MAX >> 1;
/// The most RPC addresses in one network file.
pub const MAX_RPC: usize = 16;
/// The longest RPC address, in bytes.
pub const MAX_URL: usize = 256;
/// The exit owners that make a price class, unless the network file says otherwise.
pub const EXIT_OPERATORS: u16 = 20;

/// Where the relays of a network are paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The chain's id, 1 to [`MAX_ID`].
    pub id: u64,
    /// The contract that holds the pots.
    pub contract: Address,
    /// Where the chain can be asked, up to [`MAX_RPC`] URLs; none for a chain inside the process.
    pub rpc: Vec<String>,
    /// The least bond of a relay.
    pub minimum_bond: Wei,
    /// The least number of exit owners in a price class, 1 or more.
    pub exit_operators: u16,
    /// The block from which on the contract's events are read; 0 if it is not known.
    pub deployed: u64,
}

impl Chain {
    /// The chain and the contract that signatures are made for.
    pub const fn domain(&self) -> Domain {
        Domain { chain_id: self.id, contract: self.contract }
    }

    /// Whether relays that are paid so are paid here.
    pub fn pays(&self, payment: &Payment) -> bool {
        (self.id, self.contract) == (payment.chain_id, payment.contract)
    }

    /// The name of the open network whose relays are registered and paid here.
    // directory.file.8
    pub fn open_network(&self) -> NetworkId {
        let mut hasher = blake3::Hasher::new_derive_key("chive open network 1");
        hasher.update(&self.id.to_be_bytes()).update(self.contract.as_slice());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        NetworkId(id)
    }

    /// The first key that cannot be so, and why.
    // directory.file.6
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !(1..=MAX_ID).contains(&self.id) {
            return Some(("id", "a chain id is a number from 1 to 9223372036854775807"));
        }
        if self.contract.is_zero() {
            return Some(("contract", "the contract cannot be the zero address"));
        }
        if self.rpc.len() > MAX_RPC || !self.rpc.iter().all(|url| is_url(url)) {
            return Some(("rpc", "this must be up to 16 URLs that start with http:// or https://"));
        }
        if self.minimum_bond > Wei::MAX {
            return Some(("minimum_bond", "the amount is above 2^96 - 1 wei"));
        }
        if self.exit_operators == 0 {
            return Some(("exit_operators", "a price class needs at least one exit operator"));
        }
        if self.deployed > MAX_ID {
            return Some(("deployed", "a block is a number up to 9223372036854775807"));
        }
        None
    }
}

fn is_url(url: &str) -> bool {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    host.is_some_and(|host| !host.is_empty()) && url.len() <= MAX_URL && url.bytes().all(plain)
}

/// Reads an address: `0x` and 40 digits, with the checksum of EIP-55 or all lower case.
pub fn parse_address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    if digits.len() == 40 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Address::from_str(text).ok();
    }
    Address::parse_checksummed(text, None).ok()
}

/// Reads an amount: a number, and `wei`, `gwei` or `ether`, after a space or none (wei if nothing follows).
///
/// It must be exact: no more digits after the point than the unit has.
pub fn parse_amount(text: &str) -> Option<Wei> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let places = match unit.strip_prefix(' ').unwrap_or(unit) {
        "" if unit.is_empty() => 0,
        "wei" => 0,
        "gwei" => 9,
        "ether" => 18,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let part_fits = part.is_none_or(|part| !part.is_empty() && part.len() <= places);
    let part = part.unwrap_or_default();
    let digits = whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit());
    // 2^96 has 29 digits.
    if whole.is_empty() || whole.len() > 29 || !part_fits || !digits {
        return None;
    }
    let amount = format!("{whole}{part:0<places$}").parse().ok().map(Wei)?;
    (amount <= Wei::MAX).then_some(amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::chain;

    #[test]
    fn addresses_have_a_right_checksum_or_none() {
        let right = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        let address = parse_address(right).unwrap();
        assert_eq!(address.to_string(), right);
        assert_eq!(parse_address(&right.to_lowercase()), Some(address));
        for wrong in [
            "",
            "0x",
            right.get(2..).unwrap(),
            "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0X5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0x5AAEB6053F3E94C9B9A09F33669435E7EF1BEAED",
            "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae",
            "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaedd",
            "0x0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
        ] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn amounts_are_exact_or_refused() {
        for (text, wei) in [
            ("0", 0),
            ("17", 17),
            ("17 wei", 17),
            ("0.001 ether", 10u128.pow(15)),
            ("0.001ether", 10u128.pow(15)),
            ("17wei", 17),
            ("1 ether", 10u128.pow(18)),
            ("2.5 gwei", 2_500_000_000),
            ("1.000000000000000001 ether", 10u128.pow(18) + 1),
            ("79228162514264337593543950335", (1 << 96) - 1),
        ] {
            assert_eq!(parse_amount(text), Some(Wei(wei)), "{text}");
        }
        for text in [
            "",
            " ",
            ".",
            ".5 ether",
            "5. ether",
            "-1",
            "+1",
            "1.0 wei",
            "17 ",
            "1.ether",
            "1 Ether",
            "1  ether",
            "1 ether ",
            "1_000",
            "0x10",
            "1.0000000000 gwei",
            "79228162514264337593543950336",
            "79228162515 ether",
            "99999999999999999999999999999 ether",
            "100000000000000000000000000000",
            "\u{661}",
        ] {
            assert_eq!(parse_amount(text), None, "{text}");
        }
    }

    // directory.file.6
    #[test]
    fn what_cannot_be_a_chain_is_named_by_its_key() {
        type Change = fn(&mut Chain);
        assert_eq!(chain().problem(), None);
        let bad: [(&str, Change); 11] = [
            ("id", |c| c.id = 0),
            ("id", |c| c.id = MAX_ID + 1),
            ("contract", |c| c.contract = Address::ZERO),
            ("rpc", |c| c.rpc = vec!["ftp://example.org".to_owned()]),
            ("rpc", |c| c.rpc = vec!["http://".to_owned()]),
            ("rpc", |c| c.rpc = vec!["http://a\"b".to_owned()]),
            ("rpc", |c| c.rpc = vec!["http://a".to_owned(); MAX_RPC + 1]),
            ("rpc", |c| c.rpc = vec![format!("http://{}", "a".repeat(MAX_URL))]),
            ("minimum_bond", |c| c.minimum_bond = Wei(Wei::MAX.0 + 1)),
            ("exit_operators", |c| c.exit_operators = 0),
            ("deployed", |c| c.deployed = MAX_ID + 1),
        ];
        for (key, change) in bad {
            let mut wrong = chain();
            change(&mut wrong);
            assert_eq!(wrong.problem().map(|(key, _)| key), Some(key), "{wrong:?}");
        }
    }
}
