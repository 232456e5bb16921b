//! What a relay says of itself, signed by its identity (docs/spec/04-directory.md section 1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use circuit::error::{Malformed, Misbehaved};
use circuit::keys::{DH_PROOF, DhPublic, DhSecret, IdentitySecret, NetworkId, RelayId};
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
    + (1 + DH_PROOF)
    + 64;
const MAGIC: &[u8; 4] = b"CHVD";
const FORMAT: u8 = 1;
const LABEL: &str = "chive descriptor 1";
const LINK_LABEL: &str = "chive link key 1";

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

    /// The bytes that are signed, with or without a proof of the link key.
    fn encode(&self, proof: Option<&LinkProof>) -> Result<Vec<u8>, Full> {
        let mut buffer = vec![0; MAX_WITHOUT_KEYS.saturating_add(32 * self.onion_keys.len())];
        let mut out = Writer::new(&mut buffer);
        self.write(&mut out)?;
        out.u8(proof.is_some().into())?;
        proof.map_or(Ok(()), |proof| out.put(proof))?;
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

/// Shows that a relay holds its link key.
type LinkProof = [u8; DH_PROOF];

fn read_proof(r: &mut Reader<'_>) -> Result<Option<LinkProof>, Malformed> {
    match r.u8("link proof")? {
        0 => Ok(None),
        1 => Ok(Some(*r.array("link proof")?)),
        _ => Err(Malformed("link proof (there, 1, or not, 0)")),
    }
}

/// What the holder of a link key says: whose it is, and where.
fn link_message(descriptor: &Descriptor) -> Vec<u8> {
    [&descriptor.network.0[..], &descriptor.id.0].concat()
}

/// A descriptor of the right form whose signature nobody has looked at; it dereferences to the [`Descriptor`].
#[derive(Clone, Debug)]
pub(crate) struct Unverified<'a> {
    descriptor: Descriptor,
    link_proof: Option<LinkProof>,
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
        let link_proof = read_proof(&mut r)?;
        r.finish("descriptor (bytes after its end)")?;
        descriptor.check()?;
        if descriptor.encode(link_proof.as_ref()).as_deref() != Ok(body) {
            return Err(Malformed("descriptor (not in canonical form)"));
        }
        Ok(Self { descriptor, link_proof, body, signature, bytes, digest: digest(bytes) })
    }

    /// Whether it says that its relay holds the link key.
    pub(crate) const fn holds_link_key(&self) -> bool {
        self.link_proof.is_some()
    }

    /// The digest of its bytes.
    pub(crate) const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Checks the signature and the proof, which is what costs most.
    // directory.descriptor.1 directory.link.1
    pub(crate) fn verify(self) -> Result<SignedDescriptor, Misbehaved> {
        let Self { descriptor, link_proof, body, signature, bytes, digest } = self;
        descriptor.id.verify(LABEL, body, signature)?;
        if let Some(proof) = &link_proof {
            descriptor.link_key.verify(LINK_LABEL, &link_message(&descriptor), proof)?;
        }
        let holds_link_key = link_proof.is_some();
        Ok(SignedDescriptor { descriptor, holds_link_key, bytes: bytes.into(), digest })
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
    holds_link_key: bool,
    /// Body and signature, as they travel.
    bytes: Box<[u8]>,
    digest: Digest,
}

impl SignedDescriptor {
    /// Signs a descriptor with the identity that it names, and with the link key.
    pub fn prove(
        descriptor: Descriptor,
        identity: &IdentitySecret,
        link: &DhSecret,
    ) -> Result<Self, Malformed> {
        if descriptor.link_key != link.public() {
            return Err(Malformed("link key (must be that of the secret)"));
        }
        let proof = link.prove(LINK_LABEL, &link_message(&descriptor));
        Self::sign_with(descriptor, identity, Some(&proof))
    }

    /// Signs a descriptor with the identity that it names; nothing shows that its relay holds the link key.
    pub fn sign(descriptor: Descriptor, identity: &IdentitySecret) -> Result<Self, Malformed> {
        Self::sign_with(descriptor, identity, None)
    }

    fn sign_with(
        descriptor: Descriptor,
        identity: &IdentitySecret,
        proof: Option<&LinkProof>,
    ) -> Result<Self, Malformed> {
        if descriptor.id != identity.id() {
            return Err(Malformed("id (must be the signing identity's)"));
        }
        descriptor.check()?;
        let mut bytes = descriptor.encode(proof).map_err(|Full| Malformed("length"))?;
        let signature = identity.sign(LABEL, &bytes);
        bytes.extend_from_slice(&signature);
        let digest = digest(&bytes);
        Ok(Self { descriptor, holds_link_key: proof.is_some(), bytes: bytes.into(), digest })
    }

    /// Whether it is shown that its relay holds the link key.
    pub const fn holds_link_key(&self) -> bool {
        self.holds_link_key
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
mod tests;
