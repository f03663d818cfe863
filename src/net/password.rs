//! The password of the doors.

use std::path::Path;
use subtle::ConstantTimeEq;

/// A password: it is never shown, and takes as long to be compared whatever it is compared with.
#[derive(Clone)]
pub struct Password(Vec<u8>);

impl Password {
    /// That one.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Password {
        Password(bytes.into())
    }

    /// What is in that file: all of it but the white space at its end.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, in words that name it.
    pub fn read(path: &Path) -> Result<Password, String> {
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let bytes = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        match bytes.trim_ascii_end() {
            b"" => Err(wrong("the password is empty")),
            password => Ok(Password::new(password)),
        }
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
