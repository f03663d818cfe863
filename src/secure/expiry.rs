//! The end of a certificate's validity: the one field of X.509 that the TLS library does not expose.

/// Reads a DER element: its tag, its content, and the bytes after it. `None` if the bytes are no DER element.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a DER certificate's validity, in seconds since 1970; `None` if it is not encoded as in RFC 5280.
pub fn valid_until(certificate: &[u8]) -> Option<u64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // The serial number, the algorithm and the issuer precede the validity.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _not_before, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    seconds(tag, std::str::from_utf8(time).ok()?)
}

/// Parses a time of the form `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`, in seconds since 1970.
fn seconds(tag: u8, time: &str) -> Option<u64> {
    let digits = time.strip_suffix('Z').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let (year, rest) = match (tag, digits.len()) {
        // RFC 5280, 4.1.2.5.1: two-digit years from 50 on belong to the previous century.
        (UTC_TIME, 12) => digits[..2].parse().ok().map(|year: u64| (year + if year < 50 { 2000 } else { 1900 }, 2))?,
        (GENERALIZED_TIME, 14) => (digits[..4].parse().ok()?, 4),
        _ => return None,
    };
    let two = |at: usize| digits[rest + 2 * at..rest + 2 * at + 2].parse::<u64>().ok();
    let (month, day, hour, minute, second) = (two(0)?, two(1)?, two(2)?, two(3)?, two(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days of the Gregorian calendar since 1970. Years start in March here, so that the leap day is the last day of a
/// year.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // The number of days from March 1 of year 0 to 1970.
    days.checked_sub(719_468)
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn certificate(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1975, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn expiry_is_read_in_both_time_formats() {
        for (year, month, day, seconds) in [
            (1999, 12, 31, 946_598_400),
            (2000, 2, 29, 951_782_400),
            (2026, 11, 29, 1_795_910_400),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (2400, 3, 1, 13_574_649_600),
        ] {
            assert_eq!(valid_until(&certificate(year, month, day)), Some(seconds), "{year}-{month}-{day}");
        }
    }

    #[test]
    fn damaged_certificate_has_no_expiry() {
        let whole = certificate(2030, 1, 1);
        for cut in 0..whole.len() {
            assert_eq!(valid_until(&whole[..cut]), None);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = !damaged[at];
            // Any result will do: reading must terminate.
            let _any = valid_until(&damaged);
        }
        assert_eq!(seconds(UTC_TIME, "991331000000Z"), None);
        assert_eq!(seconds(UTC_TIME, "99123100000é"), None);
        assert_eq!(seconds(GENERALIZED_TIME, "00000101000000Z"), None);
    }
}
