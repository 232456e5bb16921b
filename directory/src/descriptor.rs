//! What a relay says of itself, signed by its identity (docs/spec/04-directory.md section 1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use circuit::error::{Malformed, Misbehaved};
use circuit::keys::{DhPublic, IdentitySecret, NetworkId, RelayId};
pub use circuit::setup::EPOCH_SECONDS;
use wire::{Full, Reader, Writer};

use crate::exit_summary::ExitSummary;
use crate::payment::Payment;

/// The most onion keys in one descriptor: 512 days.
pub const MAX_EPOCHS: usize = 2_048;
/// The most addresses in one descriptor.
pub const MAX_ADDRESSES: usize = 4;
/// The longest operator text, in bytes.
pub const MAX_OPERATOR: usize = 64;
/// The longest version text, in bytes.
pub const MAX_VERSION: usize = 32;
/// The longest descriptor that is gossiped, in bytes, signature included.
pub const MAX_GOSSIPED: usize = 1_024;
/// The longest descriptor, in bytes, signature included.
pub const MAX_DESCRIPTOR: usize = MAX_WITHOUT_KEYS + 32 * MAX_EPOCHS;

/// Everything but the onion keys: fixed fields, addresses, exit ports, country, texts, bandwidth, port, payment, signature.
const MAX_WITHOUT_KEYS: usize = 115
    + (1 + 19 * MAX_ADDRESSES)
    + (1 + 4 * ExitSummary::MAX_RANGES)
    + 2
    + (1 + MAX_OPERATOR)
    + (1 + MAX_VERSION)
    + (4 + 2)
    + (1 + Payment::SIZE)
    + 64;
const MAGIC: &[u8; 4] = b"CHVD";
const FORMAT: u8 = 1;
const LABEL: &str = "chive descriptor 1";

/// The onion-key epoch of a unix time in seconds.
pub fn epoch(unix: u64) -> u32 {
    u32::try_from(unix / EPOCH_SECONDS).unwrap_or(u32::MAX)
}

/// A relay's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The relay's identity key, which signs this.
    pub id: RelayId,
    /// The network the relay serves.
    pub network: NetworkId,
    /// Grows with every descriptor of the relay; the newest wins.
    pub sequence: u64,
    /// When it was made, in unix seconds.
    pub issued: u64,
    /// From when it is no longer valid, in unix seconds; not after the end of the last onion-key epoch.
    pub expires: u64,
    /// The static key of the relay's links.
    pub link_key: DhPublic,
    /// The epoch of the first onion key.
    pub first_epoch: u32,
    /// The onion keys of consecutive epochs, 1 to [`MAX_EPOCHS`].
    pub onion_keys: Vec<DhPublic>,
    /// Where the relay listens for links (UDP), 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
    /// The ports it serves as an exit, if it is one.
    pub exit: Option<ExitSummary>,
    /// ISO 3166-1 alpha-2 code of the country it says it is in, upper case.
    pub country: Option<[u8; 2]>,
    /// Who runs it: up to [`MAX_OPERATOR`] printable ASCII characters.
    pub operator: String,
    /// What it runs: up to [`MAX_VERSION`] printable ASCII characters.
    pub version: String,
    /// What it says it carries, in kB (1,000 bytes) per second; 0 if it does not say.
    pub bandwidth: u32,
    /// Its TCP port for gossip, on the same addresses; 0 if it has none.
    pub gossip_port: u16,
    /// Where it is paid and what it asks, on a paid network.
    pub payment: Option<Payment>,
}

impl Descriptor {
    /// The onion key of an epoch.
    pub fn onion_key(&self, epoch: u32) -> Option<&DhPublic> {
        let index = usize::try_from(epoch.checked_sub(self.first_epoch)?).ok()?;
        self.onion_keys.get(index)
    }

    /// The address at which it is dialled: of IPv4 if it has one, since many hosts have no other; else its first.
    // directory.descriptor.8
    pub fn dialled(&self) -> Option<SocketAddr> {
        let v4 = self.addresses.iter().find(|address| address.is_ipv4());
        v4.or_else(|| self.addresses.first()).copied()
    }

    /// Checks all that one descriptor can violate by itself; the same for signers and readers.
    fn check(&self) -> Result<(), Malformed> {
        // directory.descriptor.3
        let count = u32::try_from(self.onion_keys.len()).unwrap_or(u32::MAX);
        if self.onion_keys.is_empty() || self.onion_keys.len() > MAX_EPOCHS {
            return Err(Malformed("onion keys (1 to 2048 epochs)"));
        }
        let end = self.first_epoch.checked_add(count).ok_or(Malformed("first epoch"))?;
        // directory.descriptor.4
        if self.issued >= self.expires || self.expires > u64::from(end) * EPOCH_SECONDS {
            return Err(Malformed("expiry (after the issue, and not after the last onion-key epoch)"));
        }
        // directory.descriptor.5
        if self.addresses.is_empty() || self.addresses.len() > MAX_ADDRESSES {
            return Err(Malformed("addresses (1 to 4)"));
        }
        for (i, address) in self.addresses.iter().enumerate() {
            if !is_reachable(address) || self.addresses.iter().take(i).any(|other| other == address) {
                return Err(Malformed("address (unicast IP and port, IPv4 not mapped, none twice)"));
            }
        }
        // directory.descriptor.6
        if self.country.is_some_and(|code| !code.iter().all(u8::is_ascii_uppercase)) {
            return Err(Malformed("country (two letters A to Z)"));
        }
        if !is_printable(&self.operator, MAX_OPERATOR) {
            return Err(Malformed("operator (up to 64 printable ASCII characters)"));
        }
        if !is_printable(&self.version, MAX_VERSION) {
            return Err(Malformed("version (up to 32 printable ASCII characters)"));
        }
        self.payment.as_ref().map_or(Ok(()), |payment| payment.check(self.exit.is_some()))
    }

    /// The bytes that are signed.
    fn encode(&self) -> Result<Vec<u8>, Full> {
        let mut buffer = vec![0; MAX_WITHOUT_KEYS.saturating_add(32 * self.onion_keys.len())];
        let mut out = Writer::new(&mut buffer);
        self.write(&mut out)?;
        let written = out.written();
        buffer.truncate(written);
        Ok(buffer)
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        out.put(MAGIC)?;
        out.u8(FORMAT)?;
        out.put(&self.id.0)?;
        out.put(&self.network.0)?;
        out.u64(self.sequence)?;
        out.u64(self.issued)?;
        out.u64(self.expires)?;
        out.put(&self.link_key.0)?;
        out.u32(self.first_epoch)?;
        out.u16(u16::try_from(self.onion_keys.len()).map_err(|_| Full)?)?;
        for key in &self.onion_keys {
            out.put(&key.0)?;
        }
        write_length(out, self.addresses.len())?;
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.u8(4)?;
                    out.put(&ip.octets())?;
                }
                IpAddr::V6(ip) => {
                    out.u8(6)?;
                    out.put(&ip.octets())?;
                }
            }
            out.u16(address.port())?;
        }
        let ranges = self.exit.as_ref().map_or(&[][..], ExitSummary::ranges);
        write_length(out, ranges.len())?;
        for range in ranges {
            out.u16(*range.start())?;
            out.u16(*range.end())?;
        }
        out.put(&self.country.unwrap_or([0; 2]))?;
        for text in [&self.operator, &self.version] {
            write_length(out, text.len())?;
            out.put(text.as_bytes())?;
        }
        out.u32(self.bandwidth)?;
        out.u16(self.gossip_port)?;
        out.u8(self.payment.is_some().into())?;
        self.payment.as_ref().map_or(Ok(()), |payment| payment.write(out))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        if r.array("magic")? != MAGIC {
            return Err(Malformed("magic (this is no descriptor)"));
        }
        if r.u8("format")? != FORMAT {
            return Err(Malformed("format (a newer version of chive is needed)"));
        }
        let id = RelayId(*r.array("id")?);
        let network = NetworkId(*r.array("network")?);
        let sequence = r.u64("sequence")?;
        let issued = r.u64("issue time")?;
        let expires = r.u64("expiry")?;
        let link_key = DhPublic(*r.array("link key")?);
        let first_epoch = r.u32("first epoch")?;
        let count = usize::from(r.u16("onion keys")?);
        let mut keys = r.sub(count * 32, "onion keys")?;
        let mut onion_keys = Vec::with_capacity(count);
        while keys.remaining() > 0 {
            onion_keys.push(DhPublic(*keys.array("onion keys")?));
        }
        let addresses = (0..r.u8("addresses")?).map(|_| read_address(r)).collect::<Result<_, _>>()?;
        let ranges = (0..r.u8("exit ports")?)
            .map(|_| Ok(r.u16("exit ports")?..=r.u16("exit ports")?))
            .collect::<Result<Vec<_>, _>>()?;
        let exit = if ranges.is_empty() { None } else { Some(ExitSummary::new(ranges)?) };
        let country = Some(*r.array("country")?).filter(|code| *code != [0; 2]);
        let operator = read_text(r, "operator")?;
        let version = read_text(r, "version")?;
        let bandwidth = r.u32("bandwidth")?;
        let gossip_port = r.u16("gossip port")?;
        let payment = match r.u8("payment")? {
            0 => None,
            1 => Some(Payment::read(r)?),
            _ => return Err(Malformed("payment (there, 1, or not, 0)")),
        };
        Ok(Self {
            id,
            network,
            sequence,
            issued,
            expires,
            link_key,
            first_epoch,
            onion_keys,
            addresses,
            exit,
            country,
            operator,
            version,
            bandwidth,
            gossip_port,
            payment,
        })
    }
}

/// A descriptor of the right form whose signature nobody has looked at; it dereferences to the [`Descriptor`].
#[derive(Clone, Debug)]
pub(crate) struct Unverified<'a> {
    descriptor: Descriptor,
    body: &'a [u8],
    signature: &'a [u8; 64],
    bytes: &'a [u8],
    digest: Digest,
}

impl<'a> Unverified<'a> {
    /// Reads a descriptor; nothing in it is to be believed yet.
    // directory.descriptor.2
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_DESCRIPTOR {
            return Err(Malformed("length"));
        }
        let (body, signature) = bytes.split_last_chunk::<64>().ok_or(Malformed("length"))?;
        let mut r = Reader::new(body);
        let descriptor = Descriptor::read(&mut r)?;
        r.finish("descriptor (bytes after its end)")?;
        descriptor.check()?;
        if descriptor.encode().as_deref() != Ok(body) {
            return Err(Malformed("descriptor (not in canonical form)"));
        }
        Ok(Self { descriptor, body, signature, bytes, digest: digest(bytes) })
    }

    /// The digest of its bytes.
    pub(crate) const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Checks the signature, which is what costs most.
    // directory.descriptor.1
    pub(crate) fn verify(self) -> Result<SignedDescriptor, Misbehaved> {
        self.descriptor.id.verify(LABEL, self.body, self.signature)?;
        Ok(SignedDescriptor { descriptor: self.descriptor, bytes: self.bytes.into(), digest: self.digest })
    }
}

impl Deref for Unverified<'_> {
    type Target = Descriptor;

    fn deref(&self) -> &Descriptor {
        &self.descriptor
    }
}

/// The digest of a descriptor's bytes, or of a set of them.
pub type Digest = [u8; 32];

fn digest(bytes: &[u8]) -> Digest {
    blake3::derive_key("chive v1 descriptor digest", bytes)
}

/// A descriptor whose signature and form are right; it dereferences to the [`Descriptor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDescriptor {
    descriptor: Descriptor,
    /// Body and signature, as they travel.
    bytes: Box<[u8]>,
    digest: Digest,
}

impl SignedDescriptor {
    /// Signs a descriptor with the identity that it names.
    pub fn sign(descriptor: Descriptor, identity: &IdentitySecret) -> Result<Self, Malformed> {
        if descriptor.id != identity.id() {
            return Err(Malformed("id (must be the signing identity's)"));
        }
        descriptor.check()?;
        let mut bytes = descriptor.encode().map_err(|Full| Malformed("length"))?;
        let signature = identity.sign(LABEL, &bytes);
        bytes.extend_from_slice(&signature);
        let digest = digest(&bytes);
        Ok(Self { descriptor, bytes: bytes.into(), digest })
    }

    /// Reads and verifies a descriptor of `network` that must still be valid at `unix` (seconds).
    pub fn parse(bytes: &[u8], network: NetworkId, unix: u64) -> Result<Self, Refused> {
        let unverified = Unverified::read(bytes)?;
        // directory.descriptor.7
        if unverified.network != network {
            return Err(Refused::OtherNetwork(unverified.network));
        }
        let signed = unverified.verify()?;
        if signed.expires <= unix {
            return Err(Refused::Expired { at: signed.expires });
        }
        Ok(signed)
    }

    /// The digest of the bytes.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The bytes that travel: body and signature.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for SignedDescriptor {
    type Target = Descriptor;

    fn deref(&self) -> &Descriptor {
        &self.descriptor
    }
}

/// Why a descriptor is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No honest relay makes these bytes.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The relay did not sign this.
    #[error(transparent)]
    Forged(#[from] Misbehaved),
    /// It is of another network.
    #[error("the descriptor belongs to the network {0}")]
    OtherNetwork(NetworkId),
    /// It is no longer valid.
    #[error("the descriptor expired at unix time {at}")]
    Expired {
        /// Its expiry in unix seconds.
        at: u64,
    },
}

/// A link can be sent there, and the bytes say all of it.
fn is_reachable(address: &SocketAddr) -> bool {
    let form = match address {
        SocketAddr::V4(a) => !a.ip().is_broadcast(),
        SocketAddr::V6(a) => a.flowinfo() == 0 && a.scope_id() == 0 && a.ip().to_ipv4_mapped().is_none(),
    };
    form && address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

/// Printable ASCII only: the text ends up on terminals.
fn is_printable(text: &str, max: usize) -> bool {
    text.len() <= max && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

fn write_length(out: &mut Writer<'_>, length: usize) -> Result<(), Full> {
    out.u8(u8::try_from(length).map_err(|_| Full)?)
}

fn read_address(r: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    let ip = match r.u8("address")? {
        4 => Ipv4Addr::from(*r.array::<4>("address")?).into(),
        6 => Ipv6Addr::from(*r.array::<16>("address")?).into(),
        _ => return Err(Malformed("address family")),
    };
    Ok(SocketAddr::new(ip, r.u16("address")?))
}

fn read_text(r: &mut Reader<'_>, field: &'static str) -> Result<String, Malformed> {
    let length = r.u8(field)?.into();
    String::from_utf8(r.take(length, field)?.to_vec()).map_err(|_| Malformed(field))
}

#[cfg(test)]
mod tests {
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
        ]
        .concat();
        let paid = sign(|d| d.payment = Some(payment(1))).unwrap();
        let paid_body = [&expected[..], &payment_part].concat();
        assert_eq!(paid.bytes().split_last_chunk::<64>().unwrap().0, paid_body);
        assert_eq!(SignedDescriptor::parse(paid.bytes(), NETWORK, NOW), Ok(paid));
        let expected = [&expected[..], &[0]].concat();
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
        let largest = sign(|d| {
            d.onion_keys = vec![DhPublic([1; 32]); MAX_EPOCHS];
            d.addresses = (1..5).map(|n| format!("[2001:db8::{n}]:1").parse().unwrap()).collect();
            d.exit = Some(ExitSummary::new((1..17).map(|n| n * 9..=n * 9 + 1).collect()).unwrap());
            d.operator = "o".repeat(MAX_OPERATOR);
            d.version = "v".repeat(MAX_VERSION);
            d.payment = Some(payment(1));
        })
        .unwrap();
        assert_eq!((largest.bytes().len(), MAX_DESCRIPTOR), (66_020, 66_020));
        assert_eq!(SignedDescriptor::parse(largest.bytes(), NETWORK, NOW), Ok(largest.clone()));
        let longer = [largest.bytes(), &[0]].concat();
        assert_eq!(
            SignedDescriptor::parse(&longer, NETWORK, NOW),
            Err(Refused::Malformed(Malformed("length")))
        );
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
            if let Ok(body) = new.encode() {
                assert!(matches!(parse_body(&body), Err(Refused::Malformed(_))), "case {i}");
            }
        }
        // A relay that is no exit may have a price for what it does.
        let middle =
            SignedDescriptor::sign(Descriptor { payment: Some(payment(2)), ..descriptor(2) }, &identity(2));
        assert_eq!(middle.unwrap().payment, Some(payment(2)));
        let body = Descriptor { payment: Some(payment(1)), ..descriptor(1) }.encode().unwrap();
        let (rest, _) = body.split_last_chunk::<8>().unwrap();
        // Exponents above 40, and numbers that a lower exponent can say.
        for form in [0x0100_0001_u32, 0x017f_ffff, 0x29ff_ffff, u32::MAX] {
            for asks in [[form, 0], [0, form]] {
                let asks = asks.map(u32::to_be_bytes).concat();
                let body = [rest, &asks].concat();
                assert!(matches!(parse_body(&body), Err(Refused::Malformed(_))), "{form:x}");
            }
        }
        let mut body = descriptor(1).encode().unwrap();
        *body.last_mut().unwrap() = 2;
        assert!(matches!(parse_body(&body), Err(Refused::Malformed(_))));
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
            if let Ok(body) = new.encode()
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
            let mut body = paid.encode().unwrap();
            for (index, byte) in changes {
                *index.get_mut(&mut body) = byte;
            }
            if let Ok(read) = parse_body(&body) {
                prop_assert_eq!(read.encode().unwrap(), body);
            }
        }
    }
}
