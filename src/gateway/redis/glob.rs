//! Glob patterns for keys, as in `SCAN … MATCH`.

/// Whether a pattern matches the whole text: `*` any bytes, `?` one byte, `[a-c]` and `[^a]` one byte of a class, `\`
/// the next byte literally. The search backtracks only to the last star, so its time is at most proportional to the
/// product of the lengths.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // The pattern position after the last star, and the text position at which the pattern after the star was last
    // tried.
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            last_star = Some((p + 1, t));
            p += 1;
            continue;
        }
        match match_element(&pattern[p..], text[t]) {
            Some(length) => (p, t) = (p + length, t + 1),
            None => {
                let Some((rest, next_start)) = &mut last_star else { return false };
                *next_start += 1;
                (p, t) = (*rest, *next_start);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the first element of a pattern, if that element matches the byte.
fn match_element(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', class @ ..] => {
            let (matched, length) = match_class(class, byte);
            matched.then_some(1 + length)
        }
        [same, ..] => (*same == byte).then_some(1),
    }
}

/// Whether a byte is in a class, and the length of the class. `class` begins after the opening bracket; the length
/// includes the closing bracket, if there is one.
fn match_class(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut position = usize::from(negated);
    let mut matched = false;
    loop {
        match &class[position..] {
            [] => break,
            [b']', ..] => {
                position += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                matched |= *escaped == byte;
                position += 2;
            }
            // As in Redis, a bracket may be the end of a range: [a-] is not closed.
            [from, b'-', to, ..] => {
                matched |= (*from.min(to)..=*from.max(to)).contains(&byte);
                position += 3;
            }
            [same, ..] => {
                matched |= *same == byte;
                position += 1;
            }
        }
    }
    (matched != negated, position)
}

/// The literal prefix that all texts matched by a pattern have in common.
pub fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let literal_length = pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len());
    &pattern[..literal_length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*o", "hello world o", true),
            ("h*o", "hello world", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hbllo", true),
            ("h[a-c]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[", "[", false),
            ("[a-]", "a", true),
            ("[a-]", "-", false),
            ("[a-]", "_", true),
            ("[a-]b", "b", true),
            ("a**b*", "axxb", true),
            ("user:*:name", "user:1:2:name", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} and {text}");
        }
        assert_eq!(
            (literal_prefix(b"user:*"), literal_prefix(b"plain"), literal_prefix(b"\\*")),
            (&b"user:"[..], &b"plain"[..], &b""[..])
        );
    }

    #[test]
    fn pattern_of_many_stars_is_matched_fast() {
        let (pattern, text) = ("a*".repeat(2000) + "b", "a".repeat(4000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
