//! Keys and names: newtypes that print nothing, erase themselves, and are derived in one place.

use core::fmt;

use rand_core::Rng as _;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::Misbehaved;
use crate::x25519;

/// The seeded random source that every node is given; never the operating system's.
pub type Random = rand_chacha::ChaCha12Rng;

/// A secret of `N` bytes; erased when dropped, printed as `[redacted]`, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes over `bytes`.
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the primitive that uses them.
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

/// Bytes that are public names or keys; printed in hexadecimal.
macro_rules! public_bytes {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    };
}

public_bytes!(
    /// The network a node belongs to; part of every handshake.
    NetworkId,
    16
);
public_bytes!(
    /// A relay's Ed25519 identity key, which is its name.
    RelayId,
    32
);
public_bytes!(
    /// An X25519 public key.
    DhPublic,
    32
);

/// The length of what proves that somebody holds an X25519 secret: the same key as Ed25519 writes it, and a signature.
pub const DH_PROOF: usize = 32 + 64;

impl DhPublic {
    /// Checks that who holds the secret has signed `label | message`; see [`DhSecret::prove`].
    // directory.link.1
    pub fn verify(&self, label: &str, message: &[u8], proof: &[u8; DH_PROOF]) -> Result<(), Misbehaved> {
        let wrong = Misbehaved("a wrong proof of a link key");
        let (key, signature) = proof.split_first_chunk::<32>().ok_or(wrong)?;
        let signature = signature.first_chunk::<64>().ok_or(wrong)?;
        let public = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| wrong)?;
        if public.to_montgomery().to_bytes() != self.0 {
            return Err(wrong);
        }
        RelayId(*key).verify(label, message, signature).map_err(|_| wrong)
    }
}

/// Changes whenever a node has lost its circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub u64);

/// An X25519 secret key, with its public key: a relay's link key, an onion key, or an ephemeral one.
#[derive(Clone)]
pub struct DhSecret {
    secret: Secret<32>,
    public: DhPublic,
}

impl DhSecret {
    /// Draws a fresh secret.
    pub fn random(rng: &mut Random) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        let secret = Self::from_bytes(bytes);
        bytes.zeroize();
        secret
    }

    /// Takes the 32 bytes of a stored secret.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let secret = Secret(bytes);
        let public = DhPublic(x25519::public(&secret));
        Self { secret, public }
    }

    /// The bytes, for storage.
    pub fn expose(&self) -> Secret<32> {
        self.secret.clone()
    }

    /// The public key.
    pub const fn public(&self) -> DhPublic {
        self.public
    }

    /// Proves to everybody that this secret is held by who says `label | message`: X25519 keys do not sign, but the scalar is
    /// one of Ed25519 too, whose public key is the same point.
    // directory.link.1
    pub fn prove(&self, label: &str, message: &[u8]) -> [u8; DH_PROOF] {
        use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
        let prefix = kdf(Label::Prove, &[self.secret.expose()]).secret::<32>();
        let mut bytes = [0; 64];
        let (scalar, rest) = bytes.split_at_mut(32);
        scalar.copy_from_slice(self.secret.expose());
        rest.copy_from_slice(prefix.expose());
        let key = ExpandedSecretKey::from_bytes(&bytes);
        bytes.zeroize();
        let public = ed25519_dalek::VerifyingKey::from(&key);
        let message = [label.as_bytes(), message].concat();
        let signature = raw_sign::<ed25519_dalek::Sha512>(&key, &message, &public).to_bytes();
        let mut proof = [0; DH_PROOF];
        let (first, rest) = proof.split_at_mut(32);
        first.copy_from_slice(public.as_bytes());
        rest.copy_from_slice(&signature);
        proof
    }

    /// X25519 (RFC 7748); an all-zero result is refused.
    pub fn agree(&self, peer: &DhPublic) -> Result<Secret<32>, Misbehaved> {
        x25519::agree(&self.secret, &peer.0).ok_or(Misbehaved("a public key of small order"))
    }
}

impl fmt::Debug for DhSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A relay's Ed25519 identity.
#[derive(Clone)]
pub struct IdentitySecret(ed25519_dalek::SigningKey);

impl IdentitySecret {
    /// Draws a fresh identity.
    pub fn random(rng: &mut Random) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        let secret = Self::from_bytes(&bytes);
        bytes.zeroize();
        secret
    }

    /// Takes the 32 bytes of a stored secret.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(bytes))
    }

    /// The bytes, for storage.
    pub fn expose(&self) -> Secret<32> {
        Secret(self.0.to_bytes())
    }

    /// The name that this identity signs for.
    pub fn id(&self) -> RelayId {
        RelayId(self.0.verifying_key().to_bytes())
    }

    /// Signs `label | message` (Ed25519, RFC 8032).
    pub fn sign(&self, label: &str, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.0.sign(&[label.as_bytes(), message].concat()).to_bytes()
    }
}

impl fmt::Debug for IdentitySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl RelayId {
    /// Checks a signature over `label | message`, refusing weak keys.
    pub fn verify(&self, label: &str, message: &[u8], signature: &[u8; 64]) -> Result<(), Misbehaved> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .map_err(|_| Misbehaved("a relay id that is no Ed25519 key"))?;
        key.verify_strict(
            &[label.as_bytes(), message].concat(),
            &ed25519_dalek::Signature::from_bytes(signature),
        )
        .map_err(|_| Misbehaved("a wrong signature"))
    }
}

/// What [`kdf`] derives: bytes to be cut in order.
#[derive(Debug)]
pub struct Derived(blake3::OutputReader);

impl Derived {
    /// Cuts the next `N` bytes as a secret.
    pub fn secret<const N: usize>(&mut self) -> Secret<N> {
        let mut out = [0; N];
        self.0.fill(&mut out);
        Secret(out)
    }

    /// Cuts the next `N` bytes as public ones, such as a tag.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill(&mut out);
        out
    }
}

/// `KDF(label, parts)`: BLAKE3 in derive-key mode with the context `chive v1 <label>` (docs/spec/01-link.md section 1).
pub fn kdf(label: Label, parts: &[&[u8]]) -> Derived {
    let mut hasher = blake3::Hasher::new_derive_key(label.context());
    for part in parts {
        hasher.update(part);
    }
    let derived = Derived(hasher.finalize_xof());
    hasher.zeroize();
    derived
}

/// The uses of [`kdf`]; no two uses share a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The chain key of a link.
    LinkChain,
    /// A packet key of a link.
    LinkPacket,
    /// New keys of a running link.
    LinkRekey,
    /// The key of mac1.
    Mac1,
    /// The key of mac2.
    Mac2,
    /// The key that seals a cookie.
    Cookie,
    /// The header keys of a setup.
    Setup,
    /// The session keys of a hop.
    Session,
    /// The keys of one phase.
    Phase,
    /// What makes the signatures of an X25519 secret unpredictable.
    Prove,
}

impl Label {
    const fn context(self) -> &'static str {
        match self {
            Self::LinkChain => "chive v1 link chain",
            Self::LinkPacket => "chive v1 link packet",
            Self::LinkRekey => "chive v1 link rekey",
            Self::Mac1 => "chive v1 mac1",
            Self::Mac2 => "chive v1 mac2",
            Self::Cookie => "chive v1 cookie",
            Self::Setup => "chive v1 setup",
            Self::Session => "chive v1 session",
            Self::Phase => "chive v1 phase",
            Self::Prove => "chive v1 prove",
        }
    }
}

/// `MAC(key, parts)`: BLAKE3 in keyed mode, cut to 16 bytes.
pub fn mac(key: &Secret<32>, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    hasher.zeroize();
    out
}

/// Compares two tags in constant time.
pub fn tags_equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.ct_eq(b).into()
}

/// `data xor STREAM(key)`: `ChaCha20` (RFC 8439) with nonce and block counter zero.
pub fn stream_xor(key: &Secret<32>, data: &mut [u8]) {
    use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
    chacha20::ChaCha20::new(key.expose().into(), &[0; 12].into()).apply_keystream(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    #[test]
    fn secrets_print_nothing() {
        let mut rng = Random::from_seed([1; 32]);
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "[redacted]");
        assert_eq!(format!("{:?}", DhSecret::random(&mut rng)), "[redacted]");
        assert_eq!(format!("{:?}", IdentitySecret::random(&mut rng)), "[redacted]");
        assert_eq!(format!("{:?}", RelayId([0xab; 32])), "ab".repeat(32));
    }

    #[test]
    fn agreement_is_mutual_and_refuses_small_order() {
        let mut rng = Random::from_seed([2; 32]);
        let (a, b) = (DhSecret::random(&mut rng), DhSecret::random(&mut rng));
        assert_eq!(a.agree(&b.public()).unwrap(), b.agree(&a.public()).unwrap());
        assert!(a.agree(&DhPublic([0; 32])).is_err());
    }

    #[test]
    fn a_signature_is_bound_to_label_and_message() {
        let mut rng = Random::from_seed([3; 32]);
        let identity = IdentitySecret::random(&mut rng);
        let signature = identity.sign("x ", b"m");
        assert!(identity.id().verify("x ", b"m", &signature).is_ok());
        assert!(identity.id().verify("y ", b"m", &signature).is_err());
        assert!(identity.id().verify("x ", b"n", &signature).is_err());
    }
}
