//! What is inside a certificate or a `PUBLIC KEY`, both DER (X.690, RFC 5280, RFC 5480, RFC 8017): the key, and the time
//! that a certificate is for; as much of the format as leads to them.

/// A public key that tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// Modulus and exponent, big-endian.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// An uncompressed point on P-256.
    P256(Vec<u8>),
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`: a certificate's version.
const VERSION: u8 = 0xa0;

const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The key of a certificate. Signature and dates are not looked at: the operator's file is the trust.
pub(crate) fn of_certificate(der: &[u8]) -> Option<PublicKey> {
    let mut body = after_issuer(der)?;
    // Validity, subject.
    for _ in 0..2 {
        body.element()?;
    }
    let (tag, content) = body.element()?;
    (tag == SEQUENCE).then(|| of_key_info(Reader(content)))?
}

/// The seconds since 1970 from which and until which a certificate holds.
pub(crate) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let mut validity = after_issuer(der)?.enter(SEQUENCE)?;
    Some((validity.time()?, validity.time()?))
}

/// What follows a certificate's serial number, signature algorithm and issuer.
fn after_issuer(der: &[u8]) -> Option<Reader<'_>> {
    let mut certificate = Reader(der).enter(SEQUENCE)?;
    let mut body = certificate.enter(SEQUENCE)?;
    if body.tag() == Some(VERSION) {
        body.element()?;
    }
    for _ in 0..3 {
        body.element()?;
    }
    Some(body)
}

/// The key of a SubjectPublicKeyInfo.
pub(crate) fn of_public_key(der: &[u8]) -> Option<PublicKey> {
    of_key_info(Reader(der).enter(SEQUENCE)?)
}

fn of_key_info(mut info: Reader<'_>) -> Option<PublicKey> {
    let mut algorithm = info.enter(SEQUENCE)?;
    let (tag, identifier) = algorithm.element()?;
    let (bits, key) = info.element()?;
    if tag != OBJECT_IDENTIFIER || bits != BIT_STRING {
        return None;
    }
    let (unused, key) = key.split_first()?;
    if *unused != 0 {
        return None;
    }
    match identifier {
        RSA_ENCRYPTION => {
            let mut numbers = Reader(key).enter(SEQUENCE)?;
            let modulus = numbers.integer()?;
            Some(PublicKey::Rsa { modulus, exponent: numbers.integer()? })
        }
        EC_PUBLIC_KEY => {
            let (_, curve) = algorithm.element()?;
            (curve == PRIME256V1 && key.len() == 65 && key[0] == 4).then(|| PublicKey::P256(key.to_vec()))
        }
        _ => None,
    }
}

/// Elements that follow each other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag and content.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut length = usize::from(*first);
        if *first >= 0x80 {
            let count = usize::from(*first & 0x7f);
            if !(1..=4).contains(&count) || rest.len() < count {
                return None;
            }
            let (bytes, after) = rest.split_at(count);
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        if rest.len() < length {
            return None;
        }
        let (content, rest) = rest.split_at(length);
        self.0 = rest;
        Some((*tag, content))
    }

    fn enter(&mut self, expected: u8) -> Option<Self> {
        let (tag, content) = self.element()?;
        (tag == expected).then_some(Self(content))
    }

    /// A positive number without its leading zeros.
    fn integer(&mut self) -> Option<Vec<u8>> {
        let (tag, content) = self.element()?;
        let zeros = content.iter().take_while(|byte| **byte == 0).count();
        (tag == INTEGER && zeros < content.len()).then(|| content[zeros..].to_vec())
    }

    /// A moment, seconds since 1970.
    fn time(&mut self) -> Option<i64> {
        let (tag, content) = self.element()?;
        let text = std::str::from_utf8(content).ok()?;
        let whole = match tag {
            // RFC 5280: years from 50 on are of the last century.
            UTC_TIME => format!("{}{text}", if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" }),
            GENERALIZED_TIME => text.to_owned(),
            _ => return None,
        };
        let moment = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", whole).ok()?;
        Some(moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn a_certificate_and_its_key_give_the_same() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let key = of_certificate(certificate.der()).unwrap();
        assert_eq!(key, PublicKey::P256(pair.der_bytes().to_vec()));
        assert_eq!(of_public_key(&pair.subject_public_key_info()), Some(key));
        assert_eq!(of_public_key(certificate.der()), None);
    }

    #[test]
    fn a_certificate_says_until_when_it_holds() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let der = params.self_signed(&pair).unwrap().der().to_vec();
        assert_eq!(validity(&der), Some((946_598_400, 4_102_444_800)));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let der =
            rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&pair).unwrap().der().to_vec();
        for cut in 0..der.len() {
            of_certificate(&der[..cut]);
            for value in [0, 0x80, 0x84, 0xff] {
                let mut bent = der.clone();
                bent[cut] = value;
                of_certificate(&bent);
                validity(&bent);
                of_public_key(&bent);
            }
        }
    }
}
