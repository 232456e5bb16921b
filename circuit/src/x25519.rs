//! X25519 (RFC 7748): assembly proven correct where the processor has what it needs, portable code elsewhere.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::keys::Secret;

/// The public key of a secret.
pub(crate) fn public(secret: &Secret<32>) -> [u8; 32] {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if proven::is_supported() {
        return proven::public(secret);
    }
    portable_public(secret)
}

/// The shared secret; `None` for a public key of small order.
pub(crate) fn agree(secret: &Secret<32>, public: &[u8; 32]) -> Option<Secret<32>> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if proven::is_supported() {
        return proven::agree(secret, public);
    }
    portable_agree(secret, public)
}

fn portable_public(secret: &Secret<32>) -> [u8; 32] {
    x25519_dalek::x25519(*secret.expose(), x25519_dalek::X25519_BASEPOINT_BYTES)
}

fn portable_agree(secret: &Secret<32>, public: &[u8; 32]) -> Option<Secret<32>> {
    let mut shared = x25519_dalek::x25519(*secret.expose(), *public);
    let useful = !bool::from(shared.ct_eq(&[0; 32]));
    let secret = useful.then(|| Secret::new(shared));
    shared.zeroize();
    secret
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod proven {
    use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};

    use crate::keys::Secret;

    /// Whether this processor has what graviola requires; it would panic without.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_supported() -> bool {
        is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("adx")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("avx2")
    }

    /// Whether this processor has what graviola requires; it would panic without.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn is_supported() -> bool {
        use std::arch::is_aarch64_feature_detected;
        is_aarch64_feature_detected!("neon")
            && is_aarch64_feature_detected!("aes")
            && is_aarch64_feature_detected!("pmull")
            && is_aarch64_feature_detected!("sha2")
    }

    pub(super) fn public(secret: &Secret<32>) -> [u8; 32] {
        StaticPrivateKey::from_array(secret.expose()).public_key().as_bytes()
    }

    pub(super) fn agree(secret: &Secret<32>, public: &[u8; 32]) -> Option<Secret<32>> {
        let secret = StaticPrivateKey::from_array(secret.expose());
        // It refuses an all-zero result, and nothing else.
        secret.diffie_hellman(&PublicKey::from_array(public)).ok().map(|shared| Secret::new(shared.0))
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use rand_core::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::keys::Random;

    #[test]
    fn both_ways_agree_with_the_standard() {
        // RFC 7748 section 5.2: the result is the next scalar, the scalar the next coordinate.
        for step in [agree, portable_agree] {
            let mut base = [0; 32];
            base[0] = 9;
            let (mut k, mut u) = (Secret::new(base), base);
            for round in 1..=1000 {
                let next = step(&k, &u).unwrap();
                u = *k.expose();
                k = next;
                if round == 1 {
                    let once = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
                    assert_eq!(HEXLOWER.encode(k.expose()), once);
                }
            }
            let often = "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51";
            assert_eq!(HEXLOWER.encode(k.expose()), often);
        }
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        let p_plus_one = {
            let mut p = [0xff; 32];
            (p[0], p[31]) = (0xee, 0x7f);
            p
        };
        for point in [[0; 32], one, p_plus_one] {
            assert_eq!(agree(&Secret::new([7; 32]), &point), None);
            assert_eq!(portable_agree(&Secret::new([7; 32]), &point), None);
        }
    }

    #[test]
    fn both_ways_give_the_same_for_any_bytes() {
        let mut rng = Random::from_seed([1; 32]);
        for round in 0..300 {
            let (mut secret, mut public_key) = ([0; 32], [0; 32]);
            rng.fill_bytes(&mut secret);
            rng.fill_bytes(&mut public_key);
            // Values that are no canonical field elements, too.
            if round % 3 == 0 {
                public_key[1..].fill(0xff);
            }
            let secret = Secret::new(secret);
            assert_eq!(public(&secret), portable_public(&secret));
            assert_eq!(agree(&secret, &public_key), portable_agree(&secret, &public_key));
        }
    }
}
