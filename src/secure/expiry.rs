//! Reads the end of a certificate's validity, a field of X.509 that the TLS library does not expose.

/// Splits off the first DER element: returns its tag, its content, and the bytes after the element. `None` if the bytes
/// do not begin with a DER element.
fn read_der_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (length_byte, rest) = rest.split_first()?;
    let (length, rest) = match length_byte {
        0..=0x7f => (usize::from(*length_byte), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(length_byte & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The tag of the optional version field of a certificate.
const VERSION_FIELD_TAG: u8 = 0xa0;
const UTC_TIME_TAG: u8 = 0x17;
const GENERALIZED_TIME_TAG: u8 = 0x18;

/// The end of the validity (`notAfter`) of a certificate in DER, in seconds since 1970; `None` if the certificate is
/// not encoded as in RFC 5280.
pub fn valid_until(certificate: &[u8]) -> Option<u64> {
    let (_, certificate, _) = read_der_element(certificate)?;
    let (_, mut fields, _) = read_der_element(certificate)?;
    if fields.first() == Some(&VERSION_FIELD_TAG) {
        fields = read_der_element(fields)?.2;
    }
    // The serial number, the algorithm and the issuer precede the validity.
    for _ in 0..3 {
        fields = read_der_element(fields)?.2;
    }
    let (_, validity, _) = read_der_element(fields)?;
    let (_, _not_before, rest) = read_der_element(validity)?;
    let (tag, time, _) = read_der_element(rest)?;
    parse_time(tag, std::str::from_utf8(time).ok()?)
}

/// Parses a time in the form `YYMMDDhhmmssZ` (`UTCTime`) or `YYYYMMDDhhmmssZ` (`GeneralizedTime`) into seconds since
/// 1970.
fn parse_time(tag: u8, time: &str) -> Option<u64> {
    let digits = time.strip_suffix('Z').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let (year, rest) = match (tag, digits.len()) {
        // RFC 5280, 4.1.2.5.1: two-digit years from 50 on belong to the previous century.
        (UTC_TIME_TAG, 12) => {
            digits[..2].parse().ok().map(|year: u64| (year + if year < 50 { 2000 } else { 1900 }, 2))?
        }
        (GENERALIZED_TIME_TAG, 14) => (digits[..4].parse().ok()?, 4),
        _ => return None,
    };
    let two_digit_number = |at: usize| digits[rest + 2 * at..rest + 2 * at + 2].parse::<u64>().ok();
    let (month, day, hour, minute, second) =
        (two_digit_number(0)?, two_digit_number(1)?, two_digit_number(2)?, two_digit_number(3)?, two_digit_number(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let day_count = days_since_1970(year, month, day)?;
    Some(day_count * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The number of days from January 1, 1970 to a date of the Gregorian calendar; `None` for an earlier date. The
/// computation starts years in March, so that the leap day is the last day of a year.
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
        let certificate_bytes = certificate(2030, 1, 1);
        for cut in 0..certificate_bytes.len() {
            assert_eq!(valid_until(&certificate_bytes[..cut]), None);
        }
        for at in 0..certificate_bytes.len() {
            let mut damaged_certificate = certificate_bytes.clone();
            damaged_certificate[at] = !damaged_certificate[at];
            // Any result is right, as long as the function does not panic or loop.
            let _any = valid_until(&damaged_certificate);
        }
        assert_eq!(parse_time(UTC_TIME_TAG, "991331000000Z"), None);
        assert_eq!(parse_time(UTC_TIME_TAG, "99123100000é"), None);
        assert_eq!(parse_time(GENERALIZED_TIME_TAG, "00000101000000Z"), None);
    }
}
