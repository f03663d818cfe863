//! The password that Redis and HTTP clients have to present.

use std::path::Path;
use subtle::ConstantTimeEq;

/// A password. It never appears in debug output, and a comparison takes the same time for all candidates of one length.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// Creates a password of these bytes, which need not be UTF-8.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Password {
        Password(bytes.into())
    }

    /// Reads a password from a file. White space at the end of the file, such as a final newline, is ignored.
    ///
    /// # Errors
    ///
    /// A text that names the file, if the file cannot be read or the password is empty.
    pub fn read(path: &Path) -> Result<Password, String> {
        let error_text = |reason: &str| format!("{}: {reason}", path.display());
        let bytes = std::fs::read(path).map_err(|error| error_text(&error.to_string()))?;
        match bytes.trim_ascii_end() {
            b"" => Err(error_text("the password is empty")),
            password => Ok(Password::new(password)),
        }
    }

    /// Whether `candidate` equals the password. The duration of the comparison reveals only the length.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.ct_eq(candidate).into()
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
        assert!(
            password.matches(b"secret")
                && !password.matches(b"secre")
                && !password.matches(b"secret ")
                && !password.matches(b"")
        );
        assert_eq!(format!("{password:?}"), "Password");
    }
}
