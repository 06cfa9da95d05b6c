//! What public keys and signatures have to be: no more than libsodium takes, so that what the directory hands out is never
//! refused by a client. (`crypto_scalarmult` refuses X25519 keys of low order, `crypto_sign_verify_detached` small and
//! non-canonical Ed25519 keys.)

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// 2^255 - 20, the largest field element, as X25519 and Ed25519 write numbers: the lowest byte first.
const LARGEST: [u8; 32] = {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xec, 0x7f);
    bytes
};

const ZERO: [u8; 32] = [0; 32];

const ONE: [u8; 32] = {
    let mut bytes = ZERO;
    bytes[0] = 1;
    bytes
};

/// The canonical u coordinates of order 1, 2, 4 and 8, on the curve and on its twist. With any of these, X25519 gives zero.
const LOW_ORDER_U: [[u8; 32]; 5] = [
    ZERO,
    ONE,
    LARGEST,
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
];

/// The canonical y coordinates of order 1, 2, 4 and 8. Under such a key a signature of one thing may be one of everything.
const LOW_ORDER_Y: [[u8; 32]; 5] = [
    ZERO,
    ONE,
    LARGEST,
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x66, 0x7f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Whether these bytes are the public key of X25519 in its one form, and of a point that is good for an agreement.
pub fn is_x25519_key(key: &[u8]) -> bool {
    let Ok(u) = <[u8; 32]>::try_from(key) else { return false };
    is_canonical(&u) && !LOW_ORDER_U.contains(&u)
}

/// Whether a signature is one of `message` by an Ed25519 key, strictly: the key and the point in the signature are canonical
/// and not of low order, and so is the number in the signature below the order of the group (RFC 8032, section 5.1.7).
/// Whether the key is a point at all is seen by this alone, so nothing is stored that did not sign something.
pub fn is_signed(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let strict = |point: &[u8]| {
        let Ok(mut y) = <[u8; 32]>::try_from(point) else { return false };
        // The highest bit is the sign of x.
        y[31] &= 0x7f;
        is_canonical(&y) && !LOW_ORDER_Y.contains(&y)
    };
    strict(key)
        && signature.get(..32).is_some_and(strict)
        && UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// Whether this is a number below 2^255 - 19.
fn is_canonical(number: &[u8; 32]) -> bool {
    number.iter().rev().le(LARGEST.iter().rev())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey as Theirs, X25519};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    /// Whether another implementation agrees on a secret with this key.
    fn agrees(key: &[u8]) -> bool {
        let mine = PrivateKey::from_private_key(&X25519, &[7; 32]).unwrap();
        agreement::agree(&mine, Theirs::new(&X25519, key), (), |_| Ok(())).is_ok()
    }

    #[test]
    fn keys_of_low_order_are_those_with_which_another_implementation_agrees_on_nothing() {
        for key in LOW_ORDER_U {
            assert!(!agrees(&key) && !is_x25519_key(&key), "{key:02x?}");
        }
        // 9, the base point.
        let mut key = ZERO;
        key[0] = 9;
        assert!(agrees(&key) && is_x25519_key(&key));
    }

    #[test]
    fn other_forms_of_a_number_are_refused() {
        // p and p + 1 stand for 0 and 1, p + 9 and 2^255 + 9 for 9.
        for (lowest, highest) in [(0xed, 0x7f), (0xee, 0x7f), (0xf6, 0x7f)] {
            let mut key = LARGEST;
            (key[0], key[31]) = (lowest, highest);
            assert!(!is_x25519_key(&key), "{key:02x?}");
        }
        let mut key = ZERO;
        (key[0], key[31]) = (9, 0x80);
        assert!(!is_x25519_key(&key));
        assert!(!is_x25519_key(&key[..31]) && !is_x25519_key(&[9; 33]));
        // Below p, although its lowest byte is larger than that of p.
        let mut key = LARGEST;
        (key[0], key[1]) = (0xff, 0xfe);
        assert!(is_x25519_key(&key));
    }

    #[test]
    fn a_signature_is_of_one_message_by_one_key() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let (key, signature) = (pair.public_key().as_ref(), pair.sign(b"message"));
        assert!(is_signed(key, b"message", signature.as_ref()));
        assert!(!is_signed(key, b"massage", signature.as_ref()));
        assert!(!is_signed(&key[..31], b"message", signature.as_ref()));
        assert!(!is_signed(key, b"message", &signature.as_ref()[..63]));
        let other = Ed25519KeyPair::from_seed_unchecked(&[4; 32]).unwrap();
        assert!(!is_signed(other.public_key().as_ref(), b"message", signature.as_ref()));
        // The number in it plus the order of the group (RFC 8032, section 5.1), which laxer implementations take.
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut malleable = signature.as_ref().to_vec();
        let mut carry = 0;
        for (byte, more) in malleable[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + more + carry;
            (*byte, carry) = ((sum & 0xff) as u8, sum >> 8);
        }
        assert!(!is_signed(key, b"message", &malleable));
    }

    #[test]
    fn a_key_of_low_order_signs_nothing_though_another_implementation_says_so() {
        // With the neutral element as key and as point, and zero as number, the equation holds for every message.
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(UnparsedPublicKey::new(&ED25519, ONE).verify(b"anything", &signature).is_ok());
        for mut key in LOW_ORDER_Y {
            for sign in [0, 0x80] {
                key[31] |= sign;
                for mut point in LOW_ORDER_Y {
                    point[31] |= sign;
                    let signature = [point, ZERO].concat();
                    assert!(!is_signed(&key, b"anything", &signature));
                }
            }
        }
    }
}
