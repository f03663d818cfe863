//! The password of the doors.

use subtle::ConstantTimeEq;

/// A password: it is never shown, and takes as long to be compared whatever it is compared with.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// That one.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Password {
        Password(bytes.into())
    }

    /// Whether it is this one. Only its length shows in the time that takes.
    pub fn is(&self, said: &[u8]) -> bool {
        self.0.ct_eq(said).into()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_compared_whole_and_never_shown() {
        let password = Password::new("secret");
        assert!(password.is(b"secret") && !password.is(b"secre") && !password.is(b"secret ") && !password.is(b""));
        assert_eq!(format!("{password:?}"), "Password");
    }
}
