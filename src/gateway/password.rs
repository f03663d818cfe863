//! The password of the gateways.

use std::path::Path;
use subtle::ConstantTimeEq;

/// A password. It is never printed, and comparison takes constant time for a given length.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// A password of those bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Password {
        Password(bytes.into())
    }

    /// Reads a password from a file, without the white space at its end.
    ///
    /// # Errors
    ///
    /// An error text that names the file.
    pub fn read(path: &Path) -> Result<Password, String> {
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let bytes = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        match bytes.trim_ascii_end() {
            b"" => Err(wrong("the password is empty")),
            password => Ok(Password::new(password)),
        }
    }

    /// Whether `said` is the password. The time that it takes reveals only the length.
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
    fn password_matches_exactly_and_is_never_printed() {
        let password = Password::new("secret");
        assert!(password.is(b"secret") && !password.is(b"secre") && !password.is(b"secret ") && !password.is(b""));
        assert_eq!(format!("{password:?}"), "Password");
    }
}
